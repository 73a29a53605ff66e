"""TCP goodput and round-trip time under load, ours beside the reference's bandwidth plugin."""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from . import cli
from .calls import (
    Attachment,
    Network,
    Settings,
    Spawner,
    faasm_network,
    reference_network,
)
from .load import Duration, Endpoint, LoadResult, measure, others
from .privatehost import add_namespace, delete_namespace, enter, ip
from .report import Report
from .stats import median

RATES_BPS = (256_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 5_000_000_000)
TOLERANCE_PERCENT = 2.0
SLOW_RATE_BPS = 256_000
SLOW_TOLERANCE_PERCENT = 5.0
# The same side differs by about this much from one run to the next.
EVEN = 1.10
ETHERNET_HEADER = 14
TCP_HEADERS = 20 + 20 + 12  # IPv4, TCP, timestamps
INITIAL_WINDOW = 10  # segments; RFC 6928

CONTAINER = "container"
REMOTE = "remote"
REMOTE_ADDRESS = "192.0.2.2"
UPLINK_ADDRESS = "192.0.2.1"

DESCRIPTION = """\
Measure TCP goodput (iperf3) and the round-trip time of echo requests under that
load, for one container at each rate, sending and receiving, with the host itself and with
another machine (a namespace behind the host), shaped by the built plugin and by the
reference chain's bandwidth plugin in turn."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
The whole table takes about nine minutes; --rates, --paths and --scale make it shorter.

The reference demands a burst, and its queue is 25 ms and that burst. It gets a small one
that reaches the rate: ten full frames (a TCP sender's initial window), or 1 ms of the rate
where that is more. At 256 kbit/s and 1 Mbit/s its round-trip time is about the time that
this burst takes on the line: --reference-burst shows what others give."""


class Route(NamedTuple):
    """Who sends to whom."""

    title: str
    is_sending: bool  # the container
    is_forwarded: bool


PATHS = {
    "host-send": Route("container → host", is_sending=True, is_forwarded=False),
    "host-receive": Route("host → container", is_sending=False, is_forwarded=False),
    "remote-send": Route("container → remote", is_sending=True, is_forwarded=True),
    "remote-receive": Route("remote → container", is_sending=False, is_forwarded=True),
}


@dataclass
class Cell:
    """All runs of one side at one rate on one path."""

    runs: list[LoadResult] = field(default_factory=list)

    def goodput_bps(self) -> float:
        return median([run.bits_per_second for run in self.runs])

    def rtt_ms(self) -> float:
        return median([run.probe.median_ms() for run in self.runs])

    def p95_ms(self) -> float:
        return median([run.probe.p95_ms() for run in self.runs])

    def loss_percent(self) -> float:
        return 100 * median([run.probe.loss for run in self.runs])

    def retransmits(self) -> int:
        return round(median([run.retransmits for run in self.runs]))

    def figures(self) -> dict[str, object]:
        """Return what --json says."""
        return {
            "goodputBps": self.goodput_bps(),
            "rttMs": self.rtt_ms(),
            "rttP95Ms": self.p95_ms(),
            "lossPercent": self.loss_percent(),
            "retransmits": self.retransmits(),
            "runs": [
                {
                    "goodputBps": run.bits_per_second,
                    "rttMs": run.probe.median_ms(),
                    "probes": run.probe.sent,
                }
                for run in self.runs
            ],
        }


def add_rates_and_scale(parser: argparse.ArgumentParser, rates_bps: tuple[int, ...]) -> None:
    """Have a command take rates, these by default, and a factor for all times."""
    parser.add_argument(
        "--rates",
        type=parse_rates,
        default=rates_bps,
        metavar="R,R…",
        help="bit/s; suffixes k, M, G",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="multiply all durations"
    )


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = cli.parser("bench/shaping", DESCRIPTION, EPILOG)
    add_rates_and_scale(parser, RATES_BPS)
    parser.add_argument(
        "--paths", type=_paths, default=tuple(PATHS), metavar="P,P…", help=f"of {', '.join(PATHS)}"
    )
    parser.add_argument("--mtu", type=int, default=1500, help="default: %(default)s")
    parser.add_argument(
        "--flows", type=int, default=1, help="TCP connections; default: %(default)s"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="runs of each cell; their median counts"
    )
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="other processes that never pause"
    )
    parser.add_argument(
        "--congestion", default="cubic", metavar="C", help="of TCP; default: %(default)s"
    )
    parser.add_argument(
        "--reference-burst", type=int, metavar="BYTES", help="default: max(10 frames, 1 ms)"
    )
    return parser.parse_args()


