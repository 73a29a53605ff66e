"""Stop ADD and DEL at every system call, and fail every call: nothing is left, nothing is lost.

strace kills the built executable at its Nth call of a name, or lets that call fail. What a
call leaves behind is put right by the DEL, the GC, or the next ADD and a GC that follow.
"""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, CniCall, Host, Namespace, built_plugin

ERRORS = ("ENOSPC", "EIO", "ENOMEM", "EMFILE", "EPERM", "EBUSY", "EEXIST", "ENETDOWN")
# Calls that strace cannot let fail, or that never do: the kernel's brk answers with an address,
# and any other number is one to the C library.
NEVER = {"exit_group", "execve", "rt_sigreturn", "exit", "restart_syscall", "brk"}

Point = tuple[str, int]  # name of a call, and which one of that name


class Bench:
    """One container on one host, whose state is compared quickly and often."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.container = host.add_container()
        self.other = host.add_container()
        self.log = directory / "strace"
        self.config = host.config(
            ipMasq=True, bandwidth={"ingressRate": 8_000_000, "egressRate": 4_000_000}
        )
        # What stays by design is there before.
        self.host.add(self.container, self.config)
        self.delete()
        self.before = self.state()

    def delete(self, container: Namespace | None = None) -> None:
        self.host.delete_attachment(container or self.container, self.config)

    def gc(self, *valid: Namespace) -> None:
        attachments = [{"containerID": one.name, "ifname": "eth0"} for one in valid]
        document = {**self.config, "cni.dev/valid-attachments": attachments}
        self.host.cni("GC", None, document).ok()

    def state(self) -> dict[str, Any]:
        """Return all that the plugin makes, but for the cursors and what was learnt.

        Nor does it tell of the sets' elements: they are of interfaces' indexes, which no later
        one gets, and wait for a sweep (guard.py).
        """
        nft = self.host.nft()
        for item in nft:
            item.get("set", {}).pop("elem", None)
        return {
            "links": self.host.links(),
            "inside": [self.container.links(), self.other.links()],
            "routes": self.host.run(["ip", "route", "show", "table", "all"]).stdout,
            # A seal is of the rules' handles, too, and those that were made anew have others.
            "nft": re.sub(r'"(handle|packets|bytes)": \d+|seal_[0-9a-f]{8}', "", json.dumps(nft)),
            "leases": self.host.leases(),
            "records": sorted(self.host.records()),
            "torn": [
                str(path)
                for folder in (self.host.data_dir, self.host.state_dir)
                for path in folder.rglob(".*")
            ],
        }

    def assert_clean(self, what: str) -> None:
        """Compare with the beginning; a deleted link is unlisted a moment before it is gone."""
        for _ in range(40):
            after = self.state()
            if after == self.before:
                return
        differing = [key for key in after if after[key] != self.before[key]]
        message = "\n".join(f"{key}: {self.before[key]}\n  → {after[key]}" for key in differing)
        raise AssertionError(f"{what}\n{message}")

    def traced(self, verb: str, *options: str, document: dict[str, Any] | None = None) -> CniCall:
        command = ["strace", "-f", "-qq", "-o", str(self.log), *options, *self.host.plugin]
        return self.host.cni(verb, self.container, document or self.config, plugin=command)

    def points(self, verb: str, *, from_input: bool) -> list[Point]:
        """Return every call that the process makes, after what it has read from stdin or all."""
        self.traced(verb)
        counts: Counter[str] = Counter()
        found: list[Point] = []
        first_pid = ""
        begun = not from_input
        for line in self.log.read_text(errors="replace").splitlines():
            pid, _, text = line.partition(" ")
            first_pid = first_pid or pid
            match = re.match(r"\s*(\w+)\((0?)", text)
            if pid != first_pid or not match:
                continue
            name = match[1]
            counts[name] += 1
            if begun and name not in NEVER:
                found.append((name, counts[name]))
            begun = begun or (name == "read" and match[2] == "0")
        return found


@pytest.fixture
def bench(make_host: Callable[[list[str]], Host], tmp_path: Path) -> Bench:
    assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"
    host = make_host(built_plugin())
    host.add_remote()
    return Bench(host, tmp_path)


def chosen(points: list[Point], request: pytest.FixtureRequest) -> list[tuple[int, Point]]:
    """Return all points, or without --soak every third that is like many others."""
    numbered = list(enumerate(points))
    if request.config.getoption("--soak"):
        return numbered
    dull = {"mmap", "munmap", "mprotect", "brk", "pread64", "fstat", "newfstatat", "close"}
    return [one for one in numbered if one[1][0] not in dull or one[0] % 4 == 0]


def recover(bench: Bench, number: int, what: str) -> None:
    """Do what may come next, in turn."""
    if number % 3 == 0:
        bench.delete()
    elif number % 3 == 1:
        bench.gc()
    else:
        bench.host.add(bench.other, bench.config)
        bench.gc(bench.other)
        assert bench.other.links() == ["eth0"], what
        bench.delete(bench.other)
    # A GC without attachments takes the tables too: they are made again.
    if number % 3 == 1:
        bench.host.add(bench.other, bench.config)
        bench.delete(bench.other)


def killed(call: CniCall) -> bool:
    return call.status in (-signal.SIGKILL, 128 + signal.SIGKILL)


def test_add_killed_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    points = bench.points("ADD", from_input=False)
    bench.delete()
    assert len(points) > 100
    for number, (name, nth) in chosen(points, request):
        what = f"ADD killed at {name} number {nth}"
        call = bench.traced("ADD", "-e", f"inject={name}:signal=SIGKILL:when={nth}")
        assert killed(call), f"{what}: {call}"
        recover(bench, number, what)
        bench.assert_clean(what)


def test_del_killed_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.host.add(bench.container, bench.config)
    points = bench.points("DEL", from_input=False)
    assert len(points) > 100
    for number, (name, nth) in chosen(points, request):
        what = f"DEL killed at {name} number {nth}"
        bench.host.add(bench.container, bench.config)
        bench.traced("DEL", "-e", f"inject={name}:signal=SIGKILL:when={nth}")
        recover(bench, number, what)
        bench.assert_clean(what)


def failures(
    points: list[Point], request: pytest.FixtureRequest
) -> Iterator[tuple[int, Point, str]]:
    """Yield every point with every error, or without --soak with one of them in turn."""
    for number, point in chosen(points, request):
        if request.config.getoption("--soak"):
            for error in ERRORS:
                yield number, point, error
        else:
            yield number, point, ERRORS[number % len(ERRORS)]


def test_add_failing_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    points = bench.points("ADD", from_input=True)
    bench.delete()
    refused = 0
    for _, (name, nth), error in failures(points, request):
        what = f"ADD with {error} from {name} number {nth}"
        call = bench.traced("ADD", "-e", f"inject={name}:error={error}:when={nth}")
        if call.status == 0:
            bench.delete()
        else:
            refused += 1
            if call.stdout.strip() or name != "write":  # the answer itself could not be written
                assert call.error()["msg"], what
        bench.assert_clean(what)
    assert refused > 20


def test_del_failing_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.host.add(bench.container, bench.config)
    points = bench.points("DEL", from_input=True)
    for _, (name, nth), error in failures(points, request):
        what = f"DEL with {error} from {name} number {nth}"
        bench.host.add(bench.container, bench.config)
        call = bench.traced("DEL", "-e", f"inject={name}:error={error}:when={nth}")
        if call.status != 0 and (call.stdout.strip() or name != "write"):
            assert call.error()["msg"], what
        bench.delete()
        bench.assert_clean(what)


def test_strace_is_what_it_is_taken_for(bench: Bench) -> None:
    """A kill that does not come, or an error that nobody gets, would prove nothing."""
    call = bench.traced("ADD", "-e", "inject=sendto:signal=SIGKILL:when=1")
    assert killed(call)
    bench.delete()
    call = bench.traced("ADD", "-e", "inject=sendto:error=ENETDOWN:when=1")
    assert "down" in json.dumps(call.error()).lower()
    subprocess.run(["strace", "-V"], check=True, capture_output=True)
