"""Keep what is known of a packet, and of the registers into which rules load it.

Bytes, and which of their bits are known: of a source in 10.200.0.0/16 the first two bytes, of
an interface called faasm* the first five.

Layout: <linux/netfilter/nf_tables.h>.
"""

from struct import Struct

from cni_faasm.netlink import nft, nft_expr, nft_match

Answer = bool | None  # None: perhaps

# <linux/netfilter/nf_tables.h>
NFT_CMP_LT = 2
NFT_CMP_GT = 4
NFT_CMP_GTE = 5
NFT_CT_STATUS = 2
_REGISTERS_BYTES = 64
_REGISTER_1_BYTES = 16

# <linux/netfilter/nf_conntrack_common.h>: NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_NEW.
ESTABLISHED = 2
NEW = 8
_STATUS_BITS = 0b111111  # IPS_EXPECTED to IPS_DST_NAT
_U32 = Struct("=I")


class Packet:
    """What is known of a packet: (bytes, which of their bits) of all that rules can load.

    source, destination: (network, prefix length), or None. not_to: networks in which the
    destination is not. come_by, leave_by: names of interfaces; NAME* for all so beginning; ""
    for any.
    """

    __slots__ = ("_destination_at", "_not_to", "family", "known", "state")

    def __init__(
        self,
        family: int,
        *,
        source: tuple[bytes, int] | None = None,
        destination: tuple[bytes, int] | None = None,
        not_to: list[tuple[bytes, int]] | None = None,
        come_by: str = "",
        leave_by: str = "",
        groups: tuple[int | None, int | None] = (None, None),
        state: int = NEW,
    ) -> None:
        self.family = family
        self.state = state
        tcp = bytes((nft_match.IPPROTO_TCP,))
        self.known: dict[tuple[str, int], tuple[bytes, bytes]] = {
            ("meta", nft_expr.NFT_META_NFPROTO): (bytes((family,)), b"\xff"),
            ("meta", nft_match.NFT_META_L4PROTO): (tcp, b"\xff"),
            ("ct", nft_match.NFT_CT_STATE): _whole(state),
        }
        for key, name in (
            (nft_expr.NFT_META_IIFNAME, come_by),
            (nft_expr.NFT_META_OIFNAME, leave_by),
        ):
            if name:
                self.known["meta", key] = _name(name)
        for key, group in zip((nft_match.IIFGROUP, nft_match.OIFGROUP), groups, strict=True):
            if group is not None:
                self.known["meta", key] = _whole(group)
        if state == NEW:  # and so not of a published port, nor translated otherwise
            self.known["ct", NFT_CT_STATUS] = bytes(4), _U32.pack(_STATUS_BITS)
        length, protocol, places = (
            (20, 9, (12, 16)) if family == nft.NFPROTO_IPV4 else (40, 6, (8, 24))
        )
        self._destination_at = ("payload", nft_expr.NFT_PAYLOAD_NETWORK_HEADER, places[1])
        self._not_to = not_to or []
        header, bits = bytearray(length), bytearray(length)
        header[protocol : protocol + 1], bits[protocol] = tcp, 0xFF
        for place, one in zip(places, (source, destination), strict=True):
            if one is not None:
                network, prefix_len = one
                size = len(network)
                mask = (1 << size * 8) - (1 << size * 8 - prefix_len)
                header[place : place + size] = network
                bits[place : place + size] = mask.to_bytes(size, "big")
        self.known["payload", nft_expr.NFT_PAYLOAD_NETWORK_HEADER] = bytes(header), bytes(bits)

    def load(self, what: str, key: int, offset: int, length: int) -> tuple[bytes, bytes]:
        """Return some bytes, and which of their bits are known. length: 0 for all there are."""
        value, bits = self.known.get((what, key), (b"", b""))
        if length:
            value, bits = value[offset : offset + length], bits[offset : offset + length]
        length = length or len(value) or _REGISTER_1_BYTES  # whatever it may fill
        return value.ljust(length, b"\0"), bits.ljust(length, b"\0")

    def is_destination(self, what: str, key: int, offset: int, length: int) -> bool:
        """Say whether this loads the destination, from its beginning."""
        return (what, key, offset) == self._destination_at and length > 0

    def never_goes_to(self, data: bytes, mask: bytes) -> bool:
        """Say whether all addresses that are data under a mask are of networks not gone to."""
        size = len(data) * 8
        value, ones = int.from_bytes(data, "big"), int.from_bytes(mask, "big")
        for network, prefix_len in self._not_to:
            if prefix_len <= size:
                prefix = (1 << size) - (1 << size - prefix_len)
                ours = int.from_bytes(network[: len(data)], "big")
                if ones & prefix == prefix and (value ^ ours) & prefix == 0:
                    return True
        return False


