"""Know host-local's layout: what a lease says, and which address of a range set comes next.

The pure half of the store.
"""

from collections.abc import Iterable, Iterator, Sequence

from cni_faasm.config.ranges import Range
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, CniError

_ID_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def lease_holder(data: bytes) -> tuple[str, str] | None:
    """Read a lease's contents; None when no plausible container id stands there.

    Plausible is what the specification allows: alphanumeric first, then also _ . and -.
    An ifname that cannot be one is dropped: the lease is then the container's as a whole.
    """
    container_id, _, ifname = data.strip().partition(b"\n")
    container_id = container_id.rstrip()
    if not container_id[:1].isalnum() or container_id.translate(None, _ID_BYTES):
        return None
    if len(ifname) > 15 or not ifname.isascii() or not ifname.decode("ascii").isprintable():
        ifname = b""
    return container_id.decode("ascii"), ifname.decode("ascii")


def lease_address(name: str) -> bytes | None:
    """Return the address that a file name stands for; None when it is not a lease's name."""
    try:
        address = inet.pack(name)
    except ValueError:
        return None
    return address if inet.unpack(address) == name else None


def assign(
    range_sets: Sequence[Sequence[Range]], requested: Iterable[bytes]
) -> dict[int, tuple[Range, bytes]]:
    """Give each requested address to the set that contains it. Raises: CniError 104."""
    wanted: dict[int, tuple[Range, bytes]] = {}
    for address in dict.fromkeys(requested):
        for index, ranges in enumerate(range_sets):
            source = next((r for r in ranges if r.contains(address)), None)
            if source is None:
                continue
            if address == source.gateway:
                why = f"is the gateway of {inet.cidr(source.network, source.prefix_len)}"
                break
            if index in wanted:
                other = inet.unpack(wanted[index][1])
                why = f"belongs to the same range set as {other}, which was requested too"
                break
            wanted[index] = source, address
            why = ""
            break
        else:
            all_sets = " and ".join(describe(ranges) for ranges in range_sets)
            why = f"lies outside of {all_sets or 'all ranges: there are none'}"
        if why:
            raise CniError(
                ADDRESS_UNAVAILABLE,
                f"the requested address {inet.unpack(address)} {why}",
                "request one address per range set of ipam.ranges, inside of it",
            )
    return wanted


def candidates(ranges: Sequence[Range], cursor: bytes | None) -> Iterator[tuple[Range, bytes]]:
    """Yield every address but the gateways, once: from after the cursor, around, to it.

    A cursor outside of all ranges (they were configured anew) counts as none.
    """
    for position, source in enumerate(ranges):
        if cursor is not None and source.contains(cursor):
            yield from _span(source, inet.to_int(cursor) + 1, inet.to_int(source.last))
            for other in (*ranges[position + 1 :], *ranges[:position]):
                yield from _span(other, inet.to_int(other.first), inet.to_int(other.last))
            yield from _span(source, inet.to_int(source.first), inet.to_int(cursor))
            return
    for source in ranges:
        yield from _span(source, inet.to_int(source.first), inet.to_int(source.last))


def _span(source: Range, first: int, last: int) -> Iterator[tuple[Range, bytes]]:
    width = len(source.first)
    for number in range(first, last + 1):
        address = number.to_bytes(width, "big")
        if address != source.gateway:
            yield source, address


def size(ranges: Sequence[Range]) -> int:
    """Return how many addresses a range set can lease: its gateways are not."""
    return sum(
        inet.to_int(r.last) - inet.to_int(r.first) + 1 - r.contains(r.gateway) for r in ranges
    )


def describe(ranges: Sequence[Range]) -> str:
    """Return the text of a range set for messages."""
    return ", ".join(
        f"{inet.cidr(r.network, r.prefix_len)} ({inet.unpack(r.first)}-{inet.unpack(r.last)})"
        for r in ranges
    )
