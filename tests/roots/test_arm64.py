"""The bundle on arm64: built in a root of that processor, run on Debian's kernel for it (--soak)."""

import os
import shutil
from pathlib import Path

from tests.roots.build_arm64 import BUNDLE, KERNEL, ROOT
from tests.vm.boot import Guest

TESTS = (
    "tests/vm/jobs/verbs.py",
    "tests/vm/jobs/gc.py",
    "tests/kernel/test_chained.py::test_add_check_del",
    "tests/kernel/test_enforce_egress.py::test_gc_finds_what_a_dead_namespace_leaves",
    "tests/kernel/test_guard.py::test_isolated",
    "tests/kernel/test_nft_reload.py",
)
# Of .venv the guest's python3 takes what is no machine code: pytest is not.
JOB = f"""set -ex
/out/bundle/cni-faasm install
cni-faasm pool up 2
cni-faasm status
cni-faasm check
cni-faasm pool down
export FAASM_BUNDLE=/usr/lib/cni-faasm FAASM_TOOL=/usr/bin/cni-faasm PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1
.venv/bin/python -m pytest -v --tb=short -p no:cacheprovider --plugin built -k built {" ".join(TESTS)}
"""


def test_in_a_guest(tmp_path: Path) -> None:
    assert BUNDLE.is_dir(), "nothing is built: tests/roots/build_arm64.py"
    out = tmp_path / "out"
    shutil.copytree(BUNDLE, out / "bundle", symlinks=True)
    processors = os.cpu_count() or 1
    job = ["sh", "-c", JOB]
    with Guest(
        KERNEL, job, root=ROOT.name, out=out, processors=processors, timeout_s=3600, quiet_s=1200
    ) as guest:
        status = guest.wait()
        console = guest.tail(1000)
    print(console)
    assert status == 0, console
