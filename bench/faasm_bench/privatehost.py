"""A host of our own: private network, mount and process namespaces.

`enter()` executes the program again inside them. Everything that is made later
(interfaces, named namespaces, mounts, children) goes when the program ends,
however it ends, because the namespaces go with it. The files are left to
`scratch_directory()`, which a run removes, and whose name the next run knows.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MARK = "FAASM_BENCH_PRIVATE_HOST"
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000


class BenchError(Exception):
    """Something the person who runs the benchmark can put right."""


def enter() -> None:
    """Execute this program again in namespaces of its own, unless it is there.

    Raises: BenchError when we are not root or a needed tool is missing.
    """
    if os.environ.get(MARK) == str(os.getppid()):
        os.environ.pop(MARK)
        _arrange()
        return
    if os.geteuid() != 0:
        raise BenchError("run me as root: network namespaces are needed")
    require_tools({"unshare": "util-linux", "ip": "iproute2", "tc": "iproute2"})
    # The child of unshare is process 1 of its own namespace; the parent it sees is 0.
    os.environ[MARK] = "0"
    arguments = "unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private --"
    os.execvp("unshare", [*arguments.split(), sys.executable, *_own_arguments()])


def _own_arguments() -> list[str]:
    return ["-B", *sys.argv]


def _arrange() -> None:
    # Named namespaces, xtables.lock and whatever else a plugin puts into /run.
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "bench", "/run"])
    NAMESPACES.mkdir()
    run(["ip", "link", "set", "lo", "up"])
    switch_on_forwarding()


def switch_on_forwarding() -> None:
    """Let this host route, so that no plugin pays for doing it first."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def require_tools(packages: dict[str, str]) -> None:
    """Raise BenchError naming every tool of {tool: Debian package} that is missing."""
    missing = [tool for tool in packages if shutil.which(tool) is None]
    if missing:
        wanted = " ".join(sorted({packages[tool] for tool in missing}))
        raise BenchError(f"missing: {', '.join(missing)}; apt-get install {wanted}")


def run(command: Sequence[str], *, namespace: str | None = None) -> str:
    """Run a command to its end, in a named namespace if given, and return its output.

    Raises: BenchError with the command and its complaint when it fails.
    """
    full = [*in_namespace(namespace), *command]
    done = subprocess.run(full, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise BenchError(f"{' '.join(full)}: exit status {done.returncode}: {said}")
    return done.stdout


def in_namespace(namespace: str | None) -> list[str]:
    """Return the words that make a command run in a named namespace."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def add_namespace(name: str) -> str:
    """Make a named namespace with its loopback up and return its path."""
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])
    return str(NAMESPACES / name)


def delete_namespace(name: str) -> None:
    """Delete a named namespace."""
    run(["ip", "netns", "delete", name])


@contextmanager
def inside(namespace: str | None) -> Iterator[None]:
    """Let the calling thread work in a named namespace for a while."""
    if namespace is None:
        yield
        return
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(other)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)
        os.close(other)


def _setns(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


@contextmanager
def scratch_directory(parent: str) -> Iterator[Path]:
    """Make a directory for leases, records and caches; remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="faasm-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
