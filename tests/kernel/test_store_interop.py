"""Share one lease folder with Debian's reference `host-local`, at once and in turns.

Real processes throughout: ours are forked and end by themselves or by SIGKILL.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.attachment import record
from cni_faasm.config.ranges import Range
from cni_faasm.ipam import reclaim
from cni_faasm.ipam.store import Store
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, IO_FAILURE, TRY_AGAIN, CniError
from tests.host import reference_plugin
from tests.leases import fill, in_child, intercepted, kill_myself, make_range

FOUR = make_range("10.9.0.0/22")
SIX = make_range("fd00:9::/64")
SETS: list[list[Range]] = [[FOUR], [SIX]]
SCRIPT = """
import sys
from cni_faasm.spec import inet
from cni_faasm.config.ranges import make
from cni_faasm.ipam.store import Store
source = make(*inet.parse_cidr("10.9.0.0/16"))
with Store(sys.argv[1], "net") as store:
    chosen = store.choose([[source]])
    store.commit(chosen, "abc", "eth0")
with Store(sys.argv[1], "net") as store:
    store.release([item.address for item in chosen], "abc", "eth0")
"""


class Folders:
    """A data folder and a state folder, and both kinds of programs that use them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.state = str(root / "data"), str(root / "state")
        self.leases = root / "data/net"

    def host_local(
        self, verb: str, container_id: str, *, ifname: str = "eth0", ip: str = ""
    ) -> dict[str, Any]:
        """Execute the reference; return its result, or its error document."""
        config = {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "any",
            "ipam": {
                "type": "host-local",
                "dataDir": self.data,
                "ranges": [[{"subnet": "10.9.0.0/22"}], [{"subnet": "fd00:9::/64"}]],
            },
        }
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": "/dev/null",
            "CNI_PATH": "/usr/lib/cni",
            "CNI_ARGS": f"IgnoreUnknown=1;IP={ip}" if ip else "",
        }
        done = subprocess.run(
            reference_plugin("host-local"),
            input=json.dumps(config).encode(),
            env=environment,
            stdout=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        document: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return document

    def host_local_add(self, container_id: str, **options: str) -> list[str]:
        result = self.host_local("ADD", container_id, **options)
        assert "ips" in result, result
        return [item["address"].partition("/")[0] for item in result["ips"]]

    def add(self, container_id: str, ifname: str = "eth0") -> list[str]:
        """Lease as our ADD does: choose, record, commit."""
        with Store(self.data, "net", 30_000) as store:
            chosen = store.choose(SETS)
            texts = [inet.unpack(item.address) for item in chosen]
            record.write(self.state, "net", container_id, ifname, {"addresses": texts})
            store.commit(chosen, container_id, ifname)
        return texts

    def delete(self, container_id: str, ifname: str = "eth0") -> None:
        """Release as our DEL does: by the record, else by reading every lease."""
        with Store(self.data, "net", 30_000) as store:
            document = record.read(self.state, "net", container_id, ifname)
            if document is not None:
                texts = document["addresses"]
                assert isinstance(texts, list)
                found = [inet.pack(text) for text in texts]
            else:
                found = store.find(container_id, ifname)
            store.release(found, container_id, ifname)
            record.remove(self.state, "net", container_id, ifname)

    def collect(self, valid: set[str]) -> None:
        """Collect as our GC does: records, then leases that are nobody's."""
        for container_id, ifname in list(record.list_network(self.state, "net")):
            if container_id not in valid:
                self.delete(container_id, ifname)
        with Store(self.data, "net", 30_000) as store:
            for address, container_id, ifname, _ in list(store.leases()):
                if container_id not in valid:
                    store.release([address], container_id, ifname)
            store.sweep_torn()
            record.sweep_temporary(self.state, "net")

    def names(self) -> list[str]:
        """Return what stands in the lease folder but for the lock and the cursors."""
        if not self.leases.exists():
            return []
        return sorted(
            name
            for name in os.listdir(self.leases)
            if name not in ("lock", "last_reserved_ip.0", "last_reserved_ip.1")
        )

    def owners(self) -> dict[str, str]:
        owners = {}
        for name in self.names():
            owner, separator, _ = (self.leases / name).read_bytes().partition(b"\r\n")
            assert separator
            owners[name] = owner.decode()
        return owners

    def records(self) -> list[str]:
        folder = Path(self.state) / "net"
        if not folder.exists():
            return []
        return sorted(name for name in os.listdir(folder) if name not in ("gone", "boot"))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_in_turns(folders: Folders) -> None:
    """Each goes on where the other stopped, and knows the other's leases."""
    assert folders.add("a") == ["10.9.0.2", "fd00:9::2"]
    assert folders.host_local_add("b") == ["10.9.0.3", "fd00:9::3"]
    assert folders.add("c") == ["10.9.0.4", "fd00:9::4"]
    assert folders.owners() == {
        "10.9.0.2": "a",
        "10.9.0.3": "b",
        "10.9.0.4": "c",
        "fd00:9::2": "a",
        "fd00:9::3": "b",
        "fd00:9::4": "c",
    }
    assert folders.host_local("CHECK", "a") == {}
    assert "Failed to find" in folders.host_local("CHECK", "nobody")["msg"]
    refused = folders.host_local("ADD", "d", ip="10.9.0.2")
    assert "requested IP address 10.9.0.2 is not available" in refused["msg"]
    with Store(folders.data, "net") as store, pytest.raises(CniError) as raised:
        store.choose(SETS, [inet.pack("10.9.0.3")])
    assert raised.value.code == ADDRESS_UNAVAILABLE
    assert "10.9.0.3 is leased to container b (eth0)" in raised.value.msg


def test_each_releases_the_others(folders: Folders) -> None:
    folders.add("a")
    folders.add("a", "eth1")
    folders.host_local_add("b")
    folders.host_local_add("b", ifname="eth1")
    folders.host_local("DEL", "a", ifname="eth0")
    folders.delete("b", "eth0")
    assert folders.owners() == {
        "10.9.0.3": "a",
        "10.9.0.5": "b",
        "fd00:9::3": "a",
        "fd00:9::5": "b",
    }
    folders.delete("a", "eth0")  # the lease is gone already
    folders.delete("a", "eth1")
    folders.host_local("DEL", "b", ifname="eth1")
    assert folders.names() == []
    assert folders.records() == []


def test_order_is_the_same_when_a_range_is_full(folders: Folders) -> None:
    """Both wrap around at the same place, past the gateway."""
    cursor = folders.leases / "last_reserved_ip.0"
    folders.add("a")
    cursor.write_text("10.9.3.253")
    assert folders.host_local_add("b")[0] == "10.9.3.254"
    assert folders.add("c")[0] == "10.9.0.3"
    cursor.write_text("10.9.3.253")
    assert folders.add("d")[0] == "10.9.0.4"


def claim(folders: Folders, addresses: list[str]) -> None:
    """Hold what was leased, visibly: a second holder of an address fails here."""
    for address in addresses:
        os.close(os.open(folders.root / f"claim-{address}", os.O_CREAT | os.O_EXCL))


def unclaim(folders: Folders, addresses: list[str]) -> None:
    for address in addresses:
        (folders.root / f"claim-{address}").unlink()


def storm(
    folders: Folders,
    who: str,
    rounds: int,
    add: Callable[[str], list[str]],
    delete: Callable[[str], object],
) -> int:
    """Lease and release by turns, holding up to four; return how many are held at the end."""
    chance = random.Random(who)
    held: dict[str, list[str]] = {}
    for number in range(rounds):
        container_id = f"{who}-{number}"
        held[container_id] = add(container_id)
        claim(folders, held[container_id])
        while len(held) > 4 or (held and chance.random() < 0.4):
            victim = chance.choice(sorted(held))
            unclaim(folders, held.pop(victim))
            delete(victim)
    return len(held)


def test_at_once(folders: Folders) -> None:
    """Four processes of ours and four streams of the reference's, without a duplicate."""
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            status = 100
            try:
                status = storm(folders, f"ours{number}", 120, folders.add, folders.delete)
            finally:
                os._exit(status)
        children.append(child)
    with ThreadPoolExecutor(4) as pool:
        theirs = [
            pool.submit(
                storm,
                folders,
                f"theirs{number}",
                30,
                folders.host_local_add,
                lambda container_id: folders.host_local("DEL", container_id),
            )
            for number in range(4)
        ]
        held = sum(job.result() for job in theirs)
    for child in children:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert 0 <= status <= 4
        held += status
    assert sorted(p.name for p in folders.root.glob("claim-*")) == [
        f"claim-{name}" for name in folders.names()
    ]
    assert len(folders.names()) == 2 * held
    for owner in set(folders.owners().values()):  # each by the other side
        if owner.startswith("ours"):
            folders.host_local("DEL", owner)
        else:
            folders.delete(owner)
    assert folders.names() == []


def test_killed_at_any_call(folders: Folders) -> None:
    """SIGKILL before each call of an ADD: DEL or GC or the next boot gives everything back."""
    recoveries: dict[str, Callable[[Folders], None]] = {
        "DEL": lambda folders: folders.delete("dead"),
        "GC": lambda folders: folders.collect(set()),
        "DEL by host-local, GC": delete_by_host_local,
        "reboot": reboot,
    }
    for name, recover in recoveries.items():
        at, killed = 0, True
        while killed:
            at += 1
            here = Folders(folders.root / f"{name}-{at}")

            def work(at: int = at, here: Folders = here) -> None:
                with intercepted(at, kill_myself):
                    here.add("dead")

            killed = in_child(work) != 0
            recover(here)
            assert here.names() == [], (name, at)
            assert here.records() == [], (name, at)
            # the lock is free and every address usable
            with Store(here.data, "net", 0) as store:
                assert len(store.choose(SETS, [inet.pack("10.9.0.2")])) == 2
        assert at > 30


def delete_by_host_local(folders: Folders) -> None:
    folders.host_local("DEL", "dead")
    folders.collect(set())


def reboot(folders: Folders) -> None:
    """Make records and leases look like those of an earlier boot, and let an ADD begin."""
    for path in Path(folders.state).glob("net/*@*"):
        path.write_bytes(path.read_bytes().replace(record.boot_id().encode(), b"another"))
    for path in folders.leases.glob("[1f]*"):
        os.utime(path, (5, 5))
    with Store(folders.data, "net") as store:
        reclaim.reclaim_earlier_boot(store, folders.state, "net", record.boot_id())
        store.probe()


def test_killed_del_at_any_call(folders: Folders) -> None:
    at, killed = 0, True
    while killed:
        at += 1
        here = Folders(folders.root / str(at))
        here.add("dead")

        def work(at: int = at, here: Folders = here) -> None:
            with intercepted(at, kill_myself):
                here.delete("dead")

        killed = in_child(work) != 0
        here.delete("dead")
        assert here.names() == here.records() == [], at
    assert at > 20


def test_storm_with_random_kills(folders: Folders) -> None:
    """Processes die at any moment; what survives is exactly what the others hold."""
    chance = random.Random(7)
    for number in range(40):
        child = os.fork()
        if child == 0:
            try:
                storm(folders, f"victim{number}", 10_000, folders.add, folders.delete)
            finally:
                os._exit(1)
        time.sleep(chance.random() * 0.02)  # not for its result: a random moment to die at
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    kept = [folders.add(f"kept{number}") for number in range(5)]
    folders.collect({f"kept{number}" for number in range(5)})
    assert folders.names() == sorted(text for pair in kept for text in pair)
    assert folders.records() == [f"kept{number}@eth0" for number in range(5)]


@pytest.fixture
def small_disk(folders: Folders) -> Iterator[Callable[[str], None]]:
    """Offer to mount memory of a given size, or remount it, where the folders are."""
    mounted = []

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folders.root], check=True)
        if "remount" not in options:
            mounted.append(options)

    yield mount
    for _ in mounted:
        subprocess.run(["umount", folders.root], check=True)


