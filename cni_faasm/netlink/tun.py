"""Make TAP devices that stay, as `ip tuntap add` does. Layout: <linux/if_tun.h>."""

import os
from fcntl import ioctl
from struct import Struct

from cni_faasm.netlink.link import IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO
from cni_faasm.netlink.wire import get_text, get_u8, get_u32, parse_attrs

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
# <linux/if_link.h>
IFLA_TUN_OWNER = 1
IFLA_TUN_TYPE = 3
_IFINFOMSG_BYTES = 16
_IFREQ = Struct("=16sH22x")


def add_tap(name: str, user: int) -> None:
    """Make a TAP in this thread's network namespace. user: the uid that may open it.

    One of that name that is there already gets the user.
    Raises: OSError.
    Equivalent to: ip tuntap add dev NAME mode tap vnet_hdr user UID
    """
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        attach(fd, name)
        ioctl(fd, TUNSETOWNER, user)
        ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def attach(fd: int, name: str, flags: int = IFF_VNET_HDR) -> None:
    """Let a descriptor of DEVICE stand for a TAP, which is made if need be. Raises: OSError."""
    ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode("ascii"), IFF_TAP | IFF_NO_PI | flags))


def owner_of_tap(body: bytes) -> int | None:
    """Return the uid that may open a TAP, -1 when it is anybody's; None for another interface.

    body: of RTM_NEWLINK. A kernel that does not tell (before Linux 4.20) counts as anybody's.
    Raises: NetlinkError when it is malformed.
    """
    info = parse_attrs(parse_attrs(body, _IFINFOMSG_BYTES).get(IFLA_LINKINFO, b""))
    if get_text(info, IFLA_INFO_KIND) != "tun":
        return None
    told = parse_attrs(info.get(IFLA_INFO_DATA, b""))
    if IFLA_TUN_TYPE in told and get_u8(told, IFLA_TUN_TYPE) != IFF_TAP:
        return None
    return get_u32(told, IFLA_TUN_OWNER) if IFLA_TUN_OWNER in told else -1
