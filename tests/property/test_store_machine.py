"""Compare the lease store with a simple model of host-local, on any sequence of events.

The model is slow and literal: a dictionary of files, and the reference's own iteration
(allocator.go: GetIter, Next) written down step by step.
"""

import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cni_faasm.attachment import record
from cni_faasm.config.ranges import Range
from cni_faasm.ipam.layout import candidates, lease_address, lease_holder
from cni_faasm.ipam.store import Store
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, ADDRESSES_EXHAUSTED, CniError
from tests.leases import make_range

SETS = [
    [make_range("10.1.0.0/29"), make_range("10.3.0.0/30", gateway="10.3.0.2")],
    [make_range("fd00::/125", start="fd00::3", end="fd00::5", gateway="fd00::4")],
]
ALL = [
    inet.unpack(inet.from_int(number, len(source.first)))
    for ranges in SETS
    for source in ranges
    for number in range(inet.to_int(source.network), inet.to_int(source.last) + 2)
]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FOLDER = object()  # stands in the model where a folder stands on the disk

LEASE = re.compile(rb"\s*([A-Za-z0-9][A-Za-z0-9_.-]*)[ \t\r\f\v]*(?:\n(.*))?", re.DOTALL)


def holder_by_regex(data: bytes) -> tuple[str, str] | None:
    found = LEASE.fullmatch(data.rstrip())
    if found is None:
        return None
    ifname = found.group(2) or b""
    if not re.fullmatch(rb"[ -~]{0,15}", ifname):
        ifname = b""
    return found.group(1).decode(), ifname.decode()


class HostLocal:
    """The reference's iteration over a range set; None ends it."""

    def __init__(self, ranges: list[Range], last: str | None) -> None:
        self.ranges = [
            (ipaddress.ip_address(r.first), ipaddress.ip_address(r.last), r.gateway) for r in ranges
        ]
        self.index = 0
        self.cur: Address | None = None
        self.start: Address | None = None
        if last is not None:
            for index, (first, end, _) in enumerate(self.ranges):
                address = ipaddress.ip_address(last)
                if address.version == first.version and int(first) <= int(address) <= int(end):
                    self.index, self.cur = index, address
                    break

    def next(self) -> str | None:
        first, end, gateway = self.ranges[self.index]
        if self.cur is None:
            self.cur = self.start = first
        else:
            if self.cur == end:
                self.index = (self.index + 1) % len(self.ranges)
                first, end, gateway = self.ranges[self.index]
                self.cur = first
            else:
                self.cur += 1
            if self.start is None:
                self.start = self.cur
            elif self.cur == self.start:
                return None
        return self.next() if self.cur.packed == gateway else str(self.cur)


def all_of(ranges: list[Range], last: str | None) -> Iterator[str]:
    iteration = HostLocal(ranges, last)
    while (address := iteration.next()) is not None:
        yield address


owners = st.tuples(st.sampled_from(["a", "b", "C.c-_1"]), st.sampled_from(["eth0", "net1"]))
torn = st.sampled_from([b"", b"\0" * 9, b" \r\n", b"\0a\r\neth0", b"\xff", b".a", b"a b\r\neth0"])


