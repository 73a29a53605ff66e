"""A table for people, for a document, or for a program."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Report:
    """One table, its notes, and the figures behind it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def render(self, form: str) -> str:
        """Return the report as "text", "markdown" or "json"."""
        if form == "json":
            return json.dumps({"title": self.title, "machine": machine(), **self.figures}, indent=2)
        table = self._markdown() if form == "markdown" else self._text()
        mark = "- " if form == "markdown" else "* "
        notes = [mark + note for note in [*self.notes, machine_line()]]
        return "\n".join([self.title, "", *table, "", *notes])

    def _markdown(self) -> list[str]:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return ["| " + " | ".join(line) + " |" for line in lines]

    def _text(self) -> list[str]:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        rule = ["─" * width for width in widths]
        return [_aligned(line, widths) for line in [self.columns, rule, *self.rows]]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()


def machine() -> dict[str, object]:
    """Return what the figures were taken on."""
    online = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processors": online.count("processor\t:"),
        "system": _system_name(),
    }


def machine_line() -> str:
    """Return the same as one line."""
    known = machine()
    return f"{known['system']}, Linux {known['kernel']}, {known['processors']} processors ({known['architecture']})"


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
