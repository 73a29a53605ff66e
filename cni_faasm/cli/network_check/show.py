"""Show the network check on a terminal, or as plain text where there is none."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cni_faasm.cli import fitting
from cni_faasm.cli.network_check.model import (
    MAX_EXCESS,
    MAX_MISS,
    NO_LIMIT,
    OK,
    Finding,
    Limit,
    mbit,
)
from cni_faasm.cli.network_check.run import Check, InterruptedBySignalError
from cni_faasm.cli.network_check.targets import rules_sentence

PLAIN_WIDTH = 120
COLUMNS = (
    "",
    "direction",
    "configured",
    "allowed",
    "measured",
    "of allowed",
    "retr.",
    "RTT loaded",
    "host, unshaped",
    "verdict",
)
# What a narrow terminal does without, the first to go first; --json and --html have all.
DISPENSABLE = ("retr.", "host, unshaped", "RTT loaded", "configured", "of allowed")
UNITS = ("", "", "Mbit/s", "Mbit/s", "Mbit/s", "", "", "ms", "Mbit/s", "")


def console(*, stderr: bool = False) -> Console:
    """Return a console; where there is no terminal, one wide enough for the table."""
    found = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not found.is_terminal:
        found.width = max(found.width, PLAIN_WIDTH)
    return found


def table_cells(check: Check) -> list[tuple[str, ...]]:
    """Return the table's texts, which the page shows, too."""
    return [
        (
            row.where,
            row.direction,
            mbit(row.limit_bps),
            mbit(row.allowed_bps),
            mbit(row.measured_bps),
            share_text(row.share),
            "-" if row.retransmits is None else str(row.retransmits),
            "-" if row.rtt_ms is None else f"{row.rtt_ms:.{2 if row.rtt_ms < 1 else 1}f}",
            mbit(row.host_bps),
            row.verdict,
        )
        for row in check.rows
    ]


def share_text(share: float | None) -> str:
    """Return measured/allowed as a percentage, or as a multiple where that is clearer."""
    if share is None:
        return "-"
    return f"{share:.1%}" if share < 10 else f"{share:.0f} times"


def explanations(check: Check) -> list[str]:
    """Return what a reader of the table must know."""
    allowed = (
        "allowed: the payload that fits under the limit, configured x MSS / (MTU + 14): "
        "limits count whole Ethernet frames, iperf3 counts payload."
    )
    fails = (
        f"A row fails above {1 + MAX_EXCESS:.0%} and below {1 - MAX_MISS:.0%} of what is allowed. "
        "egress: sent by the namespace. ingress: received."
    )
    for target in check.targets[:1]:
        limit = Limit(1_000_000_000, 0, target.mtu or target.plan.mtu, len(check.address))
        mss = next((f.mss for f in check.flows if f.where == target.name and f.mss), 0)
        share = (limit.allowed_bps(mss) or 0) / 1e9
        allowed += f" Here that is {share:.1%} of the limit (MTU {limit.mtu}" + (
            f", MSS {mss})." if mss else ")."
        )
    lines = [allowed, fails]
    if any(row.verdict == OK and row.share and row.share > 1 + MAX_EXCESS for row in check.rows):
        lines.append(
            "Above it and yet ok: the frames on the wire kept the limit; payload that was queued "
            "before the measurement arrived within it."
        )
    sources = {row.rtt_source for row in check.rows if row.rtt_source}
    if "TCP" in sources:
        lines.append("RTT: where no ping was answered, what TCP saw itself (of egress only).")
    elif sources:
        lines.append("RTT loaded: median of pings on the same link during the measurement.")
    return lines


def show_rules(out: Console, check: Check) -> None:
    """Show qdisc and class of both ends, and say whether they are the same."""
    out.print("Rules on both ends of each pair", style="bold")
    heads = ("namespace", "device", "limits", "qdisc", "class", "leaf", "as configured")
    rows = []
    styles = []
    for target in check.targets:
        for end in target.ends:
            right = not end.differences
            texts = (target.name, end.device, end.direction, *end.words)
            rows.append((*texts, "yes" if right else "NO"))
            styles.append("" if right else "red")
    _print_table(out, heads, rows, styles, dispensable=("limits", "qdisc"))
    wrong = any(end.differences for target in check.targets for end in target.ends)
    out.print(rules_sentence(check.targets), style="bold red" if wrong else "green")


