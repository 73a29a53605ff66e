"""Encode and decode RTM_*TFILTER: which class a packet goes to, by the other side's subnet.

Two classifiers do the same here: u32, which nearly every kernel has, and flower.

Layout: struct tcmsg in <linux/rtnetlink.h>, the rest in <linux/pkt_cls.h>.
"""

from struct import Struct

from cni_faasm.netlink.tc import TCA_KIND, TCA_OPTIONS, TCMSG, handle_text
from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attr_be16,
    attr_text,
    attr_u32,
    fixed,
    get_text,
    get_u32,
    nest,
    parse_attrs,
)

U32 = "u32"
FLOWER = "flower"

# <linux/rtnetlink.h>
RTM_NEWTFILTER = 44
RTM_DELTFILTER = 45

# <linux/if_ether.h>
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD

# <linux/pkt_cls.h>
TCA_U32_CLASSID = 1
TCA_U32_SEL = 5
TC_U32_TERMINAL = 1
TCA_FLOWER_CLASSID = 1
TCA_FLOWER_KEY_ETH_TYPE = 8
_FLOWER_KEYS = {(4, True): 10, (4, False): 12, (16, True): 14, (16, False): 16}

# flags, offshift, nkeys, offmask (big-endian), off, offoff, hoff, hmask (big-endian)
_SEL = Struct("=BBBxHHhhI")
_KEY = Struct("=4s4sii")  # mask, value, offset, offmask
# Where the addresses stand in their headers, by (length, is the source).
_OFFSETS = {(4, True): 12, (4, False): 16, (16, True): 8, (16, False): 24}
_PROTOCOLS = {4: ETH_P_IP, 16: ETH_P_IPV6}
# A priority has one protocol; those above are for what others may want to decide first.
_PRIORITIES = {4: 0xFA40, 16: 0xFA60}


class Filter:
    """One filter: packets from (or to) a subnet go to a class.

    classid: with minor number 0, past all classes. network: packed, without host bits.
    """

    __slots__ = ("by_source", "classid", "network", "prefix_len")

    def __init__(self, network: bytes, prefix_len: int, classid: int, *, by_source: bool) -> None:
        self.network = network
        self.prefix_len = prefix_len
        self.classid = classid
        self.by_source = by_source


def _body(ifindex: int, parent: int, length: int) -> bytes:
    protocol = _PROTOCOLS[length]
    swapped = (protocol & 0xFF) << 8 | protocol >> 8  # htons
    return TCMSG.pack(0, 0, 0, ifindex, 0, parent, _PRIORITIES[length] << 16 | swapped)


def new_filter(ifindex: int, parent: int, kind: str, one: Filter) -> Message:
    """Have packets of a subnet go to a class.

    parent: the qdisc's handle. kind: U32 or FLOWER.
    Equivalent to: tc filter add dev IF parent 1: protocol ip u32 match ip dst N/L classid C
    """
    length = len(one.network)
    encode = _u32 if kind == U32 else _flower
    body = _body(ifindex, parent, length) + attr_text(TCA_KIND, kind) + encode(one)
    where = "src" if one.by_source else "dst"
    label = (
        f"tc filter add dev if{ifindex} parent {handle_text(parent)} {kind} {where} of "
        f"{one.prefix_len} bits classid {handle_text(one.classid)}"
    )
    return RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body, label


def _mask(length: int, prefix_len: int) -> bytes:
    bits = length * 8
    return (((1 << prefix_len) - 1) << (bits - prefix_len)).to_bytes(length, "big")


