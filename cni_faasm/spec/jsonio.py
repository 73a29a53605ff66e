"""Read and write JSON with the C halves of the json module; its Python half costs 12 ms.

Stricter than json.loads, because everything we read comes from outside: UTF-8 without a
byte order mark, no NaN or Infinity, numbers of at most 40 characters, at most 64 levels
of nesting, at most 1,024 keys in an object: keys that somebody has chosen to collide cost the
square of their number, and the built plugin's hash seed is known (SECURITY.md). Whatever is
refused is named with its line and column.
"""

from collections.abc import Callable

from cni_faasm.spec import jsonfault
from cni_faasm.spec.errors import DECODING_FAILURE, CniError

try:
    import _json
except ImportError:
    _HAS_C = False  # an interpreter without the accelerator
else:
    _HAS_C = True

MAX_DEPTH = 64
MAX_NUMBER = 40  # characters
MAX_KEYS = 1024  # of an object
_WHITESPACE = " \t\n\r"
_INFINITY = float("inf")
_NOT_BRACKETS = bytes(code for code in range(256) if code not in b'[]{}"')
_NOT_MEMBERS = bytes(code for code in range(256) if code not in b'{}:"')
# Objects of a few keys and without others in them, which make long documents long.
_SMALL = [b"{" + b":" * count + b"}" for count in range(9)]


class _RefusedError(ValueError):
    """A value that JSON or our bounds do not allow."""


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER:
        raise _RefusedError
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_NUMBER or value in (_INFINITY, -_INFINITY):
        raise _RefusedError
    return value


def _constant(name: str) -> object:
    raise _RefusedError(name)


def _not_json(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Context:
    """What make_scanner reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_float)
    parse_int = staticmethod(_integer)
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 -- the C half clears its own


if _HAS_C:
    _scan: Callable[[str, int], tuple[object, int]] = _json.make_scanner(_Context)  # type: ignore[arg-type]
    _encode: Callable[[object, int], tuple[str, ...]] = _json.make_encoder(
        None, _not_json, _json.encode_basestring_ascii, None, ":", ",", False, False, False
    )
else:
    import json

    _scan = json.JSONDecoder(  # type: ignore[attr-defined]
        parse_float=_float, parse_int=_integer, parse_constant=_constant
    ).scan_once
    _python_encoder = json.JSONEncoder(
        check_circular=False, allow_nan=False, separators=(",", ":"), default=_not_json
    )

    def _encode(value: object, _level: int) -> tuple[str, ...]:
        return (_python_encoder.encode(value),)


def loads(data: bytes) -> object:
    """Return the one JSON value in data.

    Half of a surrogate pair, which no UTF-8 can carry on, becomes "?".
    Raises: CniError 6 that says where and why.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _failure(data[: error.start].decode(), "this is not UTF-8") from None
    body = text.strip(_WHITESPACE)
    try:
        value, end = (None, -1) if _too_many_keys(data) else _scan(body, 0)
    except Exception:  # the C half raises by importing json, which may not be there
        value, end = None, -1
    if end != len(body) or _too_deep(data):
        start = len(text) - len(text.lstrip(_WHITESPACE))
        position, reason = jsonfault.locate(body, MAX_DEPTH, MAX_NUMBER, MAX_KEYS)
        raise _failure(text[: start + position], reason)
    if "\\u" in text:
        value = _mend(value)
    return value


def load_object(data: bytes, what: str) -> dict[str, object]:
    """Return the JSON object in data. Raises: CniError 6; `what` names what it should be."""
    value = loads(data)
    if not isinstance(value, dict):
        raise CniError(
            DECODING_FAILURE,
            f"{what} is not a JSON object",
            "it must begin with { and end with }",
        )
    return value


def whole(value: object) -> int | None:
    """Return a decoded number that has no fraction, None for anything else.

    JSON knows no whole numbers: writers in many languages make 1450.0 of 1450, and 1e7.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def dumps(value: object) -> bytes:
    """Return value as JSON in ASCII, without spaces.

    Raises: TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    return "".join(_encode(value, 0)).encode("ascii")


def _too_many_keys(data: bytes) -> bool:
    """Say whether an object may have more than MAX_KEYS keys, before a dictionary is made of it."""
    if data.count(b":") <= MAX_KEYS:
        return False
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_MEMBERS)
    plain = b"".join(plain.split(b'"')[::2])
    for _ in range(2):
        for small in _SMALL:
            plain = plain.replace(small, b"")
    counts = [0]
    for code in plain:
        if code == 0x3A:  # a colon
            counts[-1] += 1
            if counts[-1] > MAX_KEYS:
                return True
        elif code == 0x7B:  # {
            counts.append(0)
        elif len(counts) > 1:
            counts.pop()
    return False


def _too_deep(data: bytes) -> bool:
    """Say whether brackets outside strings nest deeper than MAX_DEPTH."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_BRACKETS)
    depth = deepest = 0
    for code in b"".join(plain.split(b'"')[::2]):
        if code in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest > MAX_DEPTH


def _mend(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return value.encode("utf-8", "replace").decode()
    elif isinstance(value, list):
        return [_mend(item) for item in value]
    elif isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


def _failure(before: str, reason: str) -> CniError:
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return CniError(
        DECODING_FAILURE,
        f"broken JSON at line {line}, column {column}: {reason}",
        "one JSON object in UTF-8 is expected",
    )
