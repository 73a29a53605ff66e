"""Read what the counters of a rule have counted."""

from cni_faasm.netlink.nft_expr import (
    NFTA_COUNTER_PACKETS,
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
)
from cni_faasm.netlink.wire import get_be64, get_text, parse_attrs, parse_list


def packets(expressions: bytes) -> int:
    """Return the packets of all counters of a rule. Raises: NetlinkError when it is malformed.

    expressions: NFTA_RULE_EXPRESSIONS. Layout: enum nft_counter_attributes in
    <linux/netfilter/nf_tables.h>.
    """
    found = 0
    for element in parse_list(expressions):
        attrs = parse_attrs(element)
        if get_text(attrs, NFTA_EXPR_NAME) == "counter":
            data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
            found += get_be64(data, NFTA_COUNTER_PACKETS)
    return found
