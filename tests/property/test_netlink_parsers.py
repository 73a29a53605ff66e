"""Whatever bytes arrive, the decoders return a result or raise a NetlinkError."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
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
    sock_diag,
    tc,
    tc_parse,
    wire,
)
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet

ADDRESS = inet.pack("10.200.0.2")
RULE = nft_expr.iptables_accept(saddr=(ADDRESS, 15), states=6) + nft_expr.masquerade()
VETH = link.new_veth("faasm0", "eth0", 5, mtu=1400, gso_max_size=2000, group=3)[2]
ROUTE = route.new_route(ADDRESS, 32, 7, gateway=ADDRESS, mtu=1400, table=1000)[2]
QDISC = tc.new_qdisc_htb(3, 0x10000, 1, 1000)[2]
COUNTED = QDISC + wire.nest(7, wire.attr(1, bytes(16)), wire.attr(3, bytes(20)))  # TCA_STATS2
CLASS = tc.new_class_htb(3, 0x10000, 0x10001, 2**33, 2**33, 1600, 1600, 60000)[2]
CHAIN = nft.new_chain(1, "t", "c", type="nat", hook=4, priority=100)[2]

# Each decoder with a body that it accepts, as a start for damage.
DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "link": (link.parse_link, VETH),
    "link up": (link_state.is_up, VETH),
    "operstate": (link_state.operstate, VETH),
    "addr": (addr.parse_addr, addr.new_addr(3, ADDRESS, 32)[2]),
    "route": (route.parse_route, ROUTE),
    "neigh": (neigh.parse_neigh, neigh.new_neigh(3, ADDRESS, bytes(6))[2]),
    "qdisc": (tc_parse.parse_qdisc, QDISC),
    "counted": (lambda body: tc_parse.parse_qdisc(body).stats, COUNTED),
    "fifo": (tc_parse.parse_qdisc, tc.new_qdisc_bfifo(3, 1, 2, 3)[2]),
    "fq_codel": (tc_parse.parse_qdisc, tc.new_qdisc_fq_codel(3, 1, 2, limit=3)[2]),
    "tbf": (
        tc_parse.parse_qdisc,
        tc.new_qdisc_tbf(3, 1, 2, rate_Bps=1 << 40, max_bytes=9, limit_bytes=9)[2],
    ),
    "class": (tc_parse.parse_class, CLASS),
    "table": (nft.parse_table, nft.new_table(1, "t", comment="one")[2]),
    "chain": (nft.parse_chain, CHAIN),
    "rule": (nft.parse_rule, nft.new_rule(1, "t", "c", RULE, comment="one")[2]),
    "expressions": (nft_expr.describe, RULE),
    "comment": (nft_expr.comment, RULE.replace(b"conntrack\0", b"comment\0\0\0")),
    "udata": (nft_comment.parse_comment, nft_comment.comment_data("one")),
    "socket": (sock_diag.parse_port, bytes(72)),
    "attributes": (wire.parse_attrs, VETH[16:]),
    "list": (wire.parse_list, RULE),
    "messages": (wire.split, wire.frame(16, 0, 1, VETH)),
}


def decode(decoder: Callable[[bytes], object], data: bytes) -> None:
    failure = None
    try:
        decoder(data)
    except NetlinkError as error:
        failure = error
    assert failure is None or failure.errno == wire.EBADMSG
    assert failure is None or "malformed" in str(failure)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200))
def test_any_bytes(name: str, data: bytes) -> None:
    decode(DECODERS[name][0], data)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
@settings(max_examples=200)
def test_damaged_bytes(name: str, data: st.DataObject) -> None:
    decoder, body = DECODERS[name]
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    decode(decoder, bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


@pytest.mark.parametrize("name", DECODERS)
def test_each_prefix(name: str) -> None:
    decoder, body = DECODERS[name]
    for length in range(len(body) + 1):
        decode(decoder, body[:length])


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_any_acknowledgement(kind: int, flags: int, body: bytes) -> None:
    decode(lambda data: wire.parse_answer(kind, flags, data), body)


def head(length: int, kind: int, flags: int, sequence: int) -> bytes:
    return struct.pack("=IHHII", length, kind, flags, sequence, 77)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.sampled_from([0, 2, 0x10, 0x100, 0x200, 0x300, 0xFFFF]),
            st.integers(0, 6),
            st.binary(max_size=40),
        ),
        max_size=6,
    ),
    st.binary(max_size=20),
)
@example([(2, 0x300, 3, bytes(20))], b"")
def test_any_receive(messages: list[tuple[int, int, int, bytes]], tail: bytes) -> None:
    data = tail
    for kind, flags, sequence, body in messages:
        padded = body + bytes(-len(body) % 4)
        data = head(16 + len(body), kind, flags, sequence) + padded + data
    replies = wire.Replies(2, 3, 77)
    decode(replies.feed, data)
    assert replies.pending == replies.answers.count(None)
    assert len(replies.bodies) == 3