class StoreMachine(RuleBasedStateMachine):
    """Events in one store; after each, what is on the disk is what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="store-")
        self.folder = Path(self.root) / "net"
        self.files: dict[str, bytes | object] = {}
        self.cursors: dict[int, str | None] = {}
        self.store = Store(self.root, "net", 1000)
        self.store.open()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)

    def free(self, address: str) -> bool:
        content = self.files.get(address)
        return content is None or (isinstance(content, bytes) and holder_by_regex(content) is None)

    def holder(self, address: str) -> tuple[str, str] | None:
        content = self.files.get(address)
        return holder_by_regex(content) if isinstance(content, bytes) else None

    def expected(self, requested: list[str]) -> list[str] | int:
        """Return what choose must answer: the addresses, or the code of the error."""
        wanted: dict[int, str] = {}
        for address in dict.fromkeys(requested):
            sets = [i for i, ranges in enumerate(SETS) if address in all_of(ranges, None)]
            if not sets or sets[0] in wanted:
                return ADDRESS_UNAVAILABLE
            wanted[sets[0]] = address
        chosen = []
        for index, ranges in enumerate(SETS):
            if index in wanted:
                if not self.free(wanted[index]):
                    return ADDRESS_UNAVAILABLE
                chosen.append(wanted[index])
                continue
            free = [a for a in all_of(ranges, self.cursors.get(index)) if self.free(a)]
            if not free:
                return ADDRESSES_EXHAUSTED
            chosen.append(free[0])
        return chosen

    @rule(owner=owners, requested=st.lists(st.sampled_from([*ALL, "192.0.2.1"]), max_size=2))
    def add_requested(self, owner: tuple[str, str], requested: list[str]) -> None:
        self.add(owner, requested)

    @rule(owner=owners, killed=st.booleans())
    def add_next(self, owner: tuple[str, str], killed: bool) -> None:
        self.add(owner, [], killed=killed)

    def add(self, owner: tuple[str, str], requested: list[str], *, killed: bool = False) -> None:
        expected = self.expected(requested)
        try:
            chosen = self.store.choose(SETS, [inet.pack(text) for text in requested])
        except CniError as error:
            assert error.code == expected  # noqa: PT017 - or it does not fail
            return
        assert [inet.unpack(item.address) for item in chosen] == expected
        if killed:  # between creating the first lease and writing it
            first = inet.unpack(chosen[0].address)
            (self.folder / first).write_bytes(b"")
            self.files[first] = b""
            return
        self.store.commit(chosen, *owner)
        for item in chosen:
            text = inet.unpack(item.address)
            self.files[text] = "\r\n".join(owner).encode()
            self.cursors[item.range_index] = text

    @rule(owner=owners, texts=st.lists(st.sampled_from(ALL), max_size=4))
    def release(self, owner: tuple[str, str], texts: list[str]) -> None:
        gone = []
        for text in dict.fromkeys(texts):
            torn_one = text in self.files and self.free(text)
            if torn_one or self.holder(text) in (owner, (owner[0], "")):
                gone.append(text)
        for text in gone:
            del self.files[text]
        released = self.store.release(map(inet.pack, texts), *owner)
        assert list(map(inet.unpack, released)) == gone

    @rule(owner=owners)
    def delete_without_record(self, owner: tuple[str, str]) -> None:
        exact = [text for text in self.files if self.holder(text) == owner]
        old = [text for text in self.files if self.holder(text) == (owner[0], "")]
        found = self.store.find(*owner)
        assert sorted(map(inet.unpack, found)) == sorted(exact or old)
        assert sorted(self.store.release(found, *owner)) == sorted(found)
        for text in exact or old:
            del self.files[text]

    @rule(address=st.sampled_from(ALL), owner=owners, old_format=st.booleans())
    def somebody_else_leases(self, address: str, owner: tuple[str, str], old_format: bool) -> None:
        if address not in self.files:
            content = (owner[0] if old_format else "\r\n".join(owner)).encode()
            (self.folder / address).write_bytes(content)
            self.files[address] = content

    @precondition(lambda self: self.files)
    @rule(data=st.data(), content=torn)
    def tear(self, data: st.DataObject, content: bytes) -> None:
        address = data.draw(st.sampled_from(sorted(self.files)))
        if self.files[address] is not FOLDER:
            (self.folder / address).write_bytes(content)
            self.files[address] = content

    @rule(address=st.sampled_from(ALL))
    def plant_a_folder(self, address: str) -> None:
        if address not in self.files and FOLDER not in self.files.values():
            (self.folder / address).mkdir()
            self.files[address] = FOLDER

    @rule(index=st.integers(0, 1), content=st.one_of(st.sampled_from(ALL), st.just("\0\0")))
    def rewrite_cursor(self, index: int, content: str) -> None:
        (self.folder / f"last_reserved_ip.{index}").write_text(content)
        self.cursors[index] = None if "\0" in content else content

    @rule()
    def sweep_torn(self) -> None:
        gone = [text for text in self.files if self.free(text)]
        assert sorted(map(inet.unpack, self.store.sweep_torn())) == sorted(gone)
        for text in gone:
            del self.files[text]

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store.open()

    @invariant()
    def disk_is_as_the_model(self) -> None:
        names = [name for name in os.listdir(self.folder) if lease_address(name)]
        assert sorted(names) == sorted(self.files)
        held = {
            inet.unpack(address): (container_id, ifname)
            for address, container_id, ifname, _ in self.store.leases()
        }
        assert held == {text: self.holder(text) for text in self.files if self.holder(text)}
        for text in ALL:
            assert self.store.owner(inet.pack(text)) == held.get(text)
        counted = sum(self.store.count(source) for ranges in SETS for source in ranges)
        inside = [
            text
            for text in self.files
            if any(source.contains(inet.pack(text)) for ranges in SETS for source in ranges)
        ]
        assert counted == len(inside)


StoreMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestStore = StoreMachine.TestCase


@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.integers(1, 6), st.integers(1, 6), st.integers(0, 7)),
        min_size=1,
        max_size=4,
        unique_by=lambda item: item[0],
    ),
    st.one_of(st.none(), st.integers(0, 127)),
)
def test_order_is_host_locals(parts: list[tuple[int, int, int, int]], last: int | None) -> None:
    ranges = [
        make_range(
            f"10.0.0.{8 * block}/29",
            f"10.0.0.{8 * block + min(one, two)}",
            f"10.0.0.{8 * block + max(one, two)}",
            f"10.0.0.{8 * block + gateway}",
        )
        for block, one, two, gateway in parts
    ]
    cursor = None if last is None else f"10.0.0.{last}"
    usable = [inet.unpack(a) for _, a in candidates(ranges, None)]
    if not usable:
        return  # nothing but gateways: the reference recurses for ever
    ours = [inet.unpack(a) for _, a in candidates(ranges, inet.pack(cursor) if cursor else None)]
    assert ours == list(all_of(ranges, cursor))
    assert sorted(ours) == sorted(usable)


@given(
    st.one_of(st.binary(max_size=40), st.text("abZ09_.- \r\n\t/@\0", max_size=20).map(str.encode))
)
def test_any_bytes_are_a_lease_or_torn(data: bytes) -> None:
    assert lease_holder(data) == holder_by_regex(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as state:
        record.write(state, "net", "abc", "eth0", {})
        path = Path(record.path(state, "net", "abc", "eth0"))
        path.write_bytes(data)
        assert record.read(state, "net", "abc", "eth0") is None


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_any_fields_come_back(fields: dict[str, object]) -> None:
    own = ("version", "bootID", "network", "containerID", "ifname")
    with tempfile.TemporaryDirectory() as state:
        record.write(state, "net", "abc", "eth0", fields)
        document = record.read(state, "net", "abc", "eth0") or {}
        assert {k: v for k, v in document.items() if k not in own} == {
            k: v for k, v in fields.items() if k not in own
        }
