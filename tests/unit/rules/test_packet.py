"""What is said of a value of which only some bits is known, beside all the values that it may be."""

import operator
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.netlink.nft_expr import NFT_CMP_EQ, NFT_CMP_NEQ
from cni_faasm.rules.packet import (
    NFT_CMP_GT,
    NFT_CMP_GTE,
    NFT_CMP_LT,
    Packet,
    Registers,
    bounds,
    equal,
)

NFT_CMP_LTE = 3
OPERATORS: dict[int, Callable[[int, int], bool]] = {
    NFT_CMP_EQ: operator.eq,
    NFT_CMP_NEQ: operator.ne,
    NFT_CMP_LT: operator.lt,
    NFT_CMP_LTE: operator.le,
    NFT_CMP_GT: operator.gt,
    NFT_CMP_GTE: operator.ge,
}
BYTE = st.integers(0, 255)
FIRST = 1  # register


def all_of(value: int, bits: int) -> list[int]:
    return [one for one in range(256) if (one ^ value) & bits == 0]


def is_prefix(bits: int) -> bool:
    unknown = ~bits & 0xFF
    return unknown & unknown + 1 == 0


def registers(value: int, bits: int) -> Registers:
    made = Registers()
    made.write(FIRST, bytes((value,)), bytes((bits,)))
    return made


@given(BYTE, BYTE, BYTE, st.sampled_from(sorted(OPERATORS)))
def test_comparisons(value: int, bits: int, data: int, code: int) -> None:
    answer = registers(value, bits).compare(code, FIRST, bytes((data,)))
    found = {OPERATORS[code](one, data) for one in all_of(value, bits)}
    if answer is not None:
        assert found == {answer}
    elif is_prefix(bits) or code in (NFT_CMP_EQ, NFT_CMP_NEQ):
        assert found == {True, False}  # as exact as can be
    least, most = bounds(bytes((value,)), bytes((bits,)))
    assert (least[0], most[0]) == (min(all_of(value, bits)), max(all_of(value, bits)))


@given(BYTE, BYTE, BYTE, BYTE)
def test_masks(value: int, bits: int, mask: int, xor: int) -> None:
    made = registers(value, bits)
    made.bitwise(FIRST, FIRST, 1, bytes((mask,)), bytes((xor,)))
    now, known = (part[0] for part in made.read(FIRST, 1))
    assert set(all_of(now, known)) >= {(one & mask) ^ xor for one in all_of(value, bits)}
    assert known == bits | ~mask & 0xFF


@given(st.integers(1, 32), st.integers(0, 40))
def test_nothing_is_read_beyond_the_registers(register: int, length: int) -> None:
    made = Registers()
    made.write(register, bytes(length), bytes(length))
    value, bits = made.read(register, length)
    assert (len(value), len(bits)) == (length, length)
    made.bitwise(register, register, length, bytes(length), bytes(length))
    made.compare(NFT_CMP_EQ, register, bytes(length))


def test_names() -> None:
    value, bits = Packet(2, come_by="faasm*").load("meta", 6, 0, 0)
    for name, answer in (("faasm", None), ("faasm3", None), ("eth0", False)):
        assert equal(value, bits, name.encode().ljust(16, b"\0")) is answer
    assert equal(value[:3], bits[:3], b"faa") is True
    assert equal(value[:7], bits[:7], b"faasm12") is None


@given(st.integers(0, 32), st.integers(0, 32))
def test_where_it_does_not_go(not_to: int, asked: int) -> None:
    network = bytes((10, 200, 0, 0))
    bits = ((1 << 32) - (1 << 32 - asked)).to_bytes(4, "big")
    packet = Packet(2, not_to=[(network, not_to)])
    assert packet.never_goes_to(network, bits) == (asked >= not_to)
    if 0 < not_to <= asked:
        assert not packet.never_goes_to(bytes((138, 200, 0, 0)), bits)
