"""ADD, CHECK and DEL of the built plugin and of the reference chain, alternately."""

import argparse
from pathlib import Path

from . import cli
from .calls import Network, Settings, Spawner, faasm_network, reference_network
from .privatehost import enter, run
from .report import Report
from .timing import VERBS, Series, Table, compare, ratio, verdict

WITH_OPTIONS = dict.fromkeys(VERBS, 0.45)
# By what a row says after the verb: what is measured, and the target of each verb.
CASES: dict[str, tuple[Settings, dict[str, float]]] = {
    "": (Settings(), {"ADD": 0.35, "CHECK": 0.30, "DEL": 0.10}),
    "masquerading": (Settings(masquerade=True), {"ADD": 0.20, "CHECK": 0.30, "DEL": 0.06}),
    "enforceEgress": (Settings(bandwidth={"enforceEgress": "host"}), WITH_OPTIONS),
    "unshapedSubnets": (
        Settings(bandwidth={"unshapedSubnets": ["10.0.0.0/8", "fd00::/8"]}),
        WITH_OPTIONS,
    ),
    "shapedSubnets": (
        Settings(bandwidth={"shapedSubnets": ["10.0.0.0/8", "fd00::/8"]}),
        WITH_OPTIONS,
    ),
    "isolated": (Settings(keys={"isolated": True}), WITH_OPTIONS),
}
PORTS = (0, 1, 32)  # published, of TCP
TARGET_PORTS_MS = 0.5  # of an ADD, more with all of them than with none
STATUS_OF = "masquerading"
TARGET_STATUS = 0.5  # of an ADD of ours
TARGET_PEAK_MIB = 10

DESCRIPTION = """\
Time ADD, CHECK and DEL of the built plugin and of Debian's reference chain (ptp with
host-local, then bandwidth), alternately in one run: plain, with masquerading, and with what
ours has beside that (the chain as in plain). Time STATUS beside our own ADD, and that with
published ports beside that without."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
A time is from starting the first plugin to the exit of the last and the end of its
output; processor time includes what a plugin leaves running; memory is the peak
resident set of any one process. Figures are comparable within one run only."""


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = cli.parser("bench/latency", DESCRIPTION, EPILOG)
    parser.add_argument("--times", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--warm-up", type=int, default=2, metavar="N", help="before these; default: %(default)s"
    )
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    cli.main(lambda: measure(given), lambda: str(given.form))


def measure(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"iptables": "iptables"})
    spawner = Spawner()
    progress = cli.Progress((len(CASES) + 1) * (given.times + given.warm_up))
    tables: dict[str, Table] = {}
    status = Series()
    for case, (settings, _) in CASES.items():
        networks = [
            faasm_network(spawner, given.plugin, settings, scratch),
            reference_network(spawner, given.reference, settings, scratch),
        ]
        tables[case] = compare(networks, given.times, given.warm_up, progress.step)
        if case == STATUS_OF:
            timed = [networks[0].status() for _ in range(given.warm_up + given.times)]
            status.operations += timed[given.warm_up :]
    published = [_publishing(count, spawner, given.plugin, scratch) for count in PORTS]
    of_ports = compare(published, given.times, given.warm_up, progress.step)
    progress.end()
    report = _report(tables, status, given.times, scratch)
    _report_ports(of_ports, report)
    report.notes.append(
        f"No memory figure can be below {spawner.floor_kib() / 1024:.1f} MiB: that is the measuring process."
    )
    spawner.close()
    return report


def _publishing(count: int, spawner: Spawner, plugin: Path, scratch: Path) -> Network:
    """Return a network of ours whose containers publish so many ports."""
    ports = [{"hostPort": 20000 + 7 * each, "containerPort": 80 + each} for each in range(count)]
    settings = Settings(masquerade=True, keys={"runtimeConfig": {"portMappings": ports}})
    made = faasm_network(spawner, plugin, settings, scratch, f"bench-ports-{count}")
    made.title = f"{count} ports"
    return made


def _report_ports(table: Table, report: Report) -> None:
    series = [table[f"{count} ports"]["ADD"] for count in PORTS]
    more_ms = series[-1].median_ms() - series[0].median_ms()
    report.figures["ports"] = {
        **{f"{count}": one.figures() for count, one in zip(PORTS, series, strict=True)},
        "moreMs": more_ms,
        "target": TARGET_PORTS_MS,
        "met": more_ms <= TARGET_PORTS_MS,
    }
    times = ", ".join(
        f"{count}: {one.median_ms():.2f} ms (CPU {one.cpu_ms():.2f})"
        for count, one in zip(PORTS, series, strict=True)
    )
    report.notes.append(
        f"ADD, masquerading, by published ports: {times}; {more_ms:.2f} ms more with {PORTS[-1]};"
        f" {verdict(more_ms, TARGET_PORTS_MS)}."
    )


def _report(tables: dict[str, Table], status: Series, times: int, scratch: Path) -> Report:
    report = Report(
        f"ADD, CHECK and DEL, {times} times each, alternately",
        [
            "",
            "faasm ms",
            "p95",
            "chain ms",
            "p95",
            "ratio",
            "target",
            "CPU ms",
            "chain",
            "MiB",
            "chain",
        ],
    )
    peak = 0.0
    for case, table in tables.items():
        for verb in VERBS:
            ours, theirs = table["faasm"][verb], table["reference"][verb]
            times_theirs = ratio(ours, theirs)
            goal = CASES[case][1][verb]
            peak = max(peak, ours.peak_mib())
            title = verb + (f", {case}" if case else "")
            report.rows.append(
                [
                    title,
                    *_times(ours),
                    *_times(theirs),
                    f"{times_theirs:.2f}",
                    verdict(times_theirs, goal),
                    *[f"{series.cpu_ms():.1f}" for series in (ours, theirs)],
                    *[f"{series.peak_mib():.1f}" for series in (ours, theirs)],
                ]
            )
            report.figures[title] = {
                "faasm": ours.figures(),
                "reference": theirs.figures(),
                "ratio": times_theirs,
                "target": goal,
                "met": times_theirs <= goal,
            }
    of_add = ratio(status, tables[STATUS_OF]["faasm"]["ADD"])
    report.figures["STATUS"] = {
        "faasm": status.figures(),
        "ratioToADD": of_add,
        "target": TARGET_STATUS,
        "met": of_add <= TARGET_STATUS,
    }
    report.figures["peakMiB"] = {
        "faasm": peak,
        "target": TARGET_PEAK_MIB,
        "met": peak <= TARGET_PEAK_MIB,
    }
    report.notes += [
        f"STATUS, {STATUS_OF}: {status.median_ms():.1f} ms, {of_add:.2f} of an ADD; {verdict(of_add, TARGET_STATUS)}.",
        f"Resident memory of one call of ours: {peak:.1f} MiB at most; {verdict(peak, TARGET_PEAK_MIB)}.",
        f"Leases and records on {run(['stat', '--file-system', '--format=%T', str(scratch)]).strip()}.",
        "CPU: user and system time of all processes of a verb, those left running included.",
    ]
    return report


def _times(series: Series) -> list[str]:
    return [f"{series.median_ms():.1f}", f"{series.p95_ms():.1f}"]
