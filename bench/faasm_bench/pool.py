"""Pools of 1 to 500 shaped namespaces: ours, a plain shell script, the reference chain.

The script calls `ip` and `tc` once for each thing, as such scripts do, and makes the same
state: the last member of each pool is compared before it counts. The chain is called as
libcni does, after `ip netns add` has made the namespace.
"""

import argparse
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import cli
from .calls import (
    REFERENCE_PACKAGE,
    Attachment,
    Network,
    Settings,
    Spawner,
    reference_network,
)
from .privatehost import NAMESPACES, PROJECT, BenchError, enter, run
from .report import Report
from .stats import median

SIZES = (1, 10, 100, 500)
TIMES = {1: 7, 10: 5, 100: 3, 500: 1}
TARGET_SIZE = 100
TARGET = 5.0
TOOL = PROJECT / "dist" / "faasm" / "cni-faasm"
RATE_BPS = 33_554_432
MTU = 1500
# As the plugin has it; tc rounds down to whole microseconds.
BURST_BYTES = RATE_BPS // 8 * 18 // 1000 + 1
CUTTER = f"tbf rate {1 << 60}bps burst 1912b"
QUIET_S = 60.0

DESCRIPTION = """\
Time `cni-faasm pool up` and `pool down` beside a plain shell script of ip and tc calls that
makes the same state, and beside Debian's reference chain (ptp with host-local, then
bandwidth) in namespaces that `ip netns add` made; all with masquerading."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
The three take turns; a time is that of the whole pool, with the start of the tool."""

UP = """\
set -e
sysctl -q -w net.ipv4.ip_forward=1
nft -f - <<'RULES'
table inet faasm_shell {
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip daddr 10.200.0.0/16 return
        ip daddr 224.0.0.0/4 return
        ip saddr 10.200.0.0/16 masquerade
    }
}
RULES
k=1
while [ "$k" -le "$1" ]; do
    ns=faasmns$k
    address=10.200.$(((k + 1) / 256)).$(((k + 1) % 256))
    ip netns add $ns
    mkdir -p /etc/netns/$ns
    echo "nameserver 9.9.9.9" >/etc/netns/$ns/resolv.conf
    ip -n $ns link set lo up
    ip link add faasm$k {end} type veth peer name faasmp$k {end} netns $ns
    ip link set faasm$k up
    ip address add 10.200.0.1/32 dev faasm$k
    ip route add $address/32 dev faasm$k
    tc qdisc add dev faasm$k root handle 1: htb default 1
    tc class add dev faasm$k parent 1: classid 1:1 htb rate {rate}bit burst {burst} cburst {burst}
    tc qdisc add dev faasm$k parent 1:1 handle 11: {cutter}
    tc qdisc add dev faasm$k parent 11:1 handle 10: {leaf}
    ip -n $ns link set faasmp$k up
    ip -n $ns address add $address/32 dev faasmp$k
    ip -n $ns route add 10.200.0.1/32 dev faasmp$k
    ip -n $ns route add default via 10.200.0.1 dev faasmp$k
    tc -n $ns qdisc add dev faasmp$k root handle 1: htb default 1
    tc -n $ns class add dev faasmp$k parent 1: classid 1:1 htb rate {rate}bit \\
        burst {burst} cburst {burst}
    tc -n $ns qdisc add dev faasmp$k parent 1:1 handle 11: {cutter}
    tc -n $ns qdisc add dev faasmp$k parent 11:1 handle 10: {leaf}
    k=$((k + 1))
done
"""

DOWN = """\
set -e
k=1
while [ "$k" -le "$1" ]; do
    ip link del faasm$k
    ip netns del faasmns$k
    rm -r /etc/netns/faasmns$k
    k=$((k + 1))
done
nft delete table inet faasm_shell
"""


