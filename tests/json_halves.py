"""Have jsonio use the halves of JSON that the built plugin has: python -m pytest -p tests.json_halves."""

import sys
from pathlib import Path

import simplejson._speedups as speedups

SNAPSHOT = Path(__file__).parent.parent / "packaging" / "snapshot"

sys.modules["_json_speedups"] = speedups
sys.path.insert(0, str(SNAPSHOT))

import json_halves  # noqa: E402

sys.path.remove(str(SNAPSHOT))
# The json module, which the tests compare with, has its own.
import json  # noqa: E402, F401

_own = sys.modules["_json"]
sys.modules["_json"] = json_halves
from cni_faasm.spec import jsonio  # noqa: E402

sys.modules["_json"] = _own
assert type(jsonio._scan).__module__ == "simplejson._speedups", jsonio._scan
