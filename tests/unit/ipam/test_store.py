"""Lease, read and release: the layout, the order, the owners."""

import os
import stat
from pathlib import Path

import pytest

from cni_faasm.ipam.store import Store
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, ADDRESSES_EXHAUSTED, CniError
from tests.leases import addresses, fill, intercepted, lease, make_range, plant

SMALL = make_range("10.1.0.0/29")  # .1 is the gateway: .2 to .6
WIDE = make_range("10.2.0.0/16")
SIX = make_range("fd00:1::/64")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- the layout ---------------------------------------------------------------------------


def test_layout_is_that_of_host_local(store: Store, folder: Path) -> None:
    assert lease(store, [SMALL], [SIX]) == ["10.1.0.2", "fd00:1::2"]
    assert (folder / "10.1.0.2").read_bytes() == b"abc\r\neth0"
    assert (folder / "fd00:1::2").read_bytes() == b"abc\r\neth0"
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.1.0.2"
    assert (folder / "last_reserved_ip.1").read_bytes() == b"fd00:1::2"
    assert sorted(os.listdir(folder)) == [
        "10.1.0.2",
        "fd00:1::2",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        "lock",
    ]


def test_modes(store: Store, folder: Path) -> None:
    lease(store, [SMALL])
    assert mode(folder) == mode(folder.parent) == 0o755
    assert mode(folder / "10.1.0.2") == mode(folder / "last_reserved_ip.0") == 0o644
    assert mode(folder / "lock") == 0o600


def test_choose_writes_nothing(store: Store, folder: Path) -> None:
    [allocation] = store.choose([[SMALL]])
    assert (allocation.address, allocation.prefix_len) == (inet.pack("10.1.0.2"), 29)
    assert (allocation.gateway, allocation.range_index) == (inet.pack("10.1.0.1"), 0)
    assert "10.1.0.2/29" in repr(allocation)
    assert os.listdir(folder) == ["lock"]


def test_an_absent_store_is_empty_unless_it_is_to_be_made(data_dir: str) -> None:
    with Store(data_dir, "net", create=False) as store:
        assert store.owner(inet.pack("10.1.0.2")) is None
        assert store.release(addresses("10.1.0.2"), "abc", "eth0") == []
        assert store.find("abc", "eth0") == []
        assert list(store.leases()) == []
        assert store.sweep_torn() == []
        assert store.count(SMALL) == 0
        assert store.choose([[SMALL]])[0].address == inet.pack("10.1.0.2")
    assert not Path(data_dir).exists()


def test_reading_needs_no_lock(store: Store, data_dir: str) -> None:
    lease(store, [SMALL])
    with Store(data_dir, "net", 0, lock=False) as reader:
        assert reader.owner(inet.pack("10.1.0.2")) == ("abc", "eth0")


# --- which address ------------------------------------------------------------------------


def test_round_robin_does_not_reuse_at_once(store: Store) -> None:
    first = lease(store, [SMALL])
    store.release(addresses(*first), "abc", "eth0")
    assert [lease(store, [SMALL])[0] for _ in range(4)] == [f"10.1.0.{n}" for n in (3, 4, 5, 6)]
    assert lease(store, [SMALL]) == ["10.1.0.2"]


def test_round_robin_goes_through_the_ranges_of_a_set(store: Store) -> None:
    pair = [make_range("10.1.0.0/30"), make_range("10.3.0.0/30", gateway="10.3.0.2")]
    assert [lease(store, pair)[0] for _ in range(2)] == ["10.1.0.2", "10.3.0.1"]
    with pytest.raises(CniError) as raised:
        store.choose([pair])
    assert raised.value.code == ADDRESSES_EXHAUSTED
    assert "10.1.0.0/30 (10.1.0.1-10.1.0.2), 10.3.0.0/30 (10.3.0.1-10.3.0.2)" in raised.value.msg
    assert "2 of 2 are leased" in raised.value.msg
    assert "GC" in raised.value.details


