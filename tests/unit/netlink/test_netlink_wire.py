"""Headers, attributes and answers against an independent, slow serialiser."""

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.netlink import wire
from cni_faasm.netlink.wire import NetlinkError

types = st.integers(0, wire.NLA_TYPE_MASK)
payloads = st.binary(max_size=70)
sequences = st.integers(0, 0xFFFFFFFF)


def slow_attr(kind: int, payload: bytes) -> bytes:
    data = bytearray()
    data += (4 + len(payload)).to_bytes(2, sys.byteorder)
    data += kind.to_bytes(2, sys.byteorder)
    data += payload
    while len(data) % 4:
        data.append(0)
    return bytes(data)


def slow_message(kind: int, flags: int, sequence: int, port: int, body: bytes) -> bytes:
    data = bytearray()
    data += (16 + len(body)).to_bytes(4, sys.byteorder)
    for value, width in ((kind, 2), (flags, 2), (sequence, 4), (port, 4)):
        data += value.to_bytes(width, sys.byteorder)
    data += body
    while len(data) % 4:
        data.append(0)
    return bytes(data)


@given(types, payloads)
def test_attribute_is_laid_out_as_the_slow_serialiser_has_it(kind: int, payload: bytes) -> None:
    assert wire.attr(kind, payload) == slow_attr(kind, payload)


@given(types, st.lists(payloads, max_size=4))
def test_nest_holds_its_parts_and_the_flag(kind: int, payloads: list[bytes]) -> None:
    parts = [slow_attr(1, payload) for payload in payloads]
    assert wire.nest(kind, *parts) == slow_attr(kind | 0x8000, b"".join(parts))


@given(st.dictionaries(types, payloads, max_size=8))
def test_attributes_come_back(attrs: dict[int, bytes]) -> None:
    data = b"".join(slow_attr(kind, payload) for kind, payload in attrs.items())
    assert wire.parse_attrs(data) == attrs
    assert wire.parse_attrs(b"head" + data, 4) == attrs
    assert wire.parse_attrs(data + b"tail", 0, len(data)) == attrs
    assert wire.parse_list(data) == list(attrs.values())


def test_flags_are_taken_off_a_type_and_the_last_duplicate_counts() -> None:
    data = slow_attr(0x8003, b"one1") + slow_attr(0x4003, b"two2")
    assert wire.parse_attrs(data) == {3: b"two2"}


@pytest.mark.parametrize(
    ("encode", "width", "order"),
    [
        (wire.attr_u8, 1, sys.byteorder),
        (wire.attr_u16, 2, sys.byteorder),
        (wire.attr_u32, 4, sys.byteorder),
        (wire.attr_u64, 8, sys.byteorder),
        (wire.attr_be16, 2, "big"),
        (wire.attr_be32, 4, "big"),
        (wire.attr_be64, 8, "big"),
    ],
)
@given(st.data())
def test_numbers(encode: object, width: int, order: str, data: st.DataObject) -> None:
    assert callable(encode)
    value = data.draw(st.integers(0, 256**width - 1))
    expected = value.to_bytes(width, "big" if order == "big" else sys.byteorder)
    assert encode(7, value) == slow_attr(7, expected)
    for wrong in (-1, 256**width):
        with pytest.raises(ValueError, match="does not fit"):
            encode(7, wrong)


@pytest.mark.parametrize(
    ("read", "encode", "low", "high"),
    [
        (wire.get_u8, wire.attr_u8, 0, 0xFF),
        (wire.get_u16, wire.attr_u16, 0, 0xFFFF),
        (wire.get_u32, wire.attr_u32, 0, 0xFFFFFFFF),
        (wire.get_u64, wire.attr_u64, 0, 2**64 - 1),
        (wire.get_s32, wire.attr_s32, -(2**31), 2**31 - 1),
        (wire.get_be32, wire.attr_be32, 0, 0xFFFFFFFF),
        (wire.get_be64, wire.attr_be64, 0, 2**64 - 1),
    ],
)
@given(st.data())
def test_numbers_come_back(
    read: object, encode: object, low: int, high: int, data: st.DataObject
) -> None:
    assert callable(read)
    assert callable(encode)
    value = data.draw(st.integers(low, high))
    attrs = wire.parse_attrs(encode(9, value))
    assert read(attrs, 9) == value
    assert read(attrs, 8, 4711) == 4711
    with pytest.raises(NetlinkError, match="malformed"):
        read({9: attrs[9] + b"x"}, 9)


@given(st.binary(max_size=40).filter(lambda text: b"\0" not in text))
def test_any_name_is_read_and_written_back(name: bytes) -> None:
    text = wire.text_of(name + b"\0rest")
    assert wire.parse_attrs(wire.attr_text(3, text)) == {3: name + b"\0"}


def test_a_nul_or_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        wire.attr_text(3, "a\0b")
    with pytest.raises(ValueError, match="more than netlink can carry"):
        wire.attr(3, bytes(65532))
    assert len(wire.attr(3, bytes(65531))) == 65536


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), sequences, sequences, payloads),
        max_size=5,
    )
)
def test_messages_come_back(messages: list[tuple[int, int, int, int, bytes]]) -> None:
    assert wire.split(b"".join(slow_message(*message) for message in messages)) == messages
    for kind, flags, sequence, _, body in messages:
        expected = slow_message(kind, flags, sequence, 0, body)
        assert wire.frame(kind, flags, sequence, body) == expected


