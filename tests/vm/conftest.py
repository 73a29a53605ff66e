"""Say at the end of a run what was measured on each of Debian's kernels."""

from pathlib import Path
from typing import Any

import pytest

from tests.vm import selection

# The check that a guest comes up at all.
BOOTS = "boots"
# Per kernel and check, the lines of tests/vm/report.py.
FIGURES = pytest.StashKey[dict[str, dict[str, dict[str, Any]]]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests out whose kernel is not chosen, or has no root with podman: not a skip."""
    chosen = selection.kernels(config.getoption("kernels"), soak=config.getoption("soak"))
    if collection_path.name == "test_podman.py" and not set(chosen) & set(selection.PODMAN):
        return True
    if collection_path.name == "test_slots.py" and selection.OF_SLOTS not in chosen:
        return True
    return None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print a line per kernel, and one for each of its figures."""
    for kernel, results in config.stash.get(FIGURES, {}).items():
        boots = results.get(BOOTS)
        if boots is None:
            continue
        terminalreporter.section(f"{kernel}: Linux {boots['figures']['Linux']}")
        checks = [result for name, result in results.items() if name != BOOTS]
        seconds = sum(result["seconds"] for result in checks)
        terminalreporter.line(
            f"up after {boots['seconds']:.1f} s, {len(checks)} checks in {seconds:.0f} s"
        )
        for result in checks:
            for name, value in result["figures"].items():
                terminalreporter.line(f"{name}: {value}")
