#!/usr/bin/env python3
"""Write the tables of docs/configuration.md from the registry of keys.

bin/key_tables.py           writes what differs
bin/key_tables.py --check   ends with 1 where something would be written
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from cni_faasm.config.keys import TABLES  # noqa: E402 -- from this checkout

PAGE = REPO / "docs" / "configuration.md"
# The table of what the runtime adds has full paths and no defaults.
PATHS = "runtime"


def rows(table: str) -> Iterator[str]:
    for key in TABLES[table]:
        if table == PATHS:
            path = f"{key.at}.{key.name}" if key.at else key.name
            yield f"| `{path}` | {key.kind} | {key.meaning} |"
        else:
            cells = (f"`{key.name}`", key.kind, key.default, key.meaning)
            yield "| " + " | ".join(cells) + " |"


def page(text: str) -> str:
    """Return the page with its tables made anew, in the order of the registry's."""
    tables = iter(name for name in TABLES if name)

    def made(match: re.Match[str]) -> str:
        return match[1] + "\n".join(rows(next(tables))) + "\n"

    head = r"(\| key \| type \|(?: default \|)? meaning \|\n\|[-|]+\|\n)"
    return re.sub(head + r"(?:\|.*\n)+", made, text)


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    new = page(text)
    if new == text:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write(f"{PAGE.name} is not as the registry of keys: run bin/key_tables.py\n")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
