"""Say what will not work in a list of plugins: who stands where, and what is not installed.

`validate` passes a list that ADD can do, so here is what no plugin's own object tells.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from cni_faasm.cli import networks
from cni_faasm.config import units
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.config.nearmiss import nearest

# They make an interface that has no other end on the host.
WITHOUT_PAIR = ("macvlan", "ipvlan", "host-device", "vlan", "sriov", "dummy", "loopback", "tap")
# They put a root qdisc of their own on the pair, or none but theirs.
SHAPERS = ("bandwidth",)
# What runtimes pass on (CNI conventions, CONVENTIONS.md), and what of it is read here.
READ = ("bandwidth", "ips", "ipRanges", "mac", "dns", "portMappings")
CAPABILITIES = (
    *READ,
    *("aliases", "infinibandGUID", "deviceID", "cgroupPath"),
    "io.kubernetes.cri.pod-annotations",
)

Told = tuple[str, str, bool]  # place, text, whether it is a fault


def types_of(plugins: Sequence[Any]) -> list[str]:
    """Return each plugin's type, "" for what has none."""
    found = []
    for plugin in plugins:
        values = plugin.items() if isinstance(plugin, dict) else ()
        kinds = [value for key, value in values if key.lower() == "type"]
        found.append(kinds[0] if kinds and isinstance(kinds[0], str) else "")
    return found


def misspelt(plugins: Sequence[Any], prefix: str) -> Iterator[Told]:
    """Yield the plugins whose type is a slip of "faasm"."""
    for index, kind in enumerate(types_of(plugins)):
        if kind != networks.PLUGIN and nearest(kind.lower(), {networks.PLUGIN: networks.PLUGIN}):
            place = prefix.format(index) + "type"
            yield place, f'value "{kind}": allowed is {networks.PLUGIN}', True


def order(plugins: Sequence[Any], prefix: str) -> Iterator[Told]:
    """Yield what cannot stand before or behind faasm."""
    types = types_of(plugins)
    first = types.index(networks.PLUGIN)
    for index, kind in enumerate(types):
        place = prefix.format(index).rstrip(".")
        if index < first and kind in WITHOUT_PAIR:
            text = f"{kind} makes no veth pair: faasm behind it has no end on the host to limit"
            yield place, text, True
        elif kind == "portmap" and all(
            _object(plugins[each], "capabilities").get("portMappings") for each in (first, index)
        ):
            text = "portmap and faasm both publish ports: portmap's rules come first"
            yield place, text, False
        elif kind in SHAPERS:
            text = f"{kind} and faasm both limit: leave it out, faasm reads the same keys"
            yield place, text, True


def installed(plugins: Sequence[Any], prefix: str, cni_path: str) -> Iterator[Told]:
    """Yield the plugins and IPAM plugins that are in no folder of CNI_PATH."""
    folders = [folder for folder in cni_path.split(":") if os.path.isdir(folder)]
    if not folders:
        yield (
            "",
            f"there is no folder {cni_path}: whether plugins are installed is not known",
            False,
        )
        return
    there = {name.lower(): name for folder in folders for name in os.listdir(folder)}
    for index, (plugin, kind) in enumerate(zip(plugins, types_of(plugins), strict=True)):
        where = prefix.format(index)
        if kind and kind != networks.PLUGIN and kind not in there.values():
            yield f"{where}type", _absent(kind, there, cni_path), True
        if kind != networks.PLUGIN:
            continue
        ipam = _object(plugin, "ipam")
        leases = str(ipam.get("type") or "host-local")
        is_other = leases != "host-local" or ipam.get("delegate") is True
        if is_other and leases not in there.values():
            yield f"{where}ipam.type", _absent(leases, there, cni_path), True


def _absent(kind: str, there: dict[str, str], cni_path: str) -> str:
    near = nearest(kind.lower(), there)
    return f'"{kind}" is not in {cni_path}' + (f": is {near} meant?" if near else "")


def _object(document: Any, key: str) -> dict[str, Any]:
    for name, value in document.items() if isinstance(document, dict) else ():
        if name.lower() == key and isinstance(value, dict):
            return value
    return {}


def of_plugin(config: NetworkConfig, document: dict[str, Any], where: str) -> Iterator[Told]:
    """Yield what of one valid plugin has no effect, or cannot have it."""
    yield from _capabilities(document, where)
    caps = _object(document, "capabilities")
    lengths = {len(one.network) for range_set in config.range_sets for one in range_set}
    # A runtime that gives ranges of its own may give the other family.
    if lengths and not caps.get("ipRanges"):
        for route in config.routes:
            if len(route.dst) not in lengths:
                family = "IPv6" if len(route.dst) == 16 else "IPv4"
                text = f"there is an {family} route and no {family} range: it is not made"
                yield f"{where}ipam.routes", text, True
    if config.guard is not None and config.guard.allow_host and not config.guard.isolated:
        yield f"{where}allowHost", "has no effect without isolated", False
    values = {key.lower(): value for key, value in document.items()}
    for direction, limit in (("Ingress", config.ingress), ("Egress", config.egress)):
        cap = values.get(f"max{direction.lower()}rate")
        if cap and limit.rate_bps and units.parse_rate(cap) < limit.rate_bps:
            text = f"is below the file's own {direction.lower()}Rate, which it does not hold for"
            yield f"{where}max{direction}Rate", text, False
    if not config.shapes_only and not config.ingress.rate_bps and not config.egress.rate_bps:
        yield where.rstrip("."), "no rate: containers that ask for none are not limited", False
    log = values.get("logfile")
    if isinstance(log, str) and log:
        folder = os.path.dirname(log)
        if not os.access(log if os.path.exists(log) else folder, os.W_OK):
            yield f"{where}logFile", f"{log} cannot be written: nothing will be logged", False


def _capabilities(document: dict[str, Any], where: str) -> Iterator[Told]:
    known = {name.lower(): name for name in CAPABILITIES}
    for name in _object(document, "capabilities"):
        if name in known.values():
            continue
        near = nearest(name.lower(), known) or known.get(name.lower())
        if near:
            yield f"{where}capabilities.{name}", f"no such capability: is {near} meant?", True
        else:
            yield f"{where}capabilities.{name}", "faasm does not know it", False
