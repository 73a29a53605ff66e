"""Read `slot`: what every member of a pool has inside, whatever its own address is."""

from typing import NamedTuple

from cni_faasm.config import schema
from cni_faasm.config.schema import Section

MAX_IFNAME = 15
_MAX_PREFIX_LEN = 30
_MAX_USER = (1 << 32) - 2
_MAC = bytes((0x02, 0xFA, 0xA5, 0, 0, 2))


class Slot(NamedTuple):
    """A TAP in every member, and the machine behind it. user: who may open the TAP."""

    tap: str
    address: bytes
    prefix_len: int
    gateway: bytes
    mac: bytes
    user: int


def read_slot(top: Section) -> Slot | None:
    """Return what the members of a pool have inside; None for nothing but the pair."""
    section = top.section("slot", schema.SLOT)
    if section is None:
        return None
    tap = section.text("tap")
    allowed = f"an interface's name of at most {MAX_IFNAME} letters and digits"
    if "tap" not in section.values:
        section.fault("tap", f"{allowed}; without a TAP each slot has its own address inside")
    elif tap is not None and not _is_ifname(tap):
        section.fault("tap", allowed)
    allowed = (
        f"an IPv4 address (machines have no IPv6) with a prefix length of at most {_MAX_PREFIX_LEN}"
    )
    place = section.parsed("address", _host, f"{allowed}, as 169.254.100.2/30")
    if "address" not in section.values:
        section.fault("address", f"{allowed}, as 169.254.100.2/30")
    mac = section.parsed("mac", _unicast, "a MAC address of one machine, as 02:fa:a5:00:00:02")
    user = section.number("user", 0, _MAX_USER)
    if not tap or place is None:
        return None
    address, prefix_len = place
    return Slot(tap, address, prefix_len, _gateway(address, prefix_len), mac or _MAC, user or 0)


def _is_ifname(text: str) -> bool:
    return 0 < len(text) <= MAX_IFNAME and text.isascii() and text.isalnum() and text != "lo"


def _host(value: object) -> tuple[bytes, int]:
    """Return an address that a machine may have in its network. Raises: ValueError."""
    address, prefix_len = schema.network(value)
    host_bits = 32 - prefix_len
    number = int.from_bytes(address, "big") & ((1 << host_bits) - 1) if len(address) == 4 else 0
    if len(address) != 4 or not 1 <= prefix_len <= _MAX_PREFIX_LEN:
        raise ValueError(value)
    if number in (0, (1 << host_bits) - 1):
        raise ValueError(value)
    return address, prefix_len


def _gateway(address: bytes, prefix_len: int) -> bytes:
    """Return the first address of a network that is not the machine's."""
    number = int.from_bytes(address, "big")
    first = (number >> 32 - prefix_len << 32 - prefix_len) + 1
    return (first if first != number else first + 1).to_bytes(4, "big")


def _unicast(value: object) -> bytes | None:
    mac = schema.mac(value)
    if mac is not None and (mac[0] & 1 or not any(mac)):
        raise ValueError(value)
    return mac
