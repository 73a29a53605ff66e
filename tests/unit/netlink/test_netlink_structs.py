"""Each fixed structure against ctypes, which lays out C structures by itself.

The fields stand here as in the kernel's headers; what is encoded must have the same bytes.
"""

import ctypes
from ctypes import c_int16, c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.netlink import (
    addr,
    link,
    link_state,
    neigh,
    nft,
    nft_comment,
    nft_expr,
    route,
    tc,
    tc_parse,
    wire,
)
from cni_faasm.netlink.wire import NetlinkError, parse_attrs

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 2**64 - 1)
indexes = st.integers(1, 2**31 - 1)
ipv4 = st.binary(min_size=4, max_size=4)
ipv6 = st.binary(min_size=16, max_size=16)
addresses = ipv4 | ipv6


class Ifinfomsg(ctypes.Structure):
    _fields_ = (
        ("ifi_family", c_uint8),
        ("pad", c_uint8),
        ("ifi_type", c_uint16),
        ("ifi_index", c_int32),
        ("ifi_flags", c_uint32),
        ("ifi_change", c_uint32),
    )


class Ifaddrmsg(ctypes.Structure):
    _fields_ = (
        ("ifa_family", c_uint8),
        ("ifa_prefixlen", c_uint8),
        ("ifa_flags", c_uint8),
        ("ifa_scope", c_uint8),
        ("ifa_index", c_uint32),
    )


class Rtmsg(ctypes.Structure):
    _fields_ = (
        ("rtm_family", c_uint8),
        ("rtm_dst_len", c_uint8),
        ("rtm_src_len", c_uint8),
        ("rtm_tos", c_uint8),
        ("rtm_table", c_uint8),
        ("rtm_protocol", c_uint8),
        ("rtm_scope", c_uint8),
        ("rtm_type", c_uint8),
        ("rtm_flags", c_uint32),
    )


class Rtnexthop(ctypes.Structure):
    _fields_ = (
        ("rtnh_len", c_uint16),
        ("rtnh_flags", c_uint8),
        ("rtnh_hops", c_uint8),
        ("rtnh_ifindex", c_int32),
    )


class Ndmsg(ctypes.Structure):
    _fields_ = (
        ("ndm_family", c_uint8),
        ("ndm_pad1", c_uint8),
        ("ndm_pad2", c_uint16),
        ("ndm_ifindex", c_int32),
        ("ndm_state", c_uint16),
        ("ndm_flags", c_uint8),
        ("ndm_type", c_uint8),
    )


class Tcmsg(ctypes.Structure):
    _fields_ = (
        ("tcm_family", c_uint8),
        ("tcm__pad1", c_uint8),
        ("tcm__pad2", c_uint16),
        ("tcm_ifindex", c_int32),
        ("tcm_handle", c_uint32),
        ("tcm_parent", c_uint32),
        ("tcm_info", c_uint32),
    )


class HtbGlob(ctypes.Structure):
    _fields_ = (
        ("version", c_uint32),
        ("rate2quantum", c_uint32),
        ("defcls", c_uint32),
        ("debug", c_uint32),
        ("direct_pkts", c_uint32),
    )


class Ratespec(ctypes.Structure):
    _fields_ = (
        ("cell_log", c_uint8),
        ("linklayer", c_uint8),
        ("overhead", c_uint16),
        ("cell_align", c_int16),
        ("mpu", c_uint16),
        ("rate", c_uint32),
    )


class HtbOpt(ctypes.Structure):
    _fields_ = (
        ("rate", Ratespec),
        ("ceil", Ratespec),
        ("buffer", c_uint32),
        ("cbuffer", c_uint32),
        ("quantum", c_uint32),
        ("level", c_uint32),
        ("prio", c_uint32),
    )


class StatsBasic(ctypes.Structure):
    _fields_ = (("bytes", c_uint64), ("packets", c_uint32))


class StatsQueue(ctypes.Structure):
    _fields_ = (
        ("qlen", c_uint32),
        ("backlog", c_uint32),
        ("drops", c_uint32),
        ("requeues", c_uint32),
        ("overlimits", c_uint32),
    )


class Conntrack(ctypes.Structure):
    _fields_ = (
        ("addresses_and_masks", c_uint8 * 16 * 8),
        ("expires_min", c_uint32),
        ("expires_max", c_uint32),
        ("l4proto", c_uint16),
        ("origsrc_port", c_uint16),
        ("origdst_port", c_uint16),
        ("replsrc_port", c_uint16),
        ("repldst_port", c_uint16),
        ("match_flags", c_uint16),
        ("invert_flags", c_uint16),
        ("state_mask", c_uint16),
        ("status_mask", c_uint16),
        ("origsrc_port_high", c_uint16),
        ("origdst_port_high", c_uint16),
        ("replsrc_port_high", c_uint16),
        ("repldst_port_high", c_uint16),
    )


