"""Read the "ipam" object as host-local does: ranges and routes."""

from cni_faasm.config import ranges, schema
from cni_faasm.config.ranges import Range
from cni_faasm.config.schema import Fault, Faults, Section
from cni_faasm.spec import inet
from cni_faasm.spec.results import Route

HOST_LOCAL = "host-local"
MAX_RANGES = 1024  # each is compared with all others
_U32 = 0xFFFFFFFF
# "This network", loopback, multicast, reserved; unspecified and loopback, link-local, multicast
# (IANA's special-purpose address registries).
_SPECIAL = tuple(
    inet.parse_cidr(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/127", "fe80::/10", "ff00::/8"),
    )
)


def read_plugin(top: Section, own_type: str) -> str:
    """Return the IPAM plugin that is to be executed; "" when faasm leases itself.

    faasm does what host-local does, unless "delegate" is true.
    """
    value = top.values.get("ipam")
    if not isinstance(value, dict):
        return ""
    faults = Faults()
    ipam = Section(value, {}, top.path + "ipam.", faults)
    ipam.values = {key.lower(): item for key, item in value.items() if item is not None}
    kind = ipam.text("type") or HOST_LOCAL
    if kind == HOST_LOCAL and not ipam.flag("delegate"):
        kind = ""
    elif "/" in kind or "\0" in kind or kind in (".", "..", own_type):
        ipam.fault("type", "the name of an IPAM plugin's file in CNI_PATH")
        kind = HOST_LOCAL
    top.faults.extend(faults)
    return kind


def read_range_sets(
    top: Section,
    ipam: Section | None,
    runtime: Section | None,
    cni_version: str,
    *,
    needed: bool = True,
) -> list[list[Range]]:
    """Return the range sets: the runtime's first, then the file's.

    ipam, runtime: None when absent or no objects. needed: without any is a fault.
    """
    before = len(top.faults)
    range_sets: list[tuple[str, list[Range]]] = []
    if runtime:
        range_sets += _range_sets(runtime, "ipRanges")
    if ipam:
        if "subnet" in ipam.values:
            one = _range(ipam)
            if one:
                range_sets.append((ipam.path + "subnet", [one]))
        else:
            for key in ("rangeStart", "rangeEnd", "gateway"):
                if key in ipam.values:
                    ipam.fault(key, "nothing without a subnet")
        range_sets += _range_sets(ipam, "ranges")
    if (
        needed
        and not range_sets
        and len(top.faults) == before
        and (ipam or "ipam" not in top.values)
    ):
        (ipam or top).fault(
            "subnet" if ipam else "ipam",
            'at least one subnet, like {"type": "host-local", "subnet": "10.200.0.0/16"}',
        )
    _check_range_sets(range_sets, cni_version, top.faults)
    return [range_set for _, range_set in range_sets]


def read_routes(ipam: Section) -> list[Route]:
    """Return the routes of "ipam"."""
    routes = [_route(item) for item in ipam.sections("routes", schema.ROUTE)]
    return [route for route in routes if route is not None]


def _range_sets(section: Section, key: str) -> list[tuple[str, list[Range]]]:
    """Return (path, range set) of a list of lists of ranges."""
    found = []
    total = 0
    for index, items in enumerate(section.items(key)):
        path = f"{section.path}{key}[{index}]"
        total += len(items) if isinstance(items, list) else 0
        if total > MAX_RANGES:
            section.fault(key, f"at most {MAX_RANGES} ranges in all")
            return []
        if not isinstance(items, list) or not items:
            section.faults.append(
                Fault(path, items, 'a list of ranges, like [{"subnet": "10.200.0.0/16"}]')
            )
            continue
        range_set = []
        for item in schema.objects(items, schema.RANGE, path, section.faults):
            one = _range(item)
            if one:
                range_set.append(one)
        if range_set:
            found.append((path, range_set))
    return found


def _range(section: Section) -> Range | None:
    before = len(section.faults)
    if "subnet" not in section.values:
        section.fault("subnet", "a network like 10.200.0.0/16")
        return None
    subnet = section.parsed("subnet", schema.network, "a network like 10.200.0.0/16")
    first, last, gateway = (
        section.parsed(key, schema.optional_address, "an address in the subnet")
        for key in ("rangeStart", "rangeEnd", "gateway")
    )
    if subnet is None or len(section.faults) > before:
        return None
    for special in _SPECIAL:
        shorter = min(special[1], subnet[1])
        if inet.contains(special[0], shorter, subnet[0]):
            text = inet.cidr(*special)
            section.fault("subnet", must=f"not overlap with {text}, which no container can have")
            return None
    try:
        one = ranges.make(*subnet, first, last, gateway)
    except ranges.RangeError as error:
        section.fault(error.key, error.allowed)
        return None
    if one.first == one.last == one.gateway:
        section.fault("subnet", "a range with more addresses than the gateway's")
        return None
    return one


def _check_range_sets(
    range_sets: list[tuple[str, list[Range]]], cni_version: str, faults: Faults
) -> None:
    """Refuse mixed families in a set, overlaps, and more than the version can say."""
    seen: list[tuple[str, Range]] = []
    families = {4: 0, 16: 0}
    for path, range_set in range_sets:
        length = len(range_set[0].network)
        families[length] += 1
        for index, one in enumerate(range_set):
            where = path if path.endswith("subnet") else f"{path}[{index}]"
            if len(one.network) != length:
                must = f"be of the family of {path}[0]: make a second set of ranges for it"
                faults.append(Fault(where, one.subnet_text(), must=must))
                continue
            for other, earlier in seen:
                if one.overlaps(earlier):
                    must = f"not overlap with {other} ({earlier.subnet_text()})"
                    faults.append(Fault(where, one.subnet_text(), must=must))
                    break
            seen.append((where, one))
    if max(families.values()) > 1 and cni_version in ("0.1.0", "0.2.0"):
        faults.append(
            Fault(
                "cniVersion",
                cni_version,
                "0.3.0 or later with more than one range set of a family",
            )
        )


def _route(section: Section) -> Route | None:
    before = len(section.faults)
    if "dst" not in section.values:
        section.fault("dst", "a network like 0.0.0.0/0")
        return None
    dst = section.parsed("dst", schema.network, "a network like 0.0.0.0/0")
    gateway = section.parsed("gw", schema.optional_address, "an address")
    mtu = section.number("mtu", 0, 65535)
    advmss = section.number("advmss", 0, 65535)
    priority = section.number("priority", 0, _U32)
    table = section.number("table", 0, _U32)
    scope = section.number("scope", 0, 255)
    if dst is None:
        return None
    base = inet.network(*dst)
    if base != dst[0]:
        section.fault("dst", f"{inet.cidr(base, dst[1])}, without host bits")
    if gateway is not None and len(gateway) != len(base):
        section.fault("gw", "an address of dst's family")
    if len(section.faults) > before:
        return None
    return Route(
        dst=base,
        prefix_len=dst[1],
        gateway=gateway,
        mtu=mtu or None,  # 0 is "not set", as Go writes it
        advmss=advmss or None,
        priority=priority or None,
        table=table or None,
        scope=scope,
    )
