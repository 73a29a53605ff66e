"""JSON: the same values as the json module gives, within bounds, faults with their place."""

import json
import subprocess
import sys

import pytest

from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import DECODING_FAILURE, CniError


def members(count: int, value: str = '{"x": [{}], "y": 0}') -> str:
    """Return an object of that many keys, with what could be taken for keys in between."""
    return "{" + ",".join(f'"{i}\\\\\\"{{:": {value}' for i in range(count)) + "}"


VALUES = [
    members(1024).encode(),
    members(2, members(1000)).encode(),
    f'[{members(1024)}, "{":" * 2000}", {members(1024)}]'.encode(),
    b"[" + b",".join([b'{"containerID": "c", "ifname": "eth0"}'] * 2000) + b"]",
    b"[" + b",".join([b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9}'] * 200) + b"]",
    b"{}",
    b"[]",
    b' \t\r\n{"a": [1, -2.5e3, true, false, null, "\\u00e9\\ud83d\\ude00\\n\\/"]} \n',
    '{"é": "ü\u2028"}'.encode(),
    b'{"a": 1, "a": 2}',
    b"18446744073709551615",
    b"-0",
    b"1e-400",
    b'"' + b"x" * 100_000 + b'"',
    b"[" * 64 + b"]" * 64,
    b'["' + b"[" * 200 + b'\\"\\\\"]',
    b"[" + b",".join([b"{}"] * 1000) + b"]",
]

FAULTS = [
    (members(1025, "0").encode(), 1, len(members(1024, "0")) + 1, "more than 1024 keys"),
    (f'[{{"a": {members(1025, "{}")}}}]'.encode(), 1, 8 + len(members(1024, "{}")), "1024 keys"),
    (members(20_000, "[]").encode(), 1, len(members(1024, "[]")) + 1, "more than 1024 keys"),
    (b"", 1, 1, "nothing is there"),
    (b" \n ", 2, 2, "nothing is there"),
    (b"{", 1, 2, "ends too early"),
    (b'{"a": 1', 1, 8, "ends too early"),
    (b'{"a": "b', 1, 9, "ends too early"),
    (b'{\n  "a": 1,\n}', 3, 1, "a key in double quotes"),
    (b"{'a': 1}", 1, 2, "a key in double quotes"),
    (b'{"a" 1}', 1, 6, "a colon"),
    (b'{"a": 1 "b": 2}', 1, 9, "a comma or }"),
    (b"[1 2]", 1, 4, "a comma or ]"),
    (b"[1,]", 1, 4, "a value is expected"),
    (b"{} x", 1, 4, "something follows"),
    (b"{}{}", 1, 3, "something follows"),
    (b"{}\0", 1, 3, "something follows"),
    (b"\n\n  nope", 3, 3, "a value is expected"),
    (b"[NaN]", 1, 2, "NaN and Infinity"),
    (b"[-Infinity]", 1, 2, "NaN and Infinity"),
    (b"Infinity", 1, 1, "NaN and Infinity"),
    (b"[1e999]", 1, 2, "too large"),
    (b"[-1e999]", 1, 2, "too large"),
    (b"[" + b"9" * 41 + b"]", 1, 2, "longer than 40"),
    (b"[" + b"9" * 5000 + b"]", 1, 2, "longer than 40"),
    (b"[0." + b"1" * 50 + b"]", 1, 2, "longer than 40"),
    (b"[01]", 1, 3, "a comma"),
    (b"[1.]", 1, 3, "a comma"),
    (b"[.5]", 1, 2, "a value is expected"),
    (b"[1e]", 1, 3, "a comma"),
    (b"[-]", 1, 3, "a digit"),
    (b"[+1]", 1, 2, "a value is expected"),
    (b'["\\x"]', 1, 4, "no such escape"),
    (b'["\\u12"]', 1, 4, "four hexadecimal digits"),
    (b'["a\0b"]', 1, 4, "control character"),
    (b'["a\nb"]', 1, 4, "control character"),
    (b'\xef\xbb\xbf{"a": 1}', 1, 1, "byte order mark"),
    (b'{"a": "\xff"}', 1, 8, "not UTF-8"),
    (b'{"a": "\xed\xa0\x80"}', 1, 8, "not UTF-8"),
    (b"[" * 65 + b"]" * 65, 1, 65, "deeper than 64"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, 1, 321, "deeper than 64"),
    (b"[" * 100_000, 1, 65, "deeper than 64"),
    (b"[" * 5000 + b"]" * 5000, 1, 65, "deeper than 64"),
]


@pytest.mark.parametrize("data", VALUES)
def test_reads_what_the_json_module_reads(data: bytes) -> None:
    assert jsonio.loads(data) == json.loads(data)


@pytest.mark.parametrize(("data", "line", "column", "reason"), FAULTS)
def test_names_the_place_of_a_fault(data: bytes, line: int, column: int, reason: str) -> None:
    with pytest.raises(CniError) as caught:
        jsonio.loads(data)
    assert caught.value.code == DECODING_FAILURE
    assert f"line {line}, column {column}: " in caught.value.msg
    assert reason in caught.value.msg


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert jsonio.loads(b'{"\\ud800a": ["\\udfff", "\\ud83d\\ude00"]}') == {
        "?a": ["?", "\U0001f600"]
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"1450", 1450),
        (b"1450.0", 1450),
        (b"1e7", 10_000_000),
        (b"-2.50E1", -25),
        (b"-0.0", 0),
        (b"1450.5", None),
        (b"1e-1", None),
        (b"true", None),
        (b'"1450"', None),
        (b"null", None),
    ],
)
def test_whole_numbers_in_any_spelling(data: bytes, expected: int | None) -> None:
    found = jsonio.whole(jsonio.loads(data))
    assert found == expected
    assert type(found) is type(expected)


