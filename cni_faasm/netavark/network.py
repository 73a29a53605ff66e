"""Say which CNI configuration a network of podman's is."""

from cni_faasm.config import loading as configuration
from cni_faasm.config import ranges
from cni_faasm.netavark import options
from cni_faasm.netavark.given import Given
from cni_faasm.spec import inet
from cni_faasm.spec.errors import INVALID_CONFIG, CniError

CNI_VERSION = "1.1.0"
HOST_LOCAL = "host-local"
DEFAULT_ROUTES = {4: "0.0.0.0/0", 16: "::/0"}
_RANGE_KEYS = ("rangeStart", "rangeEnd", "gateway")


def podman_leases(network: Given) -> bool:
    """Say whether podman chooses addresses, all of which come with each call then."""
    driver = network.pairs("ipam_options").get("driver", "")
    return driver in ("", HOST_LOCAL) and bool(network.children("subnets"))


def document(network: Given, faults: list[str]) -> dict[str, object]:
    """Return the configuration of a network as its options, subnets and routes say.

    faults: receives what is wrong with these alone; `check` finds the rest.
    Raises: CniError 6.
    """
    found = options.read(network.pairs("options"), options.NETWORK, options.OF_NETWORK, faults)
    internal = network.flag("internal")
    made: dict[str, object] = {
        "cniVersion": CNI_VERSION,
        "name": network.text("name"),
        "type": "faasm",
        "ipMasq": not internal,
    }
    if "isolate" in found and "isolated" in found:
        faults.append("option isolate: the same as isolated: give one of them")
    options.place(made, found, options.NETWORK)
    if internal and made["ipMasq"]:
        faults.append("option ipMasq: the network is internal, and nothing leaves it")
    prefix = network.text("network_interface")
    if prefix:
        if found.get("hostInterfacePrefix", prefix) != prefix:
            faults.append("option hostInterfacePrefix: --interface-name says another one")
        made["hostInterfacePrefix"] = prefix
    servers = network.texts("network_dns_servers")
    if servers:
        dns = made.setdefault("dns", {})
        if isinstance(dns, dict):
            dns.setdefault("nameservers", servers)
    sets = _podman_ranges(network, found, faults)
    if not podman_leases(network):
        sets = _own_ranges(network, found, faults)
    wants_default = not internal and found.get("no_default_route") is not True
    made["ipam"] = {
        "type": HOST_LOCAL,
        "ranges": sets,
        "routes": [
            *(_default_routes(sets, found.get("metric")) if wants_default else ()),
            *_routes(network, sets, faults),
        ],
    }
    return made


def check(made: dict[str, object], faults: list[str], verb: str) -> None:
    """Refuse a configuration with faults, by the names that podman has for what is wrong.

    Raises: CniError 7.
    """
    faults = [*faults]
    for one in configuration.check_faults(made, None, "", verb)[1]:
        one.path = _called(one.path)
        faults.append(str(one))
    if faults:
        raise CniError(
            INVALID_CONFIG,
            f"network {made['name']}: {'; '.join(faults[: configuration.MAX_FAULTS])}",
            "docs/podman.md lists every option",
        )


def _called(path: str) -> str:
    """Return how podman's users call a place of the configuration."""
    for whose, known in (
        (options.OF_NETWORK, options.NETWORK),
        (options.OF_CONTAINER, options.CONTAINER),
    ):
        for name, (_, place) in known.items():
            if place and (path == place or path.startswith(f"{place}[")):
                return f"{whose} {name}"
    head, _, rest = path.partition("[")
    if head == "ipam.ranges":
        return f"subnets[{rest.replace('][0]', ']', 1)}"
    return {"runtimeConfig.ips": f"static_ips[{rest}", "runtimeConfig.mac": "static_mac"}.get(
        head, path
    )


def _podman_ranges(
    network: Given, found: dict[str, object], faults: list[str]
) -> list[list[dict[str, str]]]:
    """Return a range set for each subnet: podman leases one address of each.

    Of the whole of it: an address that is asked for may lie outside of --ip-range, and none is
    leased but those that podman names.
    """
    driver = network.pairs("ipam_options").get("driver", "")
    if driver not in ("", HOST_LOCAL, "none"):
        faults.append(
            f"--ipam-driver {driver}: allowed are host-local, by which podman leases, and none, "
            "by which faasm does"
        )
    subnets = network.children("subnets")
    if subnets and driver in ("", HOST_LOCAL):
        faults.extend(
            f"option {key}: --subnet, --ip-range and --gateway say that"
            for key in ("subnet", *_RANGE_KEYS)
            if key in found
        )
    made = []
    for one in subnets:
        subnet = {"subnet": one.text("subnet")}
        gateway = one.text("gateway")
        if gateway:
            subnet["gateway"] = gateway
        made.append([subnet])
    return made


def _own_ranges(
    network: Given, found: dict[str, object], faults: list[str]
) -> list[list[dict[str, str]]]:
    """Return the range sets that the options tell, where podman leases nothing."""
    subnets = found.get("subnet")
    sets = [[{"subnet": one}] for one in (subnets if isinstance(subnets, list) else ())]
    if not sets:
        faults.append(
            "no subnet: give --subnet, by which podman leases, or with --ipam-driver none "
            "-o subnet=10.60.0.0/16, by which faasm does"
        )
    if network.children("subnets"):
        faults.append("--subnet: nothing with --ipam-driver none: -o subnet= says it")
    for key in _RANGE_KEYS:
        if key in found and len(sets) == 1:
            sets[0][0][key] = str(found[key])
        elif key in found:
            faults.append(f"option {key}: with one subnet alone")
    return sets


def _default_routes(sets: list[list[dict[str, str]]], metric: object) -> list[dict[str, object]]:
    lengths = sorted({len(packed) for one in sets if (packed := _network(one[0]["subnet"])[0])})
    return [
        {"dst": DEFAULT_ROUTES[length], **({"priority": metric} if metric else {})}
        for length in lengths
    ]


def _routes(
    network: Given, sets: list[list[dict[str, str]]], faults: list[str]
) -> list[dict[str, object]]:
    """Return podman's routes. A container's link has the gateway and nobody else."""
    made = []
    gateways = {gateway_of(one[0]) for one in sets}
    for one in network.children("routes"):
        hop = one.text("gateway")
        route: dict[str, object] = {"dst": one.text("destination")}
        metric = one.values.get("metric")
        if metric is not None:
            route["priority"] = metric
        try:
            is_ours = inet.pack(hop) in gateways
        except ValueError:
            is_ours = False
        if not is_ours:
            known = " or ".join(inet.unpack(each) for each in sorted(gateways) if each)
            faults.append(
                f"--route {route['dst']}: the next hop {hop or 'nobody'} is not on the container's "
                f"link: allowed is {known or 'the gateway'}"
            )
        made.append(route)
    return made


def gateway_of(subnet: dict[str, str]) -> bytes:
    """Return the gateway of a subnet, given or not; b"" where the subnet is none."""
    try:
        if subnet.get("gateway"):
            return inet.pack(subnet["gateway"])
        return ranges.make(*inet.parse_cidr(subnet["subnet"])).gateway
    except (ValueError, ranges.RangeError):
        return b""


def _network(text: str) -> tuple[bytes, int]:
    try:
        return inet.parse_cidr(text)
    except ValueError:
        return b"", 0
