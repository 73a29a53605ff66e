"""Kill netavark's setup and teardown at their system calls: what is left, the next start or gc takes."""

from pathlib import Path

import pytest

from tests.host import AFTER_LAST_DEL, Host, Namespace, built_plugin
from tests.kernel.test_netavark import RATES
from tests.netavark import Netavark
from tests.runtime.crash_bench import NEVER, Point
from tests.runtime.test_crash import DULL, sample
from tests.tool import Tool

ADDRESS = "10.200.0.5"
# Of the calls that tell something, so many are tried without --soak.
FEW = 15


class Sweep:
    """One container that is set up, or torn down, under strace, again and again."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.log = directory / "strace"
        self.tool = Tool(host)
        self.plugin = host.plugin
        # What stays after the last container is there before.
        self.network = Netavark(host, options=RATES)
        first = host.add_container()
        self.network.setup(first, ADDRESS)
        self.network.teardown(first, ADDRESS)
        self._remove(first)
        self.before = host.snapshot()

    def _remove(self, container: Namespace) -> None:
        container.delete()
        self.host.containers.remove(container)

    def points(self, verb: str) -> list[Point]:
        """Return every system call of a call that is let be, each with its number of its name."""
        container = self._ready(verb)
        self._traced(verb, container)
        found: list[Point] = []
        for line in self.log.read_text().splitlines():
            name = line.partition(" ")[2].strip().partition("(")[0]
            if name.isidentifier() and name not in NEVER:
                found.append((name, len([one for one in found if one[0] == name]) + 1))
        if verb == "setup":
            self.network.teardown(container, ADDRESS, container_id="killed")
        self._remove(container)
        return found

    def _ready(self, verb: str) -> Namespace:
        container = self.host.add_container()
        if verb == "teardown":
            self.network.setup(container, ADDRESS, container_id="killed")
        return container

    def _traced(self, verb: str, container: Namespace, *options: str) -> None:
        self.host.plugin = ["strace", "-f", "-qq", "-o", str(self.log), *options, *self.plugin]
        try:
            document = self.network.document(container, [ADDRESS], container_id="killed")
            self.network.call(verb, container.path, document=document)
        finally:
            self.host.plugin = self.plugin

    def kill(self, verb: str, number: int, point: Point) -> None:
        """Kill the call there, take its namespace away, and go on as podman or an operator does."""
        container = self._ready(verb)
        name, nth = point
        self._traced(verb, container, "-e", f"inject={name}:signal=SIGKILL:when={nth}")
        self._remove(container)
        if number % 4:
            again = self.host.add_container()
            whose = "killed" if number % 2 else "another"
            self.network.setup(again, ADDRESS, container_id=whose)
            assert again.addresses("eth0") == [f"{ADDRESS}/32"]
            self.network.teardown(again, ADDRESS, container_id=whose)
            self._remove(again)
        if number % 2 == 0:  # another container's setup finds what had its address, and no more
            self.tool("gc", "--state-dir", str(self.host.state_dir)).ok()
        self.host.assert_unchanged(self.before, ignore=AFTER_LAST_DEL, patience=5)


@pytest.mark.parametrize("verb", ["setup", "teardown"])
def test_killed_anywhere(
    host: Host, tmp_path: Path, verb: str, request: pytest.FixtureRequest
) -> None:
    sweep = Sweep(host, tmp_path)
    points = sweep.points(verb)
    assert len(points) > 60
    if not request.config.getoption("--soak"):
        points = sample([one for one in points if one[0] not in DULL])[-FEW:]
    for number, point in enumerate(points):
        sweep.kill(verb, number, point)
        assert sweep.host.records() == {}, point


@pytest.fixture
def host(make_host: object) -> Host:
    assert callable(make_host)
    made = make_host(built_plugin())
    assert isinstance(made, Host)
    return made