@pytest.mark.parametrize("length", [0, 15, 17, 0xFFFFFFFF])
def test_a_length_that_contradicts_the_buffer_is_refused(length: int) -> None:
    with pytest.raises(NetlinkError, match="malformed message") as caught:
        wire.split(struct.pack("=IHHII", length, 2, 0, 1, 1))
    assert caught.value.errno == wire.EBADMSG


@pytest.mark.parametrize("data", [b"\3\0\1\0", b"\5\0\1\0", b"\xff\xff\1\0aaaa"])
def test_an_attribute_that_contradicts_the_buffer_is_refused(data: bytes) -> None:
    if sys.byteorder != "little":
        data = data[1::-1] + data[3:1:-1] + data[4:]
    with pytest.raises(NetlinkError, match="malformed"):
        wire.parse_attrs(data)
    with pytest.raises(NetlinkError, match="malformed"):
        wire.parse_list(data)


def error_body(number: int, request: bytes, *, text: str = "", capped: bool = True) -> bytes:
    header = struct.pack("=IHHII", 16 + len(request), 16, 5, 1, 0)
    body = struct.pack("=i", -number) + header
    if not capped:
        body += request + bytes(-len(request) % 4)
    if text:
        body += slow_attr(wire.NLMSGERR_ATTR_MSG, text.encode() + b"\0") + slow_attr(2, b"\1\0\0\0")
    return body


@given(st.integers(0, 4095), payloads, st.sampled_from(["", "no such thing"]), st.booleans())
def test_an_acknowledgement_says_errno_and_text(
    number: int, request: bytes, text: str, capped: bool
) -> None:
    flags = (wire.NLM_F_CAPPED if capped else 0) | (wire.NLM_F_ACK_TLVS if text else 0)
    body = error_body(number, request, text=text, capped=capped)
    assert wire.parse_answer(wire.NLMSG_ERROR, flags, body) == (number, text)


def test_the_end_of_a_dump_says_errno_and_text() -> None:
    text = slow_attr(wire.NLMSGERR_ATTR_MSG, b"gone\0")
    done = wire.NLMSG_DONE
    assert wire.parse_answer(done, wire.NLM_F_ACK_TLVS, struct.pack("=i", -19) + text) == (
        19,
        "gone",
    )
    assert wire.parse_answer(done, 0, struct.pack("=i", 0)) == (0, "")
    assert wire.parse_answer(done, 0, struct.pack("=i", 12)) == (0, "")
    assert wire.parse_answer(done, 0, b"") == (0, "")


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (0, b"\0\0"),
        (0, struct.pack("=i", 1)),
        (wire.NLM_F_ACK_TLVS | wire.NLM_F_CAPPED, struct.pack("=i", -1)),
    ],
)
def test_a_malformed_acknowledgement_is_refused(flags: int, body: bytes) -> None:
    with pytest.raises(NetlinkError, match="malformed"):
        wire.parse_answer(wire.NLMSG_ERROR, flags, body)


def test_replies_go_to_their_requests() -> None:
    replies = wire.Replies(0xFFFFFFFF, 2, 77)  # the sequence wraps around
    ok = error_body(0, b"")
    replies.feed(
        slow_message(16, 0, 0, 77, b"for2")
        + slow_message(16, 0, 0xFFFFFFFF, 77, b"for1")
        + slow_message(16, 0, 1, 77, b"late")
        + slow_message(16, 0, 0, 78, b"port")
        + slow_message(4, 0, 0, 77, b"over")  # NLMSG_OVERRUN
        + slow_message(2, wire.NLM_F_CAPPED, 0, 77, error_body(17, b"", text=""))
    )
    assert replies.pending == 1
    assert replies.answers == [None, (17, "")]
    replies.feed(slow_message(2, wire.NLM_F_CAPPED, 0xFFFFFFFF, 77, ok))
    assert replies.pending == 0
    assert replies.bodies == [[b"for1"], [b"for2"]]
    assert replies.answers == [(0, ""), (17, "")]
    assert not replies.interrupted


def test_an_interrupted_dump_is_noticed() -> None:
    replies = wire.Replies(5, 1, 77)
    replies.feed(slow_message(16, 2 | wire.NLM_F_DUMP_INTR, 5, 77, b"body"))
    replies.feed(slow_message(wire.NLMSG_DONE, 2, 5, 77, bytes(4)))
    assert replies.interrupted
    assert replies.answers == [(0, "")]


def test_the_error_reads_as_a_sentence() -> None:
    plain = NetlinkError(17, "ip link add faasm%d type veth peer name eth0")
    assert str(plain) == "ip link add faasm%d type veth peer name eth0: File exists"
    assert plain.errno == 17
    told = NetlinkError(22, "ip link set dev if2 mtu 1", "mtu less than device minimum")
    assert str(told) == (
        "ip link set dev if2 mtu 1: Invalid argument (mtu less than device minimum)"
    )