def test_object() -> None:
    assert jsonio.load_object(b'{"a": 1}', "the file") == {"a": 1}
    for data in (b"[]", b"1", b"null", b'"{}"'):
        with pytest.raises(CniError, match="the file is not a JSON object") as caught:
            jsonio.load_object(data, "the file")
        assert caught.value.code == DECODING_FAILURE


@pytest.mark.parametrize(
    "value", [{}, [], {"a": [1, 2.5, True, None, "é\U0001f600\n\0"], "b": {}}, "x", 1, None]
)
def test_writes_what_the_json_module_writes(value: object) -> None:
    assert jsonio.dumps(value) == json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize("value", [b"bytes", object(), {1, 2}, float("nan"), float("inf"), {(): 1}])
def test_refuses_to_write_what_json_cannot_say(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsonio.dumps({"a": value} if not isinstance(value, dict) else value)


FALLBACK = """
import sys
sys.modules["_json"] = None
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError
import tests.unit.spec.test_jsonio as cases
for data in cases.VALUES:
    cases.test_reads_what_the_json_module_reads(data)
for case in cases.FAULTS:
    cases.test_names_the_place_of_a_fault(*case)
assert jsonio._HAS_C is False
assert jsonio.dumps({"a": [1, None, "\\u00e9"]}) == b'{"a":[1,null,"\\\\u00e9"]}'
try:
    jsonio.dumps(b"")
except TypeError:
    pass
else:
    raise AssertionError
"""

NO_JSON = """
import sys
sys.modules["json"] = None
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError
for data in (b"[1,", b"nope", b"[1e999]", b'["\\\\x"]', b"[" * 5000 + b"]" * 5000):
    try:
        jsonio.loads(data)
    except CniError as error:
        assert "line 1" in error.msg, error.msg
    else:
        raise AssertionError(data)
assert "json.decoder" not in sys.modules
"""


@pytest.mark.parametrize("program", [FALLBACK, NO_JSON], ids=["without _json", "without json"])
def test_either_half_of_json_may_be_missing(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_does_not_import_the_json_module() -> None:
    program = (
        "import sys; from cni_faasm.spec import jsonio; jsonio.loads(b'[1.5]'); jsonio.dumps([1]);"
        "sys.exit('json' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.');" + program],
            check=False,
        ).returncode
        == 0
    )
