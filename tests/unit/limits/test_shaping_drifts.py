"""Which differences of the queues are drifts: against what Debian's kernels say of them.

The bytes are what Linux 5.10, 6.1, 6.12 and 7.2 answered, all alike, after ADD's messages for
10 Mbit/s and an MTU of 1500; only `refcnt` and the counters, which are not compared, differ.
"""

import struct

import pytest

from cni_faasm.config.loading import Limit
from cni_faasm.limits import shaping, shaping_drifts
from cni_faasm.netlink import tc, tc_parse
from cni_faasm.netlink.wire import attr, attr_u32, parse_attrs

ROOT = bytes.fromhex(
    "000000000300000000000100ffffffff02000000"
    "0800010068746200"
    "24000200180002001100030"
    "00a0000000100000000000000000000000800050000000000"
)
CLASS = bytes.fromhex(
    "000000000300000001000100ffffffff00001000"
    "0800010068746200"
    "34000200300001000001000000000000d01213000001000000000000d0121300"
    "204e0000204e000060ea00000000000000000000"
)
LEAF = bytes.fromhex(
    "0000000003000000000010000100010001000000"
    "0d00010066715f636f64656c00000000"
    "440002000800010087130000080002000028000008000300"
    "9f860100080004000100000008000600ea050000080008004000000008000900807a01000800050000040000"
)


def shape() -> shaping.Shape:
    one = shaping.shape(Limit(10**7, 12_800), None, 1500, "fq_codel")
    assert one is not None
    return one


def changed(body: bytes, **values: int | None) -> bytes:
    """Return a leaf as the kernel tells it after somebody has changed it."""
    numbers = {
        "target": tc.TCA_FQ_CODEL_TARGET,
        "limit": tc.TCA_FQ_CODEL_LIMIT,
        "interval": tc.TCA_FQ_CODEL_INTERVAL,
        "ecn": tc.TCA_FQ_CODEL_ECN,
        "flows": tc.TCA_FQ_CODEL_FLOWS,
        "quantum": tc.TCA_FQ_CODEL_QUANTUM,
        "ce_threshold": tc.TCA_FQ_CODEL_CE_THRESHOLD,
        "memory_limit": tc.TCA_FQ_CODEL_MEMORY_LIMIT,
    }
    outer = parse_attrs(body, tc.TCMSG.size)
    options = parse_attrs(outer[tc.TCA_OPTIONS])
    for name, value in values.items():
        options[numbers[name]] = struct.pack("=I", value)
    nested = b"".join(attr(kind, data) for kind, data in options.items())
    return body[: tc.TCMSG.size] + attr(tc.TCA_KIND, b"fq_codel\0") + attr(tc.TCA_OPTIONS, nested)


def compare(root: bytes = ROOT, one_class: bytes = CLASS, leaf: bytes = LEAF) -> list[str]:
    found = shaping_drifts.drifts(
        "here",
        shape(),
        root=tc_parse.parse_qdisc(root),
        queue=tc_parse.parse_qdisc(leaf),
        one_class=tc_parse.parse_class(one_class),
    )
    return [f"{what}: expected {expected}, found {actual}" for what, expected, actual in found]


def test_what_the_kernel_says_of_what_it_was_asked_is_no_drift() -> None:
    assert compare() == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("limit", 1, "limit: expected 10240 packets, found 1 packets"),
        ("target", 899_999, "target: expected 4999 us, found 899999 us"),
        ("interval", 8_999_999, "interval: expected 99999 us, found 8999999 us"),
        ("memory_limit", 9_000_000, "memory_limit: expected 96896 bytes, found 9000000 bytes"),
        ("quantum", 300, "quantum: expected 1514 bytes, found 300 bytes"),
        ("ecn", 0, "ecn: expected 1, found 0"),
        ("flows", 1, "flows: expected 1024, found 1"),
        ("ce_threshold", 999, "ce_threshold: expected none, found 999 us"),
    ],
)
def test_each_number_of_fq_codel(name: str, value: int, words: str) -> None:
    assert compare(leaf=changed(LEAF, **{name: value})) == [f"here: fq_codel {words}"]


