"""Find the key that was meant where a configuration has an unknown one.

Loaded only then. The distance counts inserted, lost and replaced letters and swapped
neighbours, each as one (optimal string alignment).
"""


def nearest(key: str, known: dict[str, str]) -> str | None:
    """Return the spelling of the known key nearest to key, both lower-case; None if far.

    known: lower-case key -> its spelling. A short key has only one letter to slip.
    """
    best: str | None = None
    best_distance = 3
    for candidate, name in known.items():
        allowed = 2 if len(candidate) > 5 else 1
        if len(candidate) < 3 or abs(len(candidate) - len(key)) > allowed:
            continue
        found = distance(key, candidate)
        if found <= allowed and found < best_distance:
            best, best_distance = name, found
    return best


def distance(one: str, other: str) -> int:
    """Return the number of slips between two words."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, previous, row = row, before, [i]
        for j, right in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]
