"""podman 5 and netavark of Debian 13: tests/vm/jobs/podman.py and podman_reboot.py, under --soak.

tests/vm/run.sh trixie -k podman
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm import selection
from tests.vm.boot import Guest

JOB = "tests/vm/jobs/podman.py"
REBOOT = "tests/vm/jobs/podman_reboot.py"
SETTINGS = ("PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "PYTHONDONTWRITEBYTECODE=1", "TERM=dumb")
# That of the tests is Debian 12's; what pytest is made of runs under later ones, too.
PACKAGES = "PYTHONPATH=/checkout/.venv/lib/python3.11/site-packages"
TIMEOUT_S = 1500.0
PYTHON = ("env", *SETTINGS, PACKAGES, "/usr/bin/python3")
PYTEST = (*PYTHON, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--tb=short")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = selection.kernels(
        metafunc.config.getoption("kernels"), soak=metafunc.config.getoption("soak")
    )
    metafunc.parametrize("suite", [one for one in chosen if one in selection.PODMAN])


def guest_of(suite: str, job: Sequence[str], out: Path, disk: Path | None = None) -> Guest:
    return Guest(
        suite,
        job,
        root=f"{suite}-podman",
        disk=disk,
        out=out,
        timeout_s=TIMEOUT_S,
        quiet_s=TIMEOUT_S,
    )


def test_podman(suite: str, tmp_path: Path) -> None:
    with guest_of(suite, [*PYTEST, JOB], tmp_path) as guest:
        assert guest.wait() == 0, guest.tail(100)


def test_ports_after_a_reboot(suite: str, tmp_path: Path) -> None:
    module = REBOOT.removesuffix(".py").replace("/", ".")
    for job in ([*PYTHON, "-m", module], [*PYTEST, REBOOT]):
        with guest_of(suite, job, tmp_path / "out", tmp_path / "disk") as guest:
            assert guest.wait() == 0, guest.tail(100)
