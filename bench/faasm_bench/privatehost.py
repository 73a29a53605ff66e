"""The private host in which a benchmark works, and what it needs of the real one.

`enter()` starts the program again under `bin/private_host.sh`: network, mount and process
namespaces of its own, gone with it. Only one thing is on the machine's own disk, because
leases and records are there in real life and cost what the disk makes them cost: a scratch
directory, removed by the process that stays outside.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[2]
PRIVATE_HOST = PROJECT / "bin" / "private_host.sh"
NAMESPACES = Path("/run/netns")
SCRATCH_VARIABLE = "FAASM_BENCH_SCRATCH"
CLONE_NEWNET = 0x40000000


class BenchError(Exception):
    """Something that the person who runs the benchmark can put right."""


def enter(scratch_parent: str, tools: dict[str, str]) -> Path:
    """Start this program again in a private host; inside it, return the scratch directory.

    scratch_parent: a directory on the disk to measure with. tools: {tool: Debian package}
    that must be there. Outside, this does not return.
    Raises: BenchError when we are not root or a tool is missing.
    """
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if not scratch:
        if os.geteuid() != 0:
            raise BenchError("run me as root: network namespaces are needed")
        _require_tools({"ip": "iproute2", "tc": "iproute2", **tools})
        _run_inside(scratch_parent)
    switch_on_forwarding()
    return Path(scratch)


def _run_inside(scratch_parent: str) -> NoReturn:
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    scratch = tempfile.mkdtemp(prefix="faasm-bench-", dir=scratch_parent)
    command = [str(PRIVATE_HOST), sys.executable, "-B", *sys.argv]
    try:
        child = subprocess.Popen(command, env={**os.environ, SCRATCH_VARIABLE: scratch})
        try:
            status = child.wait()
        except (KeyboardInterrupt, SystemExit):
            child.terminate()
            child.wait()
            raise
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    raise SystemExit(status)


def _require_tools(packages: dict[str, str]) -> None:
    missing = [tool for tool in packages if shutil.which(tool) is None]
    if missing:
        wanted = " ".join(sorted({packages[tool] for tool in missing}))
        raise BenchError(f"missing: {', '.join(missing)}; apt-get install {wanted}")


def switch_on_forwarding() -> None:
    """Let this host route, so that no plugin pays for being the first to do it."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n", encoding="ascii")


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


def ip(words: str, *, namespace: str | None = None) -> None:
    """Run `ip WORDS`, in a named namespace if given."""
    chosen = ["-n", namespace] if namespace else []
    run(["ip", *chosen, *words.split()])


def in_namespace(namespace: str | None) -> list[str]:
    """Return the words that make a command run in a named namespace."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def add_namespace(name: str) -> str:
    """Make a named namespace with its loopback up and return its path."""
    ip(f"netns add {name}")
    ip("link set lo up", namespace=name)
    return str(NAMESPACES / name)


def delete_namespace(name: str) -> None:
    ip(f"netns delete {name}")


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
