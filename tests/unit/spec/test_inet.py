"""Addresses: the same meaning as the ipaddress module gives them."""

import pytest

from cni_faasm.spec import inet


def test_pack_and_unpack() -> None:
    assert inet.pack("10.1.2.3") == b"\x0a\x01\x02\x03"
    assert inet.unpack(b"\x0a\x01\x02\x03") == "10.1.2.3"
    assert inet.unpack(inet.pack("FD00::0:1")) == "fd00::1"
    assert inet.pack("::ffff:10.1.2.3") == inet.pack("10.1.2.3")
    assert inet.family(inet.pack("::1")) != inet.family(inet.pack("127.0.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.1.2",
        "10.1.2.256",
        "10.1.2.3.4",
        " 10.1.2.3",
        "10.1.2.3\n",
        "::1::",
        "fe80::1%lo",
        "10.1.2.3\0",
        "\ud800::",
        "010.1.2.3",
        "0x0a.1.2.3",
        "1:2",
    ],
)
def test_pack_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        inet.pack(text)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "::/129",
        "/8",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/ 8",
        "10.0.0.0/²",
        "10.0.0.0/0008",
    ],
)
def test_parse_cidr_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|prefix"):
        inet.parse_cidr(text)


def test_networks() -> None:
    packed, prefix_len = inet.parse_cidr("10.1.2.3/16")
    assert (packed, prefix_len) == (inet.pack("10.1.2.3"), 16)
    assert inet.cidr(inet.network(packed, 16), 16) == "10.1.0.0/16"
    assert inet.network(packed, 0) == bytes(4)
    assert inet.network(packed, 32) == packed
    assert inet.contains(inet.pack("10.1.0.0"), 16, packed)
    assert not inet.contains(inet.pack("10.2.0.0"), 16, packed)
    assert not inet.contains(inet.pack("::"), 0, packed)
    assert inet.from_int(inet.to_int(packed) + 1, 4) == inet.pack("10.1.2.4")
    with pytest.raises(OverflowError):
        inet.from_int(1 << 32, 4)


def test_mac() -> None:
    packed = b"\x02\x00\x00\xab\xcd\xef"
    assert inet.parse_mac("02:00:00:AB:cd:ef") == packed
    assert inet.parse_mac("02-00-00-ab-cd-ef") == packed
    assert inet.mac_text(packed) == "02:00:00:ab:cd:ef"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:00:01",
        "2:0:0:0:0:1",
        "02:00:00:00:00:0g",
        "00:00:00:00:00:00",
        "01:00:00:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "+2:00:00:00:00:01",
        " 2:00:00:00:00:01",
        "  :  :02:00:00:01",
        "02000000000001",
        "\uff102:00:00:00:00:01",
    ],
)
def test_mac_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="MAC address"):
        inet.parse_mac(text)
