"""Share the runtimes, the network's configuration, and what a container must have."""

import errno
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, REPO, Host, Namespace, built_plugin
from tests.rates import serve
from tests.runtime.installed import Installed
from tests.runtime.runtimes import (
    CONFIG_FILE,
    Containerd,
    Libcni,
    Podman,
    Runtime,
    install_plugins,
    make_root_filesystem,
    remove_cgroups,
    remove_plugins,
)

INGRESS = 20_000_000
EGRESS = 10_000_000


@pytest.fixture(scope="session")
def root_filesystem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rootfs")
    make_root_filesystem(directory)
    return directory


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """Return what building and installing write, done once and nowhere else."""
    directory = Path(tempfile.mkdtemp(prefix="installed", dir="/run"))
    try:
        yield Installed(directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a directory whose name is as short as podman and Unix sockets want it."""
    directory = Path(tempfile.mkdtemp(prefix="rt", dir="/run"))
    try:
        yield directory
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a tree in which podman's own `container cleanup` may still be at work."""
    deadline = time.monotonic() + 30
    while True:
        try:
            shutil.rmtree(directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def runtime_host(make_host: Any) -> Host:
    """Return a host with a remote machine that serves iperf3; stores where they usually are."""
    assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"
    host: Host = make_host(built_plugin())
    host.data_dir = Path("/var/lib/cni/networks")
    host.state_dir = Path("/var/lib/cni/faasm")
    remote = host.add_remote()
    serve(host, remote, 2)
    return host


@pytest.fixture
def conflist() -> Iterator[dict[str, Any]]:
    """Install the configuration that we ship, with limits that tell the directions apart."""
    shipped = json.loads((REPO / "conf" / "10-faasm.conflist").read_text(encoding="utf-8"))
    shipped["plugins"][0]["bandwidth"] = {"ingressRate": INGRESS, "egressRate": EGRESS}
    CONFIG_FILE.write_text(json.dumps(shipped), encoding="utf-8")
    install_plugins()
    yield shipped
    CONFIG_FILE.unlink()
    remove_plugins()


@pytest.fixture(params=[Containerd, Podman, Libcni], ids=["containerd", "podman", "libcni"])
def runtime(
    request: pytest.FixtureRequest,
    runtime_host: Host,
    conflist: dict[str, Any],
    root_filesystem: Path,
    short_path: Path,
) -> Iterator[Runtime]:
    """Return each of the runtimes in turn, ready to start containers."""
    started: Runtime = request.param(runtime_host, root_filesystem, short_path)
    try:
        yield started
    finally:
        started.close()
        remove_cgroups()


@pytest.fixture
def libcni(
    runtime_host: Host, conflist: dict[str, Any], root_filesystem: Path, tmp_path: Path
) -> Iterator[Libcni]:
    """Return our client on libcni alone."""
    started = Libcni(runtime_host, root_filesystem, tmp_path)
    yield started
    started.close()


class Attached:
    """Read back what the kernel holds for one attached container."""

    def __init__(self, host: Host, inside: Namespace) -> None:
        self.host = host
        self.inside = inside
        (self.cidr,) = inside.addresses("eth0")[:1]
        self.address = self.cidr.partition("/")[0]
        (route,) = host.routes(dst=self.address)
        self.outer: str = route["dev"]
