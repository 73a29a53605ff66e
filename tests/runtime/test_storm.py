"""Many calls at once, some of them killed: no duplicate, no leak, no deadlock.

The long form (--soak) is 20,000 cycles, after which nothing of the host's may have grown.
"""

import concurrent.futures
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, BUNDLE, Host, Namespace, built_plugin, wait_until

CALLS = 500
AT_ONCE = 32
CYCLES = 20_000
TRY_AGAIN = 11


class Storm:
    """Threads that attach and detach containers, each its own; and what they must keep to."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.seed = seed
        self.lock = threading.Lock()
        self.leased: dict[str, str] = {}
        self.killed = 0
        self.busy = 0
        limits = {"ingressRate": 8_000_000, "egressRate": 8_000_000}
        self.networks = [
            {**host.config(ipMasq=True, bandwidth=limits), "name": name} for name in ("one", "two")
        ]
        # Two networks on one store, the second with other addresses.
        self.networks[1]["ipam"] = {**self.networks[1]["ipam"], "subnet": "10.201.0.0/16"}

    def live(self, number: int, container: Namespace) -> None:
        """Attach and detach one container again and again."""
        chance = random.Random(self.seed + number)
        for turn in range(CALLS // AT_ONCE + 1):
            network = self.networks[(number + turn) % 2]
            if chance.random() < 0.15:
                self.kill("ADD", container, network, chance.uniform(0, 0.06))
            else:
                call = self.host.cni("ADD", container, network, timeout=120)
                if call.status and call.document["code"] == TRY_AGAIN:
                    with self.lock:
                        self.busy += 1
                else:
                    self.note(call.ok(), container)
            self.forget(container)
            if chance.random() < 0.15:
                self.kill("DEL", container, network, chance.uniform(0, 0.06))
            self.delete(container, network)

    def delete(self, container: Namespace, network: dict[str, Any]) -> None:
        self.insist("DEL", container, network)

    def insist(self, verb: str, container: Namespace | None, network: dict[str, Any]) -> None:
        """Call again as long as the answer is to do so later."""
        for _ in range(20):
            call = self.host.cni(verb, container, network, timeout=120)
            if call.status == 0 or call.document["code"] != TRY_AGAIN:
                break
            with self.lock:
                self.busy += 1
        call.ok()

    def note(self, result: dict[str, Any], container: Namespace) -> None:
        address = result["ips"][0]["address"]
        with self.lock:
            other = self.leased.setdefault(address, container.name)
        assert other == container.name, f"{address} is leased to {other} and {container.name}"

    def forget(self, container: Namespace) -> None:
        with self.lock:
            for address in [a for a, name in self.leased.items() if name == container.name]:
                del self.leased[address]

    def kill(
        self, verb: str, container: Namespace, network: dict[str, Any], seconds: float
    ) -> None:
        """Begin a call and kill it on its way; it may be done before."""
        seconds_text = f"{seconds:.4f}"
        command = ["timeout", "--signal", "KILL", seconds_text, *self.host.plugin]
        call = self.host.cni(verb, container, network, plugin=command, timeout=120)
        if call.status in (-9, 137):
            with self.lock:
                self.killed += 1


@pytest.fixture
def host(make_host: Callable[[list[str]], Host]) -> Host:
    assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"
    return make_host(built_plugin())


def test_a_storm_with_kills(host: Host) -> None:
    containers = [host.add_container() for _ in range(AT_ONCE)]
    before = host.snapshot()
    storm = Storm(host, seed=7)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(storm.live, *one) for one in enumerate(containers)]:
            done.result(timeout=300)
    assert storm.killed > 20
    for network in storm.networks:
        document = {**network, "cni.dev/valid-attachments": []}
        storm.insist("GC", None, document)
    assert host.leases() == {}
    assert host.records() == {}
    assert all(container.links() == [] for container in containers)
    wait_until(lambda: host.links() == [], "the links to go")
    host.assert_unchanged(before, ignore={*AFTER_LAST_DEL, "containers"})


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_somebody_who_holds_the_lock_and_hangs(host: Host, verb: str) -> None:
    container = host.add_container()
    network = host.config(lockTimeout=300)
    if verb == "DEL":
        host.add(container, network)
    with host.lock_held():
        begin = time.monotonic()
        error = host.cni(verb, container, network).error(11)
        assert 0.3 <= time.monotonic() - begin < 9  # 10 s are the default
        assert "try again later" in error["msg"]
    if verb == "ADD":
        host.add(container, network)
    host.delete_attachment(container, network)
    assert host.leases() == {}
    assert host.links() == []


def _figures() -> dict[str, float]:
    """Return what the kernel holds for everybody, as far as it can be counted."""
    found: dict[str, float] = {
        "file handles": float(Path("/proc/sys/fs/file-nr").read_text().split()[0])
    }
    for line in Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()[2:]:
        words = line.split()
        if words[0] in ("net_namespace", "fib6_node", "ip_fib_trie", "neighbour"):
            found[words[0]] = float(words[1])
    memory = Path("/proc/meminfo").read_text(encoding="ascii")
    found["MiB not to be had"] = sum(
        sign * float(line.split()[1]) / 1024
        for name, sign in (("MemTotal", 1), ("MemAvailable", -1))
        for line in memory.splitlines()
        if line.startswith(f"{name}:")
    )
    return found


def test_thousands_of_cycles(host: Host, request: pytest.FixtureRequest) -> None:
    """After them descriptors, memory, kernel objects and latency are as before.

    The figures are printed: pytest's -rP shows them.
    """
    cycles = CYCLES if request.config.getoption("--soak") else 200
    host.add_remote()
    network = host.config(ipMasq=True, bandwidth={"ingressRate": 8_000_000})
    containers = [host.add_container() for _ in range(2)]

    def live(container: Namespace, number: int) -> list[float]:
        times = []
        for _ in range(number):
            begin = time.monotonic()
            host.add(container, network)
            host.delete_attachment(container, network)
            times.append(time.monotonic() - begin)
        return times

    for container in containers:
        live(container, 20)
    before = _figures()
    own = len(os.listdir("/proc/self/fd"))
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(live, containers, [cycles // 2] * 2))
    seconds = time.monotonic() - begin
    print(f"{cycles} cycles in {seconds:.0f} s, {cycles / seconds:.0f} a second")
    assert len(os.listdir("/proc/self/fd")) == own
    after = _figures()
    for name, value in before.items():
        growth = after[name] - value
        print(f"{name}: {value:.0f} → {after[name]:.0f}")
        assert growth <= max(0.05 * value, 200), f"{name}: {value} → {after[name]}"
    for times in done:
        # A tenth of the short form is over in the time that a busy machine may be away.
        part = len(times) // (10 if cycles == CYCLES else 2)
        first, last = statistics.median(times[:part]), statistics.median(times[-part:])
        print(
            f"a cycle's median: {first * 1000:.1f} ms in the first {part}, {last * 1000:.1f} last"
        )
        assert last < first * 1.5, f"a cycle took {first * 1000:.1f} ms, then {last * 1000:.1f}"
    assert host.leases() == {}
    assert host.records() == {}
    gone = host.state_dir / "testnet" / "gone"
    assert gone.stat().st_size < 65536
