"""Encode and decode RTM_*ROUTE.

Layout: struct rtmsg and attributes in <linux/rtnetlink.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attr,
    attr_u32,
    fixed,
    get_u32,
    malformed,
    nest,
    parse_attrs,
)
from cni_faasm.spec.inet import cidr, family, unpack

# <linux/rtnetlink.h>
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTN_UNSPEC = 0
RTN_UNICAST = 1
RTN_LOCAL = 2
RTPROT_UNSPEC = 0
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_NOWHERE = 255
RT_TABLE_UNSPEC = 0
RT_TABLE_COMPAT = 252
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
RTM_F_CLONED = 0x200
RTM_F_FIB_MATCH = 0x2000
RTNH_F_ONLINK = 4
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_PREFSRC = 7
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_TABLE = 15
RTAX_MTU = 2
RTAX_ADVMSS = 8

# family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTMSG = Struct("=BBBBBBBBI")
_RTNEXTHOP = Struct("=HBBi")  # length, flags, hops, index
_LENGTHS = {2: 4, 10: 16}


class RouteInfo:
    """One route. A number the route does not carry is None; gateway and src likewise.

    oif, gateway: of a multipath route, those of its first hop. oifs: those of all its hops.
    """

    __slots__ = (
        "advmss",
        "dst",
        "family",
        "flags",
        "gateway",
        "mtu",
        "oif",
        "oifs",
        "prefix_len",
        "priority",
        "protocol",
        "scope",
        "src",
        "table",
        "type",
    )

    def __init__(
        self,
        *,
        family: int,
        dst: bytes,
        prefix_len: int,
        table: int,
        protocol: int,
        scope: int,
        type: int,  # noqa: A002 -- rtm_type
        flags: int,
        oif: int | None,
        oifs: tuple[int, ...],
        gateway: bytes | None,
        src: bytes | None,
        priority: int | None,
        mtu: int | None,
        advmss: int | None,
    ) -> None:
        self.family = family
        self.dst = dst
        self.prefix_len = prefix_len
        self.table = table
        self.protocol = protocol
        self.scope = scope
        self.type = type
        self.flags = flags
        self.oif = oif
        self.oifs = oifs
        self.gateway = gateway
        self.src = src
        self.priority = priority
        self.mtu = mtu
        self.advmss = advmss

    @property
    def onlink(self) -> bool:
        """Say whether the gateway counts as a neighbour although no route says so."""
        return bool(self.flags & RTNH_F_ONLINK)


def _route(  # noqa: PLR0917 -- both calls stand below
    dst: bytes,
    prefix_len: int,
    oif: int | None,
    gateway: bytes | None,
    table: int | None,
    priority: int | None,
) -> tuple[list[bytes], str]:
    """Encode what names a route. Returns: attributes, words."""
    parts: list[bytes] = []
    words = [cidr(dst, prefix_len) if prefix_len else "default"]
    if prefix_len:
        parts.append(attr(RTA_DST, dst))
    if gateway is not None:
        parts.append(attr(RTA_GATEWAY, gateway))
        words.append(f"via {unpack(gateway)}")
    if oif is not None:
        parts.append(attr_u32(RTA_OIF, oif))
        words.append(f"dev if{oif}")
    if priority is not None:
        parts.append(attr_u32(RTA_PRIORITY, priority))
        words.append(f"metric {priority}")
    if table is not None:
        parts.append(attr_u32(RTA_TABLE, table))
        words.append(f"table {table}")
    return parts, " ".join(words)


def _table(table: int | None) -> int:
    """Return what the u8 field says; RTA_TABLE says it in full."""
    if table is None:
        return RT_TABLE_MAIN
    return table if table < 256 else RT_TABLE_COMPAT


def new_route(
    dst: bytes,
    prefix_len: int,
    oif: int | None,
    *,
    gateway: bytes | None = None,
    scope: int | None = None,
    src: bytes | None = None,
    mtu: int | None = None,
    advmss: int | None = None,
    priority: int | None = None,
    table: int | None = None,
    onlink: bool = False,
    protocol: int = RTPROT_BOOT,
    replace: bool = False,
    append: bool = False,
    kind: int = RTN_UNICAST,
) -> Message:
    """Add a route; EEXIST when there is one to the same destination of the same priority.

    scope: None is "link" without a gateway, else "global", as ip has it.
    src: preferred source address. onlink: the gateway need not be reachable by a route.
    protocol: who made it; ip's own by default. replace: take the place of the other.
    append: stand after it; EEXIST only when it has the same gateway and interface.
    kind: of RTN_*; with RTN_LOCAL the destination is the host itself.
    Raises: ValueError when gateway or src are not of dst's family.
    Equivalent to: ip route add DST via GATEWAY dev IF src SRC mtu N metric N table N onlink
    """
    for other in (gateway, src):
        if other is not None and len(other) != len(dst):
            msg = f"route to {cidr(dst, prefix_len)}: {unpack(other)} is of another family"
            raise ValueError(msg)
    if scope is None:
        # IPv6 has no scopes of routes.
        is_link = gateway is None and len(dst) == 4
        scope = RT_SCOPE_LINK if is_link else RT_SCOPE_UNIVERSE
    parts, words = _route(dst, prefix_len, oif, gateway, table, priority)
    if src is not None:
        parts.append(attr(RTA_PREFSRC, src))
    metrics = b""
    if mtu is not None:
        metrics += attr_u32(RTAX_MTU, mtu)
    if advmss is not None:
        metrics += attr_u32(RTAX_ADVMSS, advmss)
    if metrics:
        parts.append(nest(RTA_METRICS, metrics))
    head = _RTMSG.pack(
        family(dst),
        prefix_len,
        0,
        0,
        _table(table),
        protocol,
        scope,
        kind,
        RTNH_F_ONLINK if onlink else 0,
    )
    how, verb = NLM_F_EXCL, "add"
    if replace:
        how, verb = NLM_F_REPLACE, "replace"
    elif append:
        how, verb = NLM_F_APPEND, "append"
    local = "local " if kind == RTN_LOCAL else ""
    what = f"ip route {verb} {local}{words}"
    return RTM_NEWROUTE, NLM_F_CREATE | how, head + b"".join(parts), what


def del_route(
    dst: bytes,
    prefix_len: int,
    oif: int | None = None,
    *,
    gateway: bytes | None = None,
    priority: int | None = None,
    table: int | None = None,
) -> Message:
    """Take away the first route that has all that is given; ESRCH when there is none.

    Equivalent to: ip route del DST via GATEWAY dev IF metric N table N
    """
    parts, words = _route(dst, prefix_len, oif, gateway, table, priority)
    head = _RTMSG.pack(
        family(dst), prefix_len, 0, 0, _table(table), RTPROT_UNSPEC, RT_SCOPE_NOWHERE, RTN_UNSPEC, 0
    )
    return RTM_DELROUTE, 0, head + b"".join(parts), f"ip route del {words}"


def get_route(dst: bytes, *, fib_match: bool = True, oif: int | None = None) -> Message:
    """Ask which route a packet to dst takes; ENETUNREACH or EHOSTUNREACH when none.

    Costs the same with any number of routes.
    fib_match: answer with the route as it stands in its table, not with what follows
    from it for this destination.
    Equivalent to: ip route get [fibmatch] DST [oif IF]
    """
    length = len(dst) * 8
    flags = RTM_F_FIB_MATCH if fib_match else 0
    body = _RTMSG.pack(family(dst), length, 0, 0, 0, 0, 0, 0, flags) + attr(RTA_DST, dst)
    if oif is not None:
        body += attr_u32(RTA_OIF, oif)
    return RTM_GETROUTE, 0, body, f"ip route get {'fibmatch ' if fib_match else ''}{unpack(dst)}"


def dump_routes(*, family: int = 2, oif: int | None = None, table: int | None = None) -> Message:
    """Ask for the routes of a family, by an interface, in a table (None: in all).

    ENOENT when the table does not exist.
    Equivalent to: ip [-4|-6] route show [dev IF] [table N]
    """
    parts = [_RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)]
    words = ["ip", "-6" if family == 10 else "-4", "route show"]
    if oif is not None:
        parts.append(attr_u32(RTA_OIF, oif))
        words.append(f"dev if{oif}")
    if table is not None:
        parts.append(attr_u32(RTA_TABLE, table))
        words.append(f"table {table}")
    return RTM_GETROUTE, 0, b"".join(parts), " ".join(words)


def parse_route(body: bytes, oif: int | None = None) -> RouteInfo:
    """Decode RTM_NEWROUTE.

    oif: which hop of a multipath route to tell; the first when None, or when no hop has it.
    Raises: NetlinkError when it is malformed or of a family other than IPv4 and IPv6.
    """
    one_family, prefix_len, _, _, table, protocol, scope, kind, flags = fixed(_RTMSG, body, "rtmsg")
    length = _LENGTHS.get(one_family)
    if length is None or prefix_len > length * 8:
        raise malformed(f"route of family {one_family}")
    attrs = parse_attrs(body, _RTMSG.size)
    # Hops stand by themselves in a multipath route.
    hop = attrs
    told = get_u32(attrs, RTA_OIF) if RTA_OIF in attrs else None
    oifs: tuple[int, ...] = () if told is None else (told,)
    multipath = attrs.get(RTA_MULTIPATH)
    if told is None and multipath:
        hops = _hops(multipath)
        told, hop = next((one for one in hops if one[0] == oif), hops[0])
        oifs = tuple(index for index, _ in hops)
    dst = attrs.get(RTA_DST, bytes(length))
    gateway = hop.get(RTA_GATEWAY)
    src = attrs.get(RTA_PREFSRC)
    for address in (dst, gateway, src):
        if address is not None and len(address) != length:
            raise malformed("address of a route")
    metrics = parse_attrs(attrs.get(RTA_METRICS, b""))
    return RouteInfo(
        family=one_family,
        dst=dst,
        prefix_len=prefix_len,
        table=get_u32(attrs, RTA_TABLE, table),
        protocol=protocol,
        scope=scope,
        type=kind,
        flags=flags,
        oif=told,
        oifs=oifs,
        gateway=gateway,
        src=src,
        priority=get_u32(attrs, RTA_PRIORITY) if RTA_PRIORITY in attrs else None,
        mtu=get_u32(metrics, RTAX_MTU) if RTAX_MTU in metrics else None,
        advmss=get_u32(metrics, RTAX_ADVMSS) if RTAX_ADVMSS in metrics else None,
    )


def next_hops(body: bytes) -> list[bytes]:
    """Decode RTM_NEWROUTE: the gateways of all its hops.

    Raises: NetlinkError when it is malformed.
    """
    attrs = parse_attrs(body, _RTMSG.size)
    multipath = attrs.get(RTA_MULTIPATH)
    found = [attrs, *(hop for _, hop in _hops(multipath))] if multipath else [attrs]
    return [hop[RTA_GATEWAY] for hop in found if RTA_GATEWAY in hop]


def _hops(multipath: bytes) -> list[tuple[int, dict[int, bytes]]]:
    """Return interface and attributes of each hop, one at least."""
    found = []
    start = 0
    while start < len(multipath):
        length, _, _, oif = fixed(_RTNEXTHOP, multipath[start:], "rtnexthop")
        end = start + length
        if length < _RTNEXTHOP.size or end > len(multipath):
            raise malformed("rtnexthop")
        found.append((oif, parse_attrs(multipath, start + _RTNEXTHOP.size, end)))
        start = end + -end % 4
    if not found:
        raise malformed("rtnexthop")
    return found