def head(body: bytes, layout: type[ctypes.Structure]) -> Any:
    return layout.from_buffer_copy(body)


def fields(structure: ctypes.Structure) -> dict[str, Any]:
    return {name: getattr(structure, name) for name, *_ in structure._fields_}


@given(indexes, st.none() | st.booleans())
def test_ifinfomsg(ifindex: int, up: bool | None) -> None:
    body = link.set_link(ifindex, up=up, mtu=1500)[2]
    expected = Ifinfomsg(ifi_index=ifindex, ifi_flags=up is True, ifi_change=0 if up is None else 1)
    assert body[:16] == bytes(expected)
    assert parse_attrs(body, 16) == {4: (1500).to_bytes(4, "little")}


@given(u8, indexes, u32)
def test_ifinfomsg_is_read(kind: int, ifindex: int, flags: int) -> None:
    found = link.parse_link(bytes(Ifinfomsg(ifi_type=kind, ifi_index=ifindex, ifi_flags=flags)))
    assert (found.ifindex, found.flags, found.is_up) == (ifindex, flags, bool(flags & 1))
    assert (found.name, found.kind, found.address, found.link_netnsid) == ("", "", b"", None)


@given(u32, st.none() | u8)
def test_a_links_state_is_as_the_whole_link_says(flags: int, operstate: int | None) -> None:
    body = bytes(Ifinfomsg(ifi_index=1, ifi_flags=flags)) + wire.attr_text(link.IFLA_IFNAME, "eth0")
    if operstate is not None:
        body += wire.attr_u8(link.IFLA_OPERSTATE, operstate)
    whole = link.parse_link(body)
    assert link_state.is_up(body) == whole.is_up
    assert link_state.operstate(body) == whole.operstate


@given(st.tuples(u64, u64, u64, u64))
def test_link_counters(counters: tuple[int, ...]) -> None:
    layout = c_uint64 * 24  # struct rtnl_link_stats64
    attrs = wire.attr(link.IFLA_STATS64, bytes(layout(*counters)))
    found = link.parse_link(bytes(Ifinfomsg(ifi_index=1)) + attrs)
    assert (found.rx_packets, found.tx_packets, found.rx_bytes, found.tx_bytes) == counters


@given(indexes, addresses, st.data(), u8)
def test_ifaddrmsg(ifindex: int, packed: bytes, data: st.DataObject, scope: int) -> None:
    prefix_len = data.draw(st.integers(0, len(packed) * 8))
    body = addr.new_addr(ifindex, packed, prefix_len, scope=scope, nodad=False)[2]
    expected = Ifaddrmsg(
        ifa_family=2 if len(packed) == 4 else 10,
        ifa_prefixlen=prefix_len,
        ifa_scope=scope,
        ifa_index=ifindex,
    )
    assert body[:8] == bytes(expected)
    assert parse_attrs(body, 8) == {addr.IFA_LOCAL: packed, addr.IFA_ADDRESS: packed}
    found = addr.parse_addr(body)
    assert (found.ifindex, found.address, found.prefix_len) == (ifindex, packed, prefix_len)
    assert (found.scope, found.flags) == (scope, 0)


def test_flags_of_an_address_beyond_a_byte_are_read() -> None:
    body = addr.new_addr(1, bytes(4), 32, nodad=True, noprefixroute=True)[2]
    assert addr.parse_addr(body).flags == addr.IFA_F_NODAD | addr.IFA_F_NOPREFIXROUTE


def test_of_an_address_with_a_peer_the_local_end_counts() -> None:
    body = bytes(Ifaddrmsg(ifa_family=2, ifa_prefixlen=32, ifa_index=1))
    peer = wire.attr(addr.IFA_ADDRESS, b"peer")
    assert addr.parse_addr(body + peer).address == b"peer"
    assert addr.parse_addr(body + peer + wire.attr(addr.IFA_LOCAL, b"loca")).address == b"loca"


