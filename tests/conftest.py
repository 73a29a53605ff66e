"""Share fixtures among the tests, and keep them from harming the machine or hiding a gap.

Kernel and runtime tests refuse to run outside a private host. A skip is a failure: what
cannot be tested is not tested, and a run must not look otherwise.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.host import (
    BUNDLE,
    Host,
    Namespace,
    built_plugin,
    in_private_host,
    processes,
    reluctant_plugin,
    source_plugin,
)
from tests.vm.summary import write_summary

# In a guest of another processor there is none: it is machine code.
with contextlib.suppress(ImportError):
    from hypothesis import settings

    # No example fails for the time it takes: a busy machine may stop at any place.
    settings.register_profile("patient", deadline=None)
    settings.load_profile("patient")

NEED_PRIVATE_HOST = ("kernel", "runtime", "roots", "demo", "vm")
# Whose processes must end with each test; a guest does many, one after the other.
END_WITH_EACH_TEST = ("kernel", "runtime", "roots", "demo")
ORDER = ("tools", "unit", "property", "kernel", "runtime", "roots", "demo", "vm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the caller choose which form of the plugin the kernel tests call."""
    parser.addoption(
        "--plugin",
        choices=("source", "built", "both", "reluctant"),
        default="source",
        help="what tests with the `host` fixture call: `python -m cni_faasm`, dist/faasm/faasm, each in turn, "
        "or the first on a kernel that tells less and filters nothing (tests/reluctant.py)",
    )
    parser.addoption(
        "--soak",
        action="store_true",
        help="run the long forms: every crash with every error, millions of inputs, 20,000 cycles, all kernels",
    )
    parser.addoption(
        "--kernels",
        metavar="SUITE,...",
        help="the suites of Debian whose kernels tests/vm boots; default: bookworm,sid, with --soak all",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let a part of a spread run keep its files in its own private host, not in the caller's."""
    if hasattr(config, "workerinput"):
        config.option.basetemp = None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that calls the plugin the chosen forms of it."""
    if "plugin_form" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("plugin")
        forms = ["source", "built"] if chosen == "both" else [chosen]
        if metafunc.definition.get_closest_marker("also_reluctant") and "reluctant" not in forms:
            forms.append("reluctant")
        metafunc.parametrize("plugin_form", forms, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put quick tests first, or last where what takes long should not be left to one of several.

    Refuse those that would change the machine's own network.
    """
    places = {part: place for place, part in enumerate(ORDER)}
    is_one_of_several = hasattr(config, "workerinput")
    items.sort(key=lambda item: places.get(_part(item), len(ORDER)), reverse=is_one_of_several)
    if not in_private_host() and any(_part(item) in NEED_PRIVATE_HOST for item in items):
        msg = (
            "tests/kernel, tests/runtime, tests/demo and tests/vm change network namespaces, nftables and CNI's directories: "
            "run them by `tests/run.sh` (as `tests/run.sh tests/kernel -k NAME`), which gives them a private host. "
            "tests/unit and tests/property run anywhere."
        )
        raise pytest.UsageError(msg)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one."""
    del item, call
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a skipped test counts as failed: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module that skips itself into an error."""
    del collector
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped module counts as failed: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what guests measured."""
    write_summary(terminalreporter)


@pytest.fixture(autouse=True)
def no_process_outlives_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process running; in a private host it can only be the test's.

    DEL's detached child may take some milliseconds; anything else has no business there.
    """
    if not in_private_host() or _part(request.node) not in END_WITH_EACH_TEST:
        yield
        return
    before = processes().keys()
    yield

    def left() -> list[str]:
        return [f"{pid} {name}" for pid, name in processes().items() if pid not in before]

    end = time.monotonic() + 5
    while left() and time.monotonic() < end:
        time.sleep(0.01)
    remaining = left()
    for line in remaining:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    assert remaining == []


@pytest.fixture
def plugin_command(plugin_form: str) -> list[str]:
    """Return the command of the plugin in the form that --plugin chose."""
    if plugin_form == "built":
        assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"
        return built_plugin()
    return reluctant_plugin() if plugin_form == "reluctant" else source_plugin()


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[[list[str]], Host]]:
    """Return a function that makes hosts calling a given plugin; all go away with the test."""
    hosts: list[Host] = []

    def make(plugin: list[str]) -> Host:
        host = Host(tmp_path / f"host{len(hosts)}", plugin=plugin)
        hosts.append(host)
        return host

    try:
        yield make
    finally:
        for host in reversed(hosts):
            host.close()


@pytest.fixture
def host(make_host: Callable[[list[str]], Host], plugin_command: list[str]) -> Host:
    """Return a fresh host that calls our plugin in the form that --plugin chose."""
    return make_host(plugin_command)


@pytest.fixture
def bare_host(make_host: Callable[[list[str]], Host]) -> Host:
    """Return a fresh host for tests that call no plugin (netlink, store): run once only."""
    return make_host(source_plugin())


@pytest.fixture
def container(host: Host) -> Namespace:
    """Return an empty container of `host`."""
    return host.add_container()


def _part(item: pytest.Item) -> str:
    """Return the directory below tests/ that a test comes from."""
    here = Path(__file__).parent
    return item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