@pytest.mark.parametrize(
    "cursor", [b"", b"\0\0\0", b"10.1.0.", b"\xff\xfe", b"10.9.9.9", b"fd00::1", b"x" * 5000]
)
def test_a_useless_cursor_is_passed_over(store: Store, folder: Path, cursor: bytes) -> None:
    (folder / "last_reserved_ip.0").write_bytes(cursor)
    assert lease(store, [SMALL]) == ["10.1.0.2"]
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.1.0.2"


def test_a_cursor_that_is_no_file_is_passed_over(store: Store, folder: Path) -> None:
    (folder / "last_reserved_ip.0").mkdir()
    assert lease(store, [SMALL]) == ["10.1.0.2"]
    assert sorted(os.listdir(folder)) == ["10.1.0.2", "last_reserved_ip.0", "lock"]


def test_a_cursor_is_written_over_where_nothing_is_left_of_the_old(
    store: Store, folder: Path
) -> None:
    """A new file in its place has ext4 write to the disk, a tenth of an ADD."""
    cursor = folder / "last_reserved_ip.0"
    for old, new, is_kept in (
        (b"10.1.0.1", b"10.1.0.2", True),
        (b"", b"10.1.0.3", True),
        (b"10.1.0.10", b"10.1.0.4", False),
    ):
        cursor.write_bytes(old)
        before = cursor.stat().st_ino
        with cursor.open("rb"):  # so its number is not given to the next
            assert lease(store, [SMALL]) == [new.decode()]
            assert (cursor.stat().st_ino == before) is is_kept
        assert cursor.read_bytes() == new
        assert mode(cursor) == 0o644


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_what_is_not_the_cursor_is_not_written_to(
    store: Store, folder: Path, tmp_path: Path, kind: str
) -> None:
    cursor, elsewhere = folder / "last_reserved_ip.0", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"10.1.0.1")
    if kind == "symbolic link":
        cursor.symlink_to(elsewhere)
    elif kind == "hard link":
        cursor.hardlink_to(elsewhere)
    else:
        os.mkfifo(cursor)
    assert len(lease(store, [SMALL])) == 1
    assert elsewhere.read_bytes() == b"10.1.0.1"
    assert cursor.read_bytes().startswith(b"10.1.0.")
    assert cursor.stat().st_nlink == 1
    assert not cursor.is_symlink()


def test_two_sets_never_choose_one_address(store: Store) -> None:
    assert lease(store, [SMALL], [SMALL]) == ["10.1.0.2", "10.1.0.3"]


def test_beyond_many_taken_addresses(store: Store, folder: Path) -> None:
    fill(folder, make_range("10.2.0.0/16", start="10.2.0.2"), 300)
    with intercepted(None, lambda _: None) as calls:
        assert lease(store, [WIDE]) == ["10.2.1.46"]
    assert calls.names.count("listdir") == 1


def test_torn_ones_are_found_when_all_names_are_taken(store: Store, folder: Path) -> None:
    source = make_range("10.2.0.0/24")
    fill(folder, source, 254)
    with pytest.raises(CniError, match="253 of 253"):
        store.choose([[source]])
    plant(folder, "10.2.0.200", b"")
    assert lease(store, [source]) == ["10.2.0.200"]


# --- requested addresses ------------------------------------------------------------------


