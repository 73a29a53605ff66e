"""Encode expressions that write into a packet: no connection is tracked for it.

Layout: <linux/netfilter/nf_tables.h>.
"""

from cni_faasm.netlink.nft_expr import (
    NFT_PAYLOAD_NETWORK_HEADER,
    NFT_REG_1,
    NFTA_DATA_VALUE,
    NFTA_IMMEDIATE_DATA,
    NFTA_IMMEDIATE_DREG,
    NFTA_PAYLOAD_BASE,
    NFTA_PAYLOAD_LEN,
    NFTA_PAYLOAD_OFFSET,
    expression,
)
from cni_faasm.netlink.wire import attr, attr_be32, nest

NFTA_PAYLOAD_SREG = 5
NFTA_PAYLOAD_CSUM_TYPE = 6
NFTA_PAYLOAD_CSUM_OFFSET = 7
NFTA_PAYLOAD_CSUM_FLAGS = 8
NFT_PAYLOAD_CSUM_INET = 1
NFT_PAYLOAD_L4CSUM_PSEUDOHDR = 1
# Offsets in the IPv4 header.
_IPV4_CHECKSUM = 10
_SADDR = 12
_DADDR = 16


def set_payload(base: int, offset: int, value: bytes, *, checksum: int, flags: int = 0) -> bytes:
    """Write bytes into a header, and change the Internet checksum that covers them.

    base: which header. checksum: where in it that is. flags: NFT_PAYLOAD_L4CSUM_PSEUDOHDR when
    TCP and UDP count the bytes in their own checksums, too.
    Equivalent to: @BASE,OFFSET,LENGTH set VALUE; for addresses ip saddr set ADDRESS
    """
    return expression(
        "immediate",
        attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_1),
        nest(NFTA_IMMEDIATE_DATA, attr(NFTA_DATA_VALUE, value)),
    ) + expression(
        "payload",
        attr_be32(NFTA_PAYLOAD_SREG, NFT_REG_1),
        attr_be32(NFTA_PAYLOAD_BASE, base),
        attr_be32(NFTA_PAYLOAD_OFFSET, offset),
        attr_be32(NFTA_PAYLOAD_LEN, len(value)),
        attr_be32(NFTA_PAYLOAD_CSUM_TYPE, NFT_PAYLOAD_CSUM_INET),
        attr_be32(NFTA_PAYLOAD_CSUM_OFFSET, checksum),
        attr_be32(NFTA_PAYLOAD_CSUM_FLAGS, flags),
    )


def set_saddr(address: bytes) -> bytes:
    """Give packets another source; statelessly, unlike snat.

    address: of IPv4. Equivalent to: ip saddr set ADDRESS
    """
    return _set_address(_SADDR, address)


def set_daddr(address: bytes) -> bytes:
    """Give packets another destination.

    Equivalent to: ip daddr set ADDRESS
    """
    return _set_address(_DADDR, address)


def _set_address(offset: int, address: bytes) -> bytes:
    return set_payload(
        NFT_PAYLOAD_NETWORK_HEADER,
        offset,
        address,
        checksum=_IPV4_CHECKSUM,
        flags=NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
    )
