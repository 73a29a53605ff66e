"""Slots: what a claim and a return take, and what many of them cost.

Claims and returns are made by cni_faasm.slots, in a process that is there already, as programs make them.
ADD and DEL of ours and of the reference chain stand beside them: what a function would wait for
without slots.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from . import cli, slots_growth
from .calls import (
    REFERENCE_PACKAGE,
    Attachment,
    Operation,
    Settings,
    Spawner,
    faasm_network,
    reference_network,
)
from .privatehost import NAMESPACES, PROJECT, BenchError, add_namespace, delete_namespace, enter
from .report import Report
from .slots_growth import kernel_kib
from .stats import median

sys.path.insert(0, str(PROJECT))
from cni_faasm import slots

TOOL = str(PROJECT / "dist" / "faasm" / "cni-faasm")
SIZES = (100, 1000, 4000)
CLAIMS = 100
AT_ONCE = 200
CALLS = 20
RATE_BPS = 33_554_432
POLL_S = 0.0001
WAIT_S = 300.0
POOL = slots.POOL

DESCRIPTION = """\
Time slots (docs/slots.md): a claim, a return, until what was returned has been made as new, 200
claims at once, and pools of 100 to 4,000 slots; beside ADD and DEL of ours and of Debian's
reference chain."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left."""


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = cli.parser("bench/slots", DESCRIPTION, EPILOG)
    parser.add_argument("--tool", default=TOOL, metavar="COMMAND", help="default: %(default)s")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=list(SIZES),
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--times", type=int, default=CLAIMS, metavar="N", help="of each; default: %(default)s"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=AT_ONCE,
        metavar="N",
        help="processes that claim at the same moment; default: %(default)s",
    )
    parser.add_argument(
        "--growth", action="store_true", help="only how the cost grows with the number of slots"
    )
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    cli.main(lambda: measure(given), lambda: str(given.form))


class Server:
    """A `pool serve` that runs in the background."""

    def __init__(self, tool: list[str], conf: Path, *words: str) -> None:
        """Start it, and wait until all slots are free."""
        self._tool = tool
        self._conf_dir = str(conf.parent)
        command = [
            *tool,
            "pool",
            "serve",
            *words,
            "--conf",
            str(conf),
            "--conf-dir",
            self._conf_dir,
        ]
        begin = time.perf_counter()
        self.process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
        stdout: IO[str] | None = self.process.stdout
        for line in stdout or ():
            if json.loads(line).get("event") == "ready":
                break
        else:
            raise BenchError(f"{shlex.join(command)} has ended")
        self.seconds = time.perf_counter() - begin

    def end(self) -> float:
        """End it and take the pool away; return how long that took."""
        self.process.terminate()
        self.process.communicate()
        begin = time.perf_counter()
        run([*self._tool, "pool", "down", "--force", "--conf-dir", self._conf_dir])
        return time.perf_counter() - begin


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{shlex.join(command)}: {done.stdout}{done.stderr}".strip())


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long something took, and what it gave."""
    begin = time.perf_counter()
    given = act()
    return time.perf_counter() - begin, given


def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for a fact; return how long that took."""
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > WAIT_S:
            raise BenchError(f"waited in vain for {what}")
        time.sleep(POLL_S)
    return time.perf_counter() - begin


def count(state: str) -> int:
    """Return how many slots are in a state."""
    # What is being written has a name that begins with a dot.
    return sum(name.isdigit() for name in os.listdir(f"{slots.ROOT}/{POOL}/{state}"))


def turns(server_size: int, times: int) -> dict[str, list[float]]:
    """Claim and return one slot after the other, each when all is quiet again."""
    found: dict[str, list[float]] = {"claim": [], "return": [], "gone": [], "refilled": []}
    for _ in range(times):
        seconds, slot = timed(slots.claim)
        found["claim"].append(seconds)
        found["refilled"].append(until(lambda: count("free") >= server_size, "another slot"))
        seconds, _ = timed(slot.give_back)
        found["return"].append(seconds)
        found["gone"].append(until(lambda: count("returned") == 0, "it to be taken away"))
    return found


