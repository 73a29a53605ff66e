"""Encode and decode nf_tables' sets and their elements; the rest of nf_tables is in nft.

A key is a concatenation: each field takes whole words of 4 bytes.

Layout: <linux/netfilter/nf_tables.h>.
"""

from struct import Struct

from cni_faasm.netlink.nft import family_name, head
from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attr_be32,
    attr_text,
    get_be32,
    get_text,
    malformed,
    nest,
    parse_attrs,
    parse_list,
)

# <linux/netfilter/nf_tables.h>, the subsystem's number included
NFT_MSG_NEWSET = 0x0A09
NFT_MSG_NEWSETELEM = 0x0A0C
NFT_MSG_GETSET = 0x0A0A
NFT_MSG_GETSETELEM = 0x0A0D
NFT_MSG_DELSETELEM = 0x0A0E
NFT_SET_ANONYMOUS = 0x01
NFT_SET_INTERVAL = 0x04
NFT_SET_TIMEOUT = 0x10
NFT_SET_EVAL = 0x20
NFT_SET_CONCAT = 0x80
NFTA_SET_TABLE = 1
NFTA_SET_NAME = 2
NFTA_SET_FLAGS = 3
NFTA_SET_KEY_TYPE = 4
NFTA_SET_KEY_LEN = 5
NFTA_SET_ID = 10
NFTA_SET_USERDATA = 13
NFTA_SET_EXPR = 17
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_DATA = 2
NFTA_SET_ELEM_FLAGS = 3
NFTA_SET_ELEM_EXPR = 7
NFTA_SET_ELEM_OBJREF = 9
NFT_SET_ELEM_INTERVAL_END = 1
NFTA_DATA_VALUE = 1
_NFGENMSG_BYTES = 4

# nft's own numbers of types (enum datatypes in its datatype.h), by which it lists elements.
TYPE_IPADDR = 7
TYPE_IP6ADDR = 8
TYPE_ETHERADDR = 9
TYPE_IFNAME = 41
_LENGTHS = {TYPE_IPADDR: 4, TYPE_IP6ADDR: 16, TYPE_ETHERADDR: 6, TYPE_IFNAME: 16}
_TYPE_BITS = 6
# libnftnl's attributes of a set, read by nft alone: NFTNL_UDATA_SET_KEYBYTEORDER, of 4 bytes, and
# BYTEORDER_HOST_ENDIAN. Without it nft lists a single name as "".
KEY_OF_THE_HOST = b"\0\4" + Struct("=I").pack(1)


def number(name: str) -> int:
    """Return a number that tells the sets of one transaction apart."""
    return int.from_bytes(name.encode()[:4], "big")


def concatenated(*fields: bytes) -> bytes:
    """Return a key of several fields."""
    return b"".join(field.ljust((len(field) + 3) & ~3, b"\0") for field in fields)


def new_set(
    family: int, table: str, name: str, *types: int, dynamic: bool = False, each: bytes = b""
) -> Message:
    """Make a set whose key is a concatenation of types.

    dynamic: rules may put elements into it, for a time. each: what every element is to have, an
    expression of the kind alone (nft_limit).
    Equivalent to: nft create set FAMILY TABLE NAME { type T . T; flags dynamic,timeout; }
    """
    kind, length = 0, 0
    for one in types:
        kind = kind << _TYPE_BITS | one
        length += (_LENGTHS[one] + 3) & ~3
    body = (
        head(family)
        + attr_text(NFTA_SET_TABLE, table)
        + attr_text(NFTA_SET_NAME, name)
        + attr_be32(NFTA_SET_FLAGS, NFT_SET_TIMEOUT | NFT_SET_EVAL if dynamic else 0)
        + attr_be32(NFTA_SET_KEY_TYPE, kind)
        + attr_be32(NFTA_SET_KEY_LEN, length)
        + attr_be32(NFTA_SET_ID, number(name))
    )
    if types == (TYPE_IFNAME,):
        body += attr(NFTA_SET_USERDATA, KEY_OF_THE_HOST)
    if each:
        body += nest(NFTA_SET_EXPR, each)
    label = f"nft create set {family_name(family, table, name)}"
    return NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, body, label


def _elements(
    family: int, table: str, name: str, keys: list[bytes], expression: bytes = b""
) -> bytes:
    more = nest(NFTA_SET_ELEM_EXPR, expression) if expression else b""
    listed = [
        nest(NFTA_LIST_ELEM, nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)), more)
        for key in keys
    ]
    body = (
        head(family)
        + attr_text(NFTA_SET_ELEM_LIST_TABLE, table)
        + attr_text(NFTA_SET_ELEM_LIST_SET, name)
    )
    return body + (nest(NFTA_SET_ELEM_LIST_ELEMENTS, *listed) if listed else b"")


