"""ADD, CHECK and DEL with none to tens of thousands of leases in the store."""

import argparse
import ipaddress
import itertools
from pathlib import Path

from . import cli
from .calls import (
    Attachment,
    Network,
    Settings,
    Spawner,
    faasm_network,
    reference_network,
)
from .privatehost import BenchError, add_namespace, delete_namespace, enter, run
from .report import Report
from .timing import VERBS, Series, Table, compare, ratio, verdict

TARGET_GROWTH = 1.2
COUNTS = (0, 1000, 10_000, 50_000)
WARM_UP = 1

DESCRIPTION = """\
Time ADD, CHECK and DEL of the built plugin and of the reference chain with 0, 1,000, 10,000
and 50,000 leases in the store, alternately in one run."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
Each lease is a file as host-local writes it; for ours there is an attachment record for each
as well, as on a host with that many containers. The cursor stands behind the last lease, as
round robin leaves it."""


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = cli.parser("bench/leases", DESCRIPTION, EPILOG)
    parser.add_argument("--times", type=int, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--counts", type=_counts, default=COUNTS, metavar="N,N…", help="numbers of leases"
    )
    return parser.parse_args()


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(sorted({0, *(int(word) for word in text.split(","))}))
    if counts[0] < 0 or counts[-1] > 65_000:
        raise argparse.ArgumentTypeError("0 to 65000 leases fit the benchmark's /16")
    return counts


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    cli.main(lambda: measure(given), lambda: str(given.form))


def measure(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {})
    spawner = Spawner()
    progress = cli.Progress(len(given.counts) + WARM_UP + given.times)
    networks: list[Network] = []
    for count in given.counts:
        progress.step(f"making {count} leases")
        ours = faasm_network(spawner, given.plugin, Settings(), scratch, f"bench-faasm-{count}")
        theirs = reference_network(
            spawner, given.reference, Settings(), scratch, f"bench-ref-{count}"
        )
        ours.title, theirs.title = f"faasm {count}", f"chain {count}"
        fill(theirs, scratch, count)
        fill(ours, scratch, count)
        fill_records(ours, scratch, count)
        networks += [ours, theirs]
    table = compare(networks, given.times, WARM_UP, progress.step)
    for network, count in itertools.product(networks, given.counts):
        if network.title.endswith(f" {count}"):
            _verify(network, scratch, count)
    progress.end()
    spawner.close()
    return _report(table, given.counts, given.times, scratch)


def fill(network: Network, scratch: Path, count: int) -> None:
    """Write leases and the cursor as host-local does."""
    folder = scratch / "networks" / network.name
    folder.mkdir(parents=True)
    for number, address in enumerate(addresses(count)):
        (folder / address).write_text(f"{_container(number)}\r\neth0", encoding="ascii")
    if count:
        (folder / "last_reserved_ip.0").write_text(addresses(count)[-1], encoding="ascii")


def fill_records(network: Network, scratch: Path, count: int) -> None:
    """Write as many attachment records, each a copy of one that the plugin itself wrote."""
    seed = "seed"
    attachment = Attachment(seed, add_namespace(seed))
    network.add(attachment)
    folder = scratch / "faasm" / network.name
    written = list(folder.glob(f"{seed}@*"))
    if len(written) != 1:
        raise BenchError(f"the plugin wrote no record into {folder}")
    model = written[0].read_text(encoding="utf-8")
    leased = network.results[seed]["ips"][0]["address"].partition("/")[0]
    for number, address in enumerate(addresses(count)):
        text = model.replace(f'"{seed}"', f'"{_container(number)}"').replace(leased, address)
        (folder / f"{_container(number)}@eth0").write_text(text, encoding="utf-8")
    network.delete(attachment)
    delete_namespace(seed)


def addresses(count: int) -> list[str]:
    """Return the first addresses that are leased from the benchmark's subnet."""
    first = int(ipaddress.ip_network(Settings().subnet)[2])
    return [str(ipaddress.ip_address(first + number)) for number in range(count)]


def _container(number: int) -> str:
    # As long as those of real runtimes.
    return f"{number:064x}"


def _verify(network: Network, scratch: Path, count: int) -> None:
    folder = scratch / "networks" / network.name
    found = sum(1 for path in folder.iterdir() if path.name[0].isdigit())
    if found != count:
        raise BenchError(f"{folder} has {found} leases after the run, {count} before")


def _report(table: Table, counts: tuple[int, ...], times: int, scratch: Path) -> Report:
    report = Report(
        f"ADD, CHECK and DEL by the number of leases, {times} times each, alternately",
        ["", "leases", "faasm ms", "p95", "against none", "target", "chain ms", "p95", "ratio"],
    )
    for verb, count in itertools.product(VERBS, counts):
        ours, theirs = table[f"faasm {count}"][verb], table[f"chain {count}"][verb]
        growth = ratio(ours, table["faasm 0"][verb])
        aimed = verb == "ADD" and count == counts[-1]
        report.rows.append(
            [
                verb,
                f"{count:,}",
                *_times(ours),
                f"{growth:.2f}",
                verdict(growth, TARGET_GROWTH) if aimed else "",
                *_times(theirs),
                f"{ratio(ours, theirs):.2f}",
            ]
        )
        report.figures[f"{verb} {count}"] = {
            "faasm": ours.figures(),
            "reference": theirs.figures(),
            "againstNone": growth,
        }
    report.notes.append(
        f"Leases and records on {run(['stat', '--file-system', '--format=%T', str(scratch)]).strip()}."
    )
    return report


def _times(series: Series) -> list[str]:
    return [f"{series.median_ms():.1f}", f"{series.p95_ms():.1f}"]
