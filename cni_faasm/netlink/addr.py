"""Encode and decode RTM_*ADDR: the addresses of an interface.

Layout: struct ifaddrmsg and attributes in <linux/if_addr.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attr,
    attr_u32,
    fixed,
    get_u32,
    malformed,
    parse_attrs,
)
from cni_faasm.spec.inet import cidr, family

# <linux/rtnetlink.h>
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RT_SCOPE_UNIVERSE = 0

# <linux/if_addr.h>
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200

_IFADDRMSG = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_LENGTHS = {2: 4, 10: 16}


class Addr:
    """One address of one interface."""

    __slots__ = ("address", "family", "flags", "ifindex", "prefix_len", "scope")

    def __init__(  # noqa: PLR0917 -- only parse_addr calls it
        self, ifindex: int, family: int, address: bytes, prefix_len: int, flags: int, scope: int
    ) -> None:
        self.ifindex = ifindex
        self.family = family
        self.address = address
        self.prefix_len = prefix_len
        self.flags = flags
        self.scope = scope


def _body(ifindex: int, packed: bytes, prefix_len: int, scope: int) -> bytes:
    return (
        _IFADDRMSG.pack(family(packed), prefix_len, 0, scope, ifindex)
        + attr(IFA_LOCAL, packed)
        + attr(IFA_ADDRESS, packed)
    )


def new_addr(
    ifindex: int,
    packed: bytes,
    prefix_len: int,
    *,
    nodad: bool = True,
    noprefixroute: bool = False,
    scope: int = RT_SCOPE_UNIVERSE,
    replace: bool = False,
) -> Message:
    """Give an interface an address; EEXIST when it has it.

    nodad: usable at once, without waiting for duplicate address detection (IPv6).
    replace: no error when it has it already.
    Equivalent to: ip address add A/N dev IF nodad noprefixroute
    """
    flags = (IFA_F_NODAD if nodad else 0) | (IFA_F_NOPREFIXROUTE if noprefixroute else 0)
    body = _body(ifindex, packed, prefix_len, scope)
    if flags:
        body += attr_u32(IFA_FLAGS, flags)
    how = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return RTM_NEWADDR, how, body, f"ip address add {cidr(packed, prefix_len)} dev if{ifindex}"


def del_addr(ifindex: int, packed: bytes, prefix_len: int) -> Message:
    """Take an address away; EADDRNOTAVAIL when it is not there.

    Equivalent to: ip address del A/N dev IF
    """
    label = f"ip address del {cidr(packed, prefix_len)} dev if{ifindex}"
    return RTM_DELADDR, 0, _body(ifindex, packed, prefix_len, RT_SCOPE_UNIVERSE), label


def dump_addrs(ifindex: int = 0, family: int = 0) -> Message:
    """Ask for the addresses of one interface (0: of all), of one family (0: of all).

    Of one interface, the kernel does not notice when addresses change during a dump of
    more than a few hundred.
    Equivalent to: ip [-4|-6] address show dev IF
    """
    label = f"ip address show dev if{ifindex}" if ifindex else "ip address show"
    return RTM_GETADDR, 0, _IFADDRMSG.pack(family, 0, 0, 0, ifindex), label


def parse_addr(body: bytes) -> Addr:
    """Decode RTM_NEWADDR.

    Of an address with a peer, the local end counts.
    Raises: NetlinkError when it is malformed or of a family other than IPv4 and IPv6.
    """
    one_family, prefix_len, flags, scope, ifindex = fixed(_IFADDRMSG, body, "ifaddrmsg")
    attrs = parse_attrs(body, _IFADDRMSG.size)
    address = attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS, b"")
    if len(address) != _LENGTHS.get(one_family) or prefix_len > len(address) * 8:
        raise malformed("address")
    flags = get_u32(attrs, IFA_FLAGS, flags)
    return Addr(ifindex, one_family, address, prefix_len, flags, scope)
