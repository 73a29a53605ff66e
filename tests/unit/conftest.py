"""Give the store's tests a store of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_faasm.ipam.store import Store


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    return str(tmp_path / "networks")


@pytest.fixture
def folder(data_dir: str) -> Path:
    return Path(data_dir) / "net"


@pytest.fixture
def store(data_dir: str) -> Iterator[Store]:
    with Store(data_dir, "net", 1000) as opened:
        yield opened
