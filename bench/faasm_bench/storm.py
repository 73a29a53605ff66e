"""Many ADDs and DELs at a time: how many a second, beside the reference chain."""

import argparse
import dataclasses
import threading
import time
from pathlib import Path

from . import cli
from .calls import Attachment, Network, Settings, Spawner, faasm_network, reference_network
from .privatehost import enter, run
from .report import Report

TARGETS = {False: 3.0, True: 8.0}  # by whether it masquerades

DESCRIPTION = """\
Attach and detach containers many at a time, with the built plugin and with
Debian's reference chain (ptp with host-local, then bandwidth), in turns, without and with
masquerading."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
Each worker attaches and detaches a container of its own, again and again; a cycle is one
ADD and one DEL, and a figure the cycles per second of all workers together."""


def main() -> None:
    """Run the benchmark."""
    parser = cli.parser("bench/storm", DESCRIPTION, EPILOG)
    parser.add_argument("--workers", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--cycles", type=int, default=10, help="of each; default: %(default)s")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    given = parser.parse_args()
    cli.main(lambda: measure(given), lambda: str(given.form))


def measure(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"iptables": "iptables"})
    spawners = [Spawner() for _ in range(given.workers)]
    for number in range(given.workers):
        run(["ip", "netns", "add", f"storm{number}"])
    report = Report(
        f"{given.workers} at a time, {given.cycles} cycles each, {given.turns} turns",
        [
            "",
            "faasm cycles/s",
            "chain cycles/s",
            "ratio",
            "target",
        ],
    )
    progress = cli.Progress(4 * given.turns)
    for masquerade in (False, True):
        settings = dataclasses.replace(Settings(), masquerade=masquerade)
        rates: dict[str, list[float]] = {"faasm": [], "reference": []}
        for _ in range(given.turns):
            for title, found in rates.items():
                networks = [
                    _network(title, spawner, given, settings, scratch) for spawner in spawners
                ]
                found.append(_storm(networks, given.cycles))
                progress.step(title)
        medians = {title: sorted(found)[len(found) // 2] for title, found in rates.items()}
        ratio = medians["faasm"] / medians["reference"]
        target = TARGETS[masquerade]
        met = ratio >= target
        title = "with masquerading" if masquerade else "without masquerading"
        report.rows.append(
            [
                title,
                *[f"{rate:.0f}" for rate in medians.values()],
                f"{ratio:.2f}",
                f"≥ {target:.0f} {'met' if met else 'MISSED'}",
            ]
        )
        report.figures[title] = {**rates, "ratio": ratio, "target": target, "met": met}
    progress.end()
    for spawner in spawners:
        spawner.close()
    return report


def _network(
    title: str, spawner: Spawner, given: argparse.Namespace, settings: Settings, scratch: Path
) -> Network:
    if title != "reference":
        return faasm_network(spawner, given.plugin, settings, scratch)
    return reference_network(spawner, given.reference, settings, scratch)


def _storm(networks: list[Network], cycles: int) -> float:
    """Return cycles per second."""

    def live(number: int, network: Network) -> None:
        attachment = Attachment(f"storm{number}", f"/run/netns/storm{number}")
        for _ in range(cycles):
            network.add(attachment)
            network.delete(attachment)

    threads = [threading.Thread(target=live, args=one) for one in enumerate(networks)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(networks) * cycles / (time.monotonic() - begin)