def one_slot(tool: list[str], conf: Path, times: int, reserve: int, rest_s: float) -> list[float]:
    """Return how long a pool of one takes from a return until one is free again.

    reserve: how many are ready to take its place. rest_s: pause before each turn.
    """
    words = ("1", "--most", "1", "--reserve", str(reserve), "--rest", "0")
    server = Server(tool, conf, *words)
    found = []
    for _ in range(times):
        if rest_s:
            until(lambda: count("reserve") == reserve and not count("returned"), "the reserve")
            time.sleep(rest_s)
        slot = slots.claim()
        begin = time.perf_counter()
        slot.give_back()
        until(lambda: count("free") == 1, "one to be free again")
        found.append(time.perf_counter() - begin)
    server.end()
    return found


def at_once(number: int) -> tuple[list[float], list[float]]:
    """Have so many processes claim a slot at the same moment.

    Returns: what each one took by the clock, and of a processor.
    """
    ready, begun = os.pipe(), os.pipe()
    results = os.pipe()
    children = []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            os.close(begun[1])
            os.write(ready[1], b".")
            os.read(begun[0], 1)  # its end is the beginning
            before = time.thread_time()
            seconds, slot = timed(slots.claim)
            busy = time.thread_time() - before
            os.write(results[1], f"{seconds:.9f} {busy:.9f} {slot.number}\n".encode())
            os._exit(0)
        children.append(child)
    left = number
    while left:
        left -= len(os.read(ready[0], left))
    os.close(begun[1])
    for child in children:
        os.waitpid(child, 0)
    os.close(results[1])
    with os.fdopen(results[0]) as file:
        lines = [line.split() for line in file]
    for descriptor in (*ready, begun[0]):
        os.close(descriptor)
    if len({line[2] for line in lines}) != number:
        raise BenchError("not every process got a slot of its own")
    return [float(line[0]) for line in lines], [float(line[1]) for line in lines]


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def configuration(scratch: Path) -> Path:
    """Write the network's file."""
    plugin = {
        "type": "faasm",
        "mtu": 1500,
        "ipMasq": True,
        "stateDir": str(scratch / "slots-state"),
        "bandwidth": {"ingressRate": RATE_BPS, "egressRate": RATE_BPS},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.200.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(scratch / "slots-leases"),
        },
    }
    folder = scratch / "net.d"
    folder.mkdir()
    path = folder / "10-slots.conflist"
    listed = {"cniVersion": "1.0.0", "name": "slots", "plugins": [plugin]}
    path.write_text(json.dumps(listed), encoding="ascii")
    return path


def calls(plugin: Path, reference: Path, scratch: Path, times: int) -> dict[str, list[float]]:
    """Return how long ADD and DEL take, of ours and of the chain."""
    spawner = Spawner()
    settings = Settings(
        subnet="10.201.0.0/16", mtu=1500, rate_bps=RATE_BPS, burst_bytes=15140, masquerade=True
    )
    theirs = reference_network(spawner, reference, settings, scratch)
    settings = Settings(
        subnet="10.202.0.0/16", mtu=1500, rate_bps=RATE_BPS, burst_bytes=15140, masquerade=True
    )
    networks = {"ours": faasm_network(spawner, plugin, settings, scratch), "chain": theirs}
    found: dict[str, list[float]] = {}
    for turn in range(times):
        for title, network in networks.items():
            name = f"bench{turn}"
            add_namespace(name)
            attachment = Attachment(name, str(NAMESPACES / name))
            for verb in ("add", "delete"):
                done: Operation = getattr(network, verb)(attachment)
                found.setdefault(f"{verb} {title}", []).append(done.seconds)
            delete_namespace(name)
    spawner.close()
    return found