@given(addresses, st.data(), indexes, u32, st.booleans(), st.booleans())
def test_rtmsg(  # noqa: PLR0917 -- hypothesis gives them in order
    dst: bytes, data: st.DataObject, oif: int, table: int, onlink: bool, has_gateway: bool
) -> None:
    prefix_len = data.draw(st.integers(0, len(dst) * 8))
    gateway = data.draw(st.binary(min_size=len(dst), max_size=len(dst))) if has_gateway else None
    message = route.new_route(
        dst, prefix_len, oif, gateway=gateway, table=table, onlink=onlink, mtu=1400, priority=9
    )
    body = message[2]
    scope = 253 if gateway is None and len(dst) == 4 else 0
    expected = Rtmsg(
        rtm_family=2 if len(dst) == 4 else 10,
        rtm_dst_len=prefix_len,
        rtm_table=table if table < 256 else 252,
        rtm_protocol=3,
        rtm_scope=scope,
        rtm_type=1,
        rtm_flags=4 if onlink else 0,
    )
    assert body[:12] == bytes(expected)
    found = route.parse_route(body)
    assert found.dst == (dst if prefix_len else bytes(len(dst)))
    assert (found.prefix_len, found.oif, found.gateway) == (prefix_len, oif, gateway)
    assert (found.table, found.onlink, found.mtu, found.priority) == (table, onlink, 1400, 9)
    assert (found.advmss, found.src, found.scope, found.protocol) == (None, None, scope, 3)


def test_the_hops_of_a_multipath_route_are_read() -> None:
    hops = b"".join(
        bytes(Rtnexthop(rtnh_len=16, rtnh_ifindex=index)) + wire.attr(route.RTA_GATEWAY, gateway)
        for index, gateway in ((7, b"gw_1"), (8, b"gw_2"))
    )
    body = bytes(Rtmsg(rtm_family=2)) + wire.attr(route.RTA_MULTIPATH, hops)
    found = route.parse_route(body)
    assert (found.oif, found.gateway, found.prefix_len) == (7, b"gw_1", 0)
    assert found.oifs == (7, 8)
    assert (route.parse_route(body, 8).oif, route.parse_route(body, 9).oif) == (8, 7)
    assert route.next_hops(body) == [b"gw_1", b"gw_2"]


@pytest.mark.parametrize("length", [0, 7, 17])
def test_a_malformed_hop_is_refused(length: int) -> None:
    hop = bytes(Rtnexthop(rtnh_len=length, rtnh_ifindex=1)) + wire.attr(5, b"gate")
    body = bytes(Rtmsg(rtm_family=2)) + wire.attr(route.RTA_MULTIPATH, hop)
    with pytest.raises(NetlinkError, match="malformed rtnexthop"):
        route.parse_route(body)
    with pytest.raises(NetlinkError, match="malformed rtnexthop"):
        route.next_hops(body)


def test_a_route_of_mixed_families_is_refused() -> None:
    with pytest.raises(ValueError, match="another family"):
        route.new_route(bytes(4), 0, 1, gateway=bytes(16))
    with pytest.raises(ValueError, match="another family"):
        route.new_route(bytes(16), 0, 1, src=bytes(4))


@given(indexes, addresses, st.binary(min_size=6, max_size=6), st.integers(0, 0xFFFF))
def test_ndmsg(ifindex: int, dst: bytes, lladdr: bytes, state: int) -> None:
    body = neigh.new_neigh(ifindex, dst, lladdr, state)[2]
    family = 2 if len(dst) == 4 else 10
    assert body[:12] == bytes(Ndmsg(ndm_family=family, ndm_ifindex=ifindex, ndm_state=state))
    found = neigh.parse_neigh(body)
    assert (found.ifindex, found.family, found.state) == (ifindex, family, state)
    assert (found.dst, found.lladdr) == (dst, lladdr)


@given(indexes, u32, u32)
def test_tcmsg(ifindex: int, handle: int, parent: int) -> None:
    expected = bytes(Tcmsg(tcm_ifindex=ifindex, tcm_handle=handle, tcm_parent=parent))
    assert tc.tcmsg(ifindex, handle, parent) == expected


@given(indexes, u32, u32)
def test_htb_qdisc(ifindex: int, default: int, direct_qlen: int) -> None:
    body = tc.new_qdisc_htb(ifindex, 0x10000, default, direct_qlen)[2]
    options = parse_attrs(parse_attrs(body, 20)[tc.TCA_OPTIONS])
    assert options[tc.TCA_HTB_INIT] == bytes(HtbGlob(version=3, rate2quantum=10, defcls=default))
    found = tc_parse.parse_qdisc(body)
    assert (found.kind, found.ifindex, found.handle) == ("htb", ifindex, 0x10000)
    assert (found.parent, found.htb_defcls) == (tc.TC_H_ROOT, default)
    assert found.direct_qlen == direct_qlen


