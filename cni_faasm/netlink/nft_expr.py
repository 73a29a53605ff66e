"""Encode nf_tables' expressions, the instructions of which a rule consists, and name them.

Each function returns expressions ready for nft.new_rule, in the form that nft and
iptables-nft themselves make, so that both list the rules as if they had been typed:

    meta load nfproto => reg 1          only in tables of family inet
    cmp eq reg 1 ipv4
    payload load 2b @ network header + 12 => reg 1
    cmp eq reg 1 0ac8                   10.200.0.0/16
    masq

Layout: <linux/netfilter/nf_tables.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    attr,
    attr_be32,
    attr_be64,
    attr_text,
    get_be32,
    get_text,
    nest,
    parse_attrs,
    parse_list,
)

# <linux/netfilter.h>
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10

# <linux/netfilter.h>, <linux/netfilter/nf_tables.h>: enum nft_verdicts
DROP = 0
ACCEPT = 1
JUMP = -3
RETURN = -5
_VERDICTS = {DROP: "drop", ACCEPT: "accept", RETURN: "return"}

# <linux/netfilter/nf_tables.h>
NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME = 1
NFTA_EXPR_DATA = 2
NFT_REG_VERDICT = 0
NFT_REG_1 = 1
NFTA_DATA_VALUE = 1
NFTA_DATA_VERDICT = 2
NFTA_VERDICT_CODE = 1
NFTA_VERDICT_CHAIN = 2
NFTA_IMMEDIATE_DREG = 1
NFTA_IMMEDIATE_DATA = 2
NFTA_BITWISE_SREG = 1
NFTA_BITWISE_DREG = 2
NFTA_BITWISE_LEN = 3
NFTA_BITWISE_MASK = 4
NFTA_BITWISE_XOR = 5
NFTA_CMP_SREG = 1
NFTA_CMP_OP = 2
NFTA_CMP_DATA = 3
NFT_CMP_EQ = 0
NFT_CMP_NEQ = 1
NFTA_PAYLOAD_DREG = 1
NFTA_PAYLOAD_BASE = 2
NFTA_PAYLOAD_OFFSET = 3
NFTA_PAYLOAD_LEN = 4
NFT_PAYLOAD_NETWORK_HEADER = 1
NFT_PAYLOAD_TRANSPORT_HEADER = 2
NFTA_META_DREG = 1
NFTA_META_KEY = 2
NFT_META_IIFNAME = 6
NFT_META_OIFNAME = 7
NFT_META_NFPROTO = 15
NFTA_COUNTER_BYTES = 1
NFTA_COUNTER_PACKETS = 2

# <linux/netfilter/nf_tables_compat.h>: a match of iptables inside an expression.
NFTA_MATCH_NAME = 1
NFTA_MATCH_REV = 2
NFTA_MATCH_INFO = 3

# <linux/netfilter/xt_conntrack.h>
XT_CONNTRACK_STATE = 1 << 0
XT_CONNTRACK_STATE_ESTABLISHED = 1 << 1
XT_CONNTRACK_STATE_RELATED = 1 << 2
XT_CONNTRACK_STATE_DNAT = 1 << 7
# struct xt_conntrack_mtinfo3: eight addresses and masks, expires_min and _max, l4proto and
# four ports; match_flags, invert_flags, state_mask; status_mask, four upper ports, to 8 bytes.
_CONNTRACK_MTINFO3 = Struct("=128x8x10xHHH2x8x6x")

_META_KEYS = {
    NFT_META_IIFNAME: "iifname",
    NFT_META_OIFNAME: "oifname",
    NFT_META_NFPROTO: "nfproto",
}
_SADDR = {4: 12, 16: 8}  # offsets in the IPv4 and the IPv6 header
_DADDR = {4: 16, 16: 24}


def expression(name: str, *parts: bytes) -> bytes:
    """Encode one expression of a rule."""
    return nest(NFTA_LIST_ELEM, attr_text(NFTA_EXPR_NAME, name), nest(NFTA_EXPR_DATA, *parts))


def meta(key: int) -> bytes:
    """Load what is known of a packet beside its bytes into register 1."""
    return expression("meta", attr_be32(NFTA_META_KEY, key), attr_be32(NFTA_META_DREG, NFT_REG_1))


def compare(value: bytes, operator: int) -> bytes:
    """Let only packets pass on for which register 1 is (NFT_CMP_EQ), or is not, a value."""
    return expression(
        "cmp",
        attr_be32(NFTA_CMP_SREG, NFT_REG_1),
        attr_be32(NFTA_CMP_OP, operator),
        nest(NFTA_CMP_DATA, attr(NFTA_DATA_VALUE, value)),
    )


def payload(base: int, offset: int, length: int, register: int = NFT_REG_1) -> bytes:
    """Load bytes of a header into a register. base: which header."""
    return expression(
        "payload",
        attr_be32(NFTA_PAYLOAD_DREG, register),
        attr_be32(NFTA_PAYLOAD_BASE, base),
        attr_be32(NFTA_PAYLOAD_OFFSET, offset),
        attr_be32(NFTA_PAYLOAD_LEN, length),
    )


def mask(bits: bytes) -> bytes:
    """Leave of register 1 only some bits."""
    return expression(
        "bitwise",
        attr_be32(NFTA_BITWISE_SREG, NFT_REG_1),
        attr_be32(NFTA_BITWISE_DREG, NFT_REG_1),
        attr_be32(NFTA_BITWISE_LEN, len(bits)),
        nest(NFTA_BITWISE_MASK, attr(NFTA_DATA_VALUE, bits)),
        nest(NFTA_BITWISE_XOR, attr(NFTA_DATA_VALUE, bytes(len(bits)))),
    )


def _match(
    offsets: dict[int, int], network: bytes, prefix_len: int, inet: bool, negate: bool
) -> bytes:
    length = len(network)
    offset = offsets.get(length)
    if offset is None or not 0 <= prefix_len <= length * 8:
        msg = f"not a network: {length} bytes, prefix length {prefix_len}"
        raise ValueError(msg)
    text = b""
    if inet:
        protocol = NFPROTO_IPV4 if length == 4 else NFPROTO_IPV6
        text = meta(NFT_META_NFPROTO) + compare(bytes((protocol,)), NFT_CMP_EQ)
    if prefix_len == 0:
        if negate:
            # Nothing is outside of everything; without a comparison it would match all.
            msg = "a match of nothing: not in a network of prefix length 0"
            raise ValueError(msg)
        return text
    bits = ((1 << prefix_len) - 1 << length * 8 - prefix_len).to_bytes(length, "big")
    value = bytes(a & b for a, b in zip(network, bits, strict=True))
    operator = NFT_CMP_NEQ if negate else NFT_CMP_EQ
    if prefix_len % 8 == 0:
        # Of whole bytes only the network's own are loaded, and none need be masked.
        used = prefix_len // 8
        return (
            text
            + payload(NFT_PAYLOAD_NETWORK_HEADER, offset, used)
            + compare(value[:used], operator)
        )
    return (
        text
        + payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length)
        + mask(bits)
        + compare(value, operator)
    )


def match_saddr(
    network: bytes, prefix_len: int, *, inet: bool = True, negate: bool = False
) -> bytes:
    """Let only packets pass on whose source is in a network (negate: is not in it).

    inet: for a table of family inet; False for one of family ip or ip6. Host bits of
    network do not count. Packets of the other IP version never match, negated or not.
    Raises: ValueError.
    Equivalent to: ip saddr [!=] NET/N
    """
    return _match(_SADDR, network, prefix_len, inet, negate)


def match_daddr(
    network: bytes, prefix_len: int, *, inet: bool = True, negate: bool = False
) -> bytes:
    """Do as match_saddr does, with the destination.

    Equivalent to: ip daddr [!=] NET/N
    """
    return _match(_DADDR, network, prefix_len, inet, negate)


def _match_interface(key: int, name: str, negate: bool) -> bytes:
    text = name.encode("utf-8", "surrogateescape")
    if not 0 < len(text) < 16 or text == b"*":
        msg = f"interface name {name!r}: 1 to 15 bytes"
        raise ValueError(msg)
    # A name is compared with its NULs, a prefix without.
    value = text[:-1] if text.endswith(b"*") else text.ljust(16, b"\0")
    return meta(key) + compare(value, NFT_CMP_NEQ if negate else NFT_CMP_EQ)


def match_iifname(name: str, *, negate: bool = False) -> bytes:
    """Let only packets pass on that came in by an interface; NAME* takes all so beginning.

    Equivalent to: iifname [!=] NAME
    """
    return _match_interface(NFT_META_IIFNAME, name, negate)


def match_oifname(name: str, *, negate: bool = False) -> bytes:
    """Let only packets pass on that go out by an interface; NAME* takes all so beginning.

    Equivalent to: oifname [!=] NAME
    """
    return _match_interface(NFT_META_OIFNAME, name, negate)


def counter() -> bytes:
    """Count what comes this far.

    Equivalent to: counter
    """
    return expression(
        "counter", attr_be64(NFTA_COUNTER_BYTES, 0), attr_be64(NFTA_COUNTER_PACKETS, 0)
    )


def verdict(code: int, chain: str = "") -> bytes:
    """Decide: ACCEPT, DROP or RETURN; or JUMP to a chain.

    Equivalent to: accept; drop; return; jump CHAIN
    """
    parts = [attr_be32(NFTA_VERDICT_CODE, code & 0xFFFFFFFF)]
    if chain:
        parts.append(attr_text(NFTA_VERDICT_CHAIN, chain))
    return expression(
        "immediate",
        attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT),
        nest(NFTA_IMMEDIATE_DATA, nest(NFTA_DATA_VERDICT, *parts)),
    )


def masquerade() -> bytes:
    """Give packets the address of the interface by which they leave.

    Equivalent to: masquerade
    """
    return expression("masq")


def iptables_accept(
    *,
    saddr: tuple[bytes, int] | None = None,
    daddr: tuple[bytes, int] | None = None,
    states: int = 0,
) -> bytes:
    """Return what iptables-nft makes of "-s NET/N -d NET/N --ctstate S,S -j ACCEPT".

    Only such a rule may be put into iptables-nft's own tables (ip filter, ip6 filter):
    one that it cannot read makes it refuse to list the whole table.
    states: XT_CONNTRACK_STATE_* bits, of which a packet's connection must have one; 0: any.
    Equivalent to: iptables -I FORWARD -s NET/N -d NET/N -m conntrack --ctstate S -j ACCEPT
    """
    text = b""
    if saddr is not None:
        text += match_saddr(*saddr, inet=False)
    if daddr is not None:
        text += match_daddr(*daddr, inet=False)
    if states:
        text += expression(
            "match",
            attr_text(NFTA_MATCH_NAME, "conntrack"),
            attr_be32(NFTA_MATCH_REV, 3),
            attr(NFTA_MATCH_INFO, _CONNTRACK_MTINFO3.pack(XT_CONNTRACK_STATE, 0, states)),
        )
    return text + counter() + verdict(ACCEPT)


# ---- decoding


def describe(expressions: bytes) -> str:
    """Put a rule's expressions into words, so that rules can be compared.

    Counters show no numbers, comments nothing; of expressions that are not made here only
    the name is known. What a packet must match before anything is done with it is sorted: nft
    does not keep its order when it reads what it has written.
    Raises: NetlinkError when they are malformed.
    """
    words: list[str] = []
    names: list[str] = []
    for element in parse_list(expressions):
        attrs = parse_attrs(element)
        name = get_text(attrs, NFTA_EXPR_NAME)
        data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
        if name == "meta":
            key = get_be32(data, NFTA_META_KEY)
            words.append(f"meta {_META_KEYS.get(key, key)}")
        elif name == "payload":
            base, offset = get_be32(data, NFTA_PAYLOAD_BASE), get_be32(data, NFTA_PAYLOAD_OFFSET)
            words.append(f"@{base}+{offset} {get_be32(data, NFTA_PAYLOAD_LEN)}b")
        elif name == "bitwise":
            words.append(f"& {_value(data, NFTA_BITWISE_MASK)}")
        elif name == "cmp":
            operator = get_be32(data, NFTA_CMP_OP)
            sign = {NFT_CMP_EQ: "==", NFT_CMP_NEQ: "!="}.get(operator, str(operator))
            words.append(f"{sign} {_value(data, NFTA_CMP_DATA)}")
        elif name == "immediate":
            words.append(_immediate(data))
        elif name == "match":
            match = get_text(data, NFTA_MATCH_NAME)
            if match != "comment":
                words.append(f"match {match} {data.get(NFTA_MATCH_INFO, b'').hex()}")
        elif name in ("lookup", "dynset", "fib", "ct", "reject", "objref"):
            words.append(f"{name} {_numbers(data)}")
        else:
            words.append("masquerade" if name == "masq" else name)
        names += [name] * (len(words) - len(names))
    matches = []
    begun = 0
    for place, name in enumerate(names):
        if name in ("cmp", "lookup"):
            matches.append(" ".join(words[begun : place + 1]))
            begun = place + 1
        elif name not in ("meta", "payload", "fib", "ct", "bitwise"):
            break
    return " ".join(sorted(matches) + words[begun:])


def _numbers(attrs: dict[int, bytes]) -> str:
    """Put attributes that are not looked into closer into words, without registers' zeros."""
    return " ".join(f"{kind}={attrs[kind].hex()}" for kind in sorted(attrs) if any(attrs[kind]))