@dataclass
class Side:
    """One way to make a pool, and how long it took, by size."""

    title: str
    up: Callable[[int], None]
    down: Callable[[int], None]
    ups: dict[int, list[float]] = field(default_factory=dict)
    downs: dict[int, list[float]] = field(default_factory=dict)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = cli.parser("bench/pool", DESCRIPTION, EPILOG)
    parser.add_argument("--tool", type=Path, default=TOOL, help="ours; default: %(default)s")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=list(SIZES),
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--times", type=int, metavar="N", help="of each size; default: fewer of larger ones"
    )
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    cli.main(lambda: measure(given), lambda: str(given.form))


def measure(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"nft": "nftables", "iptables": "iptables"})
    if not given.tool.is_file():
        raise BenchError(f"{given.tool} is missing: make it with {PROJECT / 'build.sh'}")
    Path("/etc/resolv.conf").write_text("nameserver 9.9.9.9\n", encoding="ascii")
    spawner = Spawner()
    sides = [
        _ours(given.tool, scratch),
        _shell(given.tool, scratch),
        _chain(spawner, given.reference, scratch),
    ]
    turns = {size: given.times or TIMES.get(size, 1) for size in given.sizes}
    progress = cli.Progress(len(sides) * sum(turns.values()))
    for size in given.sizes:
        for turn in range(turns[size]):
            for side in sides if turn % 2 else reversed(sides):
                progress.step(f"{size} by {side.title}, {turn + 1} of {turns[size]}")
                _once(side, size)
    progress.end()
    spawner.close()
    return _report(sides, given.sizes)


def _once(side: Side, size: int) -> None:
    start = time.perf_counter()
    side.up(size)
    side.ups.setdefault(size, []).append(time.perf_counter() - start)
    start = time.perf_counter()
    side.down(size)
    side.downs.setdefault(size, []).append(time.perf_counter() - start)
    _await_quiet()


def _await_quiet() -> None:
    """Wait until the kernel has let go of the namespaces: it does that in the background."""
    end = time.monotonic() + QUIET_S
    while time.monotonic() < end:
        if not any("veth" in name or "faasm" in name for name in os.listdir("/sys/class/net")):
            break
        time.sleep(0.1)
    time.sleep(0.5)


def _ours(tool: Path, scratch: Path) -> Side:
    document = {
        "type": "faasm",
        "mtu": MTU,
        "ipMasq": True,
        "stateDir": str(scratch / "state"),
        "bandwidth": {"ingressRate": RATE_BPS, "egressRate": RATE_BPS},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.200.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(scratch / "leases"),
        },
    }
    listed = {"cniVersion": "1.0.0", "name": "bench", "plugins": [document]}
    conf = scratch / "10-bench.conflist"
    conf.write_text(json.dumps(listed), encoding="ascii")
    state = ["--state-dir", str(scratch / "state")]
    return Side(
        "cni-faasm",
        lambda size: _run([str(tool), "pool", "up", str(size), "--conf", str(conf)]),
        lambda _: _run([str(tool), "pool", "down", *state]),
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())


def _state(number: int) -> list[str]:
    """Return the numbers that make a member what it is."""
    namespace, outer, inner = f"faasmns{number}", f"faasm{number}", f"faasmp{number}"
    found = []
    for words in (
        f"tc qdisc show dev {outer}",
        f"tc class show dev {outer}",
        f"tc -n {namespace} qdisc show dev {inner}",
        f"tc -n {namespace} class show dev {inner}",
        f"ip -n {namespace} route show dev {inner}",
        f"ip -br address show dev {outer}",
        f"ip route show dev {outer}",
    ):
        text = run(words.split())
        # The index of the other end, link-local addresses and counters say nothing.
        text = re.sub(r"@if\d+|fe80::\S+|direct_\w+ \d+", "", text)
        found.append(" ".join(text.split()))
    return found


