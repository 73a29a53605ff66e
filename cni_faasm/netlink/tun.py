"""Make TAP devices that stay, as `ip tuntap add` does. Layout: <linux/if_tun.h>."""

import os
from fcntl import ioctl
from struct import Struct

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
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