def _whole(number: int) -> tuple[bytes, bytes]:
    return _U32.pack(number), b"\xff" * 4


def _name(name: str) -> tuple[bytes, bytes]:
    text = name.encode("utf-8", "surrogateescape")
    if text.endswith(b"*"):
        return text[:-1].ljust(16, b"\0"), (b"\xff" * (len(text) - 1)).ljust(16, b"\0")
    return text.ljust(16, b"\0"), b"\xff" * 16


class Registers:
    """The registers of one rule, and which of their bits are known."""

    __slots__ = ("_bits", "_value")

    def __init__(self) -> None:
        self._value = bytearray(_REGISTERS_BYTES)
        self._bits = bytearray(_REGISTERS_BYTES)

    def forget(self) -> None:
        self._bits = bytearray(_REGISTERS_BYTES)

    def read(self, register: int, length: int) -> tuple[bytes, bytes]:
        start = _place(register)
        value, bits = self._value[start : start + length], self._bits[start : start + length]
        return bytes(value).ljust(length, b"\0"), bytes(bits).ljust(length, b"\0")

    def write(self, register: int, value: bytes, bits: bytes) -> None:
        start, size = _place(register), (len(value) + 3) & ~3
        self._value[start : start + size] = value.ljust(size, b"\0")
        self._bits[start : start + size] = bits.ljust(size, b"\xff")  # the kernel fills up with 0

    def bitwise(
        self, register: int, into: int, length: int, mask: bytes | None, xor: bytes | None
    ) -> None:
        """Leave some bits of a register, and turn others round; without a mask, forget them."""
        value, bits = self.read(register, length)
        if mask is None or xor is None:
            self.write(into, bytes(length), bytes(length))
            return
        value = bytes(
            (one & kept) ^ other for one, kept, other in zip(value, mask, xor, strict=True)
        )
        bits = bytes(one | ~kept & 0xFF for one, kept in zip(bits, mask, strict=True))
        self.write(into, value, bits)

    def compare(self, operator: int, register: int, data: bytes) -> Answer:
        """Say whether a register is data, less, or more. operator: NFT_CMP_*."""
        value, bits = self.read(register, len(data))
        if operator in (nft_expr.NFT_CMP_EQ, nft_expr.NFT_CMP_NEQ):
            answer = equal(value, bits, data)
            return answer if answer is None or operator == nft_expr.NFT_CMP_EQ else not answer
        least, most = bounds(value, bits)
        if operator in (NFT_CMP_LT, NFT_CMP_GTE):
            below: Answer = True if most < data else None if least < data else False
            return below if below is None or operator == NFT_CMP_LT else not below
        above: Answer = True if least > data else None if most > data else False
        return above if above is None or operator == NFT_CMP_GT else not above


def _place(register: int) -> int:
    """Return where a register begins: 1 to 4 have 16 bytes, those from 8 on have 4."""
    if 1 <= register <= 4:
        return (register - 1) * _REGISTER_1_BYTES
    return min(max(register - 8, 0) * 4, _REGISTERS_BYTES - 4)


def equal(value: bytes, bits: bytes, data: bytes) -> Answer:
    """Say whether bytes of which some bits are known are these."""
    if any((a ^ b) & known for a, b, known in zip(value, data, bits, strict=False)):
        return False
    return True if len(value) == len(data) and all(known == 0xFF for known in bits) else None


def bounds(value: bytes, bits: bytes) -> tuple[bytes, bytes]:
    """Return the least and the greatest that it may be."""
    pairs = list(zip(value, bits, strict=True))
    return bytes(a & k for a, k in pairs), bytes(a & k | ~k & 0xFF for a, k in pairs)
