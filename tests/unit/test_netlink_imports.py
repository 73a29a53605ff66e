"""The codecs and the socket owner import next to nothing."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MODULES = ("transport", "link", "addr", "route", "neigh", "tc", "tc_parse", "nft", "nft_expr")
ALLOWED = {"_socket", "_struct"}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
for name in sys.argv[2:]:
    __import__("cni_faasm.netlink." + name)
found = sorted(set(sys.modules) - before)
print("[" + ", ".join('"' + name + '"' for name in found) + "]")
"""


def test_only_two_c_modules_are_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(REPO), *MODULES],
        capture_output=True,
        check=True,
        text=True,
    )
    found = set(json.loads(done.stdout))
    ours = {name for name in found if name.split(".")[0] == "cni_faasm"}
    assert found - ours <= ALLOWED
    assert ours - {"cni_faasm", "cni_faasm.netlink", "cni_faasm.spec", "cni_faasm.spec.inet"} == {
        f"cni_faasm.netlink.{name}" for name in (*MODULES, "wire")
    }