@given(
    st.integers(1, 2**47), st.integers(1, 2**47), st.integers(0, 2**40), st.integers(0, 2**40), u32
)
def test_htb_class(rate: int, ceil: int, burst: int, cburst: int, quantum: int) -> None:
    body = tc.new_class_htb(3, 0x10000, 0x10001, rate, ceil, burst, cburst, quantum)[2]
    options = parse_attrs(parse_attrs(body, 20)[tc.TCA_OPTIONS])
    expected = HtbOpt(
        rate=Ratespec(linklayer=1, rate=min(rate, 2**32 - 1)),
        ceil=Ratespec(linklayer=1, rate=min(ceil, 2**32 - 1)),
        buffer=tc.burst_ticks(rate, burst),
        cbuffer=tc.burst_ticks(ceil, cburst),
        quantum=quantum,
    )
    assert options[tc.TCA_HTB_PARMS] == bytes(expected)
    assert (tc.TCA_HTB_RATE64 in options) == (rate >= 2**32)
    assert (tc.TCA_HTB_CEIL64 in options) == (ceil >= 2**32)
    found = tc_parse.parse_class(body)
    assert found is not None
    assert (found.rate_Bps, found.ceil_Bps, found.quantum) == (rate, ceil, quantum)
    assert found.burst_ticks == tc.burst_ticks(rate, burst)
    assert found.cburst_ticks == tc.burst_ticks(ceil, cburst)


@given(st.integers(1, 2**47), st.integers(0, 2**40))
def test_a_burst_is_never_less_than_asked_and_never_more_by_a_microsecond(
    rate: int, burst: int
) -> None:
    ticks = tc.burst_ticks(rate, burst)
    assert 0 <= ticks <= 2**32 - 1
    if ticks < 2**32 - 1:
        shown = tc_parse.burst_bytes(rate, ticks)
        assert burst <= shown
        assert (shown - burst - 1) * 10**6 < rate
        if rate <= 10**6:
            assert shown == burst


@given(u64, u32, st.lists(u32, min_size=5, max_size=5), st.none() | u64)
def test_counters_of_a_class(
    sent: int, packets: int, queue: list[int], packets64: int | None
) -> None:
    stats = wire.attr(1, bytes(StatsBasic(bytes=sent, packets=packets)))
    stats += wire.attr(3, bytes(StatsQueue(*queue)))
    if packets64 is not None:
        stats += wire.attr_u64(8, packets64)
    found = tc_parse.parse_qdisc(tc.tcmsg(1, 2, 3) + wire.attr(7, stats)).stats
    assert (found.bytes, found.packets) == (sent, packets if packets64 is None else packets64)
    assert [found.qlen, found.backlog_bytes, found.drops, found.overlimits] == queue[:3] + queue[4:]


@given(st.integers(0, 2**40))
def test_bfifo(limit: int) -> None:
    body = tc.new_qdisc_bfifo(3, 0x10001, 0x100000, limit)[2]
    expected = bytes(c_uint32(min(limit, 2**32 - 1)))
    assert parse_attrs(body, 20)[tc.TCA_OPTIONS] == expected
    found = tc_parse.parse_qdisc(body)
    assert (found.kind, found.limit, found.parent) == ("bfifo", min(limit, 2**32 - 1), 0x10001)


@given(st.integers(1, 2**64 - 1), u32, st.integers(0, 2**40))
def test_tbf(rate_Bps: int, burst: int, limit: int) -> None:
    numbers = {"rate_Bps": rate_Bps, "max_bytes": burst, "limit_bytes": limit}
    body = tc.new_qdisc_tbf(3, 0x10001, 0x20000, **numbers)[2]  # type: ignore[arg-type]
    options = parse_attrs(parse_attrs(body, 20)[tc.TCA_OPTIONS])
    assert len(options[tc.TCA_TBF_PARMS]) == 36
    assert options[tc.TCA_TBF_BURST] == bytes(c_uint32(burst))
    assert (tc.TCA_TBF_RATE64 in options) == (rate_Bps >= 2**32)
    found = tc_parse.parse_qdisc(body)
    assert (found.kind, found.handle, found.parent) == ("tbf", 0x20000, 0x10001)
    assert (found.rate_Bps, found.limit) == (rate_Bps, min(limit, 2**32 - 1))


FQ_CODEL = (
    "limit",
    "target_us",
    "interval_us",
    "memory_limit",
    "quantum",
    "ecn",
    "ce_threshold_us",
    "flows",
)


@given(st.fixed_dictionaries(dict.fromkeys(FQ_CODEL, u32)))
def test_fq_codel(values: dict[str, int]) -> None:
    message = tc.new_qdisc_fq_codel(3, 0x10001, 0x100000, replace=True, **values)
    found = tc_parse.parse_qdisc(message[2])
    assert {name: getattr(found, name) for name in FQ_CODEL} == values


