"""Stop ADD and DEL at every system call, and fail every call: nothing is left, nothing is lost.

strace kills the built executable at its Nth call of a name, or lets that call fail. What a
call leaves behind is put right by the DEL, the GC, or the next ADD and a GC that follow.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.host import BUNDLE, Host, built_plugin
from tests.runtime.crash_bench import ERRORS, VARIANTS, Bench, Forks, Point, killed
from tests.runtime.setup_bench import WORDS, SetupBench

# Calls that are like many others, and seldom tell anything new.
DULL = {"mmap", "munmap", "mprotect", "brk", "pread64", "fstat", "newfstatat", "close"}
# How many of the others are tried without --soak in each variant but the first.
SAMPLE = 20


@pytest.fixture
def make_bench(make_host: Callable[[list[str]], Host], tmp_path: Path) -> Callable[[str], Bench]:
    assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"

    def make(variant: str) -> Bench:
        host = make_host(built_plugin())
        host.add_remote()
        return Bench(host, tmp_path, variant)

    return make


@pytest.fixture(params=VARIANTS)
def bench(make_bench: Callable[[str], Bench], request: pytest.FixtureRequest) -> Bench:
    return make_bench(request.param)


def chosen(
    bench: Bench, points: list[Point], request: pytest.FixtureRequest
) -> list[tuple[int, Point]]:
    """Return all points, or without --soak every fourth that is like many others.

    Of the further variants only a sample of the calls that are not, spread evenly.
    """
    numbered = list(enumerate(points))
    if request.config.getoption("--soak"):
        return numbered
    if bench.variant == "masquerading":
        return [one for one in numbered if one[1][0] not in DULL or one[0] % 4 == 0]
    return list(enumerate(sample([point for point in points if point[0] not in DULL])))


def sample(points: list[Point]) -> list[Point]:
    """Return every Nth point, so that there are about SAMPLE, and the last."""
    step = max(1, len(points) // SAMPLE)
    return points[::-step][::-1]


def test_add_killed_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    points = bench.points("ADD", from_input=False)
    bench.delete()
    assert len(points) > 80
    for number, (name, nth) in chosen(bench, points, request):
        what = f"ADD killed at {name} number {nth}"
        with bench.trying(what):
            call = bench.traced("ADD", "-e", f"inject={name}:signal=SIGKILL:when={nth}")
            assert killed(call), f"it was not: {call}"
            bench.recover(number)
    bench.report()


def test_del_killed_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.add(bench.container)
    points = bench.points("DEL", from_input=False)
    assert len(points) > 70  # its child may find the parent waiting already, or not
    for number, (name, nth) in chosen(bench, points, request):
        with bench.trying(f"DEL killed at {name} number {nth}"):
            bench.add(bench.container)
            bench.traced("DEL", "-e", f"inject={name}:signal=SIGKILL:when={nth}")
            bench.recover(number)
    bench.report()


@pytest.mark.parametrize("verb", WORDS)
def test_netavark_killed_anywhere(
    make_host: Callable[[list[str]], Host],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    verb: str,
) -> None:
    """What podman's setup and teardown leave, with limits, published ports and both versions of IP."""
    host = make_host(built_plugin())
    host.add_remote()
    bench = SetupBench(host, tmp_path)
    if verb == "DEL":
        bench.add(bench.container)
    points = bench.points(verb, from_input=False)
    if verb == "ADD":
        bench.delete()
    assert len(points) > 100
    for number, (name, nth) in chosen(bench, points, request):
        with bench.trying(f"{WORDS[verb]} killed at {name} number {nth}"):
            if verb == "DEL":
                bench.add(bench.container)
            call = bench.traced(verb, "-e", f"inject={name}:signal=SIGKILL:when={nth}")
            assert killed(call) or verb == "DEL", f"it was not: {call}"
            bench.recover(number)
    bench.report()


def failures(
    points: Sequence[tuple[int, Point]], request: pytest.FixtureRequest
) -> Iterator[tuple[Point, str]]:
    """Yield every point with every error, or without --soak with one of them in turn."""
    for number, point in points:
        if request.config.getoption("--soak"):
            for error in ERRORS:
                yield point, error
        else:
            yield point, ERRORS[number % len(ERRORS)]


def test_add_failing_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    points = chosen(bench, bench.points("ADD", from_input=True), request)
    bench.delete()
    refused = 0
    for (name, nth), error in failures(points, request):
        with bench.trying(f"ADD with {error} from {name} number {nth}"):
            call = bench.traced("ADD", "-e", f"inject={name}:error={error}:when={nth}")
            if call.status == 0:  # it was not needed: then all is as promised
                bench.call("CHECK", bench.container, prevResult=call.document).ok()
                bench.delete()
            else:
                refused += 1
                if call.stdout.strip() or name != "write":  # the answer could not be written
                    assert call.error()["msg"], repr(call)
    bench.report()
    assert refused > min(20, len(points) // 3)


def test_del_failing_anywhere(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.add(bench.container)
    points = chosen(bench, bench.points("DEL", from_input=True), request)
    for (name, nth), error in failures(points, request):
        with bench.trying(f"DEL with {error} from {name} number {nth}"):
            bench.add(bench.container)
            call = bench.traced("DEL", "-e", f"inject={name}:error={error}:when={nth}")
            if call.status == 0:
                bench.assert_clean()
            elif call.stdout.strip() or name != "write":
                assert call.error()["msg"], repr(call)
            bench.delete()
    bench.report()


@pytest.mark.parametrize(
    ("variant", "which"), [("masquerading", 1), ("everything", 1), ("everything", 2)]
)
def test_child_of_del(
    make_bench: Callable[[str], Bench],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    variant: str,
    which: int,
) -> None:
    """DEL forks a child for each device: whatever becomes of that, DEL is done when it says so."""
    bench = make_bench(variant)
    forks = Forks(bench, tmp_path)
    bench.add(bench.container)
    calls = forks.calls(which)
    assert calls > 10
    soak = request.config.getoption("--soak")
    for nth in range(1, calls + 1) if soak else range(1 + which, calls + 1, 4):
        for what in ("kill", *ERRORS) if soak else ("kill", ERRORS[nth // 4 % len(ERRORS)]):
            with bench.trying(f"DEL, whose child {which} gets {what} at its call {nth}"):
                bench.add(bench.container)
                forks.delete(which, nth, what).ok()
    bench.report()


def test_strace_is_what_it_is_taken_for(make_bench: Callable[[str], Bench]) -> None:
    """A kill that does not come, or an error that nobody gets, would prove nothing."""
    bench = make_bench("masquerading")
    call = bench.traced("ADD", "-e", "inject=sendto:signal=SIGKILL:when=1")
    assert killed(call)
    bench.delete()
    call = bench.traced("ADD", "-e", "inject=sendto:error=ENETDOWN:when=1")
    assert "down" in json.dumps(call.error()).lower()
