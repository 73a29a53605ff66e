"""Time the verbs of two networks alternately."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .calls import Attachment, Network, Operation
from .privatehost import add_namespace, delete_namespace
from .stats import median, percentile

VERBS = ("ADD", "CHECK", "DEL")


@dataclass
class Series:
    """All measured operations of one network and verb."""

    operations: list[Operation] = field(default_factory=list)

    def milliseconds(self) -> list[float]:
        """Return the time of each, as the runtime sees it."""
        return [1000 * operation.seconds for operation in self.operations]

    def median_ms(self) -> float:
        return median(self.milliseconds())

    def p95_ms(self) -> float:
        return percentile(self.milliseconds(), 0.95)

    def cpu_ms(self) -> float:
        """Return the median processor time."""
        return 1000 * median([operation.cpu_seconds for operation in self.operations])

    def peak_mib(self) -> float:
        """Return the most memory that any call had."""
        return max(operation.peak_kib for operation in self.operations) / 1024

    def figures(self) -> dict[str, object]:
        """Return what --json says."""
        return {
            "medianMs": self.median_ms(),
            "p95Ms": self.p95_ms(),
            "medianCpuMs": self.cpu_ms(),
            "peakMiB": self.peak_mib(),
            "medianMsToQuiet": 1000 * median([one.seconds_to_quiet for one in self.operations]),
            "ms": self.milliseconds(),
        }


Table = dict[str, dict[str, Series]]


def compare(
    networks: Sequence[Network], times: int, warm_up: int, step: Callable[[str], None]
) -> Table:
    """Attach, check and detach with each network in turn; return series by title and verb.

    Who begins alternates. Every attachment has a namespace that nobody used before; all are
    made before the first measurement and deleted after the last, because the kernel goes on
    working for a while after a namespace was deleted.
    """
    table: Table = {network.title: {verb: Series() for verb in VERBS} for network in networks}
    names = [
        _container(round_, network) for round_ in range(warm_up + times) for network in networks
    ]
    paths = {name: add_namespace(name) for name in names}
    try:
        for round_ in range(warm_up + times):
            step(f"round {round_ + 1} of {warm_up + times}")
            for network in networks if round_ % 2 else reversed(networks):
                name = _container(round_, network)
                measured = _once(network, Attachment(name, paths[name]))
                if round_ >= warm_up:
                    for verb, operation in measured.items():
                        table[network.title][verb].operations.append(operation)
    finally:
        for network in networks:
            network.delete_all()
        for name in names:
            delete_namespace(name)
    return table


def _container(round_: int, network: Network) -> str:
    return f"bench{round_}-{network.title}".replace(" ", "-")


def _once(network: Network, attachment: Attachment) -> dict[str, Operation]:
    return {
        "ADD": network.add(attachment),
        "CHECK": network.check(attachment),
        "DEL": network.delete(attachment),
    }


def ratio(ours: Series, theirs: Series) -> float:
    """Return our median as a multiple of theirs."""
    return ours.median_ms() / theirs.median_ms()


def verdict(value: float, target: float) -> str:
    """Return a target and whether it is met."""
    return f"≤ {target:g} {'met' if value <= target else 'MISSED'}"
