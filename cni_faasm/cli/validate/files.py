"""Find and read the files that validate is to look at."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError


def listed(paths: Sequence[str]) -> Iterator[str]:
    """Yield the files to look at: those of folders, too. Raises: ToolError, OSError."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        # One that cannot be read is no valid one, whosever it is.
        found = [file for file, _ in networks.listed(path)]
        if not found:
            raise ToolError(f"{path}: no file there has a plugin of type {networks.PLUGIN}")
        yield from found


def contents(path: str) -> tuple[str, bytes]:
    """Return a file's name for people, and what is in it. Raises: OSError."""
    if path == "-":
        return "stdin", sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return path, file.read()


def unread(path: str, text: str) -> dict[str, Any]:
    """Return the document of a file that cannot be read: whether it is valid nobody knows."""
    return {"file": path, "valid": None, "remarks": [], "error": output.error(text, "")}