def parse_rates(text: str) -> tuple[int, ...]:
    """Return the rates of a command line."""
    units = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
    try:
        return tuple(
            round(float(word.rstrip("kMG")) * units.get(word[-1:], 1)) for word in text.split(",")
        )
    except ValueError:
        raise argparse.ArgumentTypeError("rates look like 256k,1M,2.5G") from None


def _paths(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(PATHS):
        raise argparse.ArgumentTypeError(f"paths are {', '.join(PATHS)}")
    return names


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    cli.main(lambda: run_all(given), lambda: str(given.form))


def duration(rate_bps: int, scale: float) -> Duration:
    """Return how long to measure: longer where a burst weighs more and packets are few."""
    if rate_bps < 500_000:
        return Duration(5 * scale, 15 * scale)
    if rate_bps < 5_000_000:
        return Duration(3 * scale, 8 * scale)
    return Duration(2 * scale, 4 * scale)


def reference_burst(rate_bps: int, mtu: int, given: int | None) -> int:
    """Return the reference's burst in bytes."""
    return given or max(INITIAL_WINDOW * (mtu + ETHERNET_HEADER), rate_bps // 8000)


def ideal_bps(rate_bps: int, mtu: int) -> float:
    """Return the most that TCP can carry: segments of MTU - 52 in frames of MTU + 14."""
    return rate_bps * (mtu - TCP_HEADERS) / (mtu + ETHERNET_HEADER)


def run_all(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"iperf3": "iperf3"})
    spawner = Spawner()
    connect_remote(given.mtu)
    cells: dict[tuple[int, str], dict[str, Cell]] = {}
    progress = cli.Progress(2 * given.repeat * len(given.rates) * len(given.paths))
    for rate_bps, name in itertools.product(given.rates, given.paths):
        settings = Settings(
            mtu=given.mtu,
            rate_bps=rate_bps,
            burst_bytes=reference_burst(rate_bps, given.mtu, given.reference_burst),
        )
        networks = [
            faasm_network(spawner, given.plugin, settings, scratch),
            reference_network(spawner, given.reference, settings, scratch),
        ]
        row = cells.setdefault((rate_bps, name), {network.title: Cell() for network in networks})
        for number in range(given.repeat):
            for network in networks if number % 2 else reversed(networks):
                progress.step(f"{rate_text(rate_bps)} {PATHS[name].title}, {network.title}")
                row[network.title].runs.append(_run(network, rate_bps, PATHS[name], given))
    progress.end()
    spawner.close()
    return _report(cells, given)


def connect_remote(mtu: int) -> None:
    """Make another machine: a namespace behind a link of this host."""
    add_namespace(REMOTE)
    ip(f"link add uplink mtu {mtu} type veth peer name eth0 mtu {mtu} netns {REMOTE}")
    ip(f"address add {UPLINK_ADDRESS}/24 dev uplink")
    ip("link set uplink up")
    ip(f"address add {REMOTE_ADDRESS}/24 dev eth0", namespace=REMOTE)
    ip("link set eth0 up", namespace=REMOTE)
    ip(f"route add default via {UPLINK_ADDRESS}", namespace=REMOTE)


def _run(network: Network, rate_bps: int, path: Route, given: argparse.Namespace) -> LoadResult:
    attachment = Attachment(CONTAINER, add_namespace(CONTAINER))
    try:
        network.add(attachment)
        [assigned] = network.results[CONTAINER]["ips"]
        container = Endpoint(CONTAINER, str(assigned["address"]).partition("/")[0])
        other = (
            Endpoint(REMOTE, REMOTE_ADDRESS)
            if path.is_forwarded
            else Endpoint(None, str(assigned["gateway"]))
        )
        ends = (container, other) if path.is_sending else (other, container)
        with others(given.busy):
            result = measure(
                *ends,
                rate_bps,
                duration(rate_bps, given.scale),
                flows=given.flows,
                congestion=given.congestion,
            )
        network.delete(attachment)
    finally:
        network.delete_all()
        delete_namespace(CONTAINER)
    return result


def _report(cells: dict[tuple[int, str], dict[str, Cell]], given: argparse.Namespace) -> Report:
    report = Report(
        "TCP goodput and round-trip time under load, faasm beside the reference chain",
        [
            "",
            "path",
            "goodput",
            "chain",
            "RTT ms",
            "p95",
            "chain ms",
            "p95",
            "lost",
            "chain",
            "resent",
            "chain",
            "goodput",
            "RTT",
        ],
    )
    for (rate_bps, name), row in cells.items():
        ours, theirs = row["faasm"], row["reference"]
        ideal = ideal_bps(rate_bps, given.mtu)
        reached = is_reached(rate_bps, ours.goodput_bps() / ideal)
        judged = judge_rtt(ours.rtt_ms(), theirs.rtt_ms())
        report.rows.append(
            [
                rate_text(rate_bps),
                PATHS[name].title,
                f"{100 * ours.goodput_bps() / ideal:.1f} %",
                f"{100 * theirs.goodput_bps() / ideal:.1f} %",
                *_times(ours),
                *_times(theirs),
                *[f"{cell.loss_percent():.0f} %" for cell in (ours, theirs)],
                *[str(cell.retransmits()) for cell in (ours, theirs)],
                "met" if reached else "MISSED",
                judged,
            ]
        )
        report.figures[f"{rate_bps} {name}"] = {
            "faasm": ours.figures(),
            "reference": theirs.figures(),
            "idealBps": ideal,
            "goodputMet": reached,
            "rtt": judged,
        }
    report.notes += _notes(given)
    return report


def is_reached(rate_bps: int, share: float) -> bool:
    """Say whether a goodput is as near to the ideal one as it has to be."""
    tolerance = SLOW_TOLERANCE_PERCENT if rate_bps <= SLOW_RATE_BPS else TOLERANCE_PERCENT
    return abs(100 * share - 100) <= tolerance


def judge_rtt(ours_ms: float, theirs_ms: float) -> str:
    """Say how a round-trip time compares."""
    if ours_ms <= theirs_ms:
        return "met"
    return "even" if ours_ms <= theirs_ms * EVEN else "MISSED"


def _notes(given: argparse.Namespace) -> Sequence[str]:
    chosen = (
        f"{given.reference_burst} bytes"
        if given.reference_burst
        else f"{INITIAL_WINDOW} frames ({reference_burst(0, given.mtu, None)} bytes) or 1 ms of the rate"
    )
    goodput = (
        f"Goodput as a share of rate x {given.mtu - TCP_HEADERS}/{given.mtu + ETHERNET_HEADER}"
        f" (MTU {given.mtu}: segment by frame), {given.congestion}, connections: {given.flows}, runs of each:"
        f" {given.repeat}; met: within {TOLERANCE_PERCENT:g} %, at 256 kbit/s"
        f" {SLOW_TOLERANCE_PERCENT:g} %."
    )
    rtt = (
        "RTT: of echo requests sent the same way as the load; met: no more than the chain's,"
        f" even: at most {EVEN - 1:.0%} more, which a side differs by from one run to the next."
    )
    busy = [f"Beside it {given.busy} processes ran that never pause"] if given.busy else []
    return [*busy, goodput, rtt, f"The chain's burst: {chosen}. Ours computes its own."]


def _times(cell: Cell) -> list[str]:
    return [_milliseconds(cell.rtt_ms()), _milliseconds(cell.p95_ms())]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate_text(rate_bps: int) -> str:
    """Return a rate for a table."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if rate_bps >= size:
            return f"{rate_bps / size:g} {unit}bit/s"
    return f"{rate_bps} bit/s"
