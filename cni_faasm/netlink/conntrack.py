"""Encode questions about tracked connections, and their deletion (<linux/netfilter/nfnetlink_conntrack.h>).

A connection has two tuples: what its first packet said, and what its answers say. What network
address translation changes is in one of them only.
"""

from struct import Struct

from cni_faasm.netlink.wire import Message, attr, attr_u32, fixed, malformed, nest, parse_attrs

# <linux/netfilter/nfnetlink.h>: NFNL_SUBSYS_CTNETLINK is 1.
IPCTNL_MSG_CT_GET = 0x0101
IPCTNL_MSG_CT_DELETE = 0x0102
_NFGENMSG = Struct(">BBH")

CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_ID = 12
CTA_ZONE = 18
CTA_FILTER = 25
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_PROTO_NUM = 1
_CTA_PROTO_DST_PORT = 3
# CTA_IP_V4_SRC, CTA_IP_V6_SRC by the length of an address.
_SOURCES = {4: 1, 16: 3}
FAMILIES = {4: 2, 16: 10}
# CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS: which fields of a tuple are to be compared.
_FLAGS = {CTA_TUPLE_ORIG: 1, CTA_TUPLE_REPLY: 2}
# net/netfilter/nf_conntrack_netlink.c's CTA_FILTER_F_CTA_IP_SRC and so on: no header has them
_CTA_FILTER_F_CTA_IP_SRC = 1
_CTA_FILTER_F_CTA_PROTO_NUM = 8
_CTA_FILTER_F_CTA_PROTO_DST_PORT = 32
_IDENTITY = (CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE)


class Connection:
    """What tells a connection from all others, and who speaks in each direction.

    service: the protocol, and the port that the first packet was for.
    """

    __slots__ = ("family", "identity", "service", "sources")

    def __init__(
        self,
        family: int,
        identity: bytes,
        sources: tuple[bytes, bytes],
        service: tuple[int, int] = (0, 0),
    ) -> None:
        self.family = family
        self.identity = identity
        self.sources = sources
        self.service = service


def dump_from(address: bytes, which: int) -> Message:
    """Ask for all connections of which one direction comes from an IPv4 address.

    which: CTA_TUPLE_ORIG or CTA_TUPLE_REPLY. Before Linux 5.8 all connections come. The same for
    IPv6 is of no use: 6.18 takes all that come from other addresses.
    Equivalent to: conntrack -L --orig-src ADDRESS, or --reply-src
    """
    place = nest(which, nest(_CTA_TUPLE_IP, attr(_SOURCES[4], address)))
    chosen = nest(CTA_FILTER, attr_u32(_FLAGS[which], _CTA_FILTER_F_CTA_IP_SRC))
    body = _NFGENMSG.pack(FAMILIES[4], 0, 0) + place + chosen
    return IPCTNL_MSG_CT_GET, 0, body, "conntrack -L"


def dump_to(family: int, protocol: int, port: int) -> Message:
    """Ask for the connections of a protocol, and whose first packet was for a port where that is not 0.

    Before Linux 5.8 all of the family come.
    Equivalent to: conntrack -L -f FAMILY -p PROTOCOL --orig-port-dst PORT
    """
    fields = attr(_CTA_PROTO_NUM, bytes([protocol]))
    flags = _CTA_FILTER_F_CTA_PROTO_NUM
    if port:
        fields += attr(_CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        flags |= _CTA_FILTER_F_CTA_PROTO_DST_PORT
    body = (
        _NFGENMSG.pack(family, 0, 0)
        + nest(CTA_TUPLE_ORIG, nest(_CTA_TUPLE_PROTO, fields))
        + nest(CTA_FILTER, attr_u32(_FLAGS[CTA_TUPLE_ORIG], flags))
    )
    return IPCTNL_MSG_CT_GET, 0, body, "conntrack -L"


def dump(family: int) -> Message:
    """Ask for all connections of a family, of both with 0. Equivalent to: conntrack -L -f FAMILY."""
    return IPCTNL_MSG_CT_GET, 0, _NFGENMSG.pack(family, 0, 0), "conntrack -L"


def delete(one: Connection) -> Message:
    """Have the host forget a connection; ENOENT when it has, or when it is another by now.

    Equivalent to: conntrack -D
    """
    body = _NFGENMSG.pack(one.family, 0, 0) + one.identity
    return IPCTNL_MSG_CT_DELETE, 0, body, "conntrack -D"


def parse(body: bytes) -> Connection:
    """Decode IPCTNL_MSG_CT_NEW. Raises: NetlinkError when it is malformed."""
    family, _, _ = fixed(_NFGENMSG, body, "nfgenmsg")
    attrs = parse_attrs(body, _NFGENMSG.size)
    if CTA_TUPLE_ORIG not in attrs or CTA_TUPLE_REPLY not in attrs:
        raise malformed("connection without tuples")
    identity = b"".join(
        nest(kind, attrs[kind]) if kind == CTA_TUPLE_ORIG else attr(kind, attrs[kind])
        for kind in _IDENTITY
        if kind in attrs
    )
    sources = _source(attrs[CTA_TUPLE_ORIG]), _source(attrs[CTA_TUPLE_REPLY])
    return Connection(family, identity, sources, _service(attrs[CTA_TUPLE_ORIG]))


def _source(tuple_: bytes) -> bytes:
    ip = parse_attrs(parse_attrs(tuple_).get(_CTA_TUPLE_IP, b""))
    return next((ip[kind] for kind in _SOURCES.values() if kind in ip), b"")


def _service(tuple_: bytes) -> tuple[int, int]:
    proto = parse_attrs(parse_attrs(tuple_).get(_CTA_TUPLE_PROTO, b""))
    numbers = (proto.get(_CTA_PROTO_NUM, b""), proto.get(_CTA_PROTO_DST_PORT, b""))
    return int.from_bytes(numbers[0], "big"), int.from_bytes(numbers[1], "big")
