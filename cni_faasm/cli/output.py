"""Print what commands found: tables for people, one JSON document for machines."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import typer

from cni_faasm.cli import fitting
from cni_faasm.config import units
from cni_faasm.config.counted import Counted
from cni_faasm.config.shared import Shared

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


# Of what --json prints; a key that goes, or comes to mean something else, makes it another.
SCHEMA = 1
# They tell what they found: where they cannot look, the status must not be that of an answer.
LOOKING = ("status", "check", "validate", "metrics", "network-check", "pool list")


class _Machine:
    """What has been told to a machine so far."""

    told = False


def command() -> str:
    """Return the command that is being run, such as "pool up"."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    return " ".join(words[: 2 if words[:1] == ["pool"] else 1])


def print_json(document: Mapping[str, object]) -> None:
    """Print the one document that --json promises."""
    typer.echo(json.dumps(_headed(document), indent=2))


def print_line(document: Mapping[str, object]) -> None:
    """Print one of the lines of a command that goes on."""
    typer.echo(json.dumps(_headed(document)))


def print_failure(message: str, remedy: str) -> None:
    """Give a machine that asked for --json the reason why it gets nothing else."""
    if "--json" in sys.argv[1:] and command() != "pool exec" and not _Machine.told:
        print_line({"error": error(message, remedy)})


def error(message: str, remedy: str) -> dict[str, str]:
    """Return an error for machines."""
    return {"message": message, "remedy": remedy}


def _headed(document: Mapping[str, object]) -> dict[str, object]:
    _Machine.told = True
    return {"schema": SCHEMA, "command": command(), **document}


def camel(name: str) -> str:
    """Return a name as JSON has it: backlog_bytes is backlogBytes."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def limit(rate_bps: int | None, burst_bytes: int | None) -> dict[str, Any]:
    """Return one direction's limit for machines; both null where there is none."""
    return {"limitBitsPerSecond": rate_bps, "burstBytes": burst_bytes}


COUNTED = (
    *("ingressPacketRate", "ingressPacketBurst", "egressPacketRate", "egressPacketBurst"),
    "maxConnections",
)


def counted(found: Counted | None) -> dict[str, int | None]:
    """Return limits of packets and connections for machines; null where there is none."""
    fields = found.to_fields() if found else {}
    return {key: fields.get(key) for key in COUNTED}


def counted_text(found: Counted | None) -> str:
    """Return the same for people."""
    parts = (
        [
            f"{packets.rate_pps} packets/s {word} (burst {packets.burst})"
            for word, packets in (("in", found.ingress), ("out", found.egress))
            if packets is not None
        ]
        if found
        else []
    )
    if found and found.connections:
        parts.append(f"{found.connections} connections")
    return ", ".join(parts) or "unlimited"


def shared(found: Shared | None) -> dict[str, Any] | None:
    """Return limits of several containers for machines; None where there are none."""
    if found is None:
        return None
    return {
        "ingressBitsPerSecond": found.ingress_bps,
        "egressBitsPerSecond": found.egress_bps,
        "by": found.by,
        "of": found.of,
    }


def shared_text(found: Shared) -> str:
    """Return the same for people."""
    whom = f"all of {found.by}={found.of}" if found.by else "all of its network"
    parts = [
        f"{exact_rate(rate_bps)} {word}"
        for word, rate_bps in (("in", found.ingress_bps), ("out", found.egress_bps))
        if rate_bps
    ]
    return f"{', '.join(parts)}, together with {whom}"


def note(text: str) -> None:
    """Tell a person something that is not the command's output."""
    complain(f"cni-faasm: {text}")


def complain(text: str) -> None:
    """Print lines to stderr, broken between words where that is a terminal."""
    typer.echo(fitting.filled(text, fitting.width(stderr=True)), err=True)


def say(text: str) -> None:
    """Print a line of the output, broken between words where that is a terminal."""
    typer.echo(line(text))


def line(text: str) -> str:
    """Return a line of the output as the terminal can show it, broken between words."""
    return fitting.filled(text, fitting.width(), "  ")


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    dispensable: Sequence[str] = (),
) -> str:
    """Return a plain table, its columns as wide as what is in them.

    right: heads of the columns whose cells end in line, as numbers should. dispensable: heads
    of those that go where a terminal has no room, the first to go first.
    """
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    places = fitting.places(heads, widths, fitting.width(), dispensable)
    lines = []
    for row in (heads, *rows):
        cells = [
            row[at].rjust(widths[at]) if heads[at] in right else row[at].ljust(widths[at])
            for at in places
        ]
        lines.append("  ".join(cells).rstrip())
    if len(places) < len(heads):
        hidden = ", ".join(head for at, head in enumerate(heads) if at not in places)
        lines.append(line(f"no room for {hidden}; a wider terminal or --json shows them"))
    return "\n".join(lines)


def rate(bits_per_s: float | None) -> str:
    """Return a rate in three or four digits: 33.55M, 10M, 256k."""
    if bits_per_s is None:
        return "-"
    for unit, power in (("P", 5), ("T", 4), ("G", 3), ("M", 2), ("k", 1)):
        if bits_per_s >= 1000**power:
            return f"{bits_per_s / 1000**power:.4g}{unit}"
    return f"{bits_per_s:.0f}"


def exact_rate(bits_per_s: int | None) -> str:
    """Return a rate with all its digits."""
    return "unlimited" if not bits_per_s else units.rate_text(bits_per_s)


def size(count: float) -> str:
    """Return a number of bytes: 512B, 4.0K, 12M."""
    for unit, power in (("T", 4), ("G", 3), ("M", 2), ("K", 1)):
        if count >= 1024**power:
            return f"{count / 1024**power:.3g}{unit}"
    return f"{count:.0f}B"


def age(seconds: float) -> str:
    """Return a duration in its two largest units: 3d4h, 12m5s."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
        if len(parts) == 2:
            break
    return "".join(parts)


def count(number: int, thing: str) -> str:
    """Return "1 thing" or "2 things"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def shortened(text: str, most: int) -> str:
    """Return a text cut to so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def clock() -> str:
    """Return the time of day, for lines that report events."""
    return time.strftime("%H:%M:%S")


def write_whole(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put contents under a name in one step: readers see the old or the new, never half.

    Raises: OSError.
    """
    temporary = os.path.join(
        os.path.dirname(path) or ".", f".{os.path.basename(path)}.{os.getpid()}"
    )
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


class Progress:
    """A bar on stderr while somebody looks; nothing where nobody does."""

    def __init__(self, what: str, total: int, *, quiet: bool = False) -> None:
        self._bar: Any = None
        if quiet or total < 2 or not sys.stderr.isatty():
            return
        # Imported late: rich takes longer than a small pool.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Remaining())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def step(self) -> None:
        """One more is done."""
        if self._bar:
            self._bar.advance(self._task)
