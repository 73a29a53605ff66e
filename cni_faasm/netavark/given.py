"""Read the JSON objects that podman and netavark send; null is the same as absent."""

from __future__ import annotations

from typing import TypeVar

from cni_faasm.config.schema import shown
from cni_faasm.spec.errors import DECODING_FAILURE, CniError

T = TypeVar("T")


class Given:
    """One object. path: where it stands, with a dot at its end, or "".

    Every reader raises CniError 6 where something of another kind stands.
    """

    __slots__ = ("path", "values")

    def __init__(self, values: dict[str, object], path: str = "") -> None:
        self.values = values
        self.path = path

    def text(self, key: str) -> str:
        """Return text, "" where there is none."""
        return self._read(key, str, "text") or ""

    def flag(self, key: str) -> bool:
        return self._read(key, bool, "true or false") or False

    def texts(self, key: str) -> list[str]:
        return [self._demand(f"{key}[]", one, str, "text") for one in self._items(key)]

    def pairs(self, key: str) -> dict[str, str]:
        """Return an object of texts."""
        found = self.child(key).values
        return {
            name: self._demand(f"{key}.{name}", one, str, "text") for name, one in found.items()
        }

    def child(self, key: str) -> Given:
        """Return the object at a key, an empty one where there is none."""
        return Given(self._read(key, dict, "an object") or {}, f"{self.path}{key}.")

    def children(self, key: str) -> list[Given]:
        return [
            Given(self._demand(f"{key}[{index}]", one, dict, "an object"), f"{key}[{index}].")
            for index, one in enumerate(self._items(key))
        ]

    def _items(self, key: str) -> list[object]:
        return self._read(key, list, "a list") or []

    def _read(self, key: str, kind: type[T], what: str) -> T | None:
        value = self.values.get(key)
        return None if value is None else self._demand(key, value, kind, what)

    def _demand(self, key: str, value: object, kind: type[T], what: str) -> T:
        if isinstance(value, kind):
            return value
        raise CniError(
            DECODING_FAILURE,
            f"{self.path}{key}: {shown(value)}: expected {what}",
            "podman and netavark write this; docs/podman.md says which versions are known",
        )
