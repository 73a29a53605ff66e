"""Decode the settings of IPv4 and IPv6 that RTM_NEWLINK tells of an interface.

They are those of /proc/sys/net/ipv4/conf/IF and /proc/sys/net/ipv6/conf/IF, without the files.

Layout: IFLA_AF_SPEC in <linux/if_link.h>; the arrays' order in <linux/ip.h> (IPV4_DEVCONF_*)
and <linux/ipv6.h> (DEVCONF_*).
"""

from cni_faasm.netlink.link import AF_INET6, IFLA_INET6_ADDR_GEN_MODE, Link
from cni_faasm.netlink.wire import parse_attrs

AF_INET = 2
IFLA_INET_CONF = 1
IFLA_INET6_CONF = 2
# By place in the array; the kernel numbers those of IPv4 from 1.
_IPV4 = {"forwarding": 0, "accept_redirects": 3}
_IPV6 = {"accept_ra": 3, "accept_redirects": 4, "disable_ipv6": 26}
_U32_BYTES = 4


def ipv4(ifname: str, name: str) -> str:
    """Return the path of an IPv4 setting of an interface."""
    return f"/proc/sys/net/ipv4/conf/{ifname}/{name}"


def ipv6(ifname: str, name: str) -> str:
    """Return the path of an IPv6 setting of an interface."""
    return f"/proc/sys/net/ipv6/conf/{ifname}/{name}"


def settings(one: Link) -> dict[str, int]:
    """Return settings of a link by their paths; those that the kernel does not tell are not there.

    Raises: NetlinkError when they are malformed.
    """
    families = parse_attrs(one.af_spec)
    attrs4 = parse_attrs(families.get(AF_INET, b""))
    attrs6 = parse_attrs(families.get(AF_INET6, b""))
    found: dict[str, int] = {}
    for path, places, values in (
        (ipv4, _IPV4, attrs4.get(IFLA_INET_CONF, b"")),
        (ipv6, _IPV6, attrs6.get(IFLA_INET6_CONF, b"")),
    ):
        numbers = memoryview(values[: len(values) // _U32_BYTES * _U32_BYTES]).cast("i")
        for name, place in places.items():
            if place < len(numbers):
                found[path(one.name, name)] = numbers[place]
    mode = attrs6.get(IFLA_INET6_ADDR_GEN_MODE)
    if mode:
        found[ipv6(one.name, "addr_gen_mode")] = mode[0]
    return found