@pytest.mark.parametrize("inodes", range(2, 14))
def test_a_full_disk(folders: Folders, small_disk: Callable[[str], None], inodes: int) -> None:
    """An ADD works or says that there is no space; a DEL works, and everything is as before."""
    small_disk(f"size=64k,mode=755,nr_inodes={inodes}")
    if inodes < 9:  # the mount and four folders; lock, record, two leases
        with pytest.raises(CniError, match="No space left on device") as raised:
            folders.add("a")
        assert raised.value.code == IO_FAILURE
        assert raised.value.details == "free space or inodes on that file system"
        assert folders.names() == []
        return
    leased = folders.add("a")  # the cursors, being hints, need not fit
    assert folders.names() == leased
    with Store(folders.data, "net") as store:
        store.release([inet.pack(text) for text in leased], "a", "eth0")
    record.remove(folders.state, "net", "a", "eth0")
    assert folders.names() == folders.records() == []


def test_a_read_only_disk(folders: Folders, small_disk: Callable[[str], None]) -> None:
    """Nothing can be leased, and it is said why; CHECK still reads."""
    small_disk("size=64k,mode=755")
    folders.add("a")
    small_disk("remount,ro")
    for work in (lambda: folders.add("b"), lambda: folders.delete("a")):
        with pytest.raises(CniError, match="Read-only file system") as raised:
            work()
        assert raised.value.code == IO_FAILURE
        assert "remount" in raised.value.details
    with Store(folders.data, "net", lock=False, create=False) as store:
        assert store.owner(inet.pack("10.9.0.2")) == ("a", "eth0")


