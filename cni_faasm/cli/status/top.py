"""Show attachments live, sorted by any column, as top does with processes.

Keys: left and right (or < and >) choose the column, r turns the order round, up, down and
page keys scroll, p pauses, q ends.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cni_faasm.cli import fitting, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.status.rows import Row, Watcher
from cni_faasm.cli.status.table import COLUMNS, DISPENSABLE, RIGHT, cells, sort_rows

INTERVAL_S = 1.0
# Drifts take longer to find than counters to read.
DRIFTS_EVERY = 5
# Lines that are not the table's rows: the title, the heads and their rule, the last line.
OTHER_LINES = 5
# Of "33.55M": the columns stay where they are while rates change.
RATE_WIDTH = 6

_KEYS = {
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b">": "right",
    b"<": "left",
    b"k": "up",
    b"j": "down",
    b"r": "turn",
    b"p": "pause",
    b" ": "pause",
    b"q": "end",
    b"\x03": "end",
    b"\x1b": "end",
}


class Screen:
    """What is shown: the rows, in which order, from where on."""

    def __init__(self, column: str) -> None:
        self.column = COLUMNS.index(column) if column else 0
        self.turned = False
        self.paused = False
        self.first = 0
        self.rows: list[Row] = []
        self.problem = ""

    def press(self, key: str, page: int) -> None:
        """Do what a key asks for."""
        if key in ("left", "right"):
            self.column = (self.column + (1 if key == "right" else -1)) % len(COLUMNS)
            self.first = 0
        elif key == "turn":
            self.turned = not self.turned
        elif key == "pause":
            self.paused = not self.paused
        else:
            step = {"up": -1, "down": 1, "page up": -page, "page down": page}.get(key, 0)
            self.first = max(0, min(self.first + step, len(self.rows) - 1))

    def table(self, height: int, width: int) -> Table:
        """Draw it for a terminal of so many lines and columns.

        Columns that have no room are left out, but for the chosen one.
        """
        rows = sort_rows(self.rows, COLUMNS[self.column])
        if self.turned:
            rows.reverse()
        seen = rows[self.first : self.first + max(1, height - OTHER_LINES)]
        heads = list(COLUMNS)
        heads[self.column] += "↑" if self.turned == (COLUMNS[self.column] in RIGHT) else "↓"
        drawn = [cells(row) for row in seen]
        widths = [max(len(line[place]) for line in (heads, *drawn)) for place in range(len(heads))]
        for place, head in enumerate(COLUMNS):
            if head in ("IN", "OUT"):
                widths[place] = max(widths[place], RATE_WIDTH)
        going = [head for head in DISPENSABLE if head != COLUMNS[self.column]]
        # rich puts half of the gap before the first column and half behind the last.
        places = fitting.places(COLUMNS, widths, width - fitting.GAP, going)

        table = Table(expand=True, box=None, title=self._title(), title_justify="left")
        for place in places:
            style = "reverse" if place == self.column else "bold"
            justify = "right" if COLUMNS[place] in RIGHT else "left"
            table.add_column(
                Text(heads[place], style=style),
                justify=justify,  # type: ignore[arg-type]
                no_wrap=True,
                min_width=widths[place],
            )
        for row, line in zip(seen, drawn, strict=True):
            table.add_row(*(Text(line[place]) for place in places), style="red" * bool(row.drifts))
        hidden = len(COLUMNS) - len(places)
        more = f" ({hidden} more)" if hidden else ""
        table.caption = f"←→ column{more}   r turn   ↑↓ scroll   p pause   q end"
        table.caption_justify = "left"
        return table

    def _title(self) -> str:
        drifted = sum(bool(row.drifts) for row in self.rows)
        total_in = sum(row.ingress.rate_bps or 0 for row in self.rows)
        total_out = sum(row.egress.rate_bps or 0 for row in self.rows)
        text = (
            f"cni-faasm {output.clock()}  {output.count(len(self.rows), 'attachment')}  "
            f"in {output.rate(total_in)}bit/s  out {output.rate(total_out)}bit/s"
        )
        text += f"  {drifted} drifted" if drifted else ""
        text += "  paused" if self.paused else ""
        return text + (f"  {self.problem}" if self.problem else "")


@contextmanager
def _keyboard() -> Iterator[int]:
    """Have each key at once and unseen; give the terminal back as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def run(watcher: Watcher, known: Callable[[], list[Attachment]], sort: str) -> None:
    """Show it until q or Ctrl-C. Raises: ToolError without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ToolError("--watch needs a terminal", "for machines there is status --json")
    sort_rows([], sort)  # an unknown column is told before the screen is taken
    screen = Screen(sort.upper().replace("-", " ").replace("_", " "))
    console = Console()
    looks = 0
    found: dict[str, Row] = {}
    watcher.read(known(), drifts=False)
    try:
        with (
            _keyboard() as fd,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            next_read = time.monotonic() + 0.3
            while True:
                now = time.monotonic()
                if now >= next_read and not screen.paused:
                    with_drifts = looks % DRIFTS_EVERY == 0
                    looks += 1
                    _read(screen, watcher, known, found, with_drifts)
                    next_read = now + INTERVAL_S
                live.update(screen.table(console.height, console.width), refresh=True)
                for key in _keys(fd, 60 if screen.paused else max(0.0, next_read - now)):
                    if key == "end":
                        return
                    screen.press(key, max(1, console.height - OTHER_LINES))
    except KeyboardInterrupt:
        return


def _read(
    screen: Screen,
    watcher: Watcher,
    known: Callable[[], list[Attachment]],
    found: dict[str, Row],
    with_drifts: bool,
) -> None:
    """Read the counters; what is known of drifts stays between the looks at them."""
    try:
        rows = watcher.read(known(), drifts=with_drifts)
        screen.problem = ""
    except ToolError as error:
        rows, screen.problem = [], str(error)
    if with_drifts:
        found.clear()
        found.update({row.attachment.title: row for row in rows})
        screen.rows = rows
        return
    screen.rows = [
        row._replace(drifts=found[row.attachment.title].drifts)
        if row.attachment.title in found
        else row
        for row in rows
    ]


def _keys(fd: int, timeout: float) -> list[str]:
    """Return the meanings of the keys that were pressed, [] when none came in time."""
    ready, _, _ = select.select([fd], [], [], timeout)
    pressed = os.read(fd, 256) if ready else b""
    found = []
    while pressed:
        for length in range(min(4, len(pressed)), 0, -1):
            if pressed[:length] in _KEYS:
                found.append(_KEYS[pressed[:length]])
                break
        else:
            length = 1
        pressed = pressed[length:]
    return found
