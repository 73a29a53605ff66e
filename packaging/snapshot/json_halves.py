"""Be what cni_faasm/spec/jsonio.py takes of CPython's _json, by simplejson's C half.

Debian's libpython3.11.a has no _json. simplejson's is its elder sister: the same scanner and
encoder with more settings. tests/unit/spec/test_json_halves.py has both do the same.
"""

from _json_speedups import encode_basestring_ascii
from _json_speedups import make_encoder as _make_encoder
from _json_speedups import make_scanner as _make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["encode_basestring_ascii", "make_encoder", "make_scanner"]


class _NoDecimal:
    """Stand for decimal.Decimal, which nothing of ours is."""


def make_scanner(context: "Any") -> "Callable[[str, int], tuple[object, int]]":
    """Return a function of a text and a place in it that gives the value there, and its end."""
    settings = type(
        "Settings",
        (),
        {
            **{
                name: staticmethod(getattr(context, name))
                for name in ("parse_float", "parse_int", "parse_constant")
            },
            "strict": context.strict,
            "object_hook": context.object_hook,
            "object_pairs_hook": context.object_pairs_hook,
            "array_hook": None,
            "encoding": "utf-8",
        },
    )
    scanner: Callable[[str, int], tuple[object, int]] = _make_scanner(settings)
    return scanner


def make_encoder(
    markers: "dict[int, object] | None",
    default: "Callable[[object], object]",
    encoder: "Callable[[str], str]",
    indent: None,
    key_separator: str,
    item_separator: str,
    sort_keys: bool,
    skip_keys: bool,
    allow_nan: bool,
) -> "Callable[[object, int], list[str]]":
    """Return a function of a value and a level of indentation that gives pieces of text."""
    encode: Callable[[object, int], list[str]] = _make_encoder(
        markers,
        default,
        encoder,
        indent,
        key_separator,
        item_separator,
        sort_keys,
        skip_keys,
        allow_nan,
        {},  # texts of keys
        False,  # use_decimal
        False,  # namedtuple_as_object
        True,  # tuple_as_array
        None,  # int_as_string_bitcount
        None,  # item_sort_key
        None,  # encoding of bytes
        False,  # for_json
        False,  # ignore_nan
        _NoDecimal,
        False,  # iterable_as_array
    )
    return encode