def _u32(one: Filter) -> bytes:
    length = len(one.network)
    mask = _mask(length, one.prefix_len)
    words = max(1, -(-one.prefix_len // 32))
    offset = _OFFSETS[length, one.by_source]
    keys = b"".join(
        _KEY.pack(mask[at : at + 4], one.network[at : at + 4], offset + at, 0)
        for at in range(0, words * 4, 4)
    )
    selector = _SEL.pack(TC_U32_TERMINAL, 0, words, 0, 0, 0, 0, 0) + keys
    return nest(TCA_OPTIONS, attr_u32(TCA_U32_CLASSID, one.classid), attr(TCA_U32_SEL, selector))


def _flower(one: Filter) -> bytes:
    length = len(one.network)
    key = _FLOWER_KEYS[length, one.by_source]
    return nest(
        TCA_OPTIONS,
        attr_u32(TCA_FLOWER_CLASSID, one.classid),
        attr_be16(TCA_FLOWER_KEY_ETH_TYPE, _PROTOCOLS[length]),
        attr(key, one.network),
        attr(key + 1, _mask(length, one.prefix_len)),
    )


def del_filters(ifindex: int, parent: int) -> Message:
    """Take away all filters of a qdisc, if any, whoever made them.

    Equivalent to: tc filter del dev IF parent 1:
    """
    body = TCMSG.pack(0, 0, 0, ifindex, 0, parent, 0)
    return RTM_DELTFILTER, 0, body, f"tc filter del dev if{ifindex} parent {handle_text(parent)}"


def is_foreign(body: bytes) -> bool:
    """Say whether an RTM_NEWTFILTER is of nothing that new_filter makes."""
    return fixed(TCMSG, body, "tcmsg")[6] >> 16 not in _PRIORITIES.values()


def parse_filter(body: bytes) -> Filter | None:
    """Decode RTM_NEWTFILTER; None for what new_filter would not make.

    u32 has hash tables beside its filters, and they come without a selector; flower itself
    comes without options.
    Raises: NetlinkError when it is malformed.
    """
    info = fixed(TCMSG, body, "tcmsg")[6]
    attrs = parse_attrs(body, TCMSG.size)
    options = parse_attrs(attrs.get(TCA_OPTIONS, b""))
    kind = get_text(attrs, TCA_KIND)
    lengths = [length for length, priority in _PRIORITIES.items() if priority == info >> 16]
    if not lengths or kind not in (U32, FLOWER) or not options:
        return None
    parse = _parse_u32 if kind == U32 else _parse_flower
    return parse(lengths[0], options)


def _parse_u32(length: int, options: dict[int, bytes]) -> Filter | None:
    selector = options.get(TCA_U32_SEL)
    if selector is None:
        return None
    words = fixed(_SEL, selector, "tc_u32_sel")[2]
    network = mask = b""
    offsets = []
    for at in range(words):
        piece = selector[_SEL.size + at * _KEY.size : _SEL.size + (at + 1) * _KEY.size]
        if len(piece) < _KEY.size:
            return None
        bits, value, offset, _ = _KEY.unpack(piece)
        mask += bits
        network += value
        offsets.append(offset)
    for by_source in (True, False):
        base = _OFFSETS[length, by_source]
        if offsets == [base + 4 * at for at in range(words)] and len(network) <= length:
            break
    else:
        return None
    return _filter(length, network, mask, get_u32(options, TCA_U32_CLASSID), by_source)


def _parse_flower(length: int, options: dict[int, bytes]) -> Filter | None:
    for by_source in (True, False):
        key = _FLOWER_KEYS[length, by_source]
        if key in options or key + 1 in options:
            network, mask = options.get(key, bytes(length)), options.get(key + 1, bytes(length))
            break
    else:
        network, mask, by_source = bytes(length), bytes(length), True
    return _filter(length, network, mask, get_u32(options, TCA_FLOWER_CLASSID), by_source)


def _filter(
    length: int, network: bytes, mask: bytes, classid: int, by_source: bool
) -> Filter | None:
    network, mask = network.ljust(length, b"\0"), mask.ljust(length, b"\0")
    prefix_len = int.from_bytes(mask, "big").bit_count()
    if mask != _mask(length, prefix_len):
        return None
    return Filter(network, prefix_len, classid, by_source=by_source)