def _shell(tool: Path, scratch: Path) -> Side:
    """Return the script, after making sure that it does what ours does."""
    ours = _ours(tool, scratch)
    ours.up(2)
    wanted = _state(2)
    match = re.search(r"qdisc (\w+) 10: parent 11:1 (?:limit (\d+)b)?", wanted[0])
    if match is None:
        raise BenchError(f"the tool's pool has no leaf queue: {wanted[0]}")
    [link] = json.loads(run(["ip", "-j", "-d", "link", "show", "dev", "faasm2"]))
    gso = link["gso_max_size"]
    ours.down(2)
    values = {
        "end": f"mtu {MTU} numtxqueues 1 numrxqueues 1 gso_max_size {gso} gro_max_size {gso}",
        "rate": str(RATE_BPS),
        "burst": str(BURST_BYTES),
        "cutter": f"{CUTTER} limit {match[2] or RATE_BPS // 8 * 15 // 1000}",
        "leaf": f"bfifo limit {match[2]}" if match[1] == "bfifo" else match[1],
    }
    scripts = []
    for name, text in (("up", UP), ("down", DOWN)):
        path = scratch / f"{name}.sh"
        filled = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)
        path.write_text(filled, encoding="ascii")
        scripts.append(path)
    up, down = scripts
    side = Side(
        "shell script",
        lambda size: _run(["sh", str(up), str(size)]),
        lambda size: _run(["sh", str(down), str(size)]),
    )
    side.up(2)
    made = _state(2)
    side.down(2)
    for mine, its in zip(wanted, made, strict=True):
        if mine != its and "fq_codel" not in mine:
            raise BenchError(f"the script makes another state: {its!r} in place of {mine!r}")
    _await_quiet()
    return side


def _chain(spawner: Spawner, directory: Path, scratch: Path) -> Side:
    settings = Settings(
        subnet="10.201.0.0/16", mtu=MTU, rate_bps=RATE_BPS, burst_bytes=15140, masquerade=True
    )
    network: Network = reference_network(spawner, directory, settings, scratch)

    def attachment(number: int) -> Attachment:
        name = f"faasmns{number}"
        return Attachment(name, str(NAMESPACES / name), f"faasmp{number}")

    def up(size: int) -> None:
        for number in range(1, size + 1):
            _run(["ip", "netns", "add", f"faasmns{number}"])
            _run(["ip", "-n", f"faasmns{number}", "link", "set", "lo", "up"])
            network.add(attachment(number))

    def down(size: int) -> None:
        for number in range(1, size + 1):
            network.delete(attachment(number))
            _run(["ip", "netns", "del", f"faasmns{number}"])

    return Side("reference chain", up, down)


def _report(sides: list[Side], sizes: list[int]) -> Report:
    ours, *others = sides
    report = Report(
        "Pools of shaped namespaces, seconds for the whole pool (median)",
        ["", *(side.title for side in sides), "script/ours", "chain/ours", "target"],
    )
    for word, times in (("up", "ups"), ("down", "downs")):
        for size in sizes:
            taken = [median(getattr(side, times)[size]) for side in sides]
            ratios = [each / taken[0] for each in taken[1:]]
            met = min(ratios) >= TARGET
            goal = ""
            if word == "up" and size == TARGET_SIZE:
                goal = f"≥ {TARGET:g} {'met' if met else 'MISSED'}"
            report.rows.append(
                [f"{word} {size}", *(f"{each:.2f}" for each in taken)]
                + [f"{ratio:.1f}" for ratio in ratios]
                + [goal]
            )
            report.figures[f"{word} {size}"] = {
                side.title: getattr(side, times)[size] for side in (ours, *others)
            }
    report.notes.append(
        f"Limits of {RATE_BPS} bit/s each way, masquerading; the script makes the same state as ours."
    )
    report.notes.append(
        f"The chain: ptp with host-local, then bandwidth ({REFERENCE_PACKAGE}), "
        "in namespaces made by ip netns add."
    )
    return report
