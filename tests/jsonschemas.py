"""Hold what the tool prints with --json against its schema, docs/cni-faasm.schema.json."""

import contextlib
import json
from functools import cache
from typing import Any

from tests.host import REPO

# In a guest of another processor, or with another Python, there is none: it needs machine code.
with contextlib.suppress(ImportError):
    import jsonschema
    from jsonschema.exceptions import best_match

PATH = REPO / "docs" / "cni-faasm.schema.json"


@cache
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return loaded


@cache
def _checker() -> "jsonschema.Draft202012Validator":
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(_strict(schema()))


def _strict(part: Any) -> Any:
    """Return a schema that takes no key it does not name.

    That of the documentation does: a later version may have more keys.
    """
    if isinstance(part, list):
        return [_strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: _strict(value) for key, value in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def demand_valid(document: dict[str, Any]) -> None:
    """Demand that a document is what the schema says of its command, and no more."""
    error = best_match(_checker().iter_errors(document))
    assert error is None, f"{error.message}\nat {error.json_path} of\n{document}"
