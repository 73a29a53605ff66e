"""The reference documents name every error code and every key."""

from pathlib import Path
from typing import Any

import pytest

from cni_faasm.config import schema as config_schema
from cni_faasm.config.loading import check_faults
from cni_faasm.spec import errors
from cni_faasm.spec.jsonio import load_object

DOCS = Path(__file__).parents[2] / "docs"
CODES = {name: value for name, value in vars(errors).items() if isinstance(value, int)}
CODES.pop("TYPE_CHECKING", None)
KEYS = sorted(
    {
        name
        for table, keys in vars(config_schema).items()
        if table.isupper() and table != "FOREIGN" and isinstance(keys, dict)
        for name in keys.values()
    }
)


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


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_documented(key: str) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert f"`{key}`" in text or f".{key}`" in text


def test_the_documented_example_is_valid() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    example: Any = load_object(text.partition("```json\n")[2].partition("```")[0].encode(), "it")
    plugin = {**example["plugins"][0], "name": example["name"], "cniVersion": "1.1.0"}
    config, faults = check_faults(plugin)
    assert [str(fault) for fault in faults] == []
    assert config is not None
    assert len(config.range_sets) == 2
