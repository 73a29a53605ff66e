"""Show the network check on a terminal, or as plain text where there is none."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cni_faasm.cli.network_check_model import (
    MAX_EXCESS,
    MAX_MISS,
    NO_LIMIT,
    OK,
    Finding,
    Limit,
    mbit,
)
from cni_faasm.cli.network_check_run import Check, InterruptedBySignalError
from cni_faasm.cli.network_check_targets import rules_sentence

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
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("namespace", "device", "limits", "qdisc", "class", "leaf", "as configured"):
        table.add_column(heading, overflow="fold")
    for target in check.targets:
        for end in target.ends:
            right = not end.differences
            table.add_row(
                target.name,
                end.device,
                end.direction,
                end.qdisc,
                end.shape,
                end.leaf,
                "yes" if right else "NO",
                style=None if right else "red",
            )
    out.print(table)
    wrong = any(end.differences for target in check.targets for end in target.ends)
    out.print(rules_sentence(check.targets), style="bold red" if wrong else "green")


def show_findings(out: Console, findings: list[Finding]) -> None:
    """Show what is missing and how to get it."""
    for finding in findings:
        out.print(f"! {finding.text}", style="yellow", soft_wrap=True)
        if finding.remedy:
            out.print(f"  {finding.remedy}", soft_wrap=True)


def show_table(out: Console, check: Check) -> None:
    """Show the figures, the verdict and what they mean."""
    out.print()
    out.print(f"Measured against {check.server}, {check.seconds} s each", style="bold")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, unit in zip(COLUMNS, UNITS, strict=True):
        right = heading not in ("", "direction", "verdict")
        table.add_column(
            f"{heading}\n{unit}" if unit else heading,
            justify="right" if right else "left",
            overflow="fold",
        )
    for cells, row in zip(table_cells(check), check.rows, strict=True):
        styles = {OK: "green", NO_LIMIT: "dim"}
        table.add_row(*cells, style=styles.get(row.verdict, "bold red"))
    out.print(table)
    for line in explanations(check):
        out.print(line, style="dim")
    out.print()
    problems = check.problems()
    if not problems:
        out.print("Every limit is kept.", style="bold green")
        return
    out.print("Not as it should be:", style="bold red")
    for problem in problems:
        out.print(f"  {problem}", style="red", soft_wrap=True)


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
