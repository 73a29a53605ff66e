"""Encode named limits of nf_tables, and maps from interfaces to them.

Layout: <linux/netfilter/nf_tables.h>, enum nft_object_attributes, enum nft_objref_attributes.
"""

from cni_faasm.netlink import nft_match, nft_set
from cni_faasm.netlink.nft import family_name, head
from cni_faasm.netlink.nft_expr import NFT_REG_1, NFTA_EXPR_DATA, expression
from cni_faasm.netlink.nft_limit import Limit
from cni_faasm.netlink.nft_set import (
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_ELEM_OBJREF,
    NFTA_SET_FLAGS,
    NFTA_SET_ID,
    NFTA_SET_KEY_LEN,
    NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME,
    NFTA_SET_TABLE,
    NFTA_SET_USERDATA,
    TYPE_IFNAME,
)
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
)

NFT_MSG_NEWOBJ = 0x0A12
NFT_MSG_GETOBJ = 0x0A13
NFT_MSG_DELOBJ = 0x0A14
NFT_OBJECT_LIMIT = 4
NFT_SET_OBJECT = 0x40
NFTA_SET_OBJ_TYPE = 15
NFTA_OBJ_TABLE = 1
NFTA_OBJ_NAME = 2
NFTA_OBJ_TYPE = 3
NFTA_OBJ_DATA = 4
NFTA_OBJREF_SET_SREG = 3
NFTA_OBJREF_SET_NAME = 4
IFNAMSIZ = 16
_NFGENMSG_BYTES = 4


class Reference:
    """What an element of such a map leads to.

    name: of the limit. limit: what it is, None where only its name was told.
    """

    __slots__ = ("limit", "name")

    def __init__(self, name: str, limit: Limit | None = None) -> None:
        self.name = name
        self.limit = limit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name


def new_limit(family: int, table: str, name: str, limit: Limit) -> Message:
    """Make a named limit; one that is there stays as it is.

    Equivalent to: nft add limit FAMILY TABLE NAME { rate over R bytes/second burst B bytes; }
    """
    body = (
        head(family)
        + attr_text(NFTA_OBJ_TABLE, table)
        + attr_text(NFTA_OBJ_NAME, name)
        + attr_be32(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT)
        + nest(NFTA_OBJ_DATA, parse_attrs(limit.encode())[NFTA_EXPR_DATA])
    )
    return NFT_MSG_NEWOBJ, NLM_F_CREATE, body, f"nft add limit {family_name(family, table, name)}"


def dump_limits(family: int, table: str) -> Message:
    """Ask for a table's named limits. Equivalent to: nft list limits, of one table."""
    body = (
        head(family) + attr_text(NFTA_OBJ_TABLE, table) + attr_be32(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT)
    )
    return NFT_MSG_GETOBJ, 0, body, f"nft list limits {family_name(family, table)}"


def parse_place(body: bytes) -> tuple[int, str, int, str]:
    """Decode NFT_MSG_NEWOBJ: (family, table, type, name). Raises: NetlinkError when it is malformed."""
    if len(body) < _NFGENMSG_BYTES:
        raise malformed("nfgenmsg")
    attrs = parse_attrs(body, _NFGENMSG_BYTES)
    table, name = get_text(attrs, NFTA_OBJ_TABLE), get_text(attrs, NFTA_OBJ_NAME)
    return body[0], table, get_be32(attrs, NFTA_OBJ_TYPE), name


def delete_limit(family: int, table: str, name: str) -> Message:
    """Delete a named limit; EBUSY while an element leads to it.

    Equivalent to: nft delete limit FAMILY TABLE NAME
    """
    body = (
        head(family)
        + attr_text(NFTA_OBJ_TABLE, table)
        + attr_text(NFTA_OBJ_NAME, name)
        + attr_be32(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT)
    )
    return NFT_MSG_DELOBJ, 0, body, f"nft delete limit {family_name(family, table, name)}"


def new_map(family: int, table: str, name: str) -> Message:
    """Make a map from names of interfaces to limits.

    Equivalent to: nft create map FAMILY TABLE NAME { type ifname : limit; }
    """
    body = (
        head(family)
        + attr_text(NFTA_SET_TABLE, table)
        + attr_text(NFTA_SET_NAME, name)
        + attr_be32(NFTA_SET_FLAGS, NFT_SET_OBJECT)
        + attr_be32(NFTA_SET_KEY_TYPE, TYPE_IFNAME)
        + attr_be32(NFTA_SET_KEY_LEN, IFNAMSIZ)
        + attr_be32(NFTA_SET_OBJ_TYPE, NFT_OBJECT_LIMIT)
        + attr_be32(NFTA_SET_ID, nft_set.number(name))
        + attr(NFTA_SET_USERDATA, nft_set.KEY_OF_THE_HOST)
    )
    label = f"nft create map {family_name(family, table, name)}"
    return NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, body, label


def new_element(family: int, table: str, name: str, key: bytes, limit: str) -> Message:
    """Put an element into such a map; EEXIST or EBUSY when one leads elsewhere.

    Equivalent to: nft add element FAMILY TABLE NAME { K : "LIMIT" }
    """
    one = nest(
        NFTA_LIST_ELEM,
        nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)),
        attr_text(NFTA_SET_ELEM_OBJREF, limit),
    )
    body = (
        head(family)
        + attr_text(NFTA_SET_ELEM_LIST_TABLE, table)
        + attr_text(NFTA_SET_ELEM_LIST_SET, name)
        + nest(NFTA_SET_ELEM_LIST_ELEMENTS, one)
    )
    label = f"nft add element {family_name(family, table, name)}"
    return NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, label


def above(key: str, name: str) -> bytes:
    """Match what is above the limit that a map gives for an interface.

    key: nft_match.INTERFACE or OUT_INTERFACE. Equivalent to: limit name KEY map @NAME
    """
    return nft_match.load(key) + expression(
        "objref",
        attr_be32(NFTA_OBJREF_SET_SREG, NFT_REG_1),
        attr_text(NFTA_OBJREF_SET_NAME, name),
    )
