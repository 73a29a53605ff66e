"""How the cost of one slot grows with their number: of the whole, and of what the kernel does.

On a busy machine the time on the clock says little, so processor time stands beside it: of the
command, and of this thread for single steps, which the kernel does in our own system calls.
"""

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .privatehost import PROJECT, BenchError
from .report import Report
from .stats import median

sys.path.insert(0, str(PROJECT))
from cni_faasm.cli import attachments
from cni_faasm.cli.pool import netfolder
from cni_faasm.limits import shaping
from cni_faasm.link import netns, veth
from cni_faasm.netlink import addr, link, route
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.rules import limit_tables
from cni_faasm.rules.guard_rules import FAMILIES

TURNS = 15
NETWORK = "slots"
GATEWAY = bytes([10, 200, 0, 1])

Steps = dict[str, list[float]]


def measure(tool: list[str], conf: Path, state_dir: Path, sizes: list[int]) -> Report:
    """Make pools of each size, take single steps beside them, and take the pools away."""
    found = {size: _of_size(tool, conf, state_dir, size) for size in sizes}
    made = Report("Slots: how the cost grows", ["", *(f"{size:,} slots" for size in sizes)])
    for title in found[sizes[0]]:
        made.rows.append([title, *(found[size][title] for size in sizes)])
    made.figures = {"sizes": found}
    made.notes.append(
        "Seconds are those of the clock, in brackets those of processors. Steps are medians of "
        f"{TURNS}, in milliseconds of processor time."
    )
    return made


def _of_size(tool: list[str], conf: Path, state_dir: Path, size: int) -> dict[str, str]:
    folder = ["--conf-dir", str(conf.parent)]
    before = kernel_kib()
    row = {"pool up": _command([*tool, "pool", "up", str(size), "--conf", str(conf), *folder])}
    kib = (kernel_kib() - before) / size
    row["pool status"] = _command([*tool, "pool", "status"])
    steps = _steps(_shape(state_dir))
    row |= {title: f"{1000 * median(each):.3f}" for title, each in steps.items()}
    row |= _counts()
    row["memory of the kernel's for each, KiB"] = f"{kib:.0f}"
    row["pool down"] = _command([*tool, "pool", "down", *folder])
    return row


def _command(command: list[str]) -> str:
    """Run a command that must succeed; return its time and processor time."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{seconds:.1f} ({busy:.1f}) s"


def _shape(state_dir: Path) -> shaping.Shape:
    """Return the limit that the pool's members have."""
    for one in attachments.every([str(state_dir)]):
        if one.promised is not None and one.promised.ingress is not None:
            return one.promised.ingress
    raise BenchError("no member of the pool has a limit")


def _steps(shape: shaping.Shape) -> Steps:
    """Make a slot step by step and take it away, some times."""
    steps: Steps = {}
    own_fd = netns.open_own()
    netfolder.prepare()
    with Netlink() as host, Netlink(NETLINK_NETFILTER) as netfilter:
        for turn in range(TURNS):
            name = f"growth{turn}"
            with _timed(steps, "namespace made"):
                netfolder.add(name, own_fd)
            try:
                _turn(steps, (host, netfilter), shape, name, turn)
            finally:
                with _timed(steps, "namespace unmounted"):
                    netfolder.remove(name)
    os.close(own_fd)
    return steps


def _turn(
    steps: Steps, sockets: tuple[Netlink, Netlink], shape: shaping.Shape, name: str, turn: int
) -> None:
    host, netfilter = sockets
    fd = os.open(netfolder.path_of(name), os.O_RDONLY)
    inner = netns.connect(netfolder.path_of(name))
    outside, inside = f"grow{turn}", f"growp{turn}"
    macs = [bytes([2, 0xFA, 0xA5, 0, end, turn]) for end in (0, 1)]
    with inner, _closed(fd):
        pair = link.new_veth(outside, inside, fd, mtu=1500, address=macs[0], peer_address=macs[1])
        with _timed(steps, "pair made"):
            made = veth.new_pair(host, inner, pair, inside)
        address = bytes([198, 51, 100, turn])
        with _timed(steps, "host's end up"):
            host.execute([link.set_link(made.ifindex, up=True)])
        with _timed(steps, "address of the host's"):
            host.execute([addr.new_addr(made.ifindex, GATEWAY, 32, nodad=True)])
        with _timed(steps, "route"):
            host.execute([route.new_route(address, 32, made.ifindex)])
        with _timed(steps, "route looked up"):
            host.execute([route.get_route(address)])
        with _timed(steps, "queues of the host's end"):
            host.execute(shaping.messages(made.ifindex, shape))
        with _timed(steps, "queues of the other end"):
            inner.execute(shaping.messages(made.link, shape))
        with _timed(steps, "link looked up"):
            veth.find(host, ifindex=made.ifindex)
        table, bucket = limit_tables.table_name(NETWORK), limit_tables.bucket_of_shape(shape, 1500)
        if bucket is not None:
            held = [limit_tables.Element(one, limit_tables.SET, bucket) for one in FAMILIES]
            added = [each for one in held for each in limit_tables.addition(table, outside, one)]
            with _timed(steps, "nft elements put in"):
                netfilter.nft_batch(added)
            netfilter.nft_batch(
                [limit_tables.removal(table, outside, one.family, one.set) for one in held]
            )
        with _timed(steps, "pair deleted"):
            host.execute([link.del_link(ifindex=made.ifindex)])


@contextlib.contextmanager
def _closed(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _timed(steps: Steps, title: str) -> Iterator[None]:
    begin = time.thread_time()
    yield
    steps.setdefault(title, []).append(time.thread_time() - begin)


def _counts() -> dict[str, str]:
    """Return how many there are of what the kernel keeps of slots."""

    def lines(*command: str) -> int:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return len(done.stdout.splitlines())

    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    count: Callable[[Any], str] = "{:,}".format
    return {
        "links of the host": count(lines("ip", "-oneline", "link")),
        "namespaces": count(len(os.listdir(netfolder.FOLDER))),
        "routes": count(lines("ip", "route", "show", "table", "all")),
        "nft elements": count(listed.stdout.count("limit rate over")),
    }


def kernel_kib() -> int:
    """Return how much memory the kernel uses for its objects, of all namespaces."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    held = dict(line.split(":") for line in text.splitlines())
    return sum(int(held[key].split()[0]) for key in ("Slab", "Percpu"))
