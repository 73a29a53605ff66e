"""Parse and print addresses without the ipaddress module.

An address is its packed bytes in network order; the family follows from the length
(4 or 16). A network is a pair (packed address, prefix_len).
"""

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton


def pack(text: str) -> bytes:
    """Return the packed form of an IPv4 or IPv6 address.

    An IPv4-mapped IPv6 address becomes the IPv4 one, as in Go's net.ParseIP.
    Raises: ValueError when text is not an address.
    """
    if ":" in text:
        family, wanted = AF_INET6, "IPv6"
    else:
        family, wanted = AF_INET, "IPv4"
    try:
        packed = inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate inside
        msg = f"{text!r} is not an {wanted} address"
        raise ValueError(msg) from None
    if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        return packed[12:]
    return packed


def unpack(packed: bytes) -> str:
    """Return the text of a packed address, as inet_ntop prints it."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def family(packed: bytes) -> int:
    """Return AF_INET or AF_INET6."""
    return AF_INET if len(packed) == 4 else AF_INET6


def parse_cidr(text: str) -> tuple[bytes, int]:
    """Return (packed address, prefix_len) of "ADDRESS/LENGTH"; host bits are kept.

    Raises: ValueError.
    """
    address, slash, length = text.partition("/")
    packed = pack(address)
    if not slash or not length.isascii() or not length.isdigit() or len(length) > 3:
        msg = f"{text!r} is not an address with a prefix length, like 10.1.0.0/16"
        raise ValueError(msg)
    prefix_len = int(length)
    if prefix_len > len(packed) * 8:
        msg = f"{text!r} has a prefix length above {len(packed) * 8}"
        raise ValueError(msg)
    return packed, prefix_len


def cidr(packed: bytes, prefix_len: int) -> str:
    """Return "ADDRESS/LENGTH"."""
    return f"{unpack(packed)}/{prefix_len}"


def network(packed: bytes, prefix_len: int) -> bytes:
    """Return the address with its host bits cleared."""
    bits = len(packed) * 8
    mask = ((1 << prefix_len) - 1) << (bits - prefix_len)
    return (int.from_bytes(packed, "big") & mask).to_bytes(len(packed), "big")


def contains(net: bytes, prefix_len: int, packed: bytes) -> bool:
    """Say whether an address lies in a network of the same family."""
    return len(net) == len(packed) and network(packed, prefix_len) == network(net, prefix_len)


def to_int(packed: bytes) -> int:
    """Return the address as a number."""
    return int.from_bytes(packed, "big")


def from_int(value: int, length: int) -> bytes:
    """Return the packed address of `length` bytes (4 or 16).

    Raises: OverflowError when the value does not fit.
    """
    return value.to_bytes(length, "big")


def parse_mac(text: str) -> bytes:
    """Return the six bytes of a MAC address written aa:bb:cc:dd:ee:ff or with dashes.

    Raises: ValueError; also for a group (multicast) address or all zeros, which no
    interface can have.
    """
    parts = text.replace("-", ":").split(":")
    # fromhex, unlike int(), takes neither signs nor other scripts' digits; it passes over
    # blanks, which the length tells.
    try:
        packed = bytes.fromhex("".join(parts)) if all(len(part) == 2 for part in parts) else b""
    except ValueError:
        packed = b""
    if len(packed) != 6 or len(parts) != 6:
        msg = f"{text!r} is not a MAC address like 02:00:00:00:00:01"
        raise ValueError(msg)
    if packed[0] & 1 or not any(packed):
        msg = f"{text!r} cannot be an interface's MAC address: it is a group address or zero"
        raise ValueError(msg)
    return packed


def mac_text(packed: bytes) -> str:
    """Return aa:bb:cc:dd:ee:ff."""
    return packed.hex(":")
