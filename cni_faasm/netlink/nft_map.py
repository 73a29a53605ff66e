"""Encode maps of nf_tables, and the rules that send packets where a map says.

Layout: <linux/netfilter/nf_tables.h>. As in nft_expr, each function returns expressions in the
form that nft itself makes.
"""

from struct import Struct

from cni_faasm.netlink.nft import family_name, head
from cni_faasm.netlink.nft_expr import (
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_CMP_EQ,
    NFT_PAYLOAD_NETWORK_HEADER,
    NFT_REG_1,
    compare,
    expression,
    payload,
)
from cni_faasm.netlink.nft_match import (
    NFT_META_L4PROTO,
    NFT_PAYLOAD_TRANSPORT_HEADER,
    NFTA_FIB_DREG,
    NFTA_FIB_FLAGS,
    NFTA_FIB_RESULT,
    NFTA_LOOKUP_SET,
    NFTA_LOOKUP_SREG,
    protocol_family,
)
from cni_faasm.netlink.nft_set import (
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_FLAGS,
    NFTA_SET_ID,
    NFTA_SET_KEY_LEN,
    NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME,
    NFTA_SET_TABLE,
    TYPE_IP6ADDR,
    TYPE_IPADDR,
)
from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attr_be32,
    attr_text,
    nest,
)

# <linux/netfilter/nf_tables.h>
NFT_SET_MAP = 0x08
NFTA_SET_DATA_TYPE = 6
NFTA_SET_DATA_LEN = 7
NFTA_LOOKUP_DREG = 3
NFTA_META_DREG = 1
NFTA_META_KEY = 2
NFTA_NAT_TYPE = 1
NFTA_NAT_FAMILY = 2
NFTA_NAT_REG_ADDR_MIN = 3
NFTA_NAT_REG_PROTO_MIN = 5
NFT_NAT_DNAT = 1
NFT_FIB_RESULT_ADDRTYPE = 3
NFTA_FIB_F_DADDR = 2
RTN_LOCAL = 2  # <linux/rtnetlink.h>
NFT_REG_2 = 2  # what register 1 holds beyond 16 bytes
NFT_REG32_01, NFT_REG32_02, NFT_REG32_05 = 9, 10, 13

# nft's own numbers of types (enum datatypes), as in nft_set.
TYPE_INET_PROTOCOL = 12
TYPE_INET_SERVICE = 13
_TYPES = {4: TYPE_IPADDR, 16: TYPE_IP6ADDR}
_PROTOCOLS = {4: NFPROTO_IPV4, 16: NFPROTO_IPV6}
_OFFSETS = {4: (12, 16), 16: (8, 24)}  # of source and destination
_BITS = 6
_U32 = Struct("=I")
_BE16 = Struct(">H")


def port(number: int) -> bytes:
    """Return a port as keys and data have it, in a word of its own."""
    return _BE16.pack(number) + b"\0\0"


def protocol(number: int) -> bytes:
    """Return a protocol's number as keys have it."""
    return bytes((number, 0, 0, 0))


def new_map(family: int, table: str, name: str, length: int, *, by_address: bool) -> Message:
    """Make a map to an address and a port, from a protocol and a port, or from an address, too.

    length: of the addresses, 4 or 16.
    Equivalent to: nft create map FAMILY TABLE NAME { type [ipv4_addr .] inet_proto . inet_service :
    ipv4_addr . inet_service; }
    """
    kind = TYPE_INET_PROTOCOL << _BITS | TYPE_INET_SERVICE
    if by_address:
        kind |= _TYPES[length] << 2 * _BITS
    body = (
        head(family)
        + attr_text(NFTA_SET_TABLE, table)
        + attr_text(NFTA_SET_NAME, name)
        + attr_be32(NFTA_SET_FLAGS, NFT_SET_MAP)
        + attr_be32(NFTA_SET_KEY_TYPE, kind)
        + attr_be32(NFTA_SET_KEY_LEN, 8 + (length if by_address else 0))
        + attr_be32(NFTA_SET_DATA_TYPE, _TYPES[length] << _BITS | TYPE_INET_SERVICE)
        + attr_be32(NFTA_SET_DATA_LEN, length + 4)
        + attr_be32(NFTA_SET_ID, int.from_bytes(name.encode()[:4], "big"))
    )
    label = f"nft create map {family_name(family, table, name)}"
    return NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, body, label


