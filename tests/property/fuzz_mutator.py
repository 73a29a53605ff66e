"""Change a JSON document as an attacker would: one value for another, not one byte.

libFuzzer's own mutations of such a text hardly ever leave JSON, so what is read out of it would
never be tried.
"""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 4, 255, 2**16, 2**31, 2**32, 2**63, 10**39, -(10**38)),
    *(0.5, 1e300, "", "a", "\0", "\n", "..", "/", "../x", "é", "\ud800", "x" * 300),
    *("10.9.0.1", "10.9.0.1/33", "10.9.0.0/24", "0.0.0.0/0", "255.255.255.255/32", "::", "fd00::1"),
    *("fd00::/64", "::/0", "::ffff:10.9.0.1", "02:00:00:00:00:01", "01:00:00:00:00:00", "1.0.0"),
    *("10M", "1P", "0", "5ms", "host", "host-local", "static", "tcp/53", "icmp"),
    *([], {}, [[]], [{}], [0], [""], {"": 0}, {"dst": "0.0.0.0/0"}, {"subnet": "10.9.0.0/24"}),
]


def mutated(
    data: bytes, max_size: int, seed: int, by_bytes: Callable[[bytes, int], bytes]
) -> bytes:
    """Return another document, or for a part of the calls what by_bytes makes of its bytes."""
    chance = random.Random(seed)
    head, mark, text = data.rpartition(b"\0\0")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return by_bytes(data, max_size)
    if chance.random() < 0.2 or not isinstance(document, dict):
        return by_bytes(data, max_size)
    if mark and chance.random() < 0.2:
        head = by_bytes(head, max_size)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change(document, chance, by_bytes)
    changed = head + mark + json.dumps(document).encode()
    return changed if len(changed) <= max_size else data


def _change(
    document: dict[str, Any], chance: random.Random, by_bytes: Callable[[bytes, int], bytes]
) -> None:
    places = list(_places(document))
    if not places:
        document[str(chance.choice(ODD))] = chance.choice(ODD)
        return
    holder, key = chance.choice(places)
    value = holder[key]
    kind = chance.random()
    if kind < 0.4:
        holder[key] = copy.deepcopy(chance.choice(ODD))
    elif kind < 0.6:
        other, name = chance.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif kind < 0.7:
        del holder[key]
    elif isinstance(value, str):
        holder[key] = by_bytes(value.encode("utf-8", "replace"), 300).decode("utf-8", "replace")
    elif isinstance(value, list):
        value.append(copy.deepcopy(chance.choice((*value, *ODD))))
    elif isinstance(value, dict):
        value[str(chance.choice((*value, "Name", "x")))] = copy.deepcopy(chance.choice(ODD))
    elif isinstance(value, int):
        holder[key] = value + chance.choice((-1, 1, 255, 2**31, -(2**31)))


def _places(value: Any) -> Any:
    """Yield (object or list, key or index) of every value in a document."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
