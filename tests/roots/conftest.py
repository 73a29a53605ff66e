"""Share the roots among the tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attached import add_remote
from tests.host import Host
from tests.roots.root import Root
from tests.runtime.conftest import root_filesystem, short_path  # noqa: F401 -- fixtures

PLUGIN = "/opt/cni/bin/faasm"
TOOL = "/usr/bin/cni-faasm"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave arm64 and what takes long to the long run."""
    long = collection_path.name in {"test_arm64.py", "test_lintian.py", "test_same_package.py"}
    return True if long and not config.getoption("--soak") else None


@pytest.fixture
def make_root(host: Host, tmp_path: Path) -> Iterator[Callable[[str], Root]]:
    """Return a function that mounts a root, installs the bundle, and has the host's calls there."""
    roots: list[Root] = []

    def make(name: str) -> Root:
        root = Root(name, tmp_path / name)
        roots.append(root)
        root.install()
        host.plugin = root.within(PLUGIN)
        return root

    try:
        yield make
    finally:
        for root in roots:
            root.close()


@pytest.fixture
def host(make_host: Callable[[list[str]], Host]) -> Host:
    """Return a host with a remote machine, whose plugin is that of a root."""
    host = make_host([])
    add_remote(host)
    return host
