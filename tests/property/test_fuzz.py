"""Coverage-guided fuzzing (atheris): with --soak four millions of inputs, otherwise some thousands.

Each target is run in a process of its own, where atheris watches our modules' branches.
Whatever is not a result or a CniError, or takes more than a second or 512 MiB, is a finding.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import REPO
from tests.property import fuzz_targets

RUNS = 3_000
# By how many a target reads in a second, and how much there is in it to find.
SOAK_RUNS = {
    "stdin": 500_000,
    "environment": 300_000,
    "configuration": 300_000,
    "prev_result": 500_000,
    "answer": 500_000,
    "record": 500_000,
    "marker": 100_000,
    "lease": 200_000,
    "names": 200_000,
    "replies": 500_000,
    "bodies": 500_000,
}


@pytest.mark.parametrize("target", sorted(fuzz_targets.TARGETS))
def test_nothing_unforeseen(target: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    runs = SOAK_RUNS[target] if request.config.getoption("--soak") else RUNS
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.property.fuzz_run", target, str(tmp_path)),
            *(f"-runs={runs}", "-timeout=1", "-rss_limit_mb=512", "-max_len=4096"),
            *("-seed=1", f"-artifact_prefix={tmp_path}/"),
        ],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs}" in done.stderr
