"""Say what this host's kernel lacks of what a configuration needs."""

from collections.abc import Iterator

from cni_faasm.config.loading import NetworkConfig
from cni_faasm.link import features
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError

# Where in the file stands what needs something of the kernel.
_PLACES = {
    features.ENFORCE: "bandwidth.enforceEgress",
    features.SUBNETS: "bandwidth.unshapedSubnets",
    features.SHAPED: "bandwidth.shapedSubnets",
    features.RANGES6: "ipam",
    features.PORTS: "capabilities.portMappings",
}


def lacks(config: NetworkConfig, where: str) -> Iterator[tuple[str, str]]:
    """Yield (place, text), as far as the caller may look: a namespace is made for it."""
    keys = features.keys_of(config)
    if config.egress.rate_bps and not config.enforce_egress:
        keys.add(features.BACKSTOP)
    if config.offers_ports and not config.shapes_only:
        keys.add(features.PORTS)
    try:
        found = features.missing(keys, makes_pairs=not config.shapes_only)
    except (CniError, NetlinkError):
        return
    for one in found:
        error = features.lacking([one])
        place = _PLACES.get(one.keys[0], one.keys[0]) if one.keys else ""
        yield (where + place).rstrip("."), f"{error.msg}; {error.details}"
    if features.age():
        yield where.rstrip("."), f"this host's kernel: {features.age()}"
