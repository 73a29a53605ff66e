"""Say at the end of a run what was measured on each of Debian's kernels."""

from collections.abc import Iterable
from typing import Any

import pytest

# The check that a guest comes up at all.
BOOTS = "boots"
# What a check gave, a line of tests/vm/report.py: as a property of its test's report, for that
# comes from another process where a run is spread.
GUEST = "guest"


def write_summary(terminal: pytest.TerminalReporter) -> None:
    """Print a line per kernel, and one for each of its figures."""
    for kernel, results in _by_kernel(terminal.stats).items():
        boots = results.pop(BOOTS, None)
        if boots is None:
            continue
        terminal.section(f"{kernel}: Linux {boots['figures']['Linux']}")
        seconds = sum(result["seconds"] for result in results.values())
        terminal.line(
            f"up after {boots['seconds']:.1f} s, {len(results)} checks in {seconds:.0f} s"
        )
        for result in results.values():
            for name, value in result["figures"].items():
                terminal.line(f"{name}: {value}")


def _by_kernel(stats: dict[str, list[Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by kernel and check what guests gave, in the order of the tests."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, value in _properties(stats):
        if name == GUEST:
            found.setdefault(value["kernel"], {})[value["check"]] = value
    return found


def _properties(stats: dict[str, list[Any]]) -> Iterable[tuple[str, Any]]:
    for outcome in ("passed", "failed"):
        for report in stats.get(outcome, ()):
            yield from report.user_properties