def show_findings(out: Console, findings: list[Finding]) -> None:
    """Show what is missing and how to get it."""
    for finding in findings:
        say(out, f"! {finding.text}", style="yellow")
        if finding.remedy:
            say(out, f"  {finding.remedy}")


def say(out: Console, text: str, style: str = "") -> None:
    """Print a line, on a terminal broken between words, each further one indented."""
    room = out.width if out.is_terminal else None
    out.print(fitting.filled(text, room, "  "), style=style, soft_wrap=True)


def _print_table(
    out: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str],
    *,
    right: Sequence[str] = (),
    dispensable: Sequence[str] = (),
) -> None:
    """Print a table that breaks its cells between words only.

    heads: with their units on a second line. dispensable: those that go where even so there is
    no room, the first first.
    """
    needs = [
        fitting.word_widths([row[place] for row in (heads, *rows)]) for place in range(len(heads))
    ]
    places = fitting.places(heads, [least for least, _ in needs], out.width, dispensable)
    room = out.width - fitting.GAP * (len(places) - 1)
    widths = fitting.shares([needs[place] for place in places], room)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, width in zip(places, widths, strict=True):
        justify: JustifyMethod = "right" if heads[place] in right else "left"
        table.add_column(heads[place], justify=justify, width=width)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(row[place] for place in places), style=style or None)
    out.print(table)
    hidden = [head.split("\n")[0] for place, head in enumerate(heads) if place not in places]
    if hidden:
        say(out, f"No room for: {'; '.join(hidden)}. A wider terminal or --json shows them.", "dim")


def show_table(out: Console, check: Check) -> None:
    """Show the figures, the verdict and what they mean."""
    out.print()
    out.print(f"Measured against {check.server}, {check.seconds} s each", style="bold")
    styles = {OK: "green", NO_LIMIT: "dim"}
    heads = [f"{head}\n{unit}" if unit else head for head, unit in zip(COLUMNS, UNITS, strict=True)]
    by_name = dict(zip(COLUMNS, heads, strict=True))
    _print_table(
        out,
        heads,
        table_cells(check),
        [styles.get(row.verdict, "bold red") for row in check.rows],
        right=[by_name[name] for name in COLUMNS if name not in ("", "direction", "verdict")],
        dispensable=[by_name[name] for name in DISPENSABLE],
    )
    for line in explanations(check):
        say(out, line, style="dim")
    out.print()
    problems = check.problems()
    if not problems:
        out.print("Every limit is kept.", style="bold green")
        return
    out.print("Not as it should be:", style="bold red")
    for problem in problems:
        say(out, f"  {problem}", style="red")


@contextlib.contextmanager
def progress(check: Check, interrupted: Callable[[], None]) -> Iterator[None]:
    """Show on stderr how far the measurements are; lines where that is no terminal."""
    err = console(stderr=True)
    total = check.measurements() * check.phase_seconds()
    if not err.is_terminal:
        check.phase = lambda title, seconds: err.print(f"measuring {title} ({seconds:g} s)")
        check.tick = interrupted
        try:
            yield
        finally:
            check.tick = lambda: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total)
        done = 0.0
        began = time.monotonic()

        def phase(title: str, seconds: float) -> None:
            nonlocal done, began
            bar.update(task, description=title, completed=done)
            done, began = done + seconds, time.monotonic()

        def tick() -> None:
            interrupted()
            position = done - check.phase_seconds() + time.monotonic() - began
            bar.update(task, completed=min(max(position, 0), done))

        check.phase, check.tick = phase, tick
        try:
            yield
        finally:
            check.tick = lambda: None


def show_interrupted(error: InterruptedBySignalError) -> int:
    """Say that the check was ended from outside. Returns: the exit status."""
    console(stderr=True).print("cni-faasm: interrupted; nothing is left running")
    return 128 + int(error.args[0])