def test_requested_addresses_each_for_its_set(store: Store, folder: Path) -> None:
    chosen = store.choose([[SMALL], [SIX]], addresses("fd00:1::77", "10.1.0.5"))
    assert [inet.unpack(item.address) for item in chosen] == ["10.1.0.5", "fd00:1::77"]
    store.commit(chosen, "abc", "eth0")
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.1.0.5"
    chosen = store.choose([[SMALL], [SIX]], addresses("fd00:1::78"))
    assert [inet.unpack(item.address) for item in chosen] == ["10.1.0.6", "fd00:1::78"]


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (["10.1.0.2"], "10.1.0.2 is leased to container abc (eth0)"),
        (["10.1.0.9"], "lies outside of 10.1.0.0/29 (10.1.0.1-10.1.0.6) and fd00:1::/64"),
        (["10.1.0.1"], "is the gateway of 10.1.0.0/29"),
        (["10.1.0.4", "10.1.0.5"], "belongs to the same range set as 10.1.0.4"),
        (["192.0.2.1", "10.1.0.5"], "192.0.2.1 lies outside"),
    ],
)
def test_requested_addresses_that_cannot_be_had(
    store: Store, requested: list[str], words: str
) -> None:
    lease(store, [SMALL])
    with pytest.raises(CniError) as raised:
        store.choose([[SMALL], [SIX]], addresses(*requested))
    assert raised.value.code == ADDRESS_UNAVAILABLE
    assert words in raised.value.msg
    assert raised.value.details


def test_a_requested_address_without_ranges(store: Store) -> None:
    with pytest.raises(CniError, match="all ranges"):
        store.choose([], addresses("10.1.0.2"))
    assert store.choose([]) == []


def test_a_requested_address_asked_twice_is_one(store: Store) -> None:
    assert len(store.choose([[SMALL]], addresses("10.1.0.3", "10.1.0.3"))) == 1


# --- whose ----------------------------------------------------------------------------------


def test_release_takes_only_what_is_ours(store: Store, folder: Path) -> None:
    plant(folder, "10.1.0.2", b"abc\r\neth0")
    plant(folder, "10.1.0.3", b"abc\r\neth1")
    plant(folder, "10.1.0.4", b"other\r\neth0")
    plant(folder, "10.1.0.5", b"abc")
    all_of_them = addresses(*(f"10.1.0.{n}" for n in range(2, 7)))
    assert store.release(all_of_them, "abc", "eth0") == addresses("10.1.0.2", "10.1.0.5")
    assert store.release(all_of_them, "abc", "eth0") == []
    assert {item[1:3] for item in store.leases()} == {("abc", "eth1"), ("other", "eth0")}


def test_find_prefers_exact_owners_to_the_old_format(store: Store, folder: Path) -> None:
    plant(folder, "10.1.0.2", b"abc")
    assert store.find("abc", "eth0") == addresses("10.1.0.2")
    plant(folder, "fd00:1::9", b"abc\r\neth0")
    assert store.find("abc", "eth0") == addresses("fd00:1::9")
    assert store.find("abc", "eth1") == addresses("10.1.0.2")
    assert store.find("ab", "eth0") == []


def test_leases_tells_when_each_was_written(store: Store, folder: Path) -> None:
    os.utime(plant(folder, "10.1.0.2", b"abc\r\neth0"), (5, 5))
    assert list(store.leases()) == [(inet.pack("10.1.0.2"), "abc", "eth0", 5.0)]


def test_count(store: Store, folder: Path) -> None:
    lease(store, [SMALL], [SIX])
    lease(store, [SMALL], container_id="two")
    plant(folder, "10.1.0.250", b"outside")
    assert (store.count(SMALL), store.count(SIX), store.count(WIDE)) == (2, 1, 0)


def test_sweep_before(store: Store, folder: Path) -> None:
    for name, content in (("10.1.0.2", b"dead"), ("10.1.0.3", b"kept\r\neth0"), ("10.1.0.4", b"")):
        os.utime(plant(folder, name, content), (5, 5))
    plant(folder, "10.1.0.5", b"young\r\neth0")
    plant(folder, "10.1.0.6", b"")
    swept = store.sweep_before(1000, {("kept", "eth0")})
    assert sorted(swept) == addresses("10.1.0.2", "10.1.0.4")


def test_probe(store: Store, folder: Path) -> None:
    store.probe()
    assert os.listdir(folder) == ["lock"]