def test_a_holder_that_hangs(folders: Folders) -> None:
    """Our timeout is kept though another process, and host-local behind it, wait for ever."""
    folders.add("a")
    lock = str(folders.leases / "lock")
    with subprocess.Popen(
        ["flock", "--no-fork", lock, "sh", "-c", "echo held; exec sleep 600"],
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with ThreadPoolExecutor(1) as pool:
            behind = pool.submit(folders.host_local_add, "b")
            began = time.monotonic()
            with pytest.raises(CniError) as raised:
                Store(folders.data, "net", 200).open()
            assert 0.2 <= time.monotonic() - began < 30
            assert raised.value.code == TRY_AGAIN
            assert lock in raised.value.msg
            assert not behind.done()
            holder.kill()
            assert behind.result() == ["10.9.0.3", "fd00:9::3"]
    assert folders.add("c")[0] == "10.9.0.4"


def test_system_calls_do_not_depend_on_how_many_leases_there_are(folders: Folders) -> None:
    """Counted by strace on whole processes: with 5,000 leases as many as with none."""

    def count(root: Path) -> dict[str, int]:
        trace = root / "trace"
        script = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n{SCRIPT}"
        subprocess.run(
            [
                *("strace", "-f", "-qq", "-e", "trace=%file,%desc", "-o", str(trace)),
                *(sys.executable, "-I", "-S", "-B", "-c", script, str(root)),
            ],
            check=True,
        )
        counts: dict[str, int] = {}
        for line in trace.read_text().splitlines():
            name = line.split(None, 1)[1].partition("(")[0]
            if name not in ("mmap", "munmap"):  # the allocator's
                counts[name] = counts.get(name, 0) + 1
        return counts

    few, many = folders.root / "few", folders.root / "many"
    for root in (few, many):
        (root / "net").mkdir(parents=True)
        (root / "net/lock").touch()
        (root / "net/last_reserved_ip.0").write_text("10.9.200.7")
    fill(many / "net", make_range("10.9.0.0/16", start="10.9.0.2"), 5000)
    count(few)  # writes .pyc files where it may
    assert count(many) == count(few)
