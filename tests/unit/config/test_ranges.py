"""Ranges: host-local's defaults and refusals."""

import pytest

from cni_faasm.config import ranges
from cni_faasm.spec import inet


def make(subnet: str, first: str = "", last: str = "", gateway: str = "") -> ranges.Range:
    return ranges.make(
        *inet.parse_cidr(subnet),
        *(inet.pack(text) if text else None for text in (first, last, gateway)),
    )


@pytest.mark.parametrize(
    ("subnet", "first", "last"),
    [
        ("10.200.0.0/16", "10.200.0.1", "10.200.255.254"),
        ("10.0.0.0/30", "10.0.0.1", "10.0.0.2"),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ("fd00::/126", "fd00::1", "fd00::3"),
    ],
)
def test_defaults(subnet: str, first: str, last: str) -> None:
    one = make(subnet)
    assert one.subnet_text() == subnet
    assert inet.unpack(one.first) == first
    assert inet.unpack(one.last) == last
    assert one.gateway == one.first


def test_bounds() -> None:
    one = make("10.1.0.0/16", "10.1.5.1", "10.1.5.9", "10.1.0.254")
    assert one.contains(inet.pack("10.1.5.1"))
    assert one.contains(inet.pack("10.1.5.9"))
    assert not one.contains(inet.pack("10.1.5.10"))
    assert not one.contains(inet.pack("10.1.5.0"))
    assert not one.contains(inet.pack("::a01:505"))
    assert inet.unpack(one.gateway) == "10.1.0.254"
    assert "10.1.5.1-10.1.5.9" in repr(one)


def test_a_gateway_outside_the_subnet_is_allowed() -> None:
    assert make("10.1.0.0/16", gateway="169.254.1.1").gateway == inet.pack("169.254.1.1")


@pytest.mark.parametrize(
    ("subnet", "gateway", "first", "last"),
    [
        ("10.1.2.2/31", "10.9.0.1", "10.1.2.2", "10.1.2.3"),
        ("10.1.2.3/32", "10.9.0.1", "10.1.2.3", "10.1.2.3"),
        ("fd00::2/127", "fe80::1", "fd00::2", "fd00::3"),
        ("fd00::2/128", "fd00:9::1", "fd00::2", "fd00::2"),
        ("10.1.2.2/31", "10.1.2.2", "10.1.2.2", "10.1.2.3"),
    ],
)
def test_subnets_of_one_or_two_addresses(subnet: str, gateway: str, first: str, last: str) -> None:
    """Each is a host: a routed link needs neither a network's address nor a broadcast one."""
    one = make(subnet, gateway=gateway)
    assert (inet.unpack(one.first), inet.unpack(one.last)) == (first, last)


@pytest.mark.parametrize(
    ("texts", "key", "allowed"),
    [
        (("10.1.2.3/16",), "subnet", "10.1.0.0/16"),
        (("10.1.2.2/31",), "subnet", "up to 30, or a gateway outside"),
        (("10.1.2.3/32",), "subnet", "up to 30"),
        (("fd00::/127",), "subnet", "up to 126"),
        (("10.1.2.3/32", "", "", "10.1.2.3"), "gateway", "outside of 10.1.2.3/32"),
        (("10.1.2.2/31", "10.1.2.3", "", "10.1.2.3"), "gateway", "outside of 10.1.2.2/31"),
        (("10.1.2.3/31", "", "", "10.9.0.1"), "subnet", "10.1.2.2/31, without host bits"),
        (("10.1.0.0/16", "10.2.0.1"), "rangeStart", "10.1.0.0/16"),
        (("10.1.0.0/16", "fd00::1"), "rangeStart", "10.1.0.0/16"),
        (("10.1.0.0/16", "", "10.0.255.255"), "rangeEnd", "10.1.0.0/16"),
        (("10.1.0.0/16", "10.1.0.9", "10.1.0.8"), "rangeEnd", "at least 10.1.0.9"),
        (("10.1.0.0/16", "10.1.255.255"), "rangeStart", "at most 10.1.255.254"),
        (("10.1.0.0/16", "", "", "fd00::1"), "gateway", "family"),
    ],
)
def test_refusals(texts: tuple[str, ...], key: str, allowed: str) -> None:
    with pytest.raises(ranges.RangeError) as caught:
        make(*texts)
    assert caught.value.key == key
    assert allowed in caught.value.allowed


def test_overlaps() -> None:
    one = make("10.1.0.0/24")
    assert one.overlaps(make("10.0.0.0/8"))
    assert make("10.0.0.0/8").overlaps(one)
    assert not one.overlaps(make("10.1.1.0/24"))
    assert not one.overlaps(make("fd00::/64"))
    low, high = make("10.1.0.0/24", "", "10.1.0.99"), make("10.1.0.0/24", "10.1.0.100")
    assert not low.overlaps(high)


def test_find() -> None:
    sets = [[make("10.1.0.0/24"), make("10.3.0.0/24")], [make("fd00::/64")]]
    found = ranges.find(sets, inet.pack("10.3.0.7"))
    assert found is not None
    assert found[0] == 0
    assert found[1] is sets[0][1]
    assert ranges.find(sets, inet.pack("fd00::7")) == (1, sets[1][0])
    assert ranges.find(sets, inet.pack("10.2.0.7")) is None
