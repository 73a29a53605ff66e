"""Read the options of networks and containers, by the names of the configuration.

podman hands on what is given by `network create -o KEY=VALUE` and `run --network NAME:KEY=VALUE`:
all text, and none of it looked at.
"""

from cni_faasm.config import nearmiss
from cni_faasm.config import schema as config_schema

TEXT = "text"
FLAG = "true or false"
NUMBER = "a number"
LIST = "a list"

_RATES = ["egressRate", "ingressRate", "egressBurst", "ingressBurst"]
_SUBNETS = ["unshapedSubnets", "shapedSubnets"]
_COUNTED = [
    *("packetRate", "ingressPacketRate", "egressPacketRate"),
    *("packetBurst", "ingressPacketBurst", "egressPacketBurst", "maxConnections"),
]

# What option stands for which place of the configuration; "" for none alone.
NETWORK: dict[str, tuple[str, str]] = {
    **{name: (TEXT, f"bandwidth.{name}") for name in (*_RATES, "latency", "enforceEgress")},
    **{name: (LIST, f"bandwidth.{name}") for name in _SUBNETS},
    **{name: (NUMBER, f"bandwidth.{name}") for name in _COUNTED},
    "maxEgressRate": (TEXT, "maxEgressRate"),
    "maxIngressRate": (TEXT, "maxIngressRate"),
    "mtu": (NUMBER, "mtu"),
    "ipMasq": (FLAG, "ipMasq"),
    "antiSpoof": (FLAG, "antiSpoof"),
    "isolated": (FLAG, "isolated"),
    "allowHost": (LIST, "allowHost"),
    "hostInterfacePrefix": (TEXT, "hostInterfacePrefix"),
    "sandbox": (TEXT, "sandbox"),
    "logFile": (TEXT, "logFile"),
    "lockTimeout": (NUMBER, "lockTimeout"),
    "stateDir": (TEXT, "stateDir"),
    "dataDir": (TEXT, "dataDir"),
    "nameservers": (LIST, "dns.nameservers"),
    "search": (LIST, "dns.search"),
    # Where podman leases nothing.
    "subnet": (LIST, ""),
    "rangeStart": (TEXT, ""),
    "rangeEnd": (TEXT, ""),
    "gateway": (TEXT, ""),
    # As podman's own drivers call them.
    "isolate": (FLAG, "isolated"),
    "metric": (NUMBER, ""),
    "no_default_route": (FLAG, ""),
}
# What a runtime may ask for, so that the network's caps hold.
CONTAINER: dict[str, tuple[str, str]] = {
    **{name: (TEXT, f"runtimeConfig.bandwidth.{name}") for name in _RATES},
    **{name: (LIST, f"runtimeConfig.bandwidth.{name}") for name in _SUBNETS},
    # Of each direction that has a rate beside it.
    "burst": (TEXT, ""),
}
OF_CONTAINER = "the container's option"
OF_NETWORK = "option"
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read(
    given: dict[str, str], known: dict[str, tuple[str, str]], whose: str, faults: list[str]
) -> dict[str, object]:
    """Return the options by their names, as the configuration has them; faults: what is wrong."""
    spellings = {name.lower(): name for name in known}
    found: dict[str, object] = {}
    for key, text in given.items():
        name = spellings.get(key.lower())
        if name is None:
            faults.append(f"{whose} {key}: {_unknown(key, spellings, known)}")
        elif name in found:
            faults.append(f"{whose} {key}: given twice")
        else:
            value = _value(text, known[name][0])
            if value is None:
                told = f"value {config_schema.shown(text)}: allowed is {known[name][0]}"
                faults.append(f"{whose} {name}: {told}")
            else:
                found[name] = value
    return found


def _value(text: str, kind: str) -> object:
    """Return what a text means, None for nothing of its kind."""
    if kind == FLAG:
        return _FLAGS.get(text.strip().lower())
    if kind == NUMBER:
        digits = text.strip()
        is_number = digits.isascii() and digits.isdigit() and len(digits) < 12
        return int(digits) if is_number else None
    if kind == LIST:  # a comma ends an option of `run --network`, so blanks do as well
        return text.replace(",", " ").split()
    return text


def _unknown(key: str, spellings: dict[str, str], known: dict[str, tuple[str, str]]) -> str:
    folded = key.lower()
    if known is CONTAINER and folded in {name.lower() for name in NETWORK}:
        return "it is the network's: podman network create -o"
    # One slip of the pen, or the last words of a longer name that people shorten.
    name = nearmiss.nearest(folded, spellings)
    return "no such option" + (f": allowed is {name}" if name else f"; there are {_list(known)}")


def _list(known: dict[str, tuple[str, str]]) -> str:
    return ", ".join(known)


def place(
    document: dict[str, object], found: dict[str, object], known: dict[str, tuple[str, str]]
) -> None:
    """Put options where the configuration has them."""
    for name, value in found.items():
        *parents, key = known[name][1].split(".")
        if not key:
            continue
        inner = document
        for parent in parents:
            child = inner.setdefault(parent, {})
            if isinstance(child, dict):
                inner = child
        inner[key] = value
