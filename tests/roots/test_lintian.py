"""Debian's own checker on the package: half a minute."""

import subprocess

from tests.roots.test_package import package


def test_it_finds_nothing() -> None:
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", str(package())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
