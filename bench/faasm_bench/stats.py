"""The few statistics that the tables show."""

import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Return the median; infinity when there are no values."""
    return statistics.median(values) if values else float("inf")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by this share of the values."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]
