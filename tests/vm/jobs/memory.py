"""A host that gives memory in another way: the plugin starts from memory that was made elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import AFTER_LAST_DEL, Host, Namespace

SETTINGS = (
    "vm.overcommit_memory=2",
    "vm.mmap_min_addr=1048576",
    "vm.legacy_va_layout=1",
    "kernel.randomize_va_space=0",
    "kernel.randomize_va_space=1",
)


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    name, _, value = str(request.param).partition("=")
    path = Path("/proc/sys", *name.split("."))
    before = path.read_text()
    path.write_text(value)
    assert path.read_text().strip() == value
    yield name
    path.write_text(before)


def test_a_container_comes_and_goes(host: Host, container: Namespace, setting: str) -> None:
    before = host.snapshot()
    config = host.config(bandwidth={"ingressRate": 10**7, "egressRate": 10**7})
    for _ in range(3):
        result = host.add(container, config)
        host.check(container, config, result).ok()
        host.delete_attachment(container, config)
    assert setting
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
