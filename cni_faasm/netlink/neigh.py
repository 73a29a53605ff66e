"""Encode and decode RTM_*NEIGH: who has which hardware address.

Layout: struct ndmsg and attributes in <linux/neighbour.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Message,
    attr,
    attr_u32,
    fixed,
    parse_attrs,
)
from cni_faasm.spec.inet import family, unpack

# <linux/rtnetlink.h>
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30

# <linux/neighbour.h>
NDA_DST = 1
NDA_LLADDR = 2
NDA_IFINDEX = 8
NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_DELAY = 0x08
NUD_PROBE = 0x10
NUD_PERMANENT = 0x80
NTF_USE = 0x01
NTF_EXT_LEARNED = 0x10

_NDMSG = Struct("=BBHiHBB")  # family, pad, pad, index, state, flags, type


class Neigh:
    """One neighbour. lladdr: b"" while it is not known."""

    __slots__ = ("dst", "family", "flags", "ifindex", "lladdr", "state")

    def __init__(  # noqa: PLR0917 -- only parse_neigh calls it
        self, ifindex: int, family: int, dst: bytes, lladdr: bytes, state: int, flags: int
    ) -> None:
        self.ifindex = ifindex
        self.family = family
        self.dst = dst
        self.lladdr = lladdr
        self.state = state
        self.flags = flags


def new_neigh(
    ifindex: int, dst: bytes, lladdr: bytes, state: int = NUD_PERMANENT, flags: int = 0
) -> Message:
    """Say once and for all who has an address, so that no ARP waits behind a full queue.

    Takes the place of an entry that is there. flags: NTF_EXT_LEARNED keeps the kernel from
    throwing away an entry that is not permanent, when its table is full.
    Equivalent to: ip neigh replace DST lladdr MAC dev IF nud permanent [extern_learn]
    """
    body = (
        _NDMSG.pack(family(dst), 0, 0, ifindex, state, flags, 0)
        + attr(NDA_DST, dst)
        + attr(NDA_LLADDR, lladdr)
    )
    label = f"ip neigh replace {unpack(dst)} lladdr {lladdr.hex(':')} dev if{ifindex}"
    return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, label


def use_neigh(ifindex: int, dst: bytes) -> Message:
    """Have the kernel ask who has an address, as if there were a packet for it.

    Equivalent to: ip neigh add DST dev IF nud none use
    """
    body = _NDMSG.pack(family(dst), 0, 0, ifindex, 0, NTF_USE, 0) + attr(NDA_DST, dst)
    return RTM_NEWNEIGH, NLM_F_CREATE, body, f"ip neigh add {unpack(dst)} dev if{ifindex} use"


def get_neigh(ifindex: int, dst: bytes) -> Message:
    """Ask for one neighbour; ENOENT when it is not known.

    Equivalent to: ip neigh get DST dev IF
    """
    body = _NDMSG.pack(family(dst), 0, 0, ifindex, 0, 0, 0) + attr(NDA_DST, dst)
    return RTM_GETNEIGH, 0, body, f"ip neigh get {unpack(dst)} dev if{ifindex}"


def del_neigh(ifindex: int, dst: bytes) -> Message:
    """Forget a neighbour; ENOENT when it is not known.

    Equivalent to: ip neigh del DST dev IF
    """
    body = _NDMSG.pack(family(dst), 0, 0, ifindex, 0, 0, 0) + attr(NDA_DST, dst)
    return RTM_DELNEIGH, 0, body, f"ip neigh del {unpack(dst)} dev if{ifindex}"


def dump_neigh(ifindex: int, family: int = 2) -> Message:
    """Ask for the neighbours on one interface.

    Equivalent to: ip [-4|-6] neigh show dev IF nud all
    """
    body = _NDMSG.pack(family, 0, 0, 0, 0, 0, 0) + attr_u32(NDA_IFINDEX, ifindex)
    return RTM_GETNEIGH, 0, body, f"ip neigh show dev if{ifindex}"


def parse_neigh(body: bytes) -> Neigh:
    """Decode RTM_NEWNEIGH.

    Raises: NetlinkError when it is malformed.
    """
    one_family, _, _, ifindex, state, flags, _ = fixed(_NDMSG, body, "ndmsg")
    attrs = parse_attrs(body, _NDMSG.size)
    return Neigh(
        ifindex, one_family, attrs.get(NDA_DST, b""), attrs.get(NDA_LLADDR, b""), state, flags
    )
