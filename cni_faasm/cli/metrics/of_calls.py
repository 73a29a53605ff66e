"""Tell how many calls the plugin has served, how long they took, and which errors they had."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from cni_faasm import calls
from cni_faasm.spec import errors

# Codes that have a label of their own: other plugins, to which ipam is delegated, may use any.
CODES = frozenset(one for one in vars(errors).values() if isinstance(one, int))


def families(prefix: str) -> Iterator[Any]:
    """Yield the metrics of the calls of this boot. Raises: OSError."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    counts = sorted(calls.read().items())
    took = HistogramMetricFamily(
        f"{prefix}_call_duration_seconds",
        "How long the plugin's calls took, from its first line to its answer; _count is how many "
        "there were since the host's boot.",
        labels=("verb",),
    )
    failed = CounterMetricFamily(
        f"{prefix}_call_errors",
        "Calls that were answered with an error, by its code (docs/errors.md).",
        labels=("verb", "code"),
    )
    bounds = [*(str(bound / 1e6) for bound in calls.BOUNDS_US), "+Inf"]
    for verb, one in counts:
        sums = accumulate(one.within)
        took.add_metric((verb,), list(zip(bounds, sums, strict=True)), one.took_us / 1e6)
        by_label: dict[str, int] = {}
        for code, number in sorted(one.errors.items()):
            label = str(code) if code in CODES else calls.OTHER
            by_label[label] = by_label.get(label, 0) + number
        for label, number in by_label.items():
            failed.add_metric((verb, label), number)
    yield took
    yield failed
