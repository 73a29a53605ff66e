"""Debian's own kernels: each check on each kernel is a test, done in a guest of tests/vm/boot.py.

    tests/vm/run.sh bookworm -k drift

A guest does all that was selected for its kernel, in one run of pytest, and writes down what each
check gave as soon as it is over. As many guests run at a time as there are processors, those with
most to do first. Where the "kernel" is a root with systemd, that is process 1; for jobs/power.py it
finds on its disk what another guest had there when its power was cut.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.host import REPO
from tests.vm import selection
from tests.vm.boot import Guest, GuestError
from tests.vm.summary import BOOTS, GUEST

# An idle machine's guest needs a tenth of it; with other tests beside, or a machine that has other
# work, it waits for a processor.
TIMEOUT_S = 3000.0
QUIET_S = 600.0
SOAK_TIMEOUT_S = 4 * 3600.0
# A thousand attachments are one check, which gives no sign before its end.
SOAK_QUIET_S = 3600.0
SITE = next((REPO / ".venv/lib").glob("python3*/site-packages")).relative_to(REPO)
PYTEST = (".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "--plugin", "built")
# Plugins of others are not needed in there, and each costs its import.
ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
TOOL = "/checkout/dist/faasm/cni-faasm"
# By the Python of a root: what pytest needs of .venv is no machine code.
SYSTEM_PYTEST = (f"PYTHONPATH=/checkout:/checkout/{SITE}", "python3", *PYTEST[1:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each kernel and check."""
    soak = metafunc.config.getoption("soak")
    names = metafunc.config.getoption("kernels")
    jobs = (*selection.JOBS, *(selection.LONG_JOBS if soak else ()))
    # In this order they are started.
    done = dict.fromkeys(selection.kernels(names, soak=soak), jobs)
    done |= {name: selection.SYSTEM_JOBS[name] for name in selection.systems(names, soak=soak)}
    cases = []
    checks: dict[Sequence[str], list[str]] = {}
    for kernel, of_kernel in done.items():
        if of_kernel not in checks:
            found = collected(of_kernel)
            checks[of_kernel] = [BOOTS, *(found if soak else selection.thinned(found))]
        cases += [(kernel, check) for check in checks[of_kernel]]
    ids = [f"{kernel} {check.removeprefix('tests/')}" for kernel, check in cases]
    metafunc.parametrize(("kernel", "check"), cases, ids=ids)


