"""firewalld under systemd: tests/vm/jobs/firewalld.py in guests of Debian 12, and 13 under --soak.

tests/vm/run.sh trixie -k firewalld
"""

from pathlib import Path

import pytest

from tests.vm import selection
from tests.vm.boot import Guest

JOB = "tests/vm/jobs/firewalld.py"
SETTINGS = ("PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "PYTHONDONTWRITEBYTECODE=1", "TERM=dumb")
# That of the tests is Debian 12's; what pytest is made of runs under later ones, too.
PACKAGES = "PYTHONPATH=/checkout/.venv/lib/python3.11/site-packages"
TIMEOUT_S = 1500.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = selection.kernels(
        metafunc.config.getoption("kernels"), soak=metafunc.config.getoption("soak")
    )
    metafunc.parametrize("suite", [one for one in chosen if one in selection.FIREWALLD])


def test_firewalld_starts_reloads_and_restarts(suite: str, tmp_path: Path) -> None:
    pytest_words = ("-m", "pytest", "-s", "-p", "no:cacheprovider", "--tb=short", JOB)
    job = ["env", *SETTINGS, PACKAGES, "/usr/bin/python3", *pytest_words]
    guest = Guest(
        suite,
        job,
        root=f"{suite}-firewalld",
        systemd=True,
        out=tmp_path,
        timeout_s=TIMEOUT_S,
        quiet_s=TIMEOUT_S,
    )
    with guest:
        assert guest.wait() == 0, guest.tail(100)
