"""Leave out what no chosen kernel is for."""

from pathlib import Path

import pytest

from tests.vm import selection


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests out whose kernel is not chosen, or has no root with podman: not a skip."""
    chosen = selection.kernels(config.getoption("kernels"), soak=config.getoption("soak"))
    if collection_path.name == "test_podman.py" and not set(chosen) & set(selection.PODMAN):
        return True
    if collection_path.name == "test_slots.py" and selection.OF_SLOTS not in chosen:
        return True
    return None