def many(tool: list[str], conf: Path, size: int, times: int) -> dict[str, Any]:
    """Make so many slots, look at them, use some, and take them away."""
    before = kernel_kib()
    server = Server(tool, conf, str(size), "--rest", "0", "--look", "3600")
    made = server.seconds
    memory = (kernel_kib() - before) / size
    status, _ = timed(lambda: run([*tool, "pool", "status", "--json"]))
    used = turns(size, times)
    return {
        "made": made,
        "kib": memory,
        "list": status,
        "claim": used["claim"],
        "refilled": used["refilled"],
        "gone": used["gone"],
        "removed": server.end(),
    }


def measure(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"nft": "nftables", "iptables": "iptables"})
    tool = shlex.split(given.tool)
    Path("/etc/resolv.conf").write_text("nameserver 9.9.9.9\n", encoding="ascii")
    conf = configuration(scratch)
    if given.growth:
        return slots_growth.measure(tool, conf, scratch / "slots-state", given.sizes)
    progress = cli.Progress(5 + len(given.sizes))
    progress.step("ADD and DEL")
    verbs = calls(given.plugin, given.reference, scratch, min(given.times, CALLS))
    progress.step("claims and returns")
    server = Server(tool, conf, "32", "--rest", "0")
    found = turns(32, given.times)
    server.end()
    progress.step("a pool of one")
    again = one_slot(tool, conf, given.times, 1, 0.01)
    progress.step("a pool of one without pause")
    endless = {n: one_slot(tool, conf, given.times, n, 0) for n in (0, 8)}
    progress.step(f"{given.at_once} claims at once")
    server = Server(tool, conf, str(2 * given.at_once), "--rest", "0")
    crowd, crowd_busy = at_once(given.at_once)
    server.end()
    sizes = {}
    for size in given.sizes:
        progress.step(f"{size} slots")
        sizes[size] = many(tool, conf, size, min(given.times, CALLS))
    progress.end()
    return report(
        {
            **found,
            "again": again,
            "endless": endless[0],
            "endless reserve": endless[8],
            "crowd": crowd,
            "crowd busy": crowd_busy,
            **verbs,
        },
        sizes,
    )


def report(found: dict[str, list[float]], sizes: dict[int, dict[str, Any]]) -> Report:
    """Return the figures of single slots, then those of many."""
    made = Report("Slots", ["milliseconds", "median", "p99", "most", "target"])
    targets = {"claim": 0.1, "return": 0.1, "again": 5.0}
    for key, title in (
        ("claim", "claim"),
        ("return", "return"),
        ("again", "returned until free again, the only slot"),
        ("endless", "the same, again and again, no reserve"),
        ("endless reserve", "the same, again and again, a reserve of 8"),
        ("refilled", "claimed until another one is free"),
        ("gone", "returned until taken away"),
        ("crowd", f"first claim, {len(found['crowd'])} processes at once"),
        ("crowd busy", "of a processor, each of these"),
        ("add ours", "ADD of ours"),
        ("delete ours", "DEL of ours"),
        ("add chain", "ADD of the chain"),
        ("delete chain", "DEL of the chain"),
    ):
        values = [1000 * one for one in found[key]]
        goal = ""
        if key in targets:
            met = median(values) <= targets[key]
            goal = f"≤ {targets[key]:g} {'met' if met else 'MISSED'}"
        figures = (median(values), percentile(values, 99), max(values))
        made.rows.append([title, *(f"{one:.3f}" for one in figures), goal])
    made.figures = {"milliseconds": found, "sizes": sizes}
    for size, one in sizes.items():
        parts = [
            f"{size} slots: made in {one['made']:.1f} s ({1000 * one['made'] / size:.1f} ms each)",
            f"removed in {one['removed']:.1f} s",
            f"pool status in {one['list']:.2f} s",
            f"{one['kib']:.0f} KiB of the kernel's each",
            f"claim {1000 * median(one['claim']):.3f} ms",
            f"another one after {1000 * median(one['refilled']):.1f} ms",
            f"taken away after {1000 * median(one['gone']):.1f} ms",
        ]
        made.notes.append("; ".join(parts))
    made.notes.append(f"The chain: ptp with host-local, then bandwidth ({REFERENCE_PACKAGE}).")
    return made
