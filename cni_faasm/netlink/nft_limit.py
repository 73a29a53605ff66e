"""Encode and decode nf_tables' token buckets and counts, as elements of a set have them.

A bucket of bytes holds what the rate gives in one second, and the burst beside it. A packet counts
from its IP header on (in tables of family arp from its ARP header on), a super-packet once. One of
packets holds the burst alone.

Layout: <linux/netfilter/nf_tables.h>, enum nft_limit_attributes, enum nft_connlimit_attributes.
"""

import errno
import os

from cni_faasm.netlink.nft_expr import NFTA_EXPR_DATA, NFTA_EXPR_NAME
from cni_faasm.netlink.wire import (
    NetlinkError,
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
NFT_LIMIT_PKTS = 0
NFT_LIMIT_PKT_BYTES = 1
NFT_LIMIT_F_INV = 1
NFTA_CONNLIMIT_COUNT = 1
NFTA_CONNLIMIT_FLAGS = 2
NFT_CONNLIMIT_F_INV = 1
COUNTS_SINCE = (5, 17)
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
        return _limit(NFT_LIMIT_PKT_BYTES, self.rate_Bps, self.burst_bytes)


def _limit(kind: int, rate: int, burst: int) -> bytes:
    return attr_text(NFTA_EXPR_NAME, "limit") + nest(
        NFTA_EXPR_DATA,
        attr_be64(NFTA_LIMIT_RATE, rate),
        attr_be64(NFTA_LIMIT_UNIT, 1),
        attr_be32(NFTA_LIMIT_BURST, burst),
        attr_be32(NFTA_LIMIT_TYPE, kind),
        attr_be32(NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV),
    )


class Packets:
    """One bucket of packets. rate_pps: packets/s. burst: at least 1."""

    __slots__ = ("burst", "rate_pps")

    def __init__(self, rate_pps: int, burst: int) -> None:
        self.rate_pps = rate_pps
        self.burst = burst

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packets) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.rate_pps, self.burst))

    def __str__(self) -> str:
        return f"over {self.rate_pps}/second burst {self.burst} packets"

    def encode(self) -> bytes:
        """Return it as an expression that matches what is above it.

        Equivalent to: limit rate over R/second burst B packets
        """
        return _limit(NFT_LIMIT_PKTS, self.rate_pps, self.burst)


class Connections:
    """A count of connections. most: as many are let through."""

    __slots__ = ("most",)

    def __init__(self, most: int) -> None:
        self.most = most

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connections) and self.most == other.most

    def __hash__(self) -> int:
        return hash(self.most)

    def __str__(self) -> str:
        return f"over {self.most} connections"

    def encode(self) -> bytes:
        """Return it as an expression that matches what is above it.

        Equivalent to: ct count over N
        """
        return attr_text(NFTA_EXPR_NAME, "connlimit") + nest(
            NFTA_EXPR_DATA,
            attr_be32(NFTA_CONNLIMIT_COUNT, self.most),
            attr_be32(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV),
        )


Bucket = Limit | Packets | Connections


def demand_counts() -> None:
    """Refuse kernels that copy a count into an element by its bytes, its list head with them.

    Raises: NetlinkError. It came to be right with nft_connlimit_data's own memory, in Linux 5.17.
    """
    words = os.uname().release.replace("-", ".").split(".")[:2]
    numbers = tuple(int(one) if one.isascii() and one.isdigit() else 0 for one in words)
    if numbers < COUNTS_SINCE:
        raise NetlinkError(errno.EOPNOTSUPP, "ct count in elements of a set")


def parse(expression: bytes) -> Bucket | None:
    """Return what an element's expression is; None when it is nothing of this kind.

    Raises: NetlinkError when it is malformed.
    """
    attrs = parse_attrs(expression)
    name = get_text(attrs, NFTA_EXPR_NAME)
    data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
    if name == "connlimit" and get_be32(data, NFTA_CONNLIMIT_FLAGS) == NFT_CONNLIMIT_F_INV:
        return Connections(get_be32(data, NFTA_CONNLIMIT_COUNT))
    numbers = get_be64(data, NFTA_LIMIT_UNIT), get_be32(data, NFTA_LIMIT_FLAGS)
    if name != "limit" or numbers != (1, NFT_LIMIT_F_INV):
        return None
    kind = Limit if get_be32(data, NFTA_LIMIT_TYPE) == NFT_LIMIT_PKT_BYTES else Packets
    return kind(get_be64(data, NFTA_LIMIT_RATE), get_be32(data, NFTA_LIMIT_BURST))
