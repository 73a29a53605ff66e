"""Any bytes are either the JSON that the json module reads, or a CNI error with a place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.spec import jsonfault, jsonio
from cni_faasm.spec.errors import DECODING_FAILURE, CniError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**38), 10**38)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
SCRAPS = st.lists(
    st.sampled_from(
        [
            *'"\\{}[],: \n01-.e+ué\0\ufeff',
            *("d800", "true", "null", "NaN", "Infinity", '"a"', '"a":', "\\u00e9", "1e999"),
        ]
    )
).map("".join)


@given(VALUES)
def test_what_the_json_module_writes_is_read_alike(value: Any) -> None:
    for ensure_ascii in (True, False):
        data = json.dumps(value, ensure_ascii=ensure_ascii).encode("utf-8", "replace")
        assert jsonio.loads(data) == json.loads(data)


@given(VALUES)
def test_what_is_written_is_what_the_json_module_writes(value: Any) -> None:
    assert jsonio.dumps(value) == json.dumps(value, separators=(",", ":")).encode()


def refuse(name: str) -> None:
    raise ValueError(name)


@given(st.binary() | SCRAPS.map(lambda text: text.encode()))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    try:
        expected = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except ValueError:
        with pytest.raises(CniError, match=r"broken JSON at line \d+, column \d+: ") as caught:
            jsonio.loads(data)
        assert caught.value.code == DECODING_FAILURE
        assert "cannot be read" not in caught.value.msg
        return
    try:
        value = jsonio.loads(data)
    except CniError as error:
        assert "too large" in error.msg or "longer than" in error.msg  # noqa: PT017
    else:
        assert json.dumps(value) == json.dumps(expected) or "\\u" in data.decode()


@given(SCRAPS)
def test_the_slow_reader_finds_a_fault_exactly_where_there_is_one(text: str) -> None:
    """The reason for a refusal is found by another reader than the one that refuses."""
    body = text.strip(" \t\n\r")
    position, reason = jsonfault.locate(body, jsonio.MAX_DEPTH, jsonio.MAX_NUMBER, jsonio.MAX_KEYS)
    try:
        jsonio.loads(text.encode())
    except CniError:
        assert reason != "it cannot be read"
        assert 0 <= position <= len(body)
    else:
        assert reason == "it cannot be read"
