"""podman 5 and netavark of Debian 13: tests/vm/jobs/podman.py in a guest, under --soak.

tests/vm/run.sh trixie -k podman
"""

from pathlib import Path

import pytest

from tests.vm import selection
from tests.vm.boot import Guest
from tests.vm.test_firewalld import PACKAGES, SETTINGS, TIMEOUT_S

JOB = "tests/vm/jobs/podman.py"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = selection.kernels(
        metafunc.config.getoption("kernels"), soak=metafunc.config.getoption("soak")
    )
    metafunc.parametrize("suite", [one for one in chosen if one in selection.PODMAN])


def test_podman(suite: str, tmp_path: Path) -> None:
    pytest_words = ("-m", "pytest", "-s", "-p", "no:cacheprovider", "--tb=short", JOB)
    job = ["env", *SETTINGS, PACKAGES, "/usr/bin/python3", *pytest_words]
    guest = Guest(
        suite,
        job,
        root=f"{suite}-podman",
        out=tmp_path,
        timeout_s=TIMEOUT_S,
        quiet_s=TIMEOUT_S,
    )
    with guest:
        assert guest.wait() == 0, guest.tail(100)