def comment(expressions: bytes) -> str:
    """Return the comment that iptables keeps among a rule's expressions, or "".

    iptables-nft shows a comment of nft.new_rule as its own, "-m comment", but after
    iptables-save and iptables-restore it is in here.
    Layout: struct xt_comment_info in <linux/netfilter/xt_comment.h>.
    Raises: NetlinkError when the expressions are malformed.
    """
    for element in parse_list(expressions):
        attrs = parse_attrs(element)
        if get_text(attrs, NFTA_EXPR_NAME) == "match":
            data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
            if get_text(data, NFTA_MATCH_NAME) == "comment":
                return get_text(data, NFTA_MATCH_INFO)
    return ""


def jump_target(expressions: bytes) -> str:
    """Return the chain that a rule jumps or goes to, or "".

    Raises: NetlinkError when the expressions are malformed.
    """
    for element in parse_list(expressions):
        attrs = parse_attrs(element)
        if get_text(attrs, NFTA_EXPR_NAME) == "immediate":
            data = parse_attrs(attrs.get(NFTA_EXPR_DATA, b""))
            value = parse_attrs(data.get(NFTA_IMMEDIATE_DATA, b""))
            verdict_attrs = parse_attrs(value.get(NFTA_DATA_VERDICT, b""))
            if NFTA_VERDICT_CHAIN in verdict_attrs:
                return get_text(verdict_attrs, NFTA_VERDICT_CHAIN)
    return ""


def _value(attrs: dict[int, bytes], kind: int) -> str:
    return parse_attrs(attrs.get(kind, b"")).get(NFTA_DATA_VALUE, b"").hex()


def _immediate(attrs: dict[int, bytes]) -> str:
    data = parse_attrs(attrs.get(NFTA_IMMEDIATE_DATA, b""))
    inner = data.get(NFTA_DATA_VERDICT)
    if inner is None:
        return f"immediate {data.get(NFTA_DATA_VALUE, b'').hex()}"
    attrs = parse_attrs(inner)
    code = get_be32(attrs, NFTA_VERDICT_CODE)
    code = code - (1 << 32) if code >= 1 << 31 else code
    if code == JUMP:
        return f"jump {get_text(attrs, NFTA_VERDICT_CHAIN)}"
    return _VERDICTS.get(code, f"verdict {code}")
