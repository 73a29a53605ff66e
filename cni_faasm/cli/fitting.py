"""Fit tables and lines to a terminal: the columns that matter least go, and no word is cut."""

import os
import sys
import textwrap
from collections.abc import Sequence

GAP = 2  # between two columns


def width(*, stderr: bool = False) -> int | None:
    """Return how many columns the terminal has; None where the output goes elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    try:
        if not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def places(
    heads: Sequence[str], widths: Sequence[int], room: int | None, dispensable: Sequence[str]
) -> list[int]:
    """Return which columns fit, as places in heads.

    dispensable: heads of those that may go, the first to go first. One that went and still
    fits in the end, since a wider one went after it, is back. room: None for endless.
    """
    shown = set(range(len(heads)))
    gone: list[int] = []
    if room is None:
        return sorted(shown)

    def total() -> int:
        return sum(widths[place] + GAP for place in shown) - GAP

    for head in dispensable:
        if total() <= room:
            break
        place = heads.index(head)
        shown.discard(place)
        gone.append(place)
    for place in reversed(gone):
        shown.add(place)
        if total() > room:
            shown.discard(place)
    return sorted(shown)


def word_widths(texts: Sequence[str], spare: int = 0) -> tuple[int, int]:
    """Return the width of the longest word of some cells, and of the longest line."""
    lines = [line for text in texts for line in text.split("\n")] or [""]
    words = [word for line in lines for word in line.split()] or [""]
    return max(map(len, words)) + spare, max(map(len, lines)) + spare


def shares(needs: Sequence[tuple[int, int]], room: int) -> list[int]:
    """Share a width among columns: each its longest word, then what is left where it lacks most.

    needs: of each column the least and the wanted width. room: without the gaps.
    """
    given = [least for least, _ in needs]
    for _ in range(room - sum(given)):
        lacking = [wanted - now for (_, wanted), now in zip(needs, given, strict=True)]
        if max(lacking, default=0) <= 0:
            break
        given[lacking.index(max(lacking))] += 1
    return given


def filled(text: str, room: int | None, indent: str = "") -> str:
    """Break lines between words; a word longer than the room stays whole."""
    if room is None:
        return text
    return "\n".join(
        textwrap.fill(
            line, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for line in text.split("\n")
    )
