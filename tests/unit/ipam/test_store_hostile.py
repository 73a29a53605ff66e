"""Survive whatever stands in the store, holds its lock, or fails."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_faasm.ipam.layout import lease_holder
from cni_faasm.ipam.store import Allocation, Store
from cni_faasm.spec import inet
from cni_faasm.spec.errors import INVALID_CONFIG, IO_FAILURE, TRY_AGAIN, CniError
from tests.leases import Calls, addresses, fill, in_child, intercepted, lease, make_range, plant

SMALL = make_range("10.1.0.0/29")  # .1 is the gateway: .2 to .6
WIDE = make_range("10.2.0.0/16")
SIX = make_range("fd00:1::/64")


# --- torn, odd, hostile -------------------------------------------------------------------

LEASE = b"0123456789abcdef\r\neth0"

TORN = [b"", b" ", b"\r\n", b"\0" * 20, b"\0abc\r\neth0", b"\xff\xfe\xfd", b"abc\0\0\r\neth0"]
TORN += [b"-abc\r\neth0", b"a/b\r\neth0", b"../x", b"\r\n eth 0", b"\x7fELF" + bytes(range(256))]


@pytest.mark.parametrize("content", TORN)
def test_torn_leases_are_free_and_replaced(store: Store, folder: Path, content: bytes) -> None:
    plant(folder, "10.1.0.2", content)
    assert store.owner(inet.pack("10.1.0.2")) is None
    assert list(store.leases()) == []
    assert store.choose([[SMALL]], addresses("10.1.0.2"))
    assert lease(store, [SMALL]) == ["10.1.0.2"]
    assert (folder / "10.1.0.2").read_bytes() == b"abc\r\neth0"


@pytest.mark.parametrize("content", TORN)
def test_torn_leases_are_released_and_swept(store: Store, folder: Path, content: bytes) -> None:
    plant(folder, "10.1.0.2", content)
    assert store.release(addresses("10.1.0.2"), "abc", "eth0") == addresses("10.1.0.2")
    plant(folder, "10.1.0.3", content)
    plant(folder, "10.1.0.4", LEASE)
    (folder / ".last_reserved_ip").write_bytes(b"")
    assert store.sweep_torn() == addresses("10.1.0.3")
    assert sorted(os.listdir(folder)) == ["10.1.0.4", "lock"]


@pytest.mark.parametrize("length", range(len(LEASE)))
def test_torn_at_every_length(store: Store, folder: Path, length: int) -> None:
    """Cut off in front of the line break, a lease looks like one in the old format.

    It then keeps its address until the boot after the power loss is reclaimed.
    """
    plant(folder, "10.1.0.2", LEASE[:length])
    if length == 0:
        assert lease(store, [SMALL]) == ["10.1.0.2"]
    else:
        assert lease(store, [SMALL]) == ["10.1.0.3"]
        holder, ifname = store.owner(inet.pack("10.1.0.2")) or ("", "")
        assert LEASE.startswith(holder.encode())
        assert "eth0".startswith(ifname)


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        (b"abc\r\neth0", ("abc", "eth0")),
        (b"abc", ("abc", "")),
        (b"abc\r\n", ("abc", "")),
        (b"abc\neth0\n", ("abc", "eth0")),
        (b"  A.b_c-1 \r\nnet1", ("A.b_c-1", "net1")),
        (b"abc\r\n" + b"\0" * 4, ("abc", "")),
        (b"abc\r\n\xff\xff", ("abc", "")),
        (b"abc\r\n" + b"x" * 16, ("abc", "")),
    ],
)
def test_contents_of_a_lease(content: bytes, holder: tuple[str, str]) -> None:
    assert lease_holder(content) == holder


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)  # the path may be longer than sun_path
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


ODD: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "full folder": lambda path: plant(path, "10.1.0.3", b"abc\r\neth0"),
    "fifo": os.mkfifo,
    "symlink": lambda path: path.symlink_to("/etc/hostname"),
    "symlink to a lease": lambda path: path.symlink_to(
        plant(path.parent.parent, "elsewhere", b"abc\r\neth0")
    ),
    "dangling symlink": lambda path: path.symlink_to("nowhere"),
    "socket": make_socket,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_lease_file_is_left_alone(store: Store, folder: Path, kind: str) -> None:
    odd = folder / "10.1.0.2"
    ODD[kind](odd)
    before = odd.lstat()
    assert lease(store, [SMALL]) == ["10.1.0.3"]
    assert store.owner(inet.pack("10.1.0.2")) is None
    assert store.release(addresses("10.1.0.2"), "abc", "eth0") == []
    assert [item[0] for item in store.leases()] == addresses("10.1.0.3")
    assert store.find("abc", "eth0") == addresses("10.1.0.3")
    assert store.sweep_torn() == []
    assert store.sweep_before(time.time() + 60, {("abc", "eth0")}) == []
    with pytest.raises(CniError, match=r"10\.1\.0\.2 is no readable lease file"):
        store.choose([[SMALL]], addresses("10.1.0.2"))
    with pytest.raises(CniError) as raised:  # somebody who ignores the lock
        store.commit([Allocation(inet.pack("10.1.0.2"), 29, SMALL.gateway, 0)], "x", "eth0")
    assert raised.value.code == TRY_AGAIN
    after = odd.lstat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_fifo_that_is_held_open_does_not_hang(store: Store, folder: Path) -> None:
    os.mkfifo(folder / "10.1.0.2")
    both = os.open(folder / "10.1.0.2", os.O_RDWR)
    try:
        assert lease(store, [SMALL]) == ["10.1.0.3"]
    finally:
        os.close(both)


def test_odd_file_names_are_no_leases(store: Store, folder: Path) -> None:
    names = [
        "10.1.0.2.tmp",
        "10.1.0.02",
        "FD00:1::2",
        "fd00:1:0::2",
        "::ffff:10.1.0.2",
        " 10.1.0.2",
    ]
    names += ["\udcff\udcfe", "10.1.0.2 ", "x" * 200, "-", "lock~"]
    for name in names:
        (folder / name).write_bytes(b"abc\r\neth0")
    assert list(store.leases()) == []
    assert store.count(SMALL) == 0
    assert lease(store, [SMALL]) == ["10.1.0.2"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM, errno.EUCLEAN])
def test_an_unreadable_lease_is_taken(store: Store, folder: Path, number: int) -> None:
    """Root reads any mode, so the refusal is injected; other addresses are still leased."""
    plant(folder, "10.1.0.2", b"other\r\neth0")

    def refuse(_: str) -> None:
        raise OSError(number, os.strerror(number))

    with intercepted(4, refuse):  # cursor: open fails; candidate: open, read
        [chosen] = store.choose([[SMALL]])
    assert inet.unpack(chosen.address) == "10.1.0.3"
    with intercepted(1, refuse), pytest.raises(CniError) as raised:
        store.owner(inet.pack("10.1.0.2"))
    assert raised.value.code == IO_FAILURE
    with intercepted(1, refuse), pytest.raises(CniError) as raised:
        store.release(addresses("10.1.0.2"), "other", "eth0")
    assert raised.value.code == IO_FAILURE
    assert (folder / "10.1.0.2").exists()


# --- the lock -----------------------------------------------------------------------------


@pytest.fixture
def held(data_dir: str, folder: Path) -> Iterator[int]:
    folder.mkdir(parents=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("timeout_ms", [0, 1, 60])
def test_a_lock_that_stays_taken(data_dir: str, held: int, timeout_ms: int) -> None:
    began = time.monotonic()
    with pytest.raises(CniError) as raised:
        Store(data_dir, "net", timeout_ms).open()
    assert time.monotonic() - began >= timeout_ms / 1000
    assert raised.value.code == TRY_AGAIN
    assert f"{data_dir}/net/lock was locked by another process for {timeout_ms} ms" in (
        raised.value.msg
    )


def test_waiting_leaves_signals_as_they_were(data_dir: str, held: int) -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rang.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as a parent may leave it
    try:
        signal.setitimer(signal.ITIMER_REAL, 500, 7)
        with pytest.raises(CniError):
            Store(data_dir, "net", 30).open()
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.setitimer(signal.ITIMER_REAL, 0)[1] == 7
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.raise_signal(signal.SIGALRM)
        assert rang == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_lock_that_is_released_in_time(data_dir: str, held: int, in_thread: bool) -> None:
    codes: list[int] = []

    def work(timeout_ms: int) -> None:
        try:
            with Store(data_dir, "net", timeout_ms):
                codes.append(0)
        except CniError as error:
            codes.append(error.code)

    def run(timeout_ms: int) -> None:
        if in_thread:
            thread = threading.Thread(target=work, args=(timeout_ms,))
            thread.start()
            thread.join()
        else:
            work(timeout_ms)

    run(30)
    threading.Timer(0.05, fcntl.flock, (held, fcntl.LOCK_UN)).start()
    run(20_000)
    assert codes == [TRY_AGAIN, 0]


def test_closing_releases_the_lock_though_a_child_inherited_it(data_dir: str) -> None:
    store = Store(data_dir, "net", 0)
    store.open()
    duplicate = os.dup(store._lock)
    store.close()
    store.close()
    try:
        with Store(data_dir, "net", 0):
            pass
    finally:
        os.close(duplicate)


def test_a_store_removed_while_waiting(data_dir: str, folder: Path) -> None:
    """The lock we waited for guards nothing any more when its file was unlinked."""
    with Store(data_dir, "net", 1000) as store:

        def remove() -> None:
            (folder / "lock").unlink()
            folder.rmdir()
            store.close()

        timer = threading.Timer(0.05, remove)
        timer.start()
        with Store(data_dir, "net", 20_000) as other:
            assert lease(other, [SMALL]) == ["10.1.0.2"]
        timer.join()
    assert (folder / "10.1.0.2").exists()


@pytest.mark.parametrize("kind", ["folder", "symlink", "dangling symlink", "socket"])
def test_a_lock_that_is_no_file(data_dir: str, folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    ODD[kind](folder / "lock")
    with pytest.raises(CniError) as raised:
        Store(data_dir, "net", 10).open()
    assert raised.value.code == IO_FAILURE
    assert raised.value.msg.startswith(f"cannot lock {folder}/lock: ")


# --- the folder ---------------------------------------------------------------------------


def test_folders_that_others_could_change_are_refused(data_dir: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        for change, words in (
            (lambda path: path.chmod(0o757), "others may write in it"),
            (lambda path: os.chown(path, 65534, 0), "belongs to user 65534"),
        ):
            change(path)
            with pytest.raises(CniError, match=words) as raised:
                Store(data_dir, "net").open()
            assert raised.value.code == IO_FAILURE
            assert str(path) in raised.value.msg
            path.chmod(0o755)
            os.chown(path, 0, 0)
    folder.chmod(0o775)
    os.chown(folder, 0, 65534)
    with pytest.raises(CniError, match="others may write"):
        Store(data_dir, "net").open()
    doubts: list[str] = []
    with Store(data_dir, "net", doubts=doubts):
        assert [text.partition(": ")[2].partition(" (")[0] for text in doubts] == [
            "others may write in it"
        ]
    folder.parent.chmod(0o1777)
    folder.chmod(0o755)
    with Store(data_dir, "net"):
        pass


def test_a_symlink_for_a_network_is_refused(data_dir: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    folder.parent.mkdir()
    folder.symlink_to(target)
    with pytest.raises(CniError) as raised:
        Store(data_dir, "net").open()
    assert raised.value.code == IO_FAILURE
    assert os.listdir(target) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(data_dir: str, name: str) -> None:
    with pytest.raises(CniError) as raised:
        Store(data_dir, name).open()
    assert raised.value.code == INVALID_CONFIG
    assert not Path(data_dir).exists()


def test_a_name_too_long(data_dir: str) -> None:
    with pytest.raises(CniError, match="File name too long") as raised:
        Store(data_dir, "n" * 300).open()
    assert "too long for a file name" in raised.value.details


def test_a_file_in_place_of_a_folder(data_dir: str) -> None:
    Path(data_dir).write_text("")
    with pytest.raises(CniError, match="Not a directory"):
        Store(data_dir, "net").open()


# --- faults -------------------------------------------------------------------------------

FAULTS = [errno.ENOSPC, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EPERM, errno.EBUSY]
FAULTS += [errno.EEXIST, errno.ENOENT, errno.EROFS]


def attach(data_dir: str) -> list[str]:
    with Store(data_dir, "net", 1000) as store:
        return lease(store, [SMALL], [SIX], container_id="mine")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", FAULTS)
def test_any_call_failing_leaves_no_lease(tmp_path: Path, number: int) -> None:
    """Each call fails in turn: the work is done, or a CNI error is raised and nothing stays."""

    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    codes: set[int] = set()
    at = 0
    while True:
        at += 1
        data_dir = str(tmp_path / f"d{at}")
        descriptors = open_descriptors()
        leased: list[str] = []
        with intercepted(at, fail) as calls:
            try:
                leased = attach(data_dir)
            except CniError as error:
                codes.add(error.code)
        assert open_descriptors() == descriptors
        folder = Path(data_dir) / "net"
        found = os.listdir(folder) if folder.exists() else []
        assert sorted(name for name in found if name[0] in "1f") == sorted(leased)
        assert ".last_reserved_ip" not in found
        if calls.count < at:
            break
    assert at > 20
    assert codes <= {IO_FAILURE, TRY_AGAIN}


@pytest.mark.parametrize("number", FAULTS)
def test_any_call_failing_loses_no_release(tmp_path: Path, number: int) -> None:
    """A release that does not raise has released; one that raises can be repeated."""

    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    data_dir = str(tmp_path / "networks")
    at = 0
    while True:
        at += 1
        held = list(map(inet.pack, attach(data_dir)))
        descriptors = open_descriptors()
        with (
            intercepted(at, fail) as calls,
            contextlib.suppress(CniError),
            Store(data_dir, "net", 1000) as store,
        ):
            store.release(held, "mine", "eth0")
            held = []
        assert open_descriptors() == descriptors
        with Store(data_dir, "net", 1000) as store:
            # ENOENT is what an absent lease answers: there an injected one cannot be told
            if number != errno.ENOENT:
                assert held or not list(store.leases())
            store.release([item[0] for item in store.leases()], "mine", "eth0")
            assert list(store.leases()) == []
        if calls.count < at:
            break
    assert at > 10


def test_a_write_that_is_cut_short_leaves_no_lease(data_dir: str) -> None:
    """The kernel takes the bytes up to the limit and refuses the rest, as a full disk does."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))
        with pytest.raises(CniError, match="File too large") as raised:
            attach(data_dir)
        assert raised.value.code == IO_FAILURE

    assert in_child(work) == 0
    assert os.listdir(Path(data_dir) / "net") == ["lock"]