def test_fq_codel_is_asked_for_what_it_is_compared_with() -> None:
    body = shaping.leaf_message(3, shape())[2]
    options = parse_attrs(parse_attrs(body, tc.TCMSG.size)[tc.TCA_OPTIONS])
    asked = {kind: int.from_bytes(data, "little") for kind, data in options.items()}
    assert asked == {
        tc.TCA_FQ_CODEL_TARGET: 5000,
        tc.TCA_FQ_CODEL_LIMIT: 10240,
        tc.TCA_FQ_CODEL_INTERVAL: 100_000,
        tc.TCA_FQ_CODEL_ECN: 1,
        tc.TCA_FQ_CODEL_FLOWS: 1024,
        tc.TCA_FQ_CODEL_QUANTUM: 1514,
        tc.TCA_FQ_CODEL_CE_THRESHOLD: 2_199_023_255,
        tc.TCA_FQ_CODEL_MEMORY_LIMIT: 96_896,
    }
    # What is there cannot get another number of queues: the kernel refuses to be asked.
    body = shaping.leaf_message(3, shape(), replace=True)[2]
    options = parse_attrs(parse_attrs(body, tc.TCMSG.size)[tc.TCA_OPTIONS])
    assert options.keys() == asked.keys() - {tc.TCA_FQ_CODEL_FLOWS}


def test_codel_counts_in_units_of_its_own() -> None:
    """The pairs are what the kernels said, from 1 kbit/s to 1 Pbit/s."""
    for asked, told in ((5000, 4999), (7865, 7864), (100_000, 99_999), (10_000_000, 10_000_000)):
        assert tc.codel_us(asked) == told


def test_more_memory_than_the_kernel_takes() -> None:
    one = shaping.shape(Limit(10**15), 10_000, 1500, "fq_codel")
    assert one is not None
    assert shaping.fq_codel(one)["memory_limit"] == 1 << 31


def test_another_leaf() -> None:
    bfifo = tc.new_qdisc_bfifo(3, shaping.CLASS_ID, shaping.LEAF_HANDLE, 31250)[2]
    words = "here: leaf qdisc: expected fq_codel 10:, found"
    assert compare(leaf=bfifo) == [f"{words} bfifo 10:"]
    other = tc.new_qdisc_fq_codel(3, shaping.CLASS_ID, 0x200000, limit=10240)[2]
    assert compare(leaf=other) == [f"{words} fq_codel 20:"]


NONE = "expected linklayer ethernet overhead 0 mpu 0, found linklayer"


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (2, b"\x64\0", f"framing of rate: {NONE} ethernet overhead 100 mpu 0"),
        (6, b"\xd0\x07", f"framing of rate: {NONE} ethernet overhead 0 mpu 2000"),
        (13, b"\2", f"framing of ceil: {NONE} number 2 overhead 0 mpu 0"),
        (32, b"\xd0\x07\0\0", "quantum: expected 60000 bytes, found 2000 bytes"),
        (40, b"\3", "prio: expected 0, found 3"),
    ],
)
def test_each_number_of_a_class(offset: int, value: bytes, words: str) -> None:
    """A packet that counts for more than its bytes makes another limit of the same rate."""
    begin = len(CLASS) - struct.calcsize("=BBHhHIBBHhHIIIIII") + offset
    body = CLASS[:begin] + value + CLASS[begin + len(value) :]
    assert compare(one_class=body) == [f"here: class 1:1 {words}"]


def test_the_root_is_compared() -> None:
    body = ROOT[:-4] + struct.pack("=I", 1000)
    assert compare(root=body) == ["here: htb direct queue: expected 0 packets, found 1000 packets"]
    assert attr_u32(tc.TCA_HTB_DIRECT_QLEN, 0) == ROOT[-8:]


def test_the_cutter_is_compared() -> None:
    """A tbf does not tell of its burst, but of its rate and limit."""
    one = shaping.shape(Limit(10**7, 12_800), None, 1500, "tbf fq_codel")
    assert one is not None

    def found(rate_Bps: int = 1 << 60, limit_bytes: int = one.leaf_bytes) -> list[str]:
        cutter = tc.new_qdisc_tbf(
            *(3, shaping.CLASS_ID, shaping.CUTTER_HANDLE),
            rate_Bps=rate_Bps,
            max_bytes=1,
            limit_bytes=limit_bytes,
        )[2]
        told = shaping_drifts.drifts(
            "here",
            one,
            root=tc_parse.parse_qdisc(ROOT),
            cutter=tc_parse.parse_qdisc(cutter),
            queue=tc_parse.parse_qdisc(changed(LEAF, memory_limit=3 * one.leaf_bytes)),
            one_class=tc_parse.parse_class(CLASS),
        )
        return [f"{what}: expected {expected}, found {actual}" for what, expected, actual in told]

    assert found() == []
    words = "here: tbf rate: expected 1152921504606846976 bytes, found 9 bytes"
    assert found(rate_Bps=9) == [words]
    assert found(limit_bytes=9) == ["here: tbf limit: expected 18750 bytes, found 9 bytes"]
    told = shaping_drifts.drifts(
        "here",
        one,
        root=tc_parse.parse_qdisc(ROOT),
        queue=tc_parse.parse_qdisc(LEAF),
        one_class=tc_parse.parse_class(CLASS),
    )
    assert told == [("here: cutter qdisc", "tbf 11:", "none")]
