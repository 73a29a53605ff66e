"""Stop an agent's worker at every system call of ADD and of DEL: its caller says so, nothing stays.

The code is what a process of its own runs; what differs is what is around it, and that somebody
else lives on: the caller and the agent.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent import Agent, agent
from tests.host import Host, built_plugin, wait_until
from tests.runtime.crash_bench import ERRORS, Bench, Point, read_points

# How many calls are stopped without --soak.
SAMPLE = 30
# What the caller says for a worker that has not said its call's status.
LOST = b"the agent's process ended in the middle of the call"


class Traced:
    """An agent whose only worker is watched by strace."""

    def __init__(self, running: Agent, bench: Bench) -> None:
        self.running = running
        self.bench = bench

    @contextmanager
    def worker(self, *options: str) -> Iterator[None]:
        """Have a fresh worker take the next call, under strace."""
        old = self.running.workers()
        for pid in old:
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        wait_until(lambda: set(self.running.workers()) - set(old), "a worker")
        (worker,) = set(self.running.workers()) - set(old)
        command = ["strace", "-qq", "-o", str(self.bench.log), *options, "-p", str(worker)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            status = Path(f"/proc/{worker}/status")
            wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text(), "strace")
            try:
                yield
            finally:
                tracer.terminate()

    def points(self, verb: str) -> list[Point]:
        with self.worker():
            self.bench.call(verb, self.bench.container).ok()
        return read_points(self.bench.log, "recvmsg(")


@pytest.fixture
def traced(make_host: Callable[[list[str]], Host], tmp_path: Path) -> Iterator[Traced]:
    host = make_host(built_plugin())
    host.add_remote()
    bench = Bench(host, tmp_path, "everything")
    with agent(host) as running:
        yield Traced(running, bench)


def attempts(
    traced: Traced, request: pytest.FixtureRequest, verb: str
) -> Iterator[tuple[int, Point]]:
    """Yield the calls that are to be stopped, each when all is as before the verb."""
    bench = traced.bench
    if verb == "DEL":
        bench.add(bench.container)
    points = traced.points(verb)
    bench.delete()
    assert len(points) > 100
    step = 1 if request.config.getoption("--soak") else max(1, len(points) // SAMPLE)
    for number, point in enumerate(points[::step]):
        if verb == "DEL":
            bench.add(bench.container)
        yield number, point
    bench.report()
    assert traced.running.process.poll() is None


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_worker_killed_anywhere(
    traced: Traced, request: pytest.FixtureRequest, verb: str
) -> None:
    bench = traced.bench
    for number, (name, nth) in attempts(traced, request, verb):
        with bench.trying(f"{verb}'s worker killed at {name} number {nth}"):
            with traced.worker("-e", f"inject={name}:signal=SIGKILL:when={nth}"):
                call = bench.call(verb, bench.container)
            # At its last calls it has told the result already.
            assert call.status == 0 or LOST.decode() in call.error(11)["msg"], repr(call)
            bench.recover(number)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_calls_failing_anywhere_in_a_worker(
    traced: Traced, request: pytest.FixtureRequest, verb: str
) -> None:
    bench = traced.bench
    for number, (name, nth) in attempts(traced, request, verb):
        error = ERRORS[number % len(ERRORS)]
        with bench.trying(f"{verb} with {error} from {name} number {nth}, in a worker"):
            with traced.worker("-e", f"inject={name}:error={error}:when={nth}"):
                call = bench.call(verb, bench.container)
            assert call.status == 0 or call.error()["msg"], repr(call)
            # The next ones are as good as ever.
            bench.delete()
            bench.add(bench.container)
            bench.delete()
