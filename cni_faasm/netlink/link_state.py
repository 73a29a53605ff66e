"""Read of RTM_NEWLINK no more than a link's state: the whole has more than 40 attributes.

Layout: struct ifinfomsg in <linux/rtnetlink.h>, attributes in <linux/if_link.h>.
"""

from struct import Struct

from cni_faasm.netlink.link import IFF_UP, IFLA_OPERSTATE
from cni_faasm.netlink.wire import fixed, get_u8, parse_attrs

_IFINFOMSG = Struct("=BBHiII")  # family, pad, type, index, flags, change


def is_up(body: bytes) -> bool:
    """Say whether somebody switched it on. Raises: NetlinkError when it is malformed."""
    return bool(fixed(_IFINFOMSG, body, "ifinfomsg")[4] & IFF_UP)


def operstate(body: bytes) -> int:
    """Return RFC 2863's ifOperStatus. Raises: NetlinkError when it is malformed."""
    return get_u8(parse_attrs(body, _IFINFOMSG.size), IFLA_OPERSTATE)