def new_elements(
    family: int, table: str, name: str, keys: list[bytes], expression: bytes = b""
) -> Message:
    """Put elements into a set; those that are in it stay as they are.

    expression: what each has of its own, of the kind that the set was made with.
    Equivalent to: nft add element FAMILY TABLE NAME { K, K }
    """
    body = _elements(family, table, name, keys, expression)
    return NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, f"nft add element {_label(family, table, name)}"


def del_elements(family: int, table: str, name: str, keys: list[bytes]) -> Message:
    """Take elements out of a set; ENOENT when one is not in it.

    Equivalent to: nft delete element FAMILY TABLE NAME { K, K }
    """
    body = _elements(family, table, name, keys)
    return NFT_MSG_DELSETELEM, 0, body, f"nft delete element {_label(family, table, name)}"


def get_element(family: int, table: str, name: str, key: bytes) -> Message:
    """Ask whether an element is in a set; ENOENT when not.

    Equivalent to: nft get element FAMILY TABLE NAME { K }
    """
    body = _elements(family, table, name, [key])
    return NFT_MSG_GETSETELEM, 0, body, f"nft get element {_label(family, table, name)}"


def dump_elements(family: int, table: str, name: str) -> Message:
    """Ask for the elements of a set.

    Equivalent to: nft list set FAMILY TABLE NAME
    """
    body = _elements(family, table, name, [])
    return NFT_MSG_GETSETELEM, 0, body, f"nft list set {_label(family, table, name)}"


def _label(family: int, table: str, name: str) -> str:
    return family_name(family, table, name)


def parse_elements(body: bytes) -> list[bytes]:
    """Decode NFT_MSG_NEWSETELEM: the keys. Raises: NetlinkError when it is malformed."""
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    keys = []
    for element in parse_list(attrs.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        key = parse_attrs(parse_attrs(element).get(NFTA_SET_ELEM_KEY, b""))
        keys.append(key.get(NFTA_DATA_VALUE, b""))
    return keys


def parse_place(body: bytes) -> tuple[int, str, str]:
    """Decode NFT_MSG_NEWSETELEM: (family, table, set). Raises: NetlinkError."""
    if len(body) < _NFGENMSG_BYTES:
        raise malformed("nfgenmsg")
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    table = get_text(attrs, NFTA_SET_ELEM_LIST_TABLE)
    return body[0], table, get_text(attrs, NFTA_SET_ELEM_LIST_SET)


def get_set(family: int, table: str, name: str) -> Message:
    """Ask for a set, without its elements; ENOENT when there is none.

    Equivalent to: nft list set FAMILY TABLE NAME, the first lines
    """
    body = head(family) + attr_text(NFTA_SET_TABLE, table) + attr_text(NFTA_SET_NAME, name)
    return NFT_MSG_GETSET, 0, body, f"nft list set {_label(family, table, name)}"


def dump_sets(family: int, table: str) -> Message:
    """Ask for the sets of a table, without their elements.

    Equivalent to: nft list sets FAMILY, of one table
    """
    body = head(family) + attr_text(NFTA_SET_TABLE, table)
    return NFT_MSG_GETSET, 0, body, f"nft list sets {family_name(family, table)}"


def parse_set_place(body: bytes) -> tuple[int, str, str]:
    """Decode NFT_MSG_NEWSET: (family, table, set). Raises: NetlinkError when it is malformed."""
    if len(body) < _NFGENMSG_BYTES:
        raise malformed("nfgenmsg")
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    return body[0], get_text(attrs, NFTA_SET_TABLE), get_text(attrs, NFTA_SET_NAME)


def parse_set(body: bytes) -> tuple[int, int]:
    """Decode NFT_MSG_NEWSET: its flags and the length of its keys.

    Raises: NetlinkError when it is malformed.
    """
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    return get_be32(attrs, NFTA_SET_FLAGS), get_be32(attrs, NFTA_SET_KEY_LEN)


class Element:
    """One element.

    data: attributes of what a map gives for it. expression: attributes of what it has of its
    own. is_end: it begins a gap. object: the name of what it leads to.
    """

    __slots__ = ("data", "expression", "is_end", "key", "object")

    def __init__(self, attrs: dict[int, bytes]) -> None:
        key = parse_attrs(attrs.get(NFTA_SET_ELEM_KEY, b""))
        self.key = key.get(NFTA_DATA_VALUE, b"")
        self.data = attrs.get(NFTA_SET_ELEM_DATA, b"")
        self.expression = attrs.get(NFTA_SET_ELEM_EXPR, b"")
        self.object = get_text(attrs, NFTA_SET_ELEM_OBJREF)
        self.is_end = bool(get_be32(attrs, NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END)


def parse_whole_elements(body: bytes) -> list[Element]:
    """Decode NFT_MSG_NEWSETELEM with what its elements hold beside their keys.

    Raises: NetlinkError when it is malformed.
    """
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    listed = parse_list(attrs.get(NFTA_SET_ELEM_LIST_ELEMENTS, b""))
    return [Element(parse_attrs(one)) for one in listed]
