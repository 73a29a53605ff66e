"""The registry of configuration keys: where each stands, what it holds, what it means.

The reading of a configuration, near misses, "it has no meaning here" and the tables of
docs/configuration.md are made of it. A new key is an entry in one of the modules below, and the
reading of its value in the module of its object; `bin/key_tables.py` then writes the tables.
"""

from cni_faasm.config.key import Key
from cni_faasm.config.keys_bandwidth import BANDWIDTH
from cni_faasm.config.keys_ipam import IPAM
from cni_faasm.config.keys_network import DNS, NETWORK, ROUTES, SLOT
from cni_faasm.config.keys_runtime import INNER, RUNTIME

# By the table of docs/configuration.md in which they stand, in its order.
TABLES: dict[str, tuple[Key, ...]] = {
    "network": NETWORK,
    "bandwidth": BANDWIDTH,
    "ipam": IPAM,
    "routes": ROUTES,
    "dns": DNS,
    "slot": SLOT,
    "runtime": RUNTIME,
    "": INNER,
}


def names(place: str) -> dict[str, str]:
    """Return the keys that an object may have: in lower case -> as it is written."""
    return {
        key.name.lower(): key.name
        for table in TABLES.values()
        for key in table
        if place == key.at or place in key.also
    }