@given(st.integers(0, 0xFFFF))
def test_conntrack_match(states: int) -> None:
    expected = Conntrack(match_flags=1, state_mask=states)
    assert ctypes.sizeof(expected) == 164
    assert nft_expr._CONNTRACK_MTINFO3.pack(1, 0, states) == bytes(expected) + bytes(4)


@given(st.text(max_size=127).filter(lambda text: "\0" not in text and len(text.encode()) < 128))
def test_a_comment_comes_back(comment: str) -> None:
    data = nft_comment.comment_data(comment)
    assert data == bytes((0, len(comment.encode()) + 1)) + comment.encode() + b"\0"
    assert nft_comment.parse_comment(data) == comment
    assert nft_comment.parse_comment(b"\7\3xyz" + data) == comment


def test_a_comment_that_nft_would_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 127"):
        nft_comment.comment_data("x" * 128)


@given(st.integers(-(2**31), 2**31 - 1), u32)
def test_a_base_chain_comes_back(priority: int, hook: int) -> None:
    body = nft.new_chain(1, "t", "c", type="nat", hook=hook, priority=priority, policy=0)[2]
    found = nft.parse_chain(body)
    assert (found.table, found.name, found.type) == ("t", "c", "nat")
    assert (found.hook, found.priority, found.policy) == (hook, priority, 0)


def test_a_plain_chain_has_no_hook() -> None:
    found = nft.parse_chain(nft.new_chain(1, "t", "c")[2])
    assert (found.type, found.hook, found.priority, found.policy) == ("", None, None, None)


@pytest.mark.parametrize(
    ("network", "prefix_len"), [(b"\x0a\0\0\0", 33), (b"\x0a\0\0", 8), (bytes(16), -1)]
)
def test_what_is_no_network_is_refused(network: bytes, prefix_len: int) -> None:
    with pytest.raises(ValueError, match="not a network"):
        nft_expr.match_saddr(network, prefix_len)


def test_a_match_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a match of nothing"):
        nft_expr.match_daddr(bytes(4), 0, negate=True)


@pytest.mark.parametrize("name", ["", "*", "x" * 16])
def test_a_wrong_interface_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        nft_expr.match_oifname(name)


@pytest.mark.parametrize("name", ["", "x" * 16, "a\0b"])
def test_a_wrong_name_of_a_link_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"interface name|NUL"):
        link.get_link(name=name)


def test_a_too_long_alias_is_refused() -> None:
    with pytest.raises(ValueError, match="alias of 256 bytes"):
        link.set_link(1, alias="x" * 256)


def test_rules_are_put_into_words() -> None:
    rule = (
        nft_expr.match_iifname("faasm*")
        + nft_expr.match_daddr(b"\x0a\xc8\x12\x34", 15, negate=True)
        + nft_expr.match_saddr(b"\xfd" + bytes(15), 8)
        + nft_expr.counter()
        + nft_expr.masquerade()
        + nft_expr.verdict(nft_expr.DROP)
    )
    assert nft_expr.describe(rule) == (
        "@1+16 4b & fffe0000 != 0ac80000 @1+8 1b == fd meta iifname == 666161736d "
        "meta nfproto == 02 meta nfproto == 0a counter masquerade drop"
    )


def test_what_matches_may_stand_in_any_order_and_what_is_done_may_not() -> None:
    one, other = nft_expr.match_iifname("a"), nft_expr.match_oifname("b")
    counted, dropped = nft_expr.counter(), nft_expr.verdict(nft_expr.DROP)
    words = nft_expr.describe(one + other + counted + dropped)
    assert nft_expr.describe(other + one + counted + dropped) == words
    for changed in (
        one + counted + other + dropped,
        one + other + dropped + counted,
        one + counted + dropped,
        one + one + other + counted + dropped,
        nft_expr.match_iifname("a", negate=True) + other + counted + dropped,
    ):
        assert nft_expr.describe(changed) != words


@pytest.mark.parametrize(
    "message",
    [
        tc.new_qdisc_bfifo(3, 0x10001, 0x100000, 5),
        tc.new_class_htb(3, 0x10000, 0x1001A, 1250, 1250, 1600, 1600, 60000),
        tc.del_qdisc(3),
    ],
)
def test_labels_read_as_the_command(message: "wire.Message") -> None:
    assert message[3] in {
        "tc qdisc add dev if3 parent 1:1 handle 10: bfifo",
        "tc class add dev if3 parent 1: classid 1:1a htb rate 10000bit",
        "tc qdisc del dev if3 root",
    }