def collected(jobs: Sequence[str]) -> list[str]:
    """Return the ids of the checks, as pytest in a guest will call them."""
    done = subprocess.run(
        [sys.executable, *PYTEST[1:], "--collect-only", "-q", "-o", "addopts=", *jobs],
        cwd=REPO,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode != 0 or not ids:
        raise pytest.UsageError(f"the checks for guests: {done.stdout}{done.stderr}")
    # What calls the plugin on a kernel that only plays an old one has no business on an old one.
    return list(dict.fromkeys(one for one in ids if "reluctant" not in one))


def cut_power(root: str, disk: Path, out: Path) -> None:
    """Leave on a disk what a system had there when its power went, with containers attached."""
    ready = out / "ready"
    job = ["env", *SYSTEM_PYTEST[:2], "-m", "tests.vm.jobs.power"]
    with Guest(selection.suite_of(root), job, root=root, disk=disk, out=out) as guest:
        while not ready.exists():
            if not guest.is_running():
                raise GuestError(f"nothing was attached: {guest.status()}{guest.tail()}")
            time.sleep(0.01)
        guest.cut_power()


class Guests:
    """Run a guest for each kernel, and hand out what came of its checks.

    Everything happens in the thread of who asks: guests end with the thread that started them.
    """

    def __init__(self, wanted: dict[str, list[str]], folder: Path, *, soak: bool) -> None:
        self.wanted = wanted
        self.folder = folder
        self.soak = soak
        self.results: dict[str, dict[str, dict[str, Any]]] = {kernel: {} for kernel in wanted}
        self.faults: dict[str, str] = {}
        self.guests: dict[str, Guest] = {}
        self._waiting = list(wanted)
        self._running: list[str] = []

    def result(self, kernel: str, check: str) -> dict[str, Any]:
        """Wait for what a check gave; AssertionError when its guest ended without."""
        while True:
            self._look()
            if check in self.results[kernel]:
                return self.results[kernel][check]
            if kernel in self.faults:
                raise AssertionError(f"no result: {self.faults[kernel]}")
            time.sleep(0.1)

    def _look(self) -> None:
        """Start guests where processors are free, and read what is new of those that run."""
        for kernel in list(self._running):
            fault = self._fault(kernel)
            self._read(kernel)
            if fault is not None:
                self.faults[kernel] = fault
                self._running.remove(kernel)
                self.guests[kernel].cut_power()
        while self._waiting and len(self._running) < (os.cpu_count() or 1):
            self._start(self._waiting.pop(0))

    def _start(self, kernel: str) -> None:
        out = self.folder / kernel
        out.mkdir()
        (out / "checks").write_text("".join(f"{check}\n" for check in self.wanted[kernel]))
        variables = {
            **ENVIRONMENT,
            "FAASM_TOOL": TOOL,
            "FAASM_VM_RESULTS": "/out/results.jsonl",
            "TERM": "dumb",
        }
        settings = [f"{name}={value}" for name, value in variables.items()]
        is_system = kernel in selection.SYSTEM_JOBS
        has_power_cut = selection.POWER_CUT in selection.SYSTEM_JOBS.get(kernel, ())
        job = [
            "env",
            *settings,
            *(SYSTEM_PYTEST if is_system else PYTEST),
            *(["--soak"] if self.soak else []),
            "-p",
            "tests.vm.report",
            "-v",
            "-s",  # what a long check prints is a sign of life
            "--tb=short",
            "@/out/checks",
        ]
        if not self.wanted[kernel]:
            job = ["true"]
        timeout_s, quiet_s = (SOAK_TIMEOUT_S, SOAK_QUIET_S) if self.soak else (TIMEOUT_S, QUIET_S)
        guest = self.guests[kernel] = Guest(
            selection.suite_of(kernel),
            job,
            root=kernel if is_system else selection.ROOTS[0],
            systemd=is_system,
            disk=out / "disk" if has_power_cut else None,
            out=out,
            timeout_s=timeout_s,
            quiet_s=quiet_s,
        )
        try:
            if has_power_cut:
                cut_power(kernel, out / "disk", out)
            guest.start()
            self._running.append(kernel)
        except GuestError as error:
            self.faults[kernel] = str(error)

    def _fault(self, kernel: str) -> str | None:
        """Return None while a guest runs, else why there will be no more results."""
        guest = self.guests[kernel]
        try:
            if guest.is_running():
                return None
            return f"the guest's pytest ended with status {guest.status()}{guest.tail()}"
        except GuestError as error:
            return str(error)

    def _read(self, kernel: str) -> None:
        found = self.results[kernel]
        uptime, results = (self.folder / kernel / name for name in ("uptime", "results.jsonl"))
        if BOOTS not in found and uptime.exists() and (text := uptime.read_text().strip()):
            version = (self.folder / kernel / "kernel").read_text().strip()
            seconds = float(text)
            found[BOOTS] = {"outcome": "passed", "seconds": seconds, "figures": {"Linux": version}}
        if results.exists():
            lines = results.read_text().splitlines(keepends=True)
            for line in lines[len(found) - (BOOTS in found) :]:
                if line.endswith("\n"):
                    entry = json.loads(line)
                    found[entry["check"]] = entry

    def close(self) -> None:
        """End all guests."""
        for guest in self.guests.values():
            guest.close()


@pytest.fixture(scope="session")
def guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guests]:
    """Hold the guests of all kernels whose checks were selected."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and "guests" in item.fixturenames:
            kernel, check = (str(item.callspec.params[name]) for name in ("kernel", "check"))
            checks = wanted.setdefault(kernel, [])
            if check != BOOTS:
                checks.append(check)
    soak = bool(request.config.getoption("soak"))
    made = Guests(wanted, tmp_path_factory.mktemp("guests"), soak=soak)
    try:
        yield made
    finally:
        made.close()


def test_in_a_guest(
    guests: Guests, kernel: str, check: str, record_property: Callable[[str, object], None]
) -> None:
    result = guests.result(kernel, check)
    told = {name: result[name] for name in ("seconds", "figures")}
    record_property(GUEST, {"kernel": kernel, "check": check, **told})
    if result["outcome"] != "passed":
        pytest.fail(result["text"], pytrace=False)
