"""Read a rule of nftables as the steps that decide over a packet.

    ip saddr 10.200.0.0/16 jump own     LOAD, COMPARE, VERDICT
    ct state { established } accept     LOAD, LOOK_UP, VERDICT

What only counts, logs or changes the packet is left out; what is not known here is a step that
may match or not.

Layout: <linux/netfilter/nf_tables.h>.
"""

from struct import Struct
from typing import Any

from cni_faasm.netlink import nft_expr, nft_match
from cni_faasm.netlink.wire import get_be32, get_text, parse_attrs, parse_list

Step = tuple[Any, ...]  # one of the kinds below, and what is listed there

VERDICT = "verdict"  # code, chain
LOAD = "load"  # register, what, key, offset, length
COMPARE = "compare"  # operator, register, data
BITWISE = "bitwise"  # register, into register, length, mask, xor; None for what is no mask
CONNECTION = "connection"  # states of iptables, whether inverted
LOOK_UP = "look up"  # set, register, whether inverted
MAP = "map"  # set, register; gives a verdict
UNKNOWN = "unknown"

# <linux/netfilter/nf_tables.h>
JUMP = -3
GOTO = -4
NFTA_META_SREG = 3
NFTA_LOOKUP_DREG = 3
NFTA_PAYLOAD_SREG = 5
NFTA_BITWISE_OP = 6
NFTA_TARGET_NAME = 1
# <linux/netfilter/xt_conntrack.h>, xt_conntrack_mtinfo1 to 3: after eight addresses and masks,
# expiry, protocol and ports. Of the first, status follows state in the same two bytes.
_XT_FLAGS = Struct("=HHH")
_XT_FLAGS_OFFSET = 146

# They decide nothing, and change nothing that is looked at here.
_INDIFFERENT = frozenset(
    ("counter", "log", "dynset", "objref", "notrack", "dup", "last", "flow_offload")
)
# Others decide, or the packet goes elsewhere.
_ELSEWHERE = frozenset(("queue", "synproxy", "tproxy", "fwd"))
_MAY_PASS: list[Step] = [(UNKNOWN,), (VERDICT, nft_expr.ACCEPT, "")]


def steps(expressions: bytes) -> list[Step]:
    """Return the steps of one rule. Raises: NetlinkError when it is malformed."""
    found: list[Step] = []
    for element in parse_list(expressions):
        outer = parse_attrs(element)
        name = get_text(outer, nft_expr.NFTA_EXPR_NAME)
        if name in _INDIFFERENT:
            continue
        if name in _ELSEWHERE:
            return found + _MAY_PASS
        found += _steps_of(name, parse_attrs(outer.get(nft_expr.NFTA_EXPR_DATA, b"")))
    return found


def _steps_of(name: str, attrs: dict[int, bytes]) -> list[Step]:
    if name == "immediate":
        data = attrs.get(nft_expr.NFTA_IMMEDIATE_DATA, b"")
        is_verdict = get_be32(attrs, nft_expr.NFTA_IMMEDIATE_DREG) == nft_expr.NFT_REG_VERDICT
        return [(VERDICT, *verdict_of(data))] if is_verdict else [(UNKNOWN,)]
    if name == "reject":
        return [(VERDICT, nft_expr.DROP, "")]
    if name == "target":
        is_reject = get_text(attrs, NFTA_TARGET_NAME) == "REJECT"
        return [(VERDICT, nft_expr.DROP, "")] if is_reject else []
    if name in ("meta", "ct", "payload"):
        return _load(name, attrs)
    if name == "cmp":
        register = get_be32(attrs, nft_expr.NFTA_CMP_SREG)
        data = _data(attrs, nft_expr.NFTA_CMP_DATA)
        return [(COMPARE, get_be32(attrs, nft_expr.NFTA_CMP_OP), register, data)]
    if name == "bitwise":
        return [_bitwise(attrs)]
    if name == "lookup":
        return _look_up(attrs)
    if name == "match":
        return _xt_match(attrs)
    return [(UNKNOWN,)]


