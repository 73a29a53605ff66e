"""Say in which line of a JSON text each value stands."""

import re
from json.decoder import scanstring  # type: ignore[attr-defined]

_BLANK = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


class Lines:
    """The lines of all values, by their path: plugins[0].ipam.subnet.

    text: valid JSON. Paths match without regard to case, as the configuration's keys do.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: dict[str, int] = {"": 0}
        self.doubles: list[tuple[str, int]] = []
        self._value(self._skip(0), "")

    def of(self, path: str) -> int:
        """Return the line of a value, or of what it would stand in; from 1."""
        wanted = path.lower()
        while wanted not in self._starts:
            cut = max(wanted.rfind("."), wanted.rfind("["))
            wanted = wanted[: max(cut, 0)]
        return self._text.count("\n", 0, self._starts[wanted]) + 1

    def _skip(self, at: int) -> int:
        match = _BLANK.match(self._text, at)
        return match.end() if match else at

    def _value(self, at: int, path: str) -> int:
        """Note what stands in the value at a position; return the position after it."""
        first = self._text[at]
        if first == '"':
            end: int = scanstring(self._text, at + 1)[1]
            return end
        if first not in "{[":
            match = _SCALAR.match(self._text, at)
            return match.end() if match else at + 1
        close = "}" if first == "{" else "]"
        at = self._skip(at + 1)
        index = 0
        while self._text[at] != close:
            start = at
            if first == "{":
                key, at = scanstring(self._text, at + 1)
                inner = (f"{path}.{key}" if path else key).lower()
                at = self._skip(self._skip(at) + 1)
                if inner in self._starts:
                    self.doubles.append((inner, start))
            else:
                inner = f"{path}[{index}]"
                index += 1
            self._starts[inner] = start
            at = self._skip(self._value(at, inner))
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return at + 1

    def line_at(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1
