"""In a guest: write what each check gave to /out, as soon as it is over (pytest -p tests.vm.report).

A line of results.jsonl is {"check": node id, "outcome": "passed" or "failed", "seconds": s,
"text": what pytest says of a failure, "figures": {name: value} by record_property}.
"""

import json
import os
from typing import Any

import pytest

_running: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather set-up, call and tear-down of a check; the first failure counts."""
    entry = _running.setdefault(
        report.nodeid, {"outcome": "passed", "seconds": 0.0, "text": "", "figures": {}}
    )
    entry["seconds"] = round(entry["seconds"] + report.duration, 2)
    entry["figures"].update(report.user_properties)
    if report.outcome != "passed" and entry["outcome"] == "passed":
        entry["outcome"] = "failed"
        entry["text"] = f"in {report.when}:\n{report.longreprtext}"


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Write the line."""
    line = json.dumps({"check": nodeid, **_running.pop(nodeid)}) + "\n"
    with open(os.environ["FAASM_VM_RESULTS"], "a", encoding="utf-8") as stream:
        stream.write(line)