def verdict_of(data: bytes) -> tuple[int, str]:
    """Return code and chain of a verdict; of what is none or unknown, that it accepts."""
    inner = parse_attrs(data).get(nft_expr.NFTA_DATA_VERDICT)
    if inner is None:
        return nft_expr.ACCEPT, ""
    attrs = parse_attrs(inner)
    code = get_be32(attrs, nft_expr.NFTA_VERDICT_CODE)
    code = code - (1 << 32) if code >= 1 << 31 else code
    if code not in (nft_expr.DROP, nft_expr.RETURN, JUMP, GOTO):
        code = nft_expr.ACCEPT
    return code, get_text(attrs, nft_expr.NFTA_VERDICT_CHAIN)


def _load(name: str, attrs: dict[int, bytes]) -> list[Step]:
    """Return what is loaded; nothing where it is the packet that is changed."""
    if name == "payload":
        if NFTA_PAYLOAD_SREG in attrs:
            return []
        register = get_be32(attrs, nft_expr.NFTA_PAYLOAD_DREG)
        base = get_be32(attrs, nft_expr.NFTA_PAYLOAD_BASE)
        offset = get_be32(attrs, nft_expr.NFTA_PAYLOAD_OFFSET)
        return [(LOAD, register, name, base, offset, get_be32(attrs, nft_expr.NFTA_PAYLOAD_LEN))]
    if name == "meta":
        key, register = nft_expr.NFTA_META_KEY, nft_expr.NFTA_META_DREG
    else:
        key, register = nft_match.NFTA_CT_KEY, nft_match.NFTA_CT_DREG
    if register not in attrs:
        return []
    return [(LOAD, get_be32(attrs, register), name, get_be32(attrs, key), 0, 0)]


def _bitwise(attrs: dict[int, bytes]) -> Step:
    length = get_be32(attrs, nft_expr.NFTA_BITWISE_LEN)
    mask: bytes | None = _data(attrs, nft_expr.NFTA_BITWISE_MASK)
    xor: bytes | None = _data(attrs, nft_expr.NFTA_BITWISE_XOR)
    if get_be32(attrs, NFTA_BITWISE_OP) or {len(mask or b""), len(xor or b"")} != {length}:
        mask = xor = None  # a shift
    registers = (
        get_be32(attrs, nft_expr.NFTA_BITWISE_SREG),
        get_be32(attrs, nft_expr.NFTA_BITWISE_DREG),
    )
    return (BITWISE, *registers, length, mask, xor)


def _look_up(attrs: dict[int, bytes]) -> list[Step]:
    name = get_text(attrs, nft_match.NFTA_LOOKUP_SET)
    register = get_be32(attrs, nft_match.NFTA_LOOKUP_SREG)
    inverted = bool(get_be32(attrs, nft_match.NFTA_LOOKUP_FLAGS) & nft_match.NFT_LOOKUP_F_INV)
    if NFTA_LOOKUP_DREG not in attrs:
        return [(LOOK_UP, name, register, inverted)]
    if get_be32(attrs, NFTA_LOOKUP_DREG) == nft_expr.NFT_REG_VERDICT:
        return [(MAP, name, register)]
    return [(UNKNOWN,)]


def _xt_match(attrs: dict[int, bytes]) -> list[Step]:
    """Return the step of a match of iptables."""
    name = get_text(attrs, nft_expr.NFTA_MATCH_NAME)
    if name == "comment":
        return []
    info = attrs.get(nft_expr.NFTA_MATCH_INFO, b"")
    if name == "conntrack" and len(info) >= _XT_FLAGS_OFFSET + _XT_FLAGS.size:
        flags, inverted, states = _XT_FLAGS.unpack_from(info, _XT_FLAGS_OFFSET)
        if flags == nft_expr.XT_CONNTRACK_STATE:
            return [(CONNECTION, states, bool(inverted & nft_expr.XT_CONNTRACK_STATE))]
    return [(UNKNOWN,)]


def _data(attrs: dict[int, bytes], kind: int) -> bytes:
    return parse_attrs(attrs.get(kind, b"")).get(nft_expr.NFTA_DATA_VALUE, b"")
