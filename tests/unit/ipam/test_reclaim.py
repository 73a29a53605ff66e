"""Give back what an earlier boot held, once per boot, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from cni_faasm.attachment import record
from cni_faasm.ipam import reclaim
from cni_faasm.ipam.store import Store
from cni_faasm.spec import inet, jsonio
from tests.leases import addresses, in_child, intercepted, kill_myself, make_range, plant

BOOT = record.boot_id()
LONG_AGO = reclaim.boot_time() - 86_400
SMALL = make_range("10.1.0.0/29")


class Host:
    """A data folder and a state folder, and what stood in them before a reboot."""

    def __init__(self, root: Path) -> None:
        self.data, self.state = str(root / "data"), str(root / "state")
        self.leases, self.records = root / "data/net", root / "state/net"

    def lease(self, address: str, content: bytes, *, old: bool) -> None:
        path = plant(self.leases, address, content)
        if old:
            os.utime(path, (LONG_AGO, LONG_AGO))

    def record(self, container_id: str, *, old: bool) -> None:
        record.write(self.state, "net", container_id, "eth0", {})
        path = self.records / f"{container_id}@eth0"
        if old:
            path.write_bytes(path.read_bytes().replace(BOOT.encode(), b"another"))

    def attach(self, container_id: str, address: str, *, old: bool) -> None:
        self.record(container_id, old=old)
        self.lease(address, f"{container_id}\r\neth0".encode(), old=old)

    def reclaim(self, data: str = "") -> tuple[list[str], list[str]]:
        with Store(data or self.data, "net", 1000) as store:
            swept = reclaim.reclaim_earlier_boot(store, self.state, "net", BOOT)
        names = sorted(name for name, _ in swept.attachments)
        return sorted(map(inet.unpack, swept.addresses)), names

    def addresses(self) -> list[str]:
        return sorted(name for name in os.listdir(self.leases) if name[:1].isdigit())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_fresh_host(host: Host) -> None:
    assert reclaim.read_marker(host.state, "net") is None
    assert host.reclaim() == ([], [])
    assert reclaim.read_marker(host.state, "net") == {
        "bootID": BOOT,
        "kernel": {},
        "stores": [host.data],
    }


def test_what_an_earlier_boot_left_is_swept(host: Host) -> None:
    host.attach("dead", "10.1.0.2", old=True)
    host.attach("alive", "10.1.0.3", old=False)
    host.lease("10.1.0.4", b"foreign-dead\r\neth0", old=True)
    host.lease("10.1.0.5", b"foreign-alive\r\neth0", old=False)
    host.lease("10.1.0.6", b"\0\0\0", old=True)
    host.record("torn", old=False)
    (host.records / "torn@eth0").write_bytes(b'{"vers')
    (host.records / ".half@eth0").write_bytes(b"")
    assert host.reclaim() == (["10.1.0.2", "10.1.0.4", "10.1.0.6"], ["dead", "torn"])
    assert host.addresses() == ["10.1.0.3", "10.1.0.5"]
    assert sorted(os.listdir(host.records)) == ["alive@eth0", "boot", "gone"]


def test_a_torn_record_of_this_boot_is_in_doubt(host: Host) -> None:
    """What a full disk leaves in a running container's place, the marker included."""
    host.attach("running", "10.1.0.2", old=False)
    host.attach("gone", "10.1.0.3", old=True)
    for name in ("running", "gone"):
        (host.records / f"{name}@eth0").write_bytes(b"")
    assert host.reclaim() == (["10.1.0.3"], ["gone"])
    assert host.addresses() == ["10.1.0.2"]
    assert (host.records / "running@eth0").exists()


def test_ours_are_kept_though_the_clock_was_stepped(host: Host) -> None:
    """Without an RTC a lease of this boot may look older than the boot; its record counts."""
    host.attach("alive", "10.1.0.3", old=False)
    os.utime(host.leases / "10.1.0.3", (0, 0))
    assert host.reclaim() == ([], [])
    assert host.addresses() == ["10.1.0.3"]


def test_once_per_boot(host: Host) -> None:
    host.reclaim()
    host.attach("late", "10.1.0.2", old=True)
    with Store(host.data, "net") as store, intercepted(None, lambda _: None) as calls:
        swept = reclaim.reclaim_earlier_boot(store, host.state, "net", BOOT)
    assert (swept.addresses, swept.attachments) == ([], [])
    assert calls.names.count("open") == 2  # the folder, the marker
    assert "listdir" not in calls.names
    marker = reclaim.read_marker(host.state, "net")
    with Store(host.data, "net") as store, intercepted(None, lambda _: None) as calls:
        reclaim.reclaim_earlier_boot(store, host.state, "net", BOOT, marker)
    assert calls.count == 0


