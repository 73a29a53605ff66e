"""Reduce samples to figures, and print them as a table for a person or for the docs."""

import json
import statistics
from collections.abc import Sequence
from typing import Any


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """Return the value that 95 % of the samples do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * 95 // 100) - 1)]


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """Print a table; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    pad = [str.ljust if i == 0 else str.rjust for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = [pad[i](cell, widths[i]) for i, cell in enumerate(row)]
        return "| " + " | ".join(cells) + " |" if markdown else "  ".join(cells).rstrip()

    print(line(columns))
    rules = [("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    print(line(rules) if markdown else "-" * (sum(widths) + 2 * len(widths) - 2))
    for row in rows:
        print(line(row))


def show_json(document: Any) -> None:
    """Print figures for machines."""
    print(json.dumps(document, indent=2))
