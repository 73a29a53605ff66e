"""Write, read and forget what ADD promised; with whatever may stand in its place."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cni_faasm.attachment import record
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, IO_FAILURE, CniError
from tests.leases import in_child, intercepted, kill_myself

ID = "0123456789abcdef"
FIELDS = {"netns": "/run/netns/x", "addresses": ["10.1.0.2/29"], "mtu": 1400, "rate": None}


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "var" / "faasm")


@pytest.fixture
def path(state: str) -> Path:
    return Path(state) / "net" / f"{ID}@eth0"


def write(state: str, fields: dict[str, object] | None = None) -> None:
    record.write(state, "net", ID, "eth0", FIELDS if fields is None else fields)


def read(state: str) -> dict[str, object] | None:
    return record.read(state, "net", ID, "eth0")


def test_what_is_written_is_read(state: str, path: Path) -> None:
    assert read(state) is None
    write(state)
    assert record.path(state, "net", ID, "eth0") == str(path)
    assert read(state) == {
        **FIELDS,
        "version": 1,
        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "network": "net",
        "containerID": ID,
        "ifname": "eth0",
    }
    write(state, {"mtu": 9000})
    assert (read(state) or {})["mtu"] == 9000
    assert os.listdir(path.parent) == [path.name]


def test_modes(state: str, path: Path) -> None:
    write(state)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert stat.S_IMODE(path.parent.parent.parent.stat().st_mode) == 0o755


def test_every_attachment_has_its_own(state: str) -> None:
    for container_id, ifname in (("a", "eth0"), ("a", "eth1"), ("b", "e@h"), ("a.b-c_d", "x.")):
        record.write(state, "net", container_id, ifname, {"who": container_id + ifname})
    assert sorted(record.list_network(state, "net")) == [
        ("a", "eth0"),
        ("a", "eth1"),
        ("a.b-c_d", "x."),
        ("b", "e@h"),
    ]
    assert (record.read(state, "net", "b", "e@h") or {})["who"] == "be@h"


def test_removing(state: str, path: Path) -> None:
    assert record.remove(state, "net", ID, "eth0") is False
    write(state)
    assert record.was_removed(state, "net", ID, "eth0") is False
    assert record.remove(state, "net", ID, "eth0") is True
    assert record.remove(state, "net", ID, "eth0") is False
    assert read(state) is None
    assert record.was_removed(state, "net", ID, "eth0") is True
    assert record.was_removed(state, "net", ID[1:], "eth0") is False
    assert record.was_removed(state, "net", ID, "eth") is False
    assert record.was_removed(state, "elsewhere", ID, "eth0") is False
    assert os.listdir(path.parent) == ["gone"]


def test_the_list_of_those_gone_is_bounded(state: str, path: Path) -> None:
    for number in range(1500):
        record.write(state, "net", f"{ID * 3}{number}", "eth0", {})
        record.remove(state, "net", f"{ID * 3}{number}", "eth0")
    assert (path.parent / "gone").stat().st_size < 33_000
    assert record.was_removed(state, "net", f"{ID * 3}1499", "eth0")
    assert record.was_removed(state, "net", f"{ID * 3}1300", "eth0")
    assert not record.was_removed(state, "net", f"{ID * 3}1", "eth0")


@pytest.mark.parametrize("kind", ["folder", "fifo", "symlink"])
def test_a_list_of_those_gone_that_is_no_file(state: str, path: Path, kind: str) -> None:
    write(state)
    make_odd(path.parent / "gone", kind)
    assert record.remove(state, "net", ID, "eth0")
    assert not record.was_removed(state, "net", ID, "eth0")


# --- torn, odd, hostile -------------------------------------------------------------------


def test_torn_at_every_length(state: str, path: Path) -> None:
    write(state)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read(state) is None
    path.write_bytes(whole)
    assert read(state)


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 300,
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"[" * 100_000,
        b'{"version":"1"}',
        b'{"version":1,"containerID":"other","ifname":"eth0","bootID":"b"}',
        b'{"version":1,"containerID":"0123456789abcdef","ifname":"eth1","bootID":"b"}',
        b'{"version":0,"containerID":"0123456789abcdef","ifname":"eth0","bootID":"b"}',
        b'{"version":1,"containerID":"0123456789abcdef","ifname":"eth0","bootID":3}',
        b'{"containerID":"0123456789abcdef","ifname":"eth0","bootID":"b"}',
        b'{"version":1} trailing',
        b" " * (2 << 20),
    ],
)
def test_garbage_is_no_record(state: str, path: Path, content: bytes) -> None:
    write(state)
    path.write_bytes(content)
    assert read(state) is None
    write(state)
    assert read(state)


def test_a_later_version_is_read_leniently(state: str, path: Path) -> None:
    write(state)
    document = jsonio.loads(path.read_bytes())
    assert isinstance(document, dict)
    path.write_bytes(jsonio.dumps({**document, "version": 7, "new": {"a": [1]}}))
    assert (read(state) or {})["mtu"] == 1400


def make_odd(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("kind", ["fifo", "symlink"])
@pytest.mark.parametrize("name", [f"{ID}@eth0", f".{ID}@eth0"])
def test_what_is_planted_is_replaced_not_followed(
    state: str, path: Path, kind: str, name: str
) -> None:
    hostname = Path("/etc/hostname").read_bytes()
    path.parent.mkdir(parents=True)
    make_odd(path.with_name(name), kind)
    assert read(state) is None
    write(state)
    assert read(state)
    assert not path.is_symlink()
    assert Path("/etc/hostname").read_bytes() == hostname
    make_odd(path.with_name(f".{ID}@eth0"), kind)
    assert record.remove(state, "net", ID, "eth0")
    assert sorted(os.listdir(path.parent)) == ["gone"]


def test_a_folder_in_a_records_place(state: str, path: Path) -> None:
    path.mkdir(parents=True)
    assert read(state) is None
    for call in (write, lambda state: record.remove(state, "net", ID, "eth0")):
        with pytest.raises(CniError) as raised:
            call(state)
        assert raised.value.code == IO_FAILURE
        assert str(path) in raised.value.msg
    record.write(state, "net", "other", "eth0", {})
    assert os.listdir(path) == []


@pytest.mark.parametrize(
    ("container_id", "ifname"),
    [
        *(("..", "eth0"), ("../x", "eth0"), ("", "eth0"), (".a", "eth0"), ("a/b", "eth0")),
        *(("a@b", "eth0"), ("a\0", "eth0"), ("a", ""), ("a", ".."), ("a", "x/y"), ("a", ".")),
    ],
)
def test_names_that_lead_elsewhere_are_refused(state: str, container_id: str, ifname: str) -> None:
    for call in (record.path, record.read, record.remove, record.was_removed):
        with pytest.raises(CniError) as raised:
            call(state, "net", container_id, ifname)
        assert raised.value.code == INVALID_ENVIRONMENT
    with pytest.raises(CniError):
        record.write(state, "net", container_id, ifname, {})
    with pytest.raises(CniError):
        record.find_anywhere(state, container_id, ifname)
    assert not Path(state).exists()


@pytest.mark.parametrize("network", ["", ".", "..", "../x", "a/b"])
def test_networks_that_lead_elsewhere_are_refused(state: str, network: str) -> None:
    with pytest.raises(CniError) as raised:
        record.write(state, network, ID, "eth0", {})
    assert raised.value.code == INVALID_CONFIG


def test_odd_names_in_the_folder_are_no_records(state: str, path: Path) -> None:
    write(state)
    for name in ("boot", "@eth0", "a@", "a@..", ".a@eth0", "a", "\udcff"):
        (path.parent / name).write_bytes(b"")
    assert list(record.list_network(state, "net")) == [(ID, "eth0")]
    (path.parent / f".{path.name}").write_bytes(b"being written")
    assert record.sweep_temporary(state, "net") == 1
    assert (path.parent / f".{path.name}").exists()
    assert record.sweep_temporary(state, "net") == 0
    assert record.sweep_temporary(state, "none") == 0
    assert list(record.list_network(state, "none")) == []


def test_networks_and_finding_anywhere(state: str, path: Path) -> None:
    assert record.networks(state) == []
    assert record.find_anywhere(state, ID, "eth0") == []
    write(state)
    record.write(state, "a", ID, "eth0", {})
    record.write(state, "b", ID, "eth1", {})
    (Path(state) / "file").write_bytes(b"")
    (Path(state) / "link").symlink_to("net")
    assert record.networks(state) == ["a", "b", "net"]
    assert record.find_anywhere(state, ID, "eth0") == ["a", "net"]
    assert record.networks(str(path)) == []


# --- faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EPERM, errno.EEXIST]
)
def test_any_call_failing_leaves_the_old_record_or_none(tmp_path: Path, number: int) -> None:
    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    record.boot_id()
    for before in (False, True):
        at = 0
        while True:
            at += 1
            state = str(tmp_path / f"{before}{at}")
            if before:
                write(state, {"mtu": 1})
            failed = False
            with intercepted(at, fail) as calls:
                try:
                    write(state, {"mtu": 2})
                except CniError as error:
                    failed = True
                    assert error.code == IO_FAILURE  # noqa: PT017 - it may also succeed
            mtu = (read(state) or {}).get("mtu")
            assert mtu == 2 if not failed else mtu == (1 if before else None)
            folder = Path(state) / "net"
            assert not folder.exists() or set(os.listdir(folder)) <= {f"{ID}@eth0"}
            if calls.count < at:
                break
        assert at > 8


def test_killed_at_any_call_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    state = str(tmp_path)
    at, killed = 0, True
    while killed:
        at += 1
        write(state, {"mtu": 1})

        def work(at: int = at) -> None:
            with intercepted(at, kill_myself):
                write(state, {"mtu": 2})

        killed = in_child(work) != 0
        assert (read(state) or {})["mtu"] in ((1, 2) if killed else (2,))
        record.remove(state, "net", ID, "eth0")
        assert os.listdir(tmp_path / "net") == ["gone"]
    assert at > 6


def test_without_descriptors_it_is_said(state: str) -> None:
    write(state)

    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for at in (1, 4):  # opening the folder, opening the record
        with intercepted(at, fail), pytest.raises(CniError, match="Too many open files") as raised:
            read(state)
        assert "LimitNOFILE" in raised.value.details
