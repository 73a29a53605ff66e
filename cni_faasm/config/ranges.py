"""Say which addresses a network may lease. Pure; the rules are host-local's.

A range is a part of one subnet; a range set is a list of ranges of one family, and a
container gets one address of every set. So IPv4 and IPv6 together are two sets.
"""

from __future__ import annotations

from cni_faasm.spec import inet


class Range:
    """A stretch of one subnet. Addresses are packed; the family follows from their length.

    first, last: inclusive. gateway: never leased; it may lie outside the subnet, since
    the link to it is routed.
    """

    __slots__ = ("first", "gateway", "last", "network", "prefix_len")

    def __init__(
        self, *, network: bytes, prefix_len: int, first: bytes, last: bytes, gateway: bytes
    ) -> None:
        self.network = network
        self.prefix_len = prefix_len
        self.first = first
        self.last = last
        self.gateway = gateway

    def contains(self, packed: bytes) -> bool:
        """Say whether first <= packed <= last."""
        return len(packed) == len(self.first) and self.first <= packed <= self.last

    def overlaps(self, other: Range) -> bool:
        """Say whether an address lies in both."""
        return (
            len(self.first) == len(other.first)
            and self.first <= other.last
            and other.first <= self.last
        )

    def subnet_text(self) -> str:
        """Return "10.200.0.0/16"."""
        return inet.cidr(self.network, self.prefix_len)

    def __repr__(self) -> str:
        return f"<Range {self.subnet_text()} {inet.unpack(self.first)}-{inet.unpack(self.last)}>"


def make(
    network: bytes,
    prefix_len: int,
    first: bytes | None = None,
    last: bytes | None = None,
    gateway: bytes | None = None,
) -> Range:
    """Make a range, filling in what is absent.

    Without first and last it spans the subnet but for its own address and, in IPv4, the
    broadcast address; the gateway is the subnet's first host. In a subnet of one or two addresses
    each is a host, as every link is routed, and the gateway must be given.
    Raises: RangeError.
    """
    length = len(network)
    bits = length * 8
    is_tiny = prefix_len > bits - 2
    if is_tiny and gateway is None:
        raise RangeError("subnet", f"a prefix length up to {bits - 2}, or a gateway outside of it")
    base = inet.network(network, prefix_len)
    if base != network:
        raise RangeError("subnet", f"{inet.cidr(base, prefix_len)}, without host bits")
    low = inet.to_int(network)
    high = low | ((1 << (bits - prefix_len)) - 1)
    lowest = low if is_tiny else low + 1
    highest = high if is_tiny or length == 16 else high - 1
    one = Range(
        network=network,
        prefix_len=prefix_len,
        first=inet.from_int(lowest, length) if first is None else first,
        last=inet.from_int(highest, length) if last is None else last,
        gateway=inet.from_int(low + 1, length) if gateway is None else gateway,
    )
    for key, packed in (("rangeStart", first), ("rangeEnd", last)):
        if packed is not None and not inet.contains(network, prefix_len, packed):
            raise RangeError(key, f"an address in {one.subnet_text()}")
    if one.first > one.last:
        if last is None:
            raise RangeError("rangeStart", f"at most {inet.unpack(one.last)}, the range's end")
        raise RangeError("rangeEnd", f"at least {inet.unpack(one.first)}, the range's start")
    if len(one.gateway) != length:
        raise RangeError("gateway", f"an address of the family of {one.subnet_text()}")
    if is_tiny and one.gateway == one.first == one.last:
        raise RangeError("gateway", f"an address outside of {one.subnet_text()}, which is leased")
    return one


def find(range_sets: list[list[Range]], packed: bytes) -> tuple[int, Range] | None:
    """Return (index of its set, range) of the range that contains an address."""
    for index, range_set in enumerate(range_sets):
        for one in range_set:
            if one.contains(packed):
                return index, one
    return None


class RangeError(ValueError):
    """A range that cannot be: the key at fault, and what is allowed there."""

    def __init__(self, key: str, allowed: str) -> None:
        ValueError.__init__(self, f"{key}: {allowed}")
        self.key = key
        self.allowed = allowed
