"""Put what the attachments carry into the families of metrics that Prometheus reads.

Names and units follow Prometheus: bytes, counters ending in _total, a limit in bytes per
second, so that rate(cni_faasm_bytes_total[1m]) / cni_faasm_limit_bytes_per_second is how
much of its limit an attachment uses.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from cni_faasm import __version__
from cni_faasm.attachment import record
from cni_faasm.cli import attachments, networks
from cni_faasm.cli.metrics import of_calls
from cni_faasm.cli.status.rows import Row, Watcher
from cni_faasm.config import loading as configuration
from cni_faasm.config import ranges
from cni_faasm.config.ranges import Range
from cni_faasm.ipam.layout import size
from cni_faasm.ipam.store import Store
from cni_faasm.rules import dropped
from cni_faasm.spec import inet

PREFIX = "cni_faasm"
LABELS = ("network", "container", "ifname", "host_interface")
DIRECTION = (*LABELS, "direction")
RANGE = ("network", "range")
WHOSE = (*LABELS, "namespace", "pod", "name")
LABEL_MOST = 253  # of what others have named; more than a pod's name has

COUNTERS = (
    ("bytes", "bytes", "Bytes that passed, with Ethernet headers."),
    ("packets", "packets", "Packets that passed."),
    ("drops", "drops", "Packets dropped because the queue was full."),
    ("overlimits", "overlimits", "How often a packet had to wait because of the limit."),
)
GAUGES = (
    ("backlog_bytes", "backlog_bytes", "Bytes waiting in the queue."),
    ("backlog_packets", "backlog_packets", "Packets waiting in the queue."),
)


def collect(conf_dir: str, state_dir: str, *, quiet: bool = False) -> list[Any]:
    """Look at all attachments, ranges and rules; return the metrics.

    quiet: say nothing of files that cannot be read. Raises: ToolError, NetlinkError, OSError.
    """
    began = time.monotonic()
    known = networks.installed(conf_dir, quiet=quiet)
    folders = networks.state_dirs(known, state_dir)
    # Afresh each time: a socket that is kept in a namespace keeps the namespace.
    watcher = Watcher()
    try:
        rows = watcher.read(list(attachments.every(folders)), drifts=True)
    finally:
        watcher.close()
    families = list(_families(rows, _leases(known, rows)))
    families += _of_networks(folders)
    families += of_calls.families(PREFIX)
    families.append(_info(rows))
    families.append(
        _gauge(
            "collection_seconds",
            "How long it took to look at all this.",
            (),
            [((), time.monotonic() - began)],
        )
    )
    return families


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Sequence[tuple[Sequence[str], float]]
) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _of_networks(folders: Sequence[str]) -> Iterator[Any]:
    """Yield what is of a network as a whole: packets that rules dropped, the last GC."""
    from prometheus_client.core import CounterMetricFamily

    drops = CounterMetricFamily(
        f"{PREFIX}_rule_drops",
        "Packets that the host's rules dropped: of false senders (antiSpoof), to where they may "
        "not go (isolated), above the limit of egress (limit), of packets (packetRate), of "
        "connections (maxConnections), of several together (shared).",
        labels=("network", "rule"),
    )
    for network, what, packets in dropped.every():
        drops.add_metric((network, what), packets)
    yield drops
    collected = [
        ((network,), when)
        for folder in folders
        for network in record.networks(folder)
        if (when := record.last_collected(folder, network)) is not None
    ]
    yield _gauge(
        "last_gc_timestamp_seconds",
        "When garbage was collected last, in seconds since 1970; absent before the first time.",
        ("network",),
        collected,
    )


def _info(rows: Sequence[Row]) -> Any:
    """Return a metric that says whose each attachment is, to be joined with the others."""
    samples = []
    for row in rows:
        namespace, is_pod, pod = row.attachment.name.rpartition("/")
        name = "" if is_pod else row.attachment.name
        whose = [text[:LABEL_MOST] for text in (namespace, pod if is_pod else "", name)]
        samples.append(([*_labels(row), *whose], 1.0))
    return _gauge(
        "attachment_info",
        "Always 1: the pod and its namespace, or the container's name, as the runtime has it.",
        WHOSE,
        samples,
    )


def text(families: Sequence[Any]) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Once(Collector):
        def collect(self) -> Sequence[Any]:
            return families

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry)


def _families(rows: Sequence[Row], leases: Sequence[tuple[str, str, int, int]]) -> Iterator[Any]:
    """Yield the metrics. leases: network, range, used, free."""
    # Imported late: it takes as long as everything else that the tool needs.
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    sides = [
        ([*_labels(row), direction], side)
        for row in rows
        for direction, side in (("ingress", row.ingress), ("egress", row.egress))
    ]
    counted = [(labels, side.counters) for labels, side in sides if side.counters is not None]
    for name, key, help_text in COUNTERS:
        family = CounterMetricFamily(f"{PREFIX}_{name}", help_text, labels=DIRECTION)
        for labels, counters in counted:
            family.add_metric(labels, getattr(counters, key))
        yield family
    for name, key, help_text in GAUGES:
        gauge = GaugeMetricFamily(f"{PREFIX}_{name}", help_text, labels=DIRECTION)
        for labels, counters in counted:
            gauge.add_metric(labels, getattr(counters, key))
        yield gauge
    limit = GaugeMetricFamily(
        f"{PREFIX}_limit_bytes_per_second",
        "The limit; absent where there is none.",
        labels=DIRECTION,
    )
    burst = GaugeMetricFamily(f"{PREFIX}_burst_bytes", "The burst of the limit.", labels=DIRECTION)
    for labels, side in sides:
        if side.limit_bps is not None and side.burst_bytes is not None:
            limit.add_metric(labels, side.limit_bps / 8)
            burst.add_metric(labels, side.burst_bytes)
    yield limit
    yield burst
    yield from _counted(rows)
    yield _shared(rows)
    drifts = GaugeMetricFamily(
        f"{PREFIX}_drifts", "Differences from what ADD promised.", labels=LABELS
    )
    for row in rows:
        drifts.add_metric(_labels(row), len(row.drifts or ()))
    yield drifts
    used = GaugeMetricFamily(f"{PREFIX}_leases_used", "Leased addresses of a range.", labels=RANGE)
    free = GaugeMetricFamily(
        f"{PREFIX}_leases_free", "Addresses of a range that can be leased.", labels=RANGE
    )
    for network, text, number_used, number_free in leases:
        used.add_metric((network, text), number_used)
        free.add_metric((network, text), number_free)
    yield used
    yield free
    info = GaugeMetricFamily(f"{PREFIX}_info", "Always 1.", labels=("version",))
    info.add_metric((__version__,), 1)
    yield info


def _counted(rows: Sequence[Row]) -> Iterator[Any]:
    """Yield limits of packets and connections."""
    packets, connections = [], []
    for row in rows:
        counted = row.attachment.promised.counted if row.attachment.promised else None
        if counted is None:
            continue
        for direction, one in (("ingress", counted.ingress), ("egress", counted.egress)):
            if one is not None:
                packets.append(([*_labels(row), direction], float(one.rate_pps)))
        if counted.connections:
            connections.append((_labels(row), float(counted.connections)))
    yield _gauge(
        "limit_packets_per_second",
        "The limit of packets; absent where there is none.",
        DIRECTION,
        packets,
    )
    yield _gauge(
        "limit_connections",
        "How many connections it may have; absent where there is no limit.",
        LABELS,
        connections,
    )


def _shared(rows: Sequence[Row]) -> Any:
    """Return limits that several have, once each."""
    found: dict[tuple[str, ...], float] = {}
    for row in rows:
        shared = row.attachment.promised.shared if row.attachment.promised else None
        if shared is None:
            continue
        for direction, rate in (("ingress", shared.ingress_bps), ("egress", shared.egress_bps)):
            if rate:
                whose = (row.attachment.network, shared.by, shared.of[:LABEL_MOST], direction)
                found[whose] = max(rate / 8, found.get(whose, 0.0))
    return _gauge(
        "shared_limit_bytes_per_second",
        "The limit that containers of a network, or of an argument's value, have together.",
        ("network", "by", "of", "direction"),
        list(found.items()),
    )


def _labels(row: Row) -> list[str]:
    one = row.attachment
    outer = one.promised.host_interface if one.promised else ""
    return [one.network, one.container_id, one.ifname, outer]


def _leases(
    known: Sequence[networks.Network], rows: Sequence[Row]
) -> list[tuple[str, str, int, int]]:
    """Return network, range, used, free of every range that is configured or in use."""
    found: dict[tuple[str, str], tuple[str, Range]] = {}
    for network in known:
        config = configuration.load_tolerant(network.document)
        for one in (one for range_set in config.range_sets for one in range_set):
            found[config.name, _range_text(one)] = (config.data_dir, one)
    named = {name for name, _ in found}
    for row in rows:
        promised = row.attachment.promised
        if promised is None or promised.network in named:
            continue
        for net, prefix_len in promised.ranges:
            one = ranges.make(net, prefix_len)
            found[promised.network, _range_text(one)] = (promised.data_dir, one)
    counted = []
    for (name, text), (data_dir, one) in found.items():
        with Store(data_dir, name, create=False, lock=False) as store:
            used = store.count(one)
        counted.append((name, text, used, max(0, size([one]) - used)))
    return counted


def _range_text(one: Range) -> str:
    return f"{inet.unpack(one.first)}-{inet.unpack(one.last)}"


def document(family: Any) -> dict[str, Any]:
    return {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for sample in family.samples
        ],
    }
