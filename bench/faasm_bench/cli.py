"""What the benchmarks' command lines have in common."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .calls import BUILT_PLUGIN, REFERENCE_PLUGINS
from .privatehost import BenchError
from .report import Report


def _path(text: str) -> Path:
    return Path(text).resolve()


def parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--plugin",
        type=_path,
        default=BUILT_PLUGIN,
        metavar="FILE",
        help="ours; default: %(default)s",
    )
    made.add_argument(
        "--reference",
        type=_path,
        default=REFERENCE_PLUGINS,
        metavar="DIR",
        help="where ptp, host-local and bandwidth are; default: %(default)s",
    )
    made.add_argument(
        "--scratch",
        default="/var/tmp",  # noqa: S108
        metavar="DIR",
        help="disk for leases and records; emptied again at the end; default: %(default)s",
    )
    form = made.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="figures for programs"
    )
    form.add_argument(
        "--markdown",
        dest="form",
        action="store_const",
        const="markdown",
        help="a table for a document",
    )
    made.set_defaults(form="text")
    return made


def main(work: Callable[[], Report | None], form: Callable[[], str]) -> None:
    """Run a benchmark's work, print its report, and end the program."""
    try:
        report = work()
    except BenchError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if report is not None:
        print(report.render(form()))


class Progress:
    """One line on the terminal that says how far we are; nothing elsewhere."""

    def __init__(self, total: int) -> None:
        """Begin at none of a number of steps."""
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._visible = os.isatty(2)

    def step(self, what: str) -> None:
        """Say what is being done now."""
        if self._visible:
            elapsed = time.monotonic() - self._started
            left = elapsed / self._done * (self._total - self._done) if self._done else 0
            ahead = f", about {left:.0f} s left" if self._done else ""
            print(
                f"\r\x1b[K[{self._done}/{self._total}{ahead}] {what}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        self._done += 1

    def end(self) -> None:
        """Take the line away."""
        if self._visible:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