def test_every_store_of_a_network_is_swept(host: Host, tmp_path: Path) -> None:
    """The configuration may get another dataDir without a reboot in between."""
    reclaim.write_marker(host.state, "net", {"bootID": BOOT, "kernel": {"leaf": "x"}})
    host.lease("10.1.0.2", b"dead\r\neth0", old=True)
    assert host.reclaim() == (["10.1.0.2"], [])
    other = str(tmp_path / "other")
    plant(tmp_path / "other/net", "10.1.0.4", b"dead")
    os.utime(tmp_path / "other/net/10.1.0.4", (5, 5))
    assert host.reclaim(other) == (["10.1.0.4"], [])
    assert host.reclaim() == host.reclaim(other) == ([], [])
    assert reclaim.read_marker(host.state, "net") == {
        "bootID": BOOT,
        "kernel": {"leaf": "x"},
        "stores": [host.data, other],
    }


@pytest.mark.parametrize(
    "marker",
    [
        b"",
        b"\0\0",
        b"[]",
        b'{"bootID":7}',
        b'{"bootID":"another","stores":["/"],"kernel":{"a":1}}',
        b'{"bootID":"BOOT","stores":7,"kernel":[]}',
        b'{"bootID":"BOOT","stores":[7]}',
    ],
)
def test_any_other_marker_means_a_sweep(host: Host, marker: bytes) -> None:
    host.attach("dead", "10.1.0.2", old=True)
    (host.records / "boot").write_bytes(marker.replace(b"BOOT", BOOT.encode()))
    assert host.reclaim() == (["10.1.0.2"], ["dead"])
    assert reclaim.read_marker(host.state, "net") == {
        "bootID": BOOT,
        "kernel": {},
        "stores": [host.data],
    }


def test_a_full_range_is_usable_again(host: Host) -> None:
    for number in range(2, 7):
        host.attach(f"dead{number}", f"10.1.0.{number}", old=True)
    with Store(host.data, "net") as store:
        reclaim.reclaim_earlier_boot(store, host.state, "net", BOOT)
        assert store.choose([[SMALL]])[0].address == inet.pack("10.1.0.2")


def test_odd_things_stop_nobody(host: Host) -> None:
    host.attach("dead", "10.1.0.2", old=True)
    (host.records / "folder@eth0").mkdir()
    (host.records / "link@eth0").symlink_to("/etc/hostname")
    (host.leases / "10.1.0.3").mkdir()
    os.mkfifo(host.leases / "10.1.0.4")
    (host.leases / "10.1.0.5").symlink_to("/etc/hostname")
    assert host.reclaim() == (["10.1.0.2"], ["dead", "link"])
    assert host.addresses() == ["10.1.0.3", "10.1.0.4", "10.1.0.5"]
    assert Path("/etc/hostname").exists()


def test_killed_anywhere_the_next_one_finishes(tmp_path: Path) -> None:
    at, killed = 0, True
    while killed:
        at += 1
        host = Host(tmp_path / str(at))
        host.attach("dead", "10.1.0.2", old=True)
        host.attach("alive", "10.1.0.3", old=False)

        def work(at: int = at, host: Host = host) -> None:
            with Store(host.data, "net") as store, intercepted(at, kill_myself):
                reclaim.reclaim_earlier_boot(store, host.state, "net", BOOT)

        killed = in_child(work) != 0
        host.reclaim()
        assert host.addresses() == ["10.1.0.3"]
        assert list(record.list_network(host.state, "net")) == [("alive", "eth0")]
    assert at > 20


def test_many(host: Host) -> None:
    """Linear, once per boot: 2,000 leases and records within seconds on a slow machine."""
    for number in range(2000):
        host.attach(f"dead{number}", inet.unpack(inet.from_int(0x0A010002 + number, 4)), old=True)
    began = time.monotonic()
    released, removed = host.reclaim()
    assert len(released) == len(removed) == 2000
    assert time.monotonic() - began < 20
    assert jsonio.loads((host.records / "boot").read_bytes())
    with Store(host.data, "net") as store:
        assert store.release(addresses("10.1.0.2"), "dead0", "eth0") == []


def test_a_clock_that_went_backwards(host: Host) -> None:
    """Without a clock chip, leases of an earlier boot look younger than this one."""
    host.record("before", old=True)
    host.lease("10.1.0.2", b"before\r\neth0", old=False)
    host.attach("now", "10.1.0.3", old=False)
    assert host.reclaim() == (["10.1.0.2"], ["before"])
    assert host.addresses() == ["10.1.0.3"]
