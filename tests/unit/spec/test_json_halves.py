"""What the built plugin reads and writes JSON with does what CPython's own halves do."""

import subprocess
import sys

from tests.host import REPO


def test_simplejson_passes_the_tests_of_our_json() -> None:
    """In a process of its own, for jsonio takes its halves when it is imported."""
    tests = ["tests/unit/spec/test_jsonio.py", "tests/property/test_jsonio.py"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.json_halves"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
