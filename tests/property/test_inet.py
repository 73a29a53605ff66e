"""Addresses against the ipaddress module, on anything."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni_faasm.spec import inet

ADDRESSES = st.ip_addresses()
TEXTS = st.text(alphabet="0123456789abcdef.:/% x", max_size=24)


def canonical(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IPv4-mapped IPv6 address as the IPv4 one."""
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


@given(ADDRESSES)
@example(ipaddress.ip_address("::ffff:10.1.2.3"))
def test_addresses(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    packed = inet.pack(str(address))
    assert packed == canonical(address).packed
    assert ipaddress.ip_address(inet.unpack(packed)) == canonical(address)
    assert inet.from_int(inet.to_int(packed), len(packed)) == packed


@given(TEXTS | st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(ValueError, match="address"):
            inet.pack(text)
        return
    if "%" in text:  # a zone belongs to one host and cannot be packed
        with pytest.raises(ValueError, match="address"):
            inet.pack(text)
    else:
        assert inet.pack(text) == canonical(address).packed


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_networks(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix_len: int) -> None:
    if getattr(address, "ipv4_mapped", None) or prefix_len > address.max_prefixlen:
        return
    packed, parsed_len = inet.parse_cidr(f"{address}/{prefix_len}")
    expected = ipaddress.ip_network(f"{address}/{prefix_len}", strict=False)
    base = inet.network(packed, parsed_len)
    assert base == expected.network_address.packed
    assert ipaddress.ip_network(inet.cidr(base, parsed_len)) == expected
    assert inet.contains(base, parsed_len, packed)


@given(st.text(alphabet="0123456789./", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_network_or_an_error(text: str) -> None:
    try:
        packed, prefix_len = inet.parse_cidr(text)
    except ValueError:
        return
    assert 0 <= prefix_len <= len(packed) * 8
    assert ipaddress.ip_interface(text).network.prefixlen == prefix_len


@given(st.binary(min_size=6, max_size=6))
def test_mac_addresses(packed: bytes) -> None:
    text = inet.mac_text(packed)
    if packed[0] & 1 or not any(packed):
        with pytest.raises(ValueError, match="MAC address"):
            inet.parse_mac(text)
    else:
        assert inet.parse_mac(text) == inet.parse_mac(text.upper().replace(":", "-")) == packed


@given(st.text(alphabet="0123456789abcdefABCDEF:-+ _", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_mac_address_or_an_error(text: str) -> None:
    try:
        packed = inet.parse_mac(text)
    except ValueError:
        return
    assert inet.mac_text(packed) == text.replace("-", ":").lower()
