"""The reference documents name every error code and every key."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.config.key import Key
from cni_faasm.config.keys import TABLES
from cni_faasm.config.loading import check_faults
from cni_faasm.spec import errors
from cni_faasm.spec.jsonio import load_object

REPO = Path(__file__).parents[3]
DOCS = REPO / "docs"
CODES = {name: value for name, value in vars(errors).items() if isinstance(value, int)}
CODES.pop("TYPE_CHECKING", None)
KEYS = [key for table in TABLES.values() for key in table]


@pytest.mark.parametrize("name", CODES)
def test_every_error_code_has_cause_and_remedy(name: str) -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    heading = f"### {CODES[name]} `{name}`\n"
    assert heading in text
    section = text.partition(heading)[2].partition("\n### ")[0]
    assert "*Remedy:*" in section


def test_no_error_code_is_invented() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [f"### {code} `{name}`" for name, code in CODES.items()]


def test_the_documented_tables_are_those_of_the_registry() -> None:
    done = subprocess.run(
        [sys.executable, REPO / "bin/key_tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for key in KEYS:
        assert f"`{key.name}`" in text or f".{key.name}`" in text, key.name


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.at}.{key.name}".lstrip("."))
def test_every_key_is_read(key: Key) -> None:
    """The registry is no wish list: a value that a key cannot have is a fault at that key."""
    impossible: Any = 7 if key.kind in ("object", "list") else {"no": "value"}
    # What an object needs before the rest of it is read.
    needed = {"ipam": "subnet", "ipam.ranges[][]": "subnet", "ipam.routes[]": "dst"}
    for place in (key.at, *key.also):
        value: Any = {key.name: impossible}
        if place in needed:
            value = {needed[place]: "10.9.0.0/24"} | value
        for step in reversed(place.replace("cni.dev", "cni-dev").split(".") if place else []):
            value = {step.rstrip("[]").replace("cni-dev", "cni.dev"): nested(value, step)}
        document = {"name": "n", "type": "faasm", "cniVersion": "1.1.0"} | value
        _, faults = check_faults(document, prefix="")
        assert any(fault.path.endswith(key.name) for fault in faults), (place, faults)


def nested(value: Any, step: str) -> Any:
    for _ in range(step.count("[]")):
        value = [value]
    return value


def test_the_documented_example_is_valid() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    example: Any = load_object(text.partition("```json\n")[2].partition("```")[0].encode(), "it")
    plugin = {**example["plugins"][0], "name": example["name"], "cniVersion": "1.1.0"}
    config, faults = check_faults(plugin)
    assert [str(fault) for fault in faults] == []
    assert config is not None
    assert len(config.range_sets) == 2