def new_elements(family: int, table: str, name: str, elements: dict[bytes, bytes]) -> Message:
    """Put elements into a map; EEXIST when one is there that leads elsewhere.

    Equivalent to: nft add element FAMILY TABLE NAME { K : D, K : D }
    """
    listed = [
        nest(
            NFTA_LIST_ELEM,
            nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)),
            nest(NFTA_SET_ELEM_DATA, attr(NFTA_DATA_VALUE, data)),
        )
        for key, data in elements.items()
    ]
    body = (
        head(family)
        + attr_text(NFTA_SET_ELEM_LIST_TABLE, table)
        + attr_text(NFTA_SET_ELEM_LIST_SET, name)
        + nest(NFTA_SET_ELEM_LIST_ELEMENTS, *listed)
    )
    label = f"nft add element {family_name(family, table, name)}"
    return NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, label


def _lookup(name: str, *, is_map: bool) -> bytes:
    more = (attr_be32(NFTA_LOOKUP_DREG, NFT_REG_1),) if is_map else ()
    return expression(
        "lookup",
        attr_text(NFTA_LOOKUP_SET, name),
        attr_be32(NFTA_LOOKUP_SREG, NFT_REG_1),
        *more,
    )


def to_the_host() -> bytes:
    """Match packets to an address of the host's.

    Equivalent to: fib daddr type local
    """
    return expression(
        "fib",
        attr_be32(NFTA_FIB_DREG, NFT_REG_1),
        attr_be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
        attr_be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
    ) + compare(_U32.pack(RTN_LOCAL), NFT_CMP_EQ)


def redirect(name: str, length: int, *, by_address: bool) -> bytes:
    """Send what comes for the host where a map says; what the map does not have goes on.

    Equivalent to: fib daddr type local dnat ip to [ip daddr .] meta l4proto . th dport map @NAME
    """
    if by_address:
        place = NFT_REG32_01 if length == 4 else NFT_REG_2
        following = NFT_REG32_02 if length == 4 else NFT_REG32_05
        loads = payload(NFT_PAYLOAD_NETWORK_HEADER, _OFFSETS[length][1], length)
    else:
        place, following, loads = NFT_REG_1, NFT_REG32_01, b""
    loads += expression(
        "meta", attr_be32(NFTA_META_KEY, NFT_META_L4PROTO), attr_be32(NFTA_META_DREG, place)
    )
    loads += payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, following)
    nat = expression(
        "nat",
        attr_be32(NFTA_NAT_TYPE, NFT_NAT_DNAT),
        attr_be32(NFTA_NAT_FAMILY, _PROTOCOLS[length]),
        attr_be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1),
        attr_be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG32_01 if length == 4 else NFT_REG_2),
    )
    return (
        protocol_family(_PROTOCOLS[length])
        + to_the_host()
        + loads
        + _lookup(name, is_map=True)
        + nat
    )


def to_itself(name: str, length: int) -> bytes:
    """Match packets whose source and destination are an element of a set.

    Equivalent to: ip saddr . ip daddr @NAME
    """
    second = NFT_REG32_01 if length == 4 else NFT_REG_2
    source, destination = _OFFSETS[length]
    return (
        protocol_family(_PROTOCOLS[length])
        + payload(NFT_PAYLOAD_NETWORK_HEADER, source, length)
        + payload(NFT_PAYLOAD_NETWORK_HEADER, destination, length, second)
        + _lookup(name, is_map=False)
    )
