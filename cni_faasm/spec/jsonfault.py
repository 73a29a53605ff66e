"""Say where a text stops being the JSON that jsonio takes. Loaded only when it does.

The C scanner reports a fault by importing the json module, which the bundle leaves out;
so this walks the text again, slowly, by the grammar of RFC 8259.
"""

_WHITESPACE = " \t\n\r"
_DIGITS = "0123456789"
_END = "the text ends too early"
# Of a text; the walk is slow, and whoever sends more than this reads no column.
MAX_WALK = 1 << 18
_TOKEN = 8  # characters that a cut may make a fault of, such as half a word or escape


class _FaultError(Exception):
    def __init__(self, position: int, reason: str) -> None:
        Exception.__init__(self, reason)
        self.position = position
        self.reason = reason


def locate(text: str, max_depth: int, max_number: int, max_keys: int) -> tuple[int, str]:
    """Return (position, reason) of the first fault in text."""
    if text.startswith("\ufeff"):
        return 0, "a byte order mark; save the file without one"
    if not text:
        return 0, "nothing is there"
    walk = _Walk(text[:MAX_WALK], max_depth, max_number, max_keys)
    is_cut = len(text) > MAX_WALK
    try:
        end = walk.value(0, 0)
    except _FaultError as fault:
        if is_cut and fault.position > MAX_WALK - _TOKEN:
            return MAX_WALK - _TOKEN, "a fault is here or further on"
        return fault.position, fault.reason
    if is_cut and walk.skip(end) == MAX_WALK:
        return MAX_WALK, "a fault is here or further on"
    if walk.skip(end) < len(text):
        return walk.skip(end), "something follows the value"
    return 0, "it cannot be read"  # unreachable while the two readers agree


class _Walk:
    """One walk over a text; each method returns the position after what it is named for."""

    __slots__ = ("max_depth", "max_keys", "max_number", "text")

    def __init__(self, text: str, max_depth: int, max_number: int, max_keys: int) -> None:
        self.text = text
        self.max_keys = max_keys
        self.max_depth = max_depth
        self.max_number = max_number

    def skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in _WHITESPACE:
            at += 1
        return at

    def peek(self, at: int) -> str:
        if at >= len(self.text):
            raise _FaultError(at, _END)
        return self.text[at]

    def value(self, at: int, depth: int) -> int:
        first = self.peek(at)
        if first == '"':
            return self.string(at)
        if first in "{[":
            if depth >= self.max_depth:
                raise _FaultError(at, f"nested deeper than {self.max_depth} levels")
            return self.members(at, depth + 1, is_object=first == "{")
        for word in ("true", "false", "null"):
            if self.text.startswith(word, at):
                return at + len(word)
        if first == "-" or first in _DIGITS:
            return self.number(at)
        if first in "NI":
            raise _FaultError(at, "NaN and Infinity are not JSON")
        raise _FaultError(at, "a value is expected here")

    def members(self, at: int, depth: int, *, is_object: bool) -> int:
        close = "}" if is_object else "]"
        at = self.skip(at + 1)
        if self.peek(at) == close:
            return at + 1
        count = 0
        while True:
            if is_object:
                count += 1
                if count > self.max_keys:
                    raise _FaultError(at, f"an object with more than {self.max_keys} keys")
                if self.peek(at) != '"':
                    raise _FaultError(at, "a key in double quotes is expected here")
                at = self.skip(self.string(at))
                if self.peek(at) != ":":
                    raise _FaultError(at, "a colon is expected here")
                at = self.skip(at + 1)
            at = self.skip(self.value(at, depth))
            if self.peek(at) == close:
                return at + 1
            if self.peek(at) != ",":
                raise _FaultError(at, f"a comma or {close} is expected here")
            at = self.skip(at + 1)

    def string(self, at: int) -> int:
        at += 1
        while True:
            code = self.peek(at)
            if code == '"':
                return at + 1
            if code < " ":
                raise _FaultError(at, "a control character in a string must be written \\u00XX")
            if code == "\\":
                at += 1
                if self.peek(at) == "u":
                    digits = self.text[at + 1 : at + 5]
                    if len(digits) < 4 or any(d not in "0123456789abcdefABCDEF" for d in digits):
                        raise _FaultError(at, "four hexadecimal digits must follow \\u")
                    at += 4
                elif self.text[at] not in '"\\/bfnrt':
                    raise _FaultError(at, "no such escape")
            at += 1

    def number(self, at: int) -> int:
        start = at
        if self.text[at] == "-":
            at += 1
        if self.peek(at) not in _DIGITS:
            if self.text[at] == "I":
                raise _FaultError(start, "NaN and Infinity are not JSON")
            raise _FaultError(at, "a digit is expected here")
        at = at + 1 if self.text[at] == "0" else self.digits(at)
        if self.text[at : at + 1] == "." and self.text[at + 1 : at + 2] in _SOME_DIGIT:
            at = self.digits(at + 1)
        if self.text[at : at + 1] in ("e", "E"):
            after = at + 2 if self.text[at + 1 : at + 2] in ("+", "-") else at + 1
            if self.text[after : after + 1] in _SOME_DIGIT:
                at = self.digits(after)
        number = self.text[start:at]
        if len(number) > self.max_number:
            raise _FaultError(start, f"a number longer than {self.max_number} characters")
        if float(number) in (float("inf"), float("-inf")):
            raise _FaultError(start, "a number too large")
        return at

    def digits(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in _DIGITS:
            at += 1
        return at


_SOME_DIGIT = tuple(_DIGITS)
