"""Encode and decode nf_tables' token buckets, as elements of a set have them.

The bucket holds what the rate gives in one second, and the burst beside it. A packet counts
from its IP header on (in tables of family arp from its ARP header on), a super-packet once.

Layout: <linux/netfilter/nf_tables.h>, enum nft_limit_attributes.
"""

from cni_faasm.netlink.nft_expr import NFTA_EXPR_DATA, NFTA_EXPR_NAME
from cni_faasm.netlink.wire import (
    attr_be32,
    attr_be64,
    attr_text,
    get_be32,
    get_be64,
    get_text,
    nest,
    parse_attrs,
)

NFTA_LIMIT_RATE = 1
NFTA_LIMIT_UNIT = 2
NFTA_LIMIT_BURST = 3
NFTA_LIMIT_TYPE = 4
NFTA_LIMIT_FLAGS = 5
NFT_LIMIT_PKT_BYTES = 1
NFT_LIMIT_F_INV = 1
# nft_limit_init() in net/netfilter/nft_limit.c: rate and burst, together times 10⁹ ns, as u64.
MAX_RATE_AND_BURST = ((1 << 64) - 1) // 1_000_000_000
MAX_BURST_BYTES = (1 << 32) - 1


class Limit:
    """One bucket. rate_Bps: bytes/s. burst_bytes: at least 1, or nft does not read it back."""

    __slots__ = ("burst_bytes", "rate_Bps")

    def __init__(self, rate_Bps: int, burst_bytes: int) -> None:
        self.rate_Bps = rate_Bps
        self.burst_bytes = burst_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.rate_Bps, self.burst_bytes))

    def __str__(self) -> str:
        return f"over {self.rate_Bps} bytes/second burst {self.burst_bytes} bytes"

    def encode(self) -> bytes:
        """Return it as an expression that matches what is above it.

        Equivalent to: limit rate over R bytes/second burst B bytes
        """
        return attr_text(NFTA_EXPR_NAME, "limit") + nest(
            NFTA_EXPR_DATA,
            attr_be64(NFTA_LIMIT_RATE, self.rate_Bps),
            attr_be64(NFTA_LIMIT_UNIT, 1),
            attr_be32(NFTA_LIMIT_BURST, self.burst_bytes),
            attr_be32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKT_BYTES),
            attr_be32(NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV),
        )


def parse(expression: bytes) -> Limit | None:
    """Return the bucket of an element's expression; None when it is anything else.

    Raises: NetlinkError when it is malformed.
    """
    attrs = parse_attrs(expression)
    data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
    numbers = [
        get_be64(data, NFTA_LIMIT_UNIT),
        get_be32(data, NFTA_LIMIT_TYPE),
        get_be32(data, NFTA_LIMIT_FLAGS),
    ]
    is_ours = numbers == [1, NFT_LIMIT_PKT_BYTES, NFT_LIMIT_F_INV]
    if get_text(attrs, NFTA_EXPR_NAME) != "limit" or not is_ours:
        return None
    return Limit(get_be64(data, NFTA_LIMIT_RATE), get_be32(data, NFTA_LIMIT_BURST))
