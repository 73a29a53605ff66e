"""What the kernel says of an interface's IPv4 and IPv6 settings: against its own bytes.

They are what Linux 5.10 and 7.2 told of a veth after sysctl had set `disable_ipv6=1`,
`accept_ra=0`, both `accept_redirects=0` and `ipv4.conf.forwarding=1`.
"""

import pytest

from cni_faasm.netlink import link, link_conf
from cni_faasm.netlink.wire import NetlinkError, attr, attr_text, nest

_IPV4 = (
    "0100000000000000000000000000000001000000010000000100000000000000010000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000010270000e803000000000000000000000000000000000000"
)
_IPV6 = (
    "0000000040000000dc05000000000000000000000100000001000000ffffffffa00f0000e803000000000000"
    "803a0900805101000300000058020000100000000000000001000000010000000100000060ea000000000000"
    "000000000000000000000000000000000100000001000000000000000000000010270000e803000001000000"
    "0000000000000000010000000000000000000000010000000000000000000000000000000000000080ee3600"
    "0000000000000000010000000000000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000"
)
_IPV6_7_2 = (
    "0000000040000000dc05000000000000000000000100000001000000ffffffffa00f0000e803000000000000"
    "00a30200805101000300000058020000100000000000000001000000010000000100000060ea000000000000"
    "000000000000000000000000000000000100000001000000000000000000000010270000e803000001000000"
    "0000000000000000010000000000000000000000010000000000000000000000000000000000000080ee3600"
    "00000000000000000100000000000000000000000000000000000000000000000004000000000000ffff0000"
    "ffffffff01000000000000000000000000000000"
)
BYTES = {"5.10": (_IPV4, _IPV6), "7.2": (f"{_IPV4}01000000", _IPV6_7_2)}
EXPECTED = {
    "/proc/sys/net/ipv4/conf/v0/forwarding": 1,
    "/proc/sys/net/ipv4/conf/v0/accept_redirects": 0,
    "/proc/sys/net/ipv6/conf/v0/accept_ra": 0,
    "/proc/sys/net/ipv6/conf/v0/accept_redirects": 0,
    "/proc/sys/net/ipv6/conf/v0/disable_ipv6": 1,
}


def told(*families: bytes) -> link.Link:
    body = bytes(16) + attr_text(link.IFLA_IFNAME, "v0")
    return link.parse_link(body + nest(link.IFLA_AF_SPEC, *families))


@pytest.mark.parametrize("kernel", BYTES)
def test_settings_that_kernels_tell(kernel: str) -> None:
    ipv4, ipv6 = (bytes.fromhex(text) for text in BYTES[kernel])
    mode = attr(link.IFLA_INET6_ADDR_GEN_MODE, b"\1") if kernel != "5.10" else b""
    inet = nest(link_conf.AF_INET, attr(link_conf.IFLA_INET_CONF, ipv4))
    inet6 = nest(link.AF_INET6, attr(link_conf.IFLA_INET6_CONF, ipv6), mode)
    expected = dict(EXPECTED)
    if mode:
        expected["/proc/sys/net/ipv6/conf/v0/addr_gen_mode"] = 1
    assert link_conf.settings(told(inet, inet6)) == expected
    without = {path: value for path, value in EXPECTED.items() if "ipv4" in path}
    assert link_conf.settings(told(inet)) == without


def test_a_kernel_that_tells_less() -> None:
    assert link_conf.settings(told()) == {}
    short = nest(link_conf.AF_INET, attr(link_conf.IFLA_INET_CONF, b"\1\0\0\0\0\0"))
    path = "/proc/sys/net/ipv4/conf/v0/forwarding"
    assert link_conf.settings(told(short)) == {path: 1}
    with pytest.raises(NetlinkError):
        link_conf.settings(told(b"\xff\xff\2\0"))