def test_release_takes_a_half_written_cursor_away(store: Store, folder: Path) -> None:
    (folder / ".last_reserved_ip").write_bytes(b"")
    assert store.release([], "abc", "eth0") == []
    assert os.listdir(folder) == ["lock"]


def test_cost_does_not_depend_on_how_many_leases_there_are(tmp_path: Path) -> None:
    def cost(data_dir: Path) -> tuple[int, list[str]]:
        with intercepted(None, lambda _: None) as calls:
            with Store(str(data_dir), "net") as store:
                leased = lease(store, [WIDE])
            with Store(str(data_dir), "net") as store:
                store.release(addresses(*leased), "abc", "eth0")
        return calls.count, calls.names

    attach(str(tmp_path / "few"))
    (tmp_path / "few/net/last_reserved_ip.0").write_bytes(b"10.2.19.137")
    fill(tmp_path / "many/net", WIDE, 5000)
    (tmp_path / "many/net/last_reserved_ip.0").write_bytes(b"10.2.19.137")
    (tmp_path / "many/net/lock").touch()
    assert cost(tmp_path / "many") == cost(tmp_path / "few")


def test_calls_counts() -> None:
    """The tool of the tests above does what it says."""
    calls = Calls(None, lambda _: None)
    calls.close(calls.open("/dev/null", os.O_RDONLY))
    assert calls.names == ["open", "close"]
