"""Decode RTM_*QDISC and RTM_*TCLASS, with what they have counted; tc has the other half.

Layout: as in tc; counters in <linux/gen_stats.h>.
"""

from struct import Struct

from cni_faasm.netlink.tc import (
    FIFO_QOPT,
    HTB_GLOB,
    HTB_OPT,
    TBF_QOPT,
    TCA_FQ_CODEL_CE_THRESHOLD,
    TCA_FQ_CODEL_ECN,
    TCA_FQ_CODEL_FLOWS,
    TCA_FQ_CODEL_INTERVAL,
    TCA_FQ_CODEL_LIMIT,
    TCA_FQ_CODEL_MEMORY_LIMIT,
    TCA_FQ_CODEL_QUANTUM,
    TCA_FQ_CODEL_TARGET,
    TCA_HTB_CEIL64,
    TCA_HTB_DIRECT_QLEN,
    TCA_HTB_INIT,
    TCA_HTB_PARMS,
    TCA_HTB_RATE64,
    TCA_KIND,
    TCA_OPTIONS,
    TCA_TBF_PARMS,
    TCA_TBF_RATE64,
    TCMSG,
    TICK_NS,
)
from cni_faasm.netlink.wire import fixed, get_text, get_u32, get_u64, parse_attrs

# <linux/rtnetlink.h>
TCA_STATS2 = 7

# <linux/gen_stats.h>
TCA_STATS_BASIC = 1
TCA_STATS_QUEUE = 3
TCA_STATS_PKT64 = 8

_STATS_BASIC = Struct("=QI")  # bytes, packets
_STATS_QUEUE = Struct("=IIIII")  # qlen, backlog, drops, requeues, overlimits


def burst_bytes(rate_Bps: int, ticks: int) -> int:
    """Return how many bytes a burst of so many ticks holds, as tc shows it.

    Fast rates have more than a byte in a microsecond: what must be equal is ticks.
    """
    return rate_Bps * (ticks * TICK_NS // 1000) // 1_000_000


class Stats:
    """What a qdisc or a class has counted. backlog_bytes, qlen: waiting now."""

    __slots__ = ("backlog_bytes", "bytes", "drops", "overlimits", "packets", "qlen")

    def __init__(self, attrs: dict[int, bytes]) -> None:
        self.bytes = self.packets = 0
        self.qlen = self.backlog_bytes = self.drops = self.overlimits = 0
        stats = parse_attrs(attrs.get(TCA_STATS2, b""))
        basic = stats.get(TCA_STATS_BASIC)
        if basic is not None:
            self.bytes, self.packets = fixed(_STATS_BASIC, basic, "gnet_stats_basic")
            self.packets = get_u64(stats, TCA_STATS_PKT64, self.packets)
        queue = stats.get(TCA_STATS_QUEUE)
        if queue is not None:
            self.qlen, self.backlog_bytes, self.drops, _, self.overlimits = fixed(
                _STATS_QUEUE, queue, "gnet_stats_queue"
            )


class Qdisc:
    """One qdisc. What its kind does not have is None.

    htb_defcls: minor number of the default class. limit: bytes of a bfifo or a tbf, packets of
    a pfifo or an fq_codel. rate_Bps: of a tbf. ce_threshold_us: None as well where fq_codel has none.
    """

    __slots__ = (
        "_attrs",
        "ce_threshold_us",
        "direct_qlen",
        "ecn",
        "flows",
        "handle",
        "htb_defcls",
        "ifindex",
        "interval_us",
        "kind",
        "limit",
        "memory_limit",
        "parent",
        "quantum",
        "rate_Bps",
        "target_us",
    )

    def __init__(
        self, ifindex: int, kind: str, handle: int, parent: int, attrs: dict[int, bytes]
    ) -> None:
        self._attrs = attrs
        self.ifindex = ifindex
        self.kind = kind
        self.handle = handle
        self.parent = parent
        self.htb_defcls: int | None = None
        self.direct_qlen: int | None = None
        self.limit: int | None = None
        self.rate_Bps: int | None = None
        self.target_us: int | None = None
        self.interval_us: int | None = None
        self.memory_limit: int | None = None
        self.quantum: int | None = None
        self.ecn: int | None = None
        self.flows: int | None = None
        self.ce_threshold_us: int | None = None

    @property
    def stats(self) -> Stats:
        """Return what it has counted. Raises: NetlinkError when that is malformed."""
        return Stats(self._attrs)


class HtbClass:
    """One HTB class. leaf: handle of the qdisc below it, 0 when it is the default fifo.

    burst_ticks, cburst_ticks: as the kernel has them, to be compared with burst_ticks().
    rate_framing, ceil_framing: (link layer, overhead, mpu), by which a packet counts for more
    bytes than it has; mpu is the least that it counts for.
    """

    __slots__ = (
        "_attrs",
        "burst_ticks",
        "cburst_ticks",
        "ceil_Bps",
        "ceil_framing",
        "handle",
        "ifindex",
        "leaf",
        "level",
        "parent",
        "prio",
        "quantum",
        "rate_Bps",
        "rate_framing",
    )

    def __init__(
        self,
        ifindex: int,
        handle: int,
        parent: int,
        leaf: int,
        *,
        rate_Bps: int,
        ceil_Bps: int,
        burst_ticks: int,
        cburst_ticks: int,
        quantum: int,
        level: int,
        prio: int,
        rate_framing: tuple[int, int, int],
        ceil_framing: tuple[int, int, int],
        attrs: dict[int, bytes],
    ) -> None:
        self.ifindex = ifindex
        self.handle = handle
        self.parent = parent
        self.leaf = leaf
        self.rate_Bps = rate_Bps
        self.ceil_Bps = ceil_Bps
        self.burst_ticks = burst_ticks
        self.cburst_ticks = cburst_ticks
        self.quantum = quantum
        self.level = level
        self.prio = prio
        self.rate_framing = rate_framing
        self.ceil_framing = ceil_framing
        self._attrs = attrs

    @property
    def stats(self) -> Stats:
        """Return what it has counted. Raises: NetlinkError when that is malformed."""
        return Stats(self._attrs)

    @property
    def burst_bytes(self) -> int:
        """Return the burst in bytes, as tc shows it."""
        return burst_bytes(self.rate_Bps, self.burst_ticks)

    @property
    def cburst_bytes(self) -> int:
        """Return the burst at ceil in bytes, as tc shows it."""
        return burst_bytes(self.ceil_Bps, self.cburst_ticks)


def parse_qdisc(body: bytes) -> Qdisc:
    """Decode RTM_NEWQDISC of any kind; details of the kinds that are made here.

    Raises: NetlinkError when it is malformed.
    """
    _, _, _, ifindex, handle, parent, _ = fixed(TCMSG, body, "tcmsg")
    attrs = parse_attrs(body, TCMSG.size)
    kind = get_text(attrs, TCA_KIND)
    qdisc = Qdisc(ifindex, kind, handle, parent, attrs)
    data = attrs.get(TCA_OPTIONS)
    if data is None:
        return qdisc
    if kind == "htb":
        options = parse_attrs(data)
        _, _, qdisc.htb_defcls, _, _ = fixed(
            HTB_GLOB, options.get(TCA_HTB_INIT, b""), "tc_htb_glob"
        )
        qdisc.direct_qlen = get_u32(options, TCA_HTB_DIRECT_QLEN)
    elif kind in {"bfifo", "pfifo", "pfifo_head_drop"}:
        (qdisc.limit,) = fixed(FIFO_QOPT, data, "tc_fifo_qopt")
    elif kind == "tbf":
        options = parse_attrs(data)
        parms = fixed(TBF_QOPT, options.get(TCA_TBF_PARMS, b""), "tc_tbf_qopt")
        qdisc.rate_Bps = get_u64(options, TCA_TBF_RATE64, parms[5])
        qdisc.limit = parms[6]
    elif kind == "fq_codel":
        options = parse_attrs(data)
        qdisc.limit = get_u32(options, TCA_FQ_CODEL_LIMIT)
        qdisc.target_us = get_u32(options, TCA_FQ_CODEL_TARGET)
        qdisc.interval_us = get_u32(options, TCA_FQ_CODEL_INTERVAL)
        qdisc.memory_limit = get_u32(options, TCA_FQ_CODEL_MEMORY_LIMIT)
        qdisc.quantum = get_u32(options, TCA_FQ_CODEL_QUANTUM)
        qdisc.ecn = get_u32(options, TCA_FQ_CODEL_ECN)
        qdisc.flows = get_u32(options, TCA_FQ_CODEL_FLOWS)
        if TCA_FQ_CODEL_CE_THRESHOLD in options:
            qdisc.ce_threshold_us = get_u32(options, TCA_FQ_CODEL_CE_THRESHOLD)
    return qdisc


def parse_class(body: bytes) -> HtbClass | None:
    """Decode RTM_NEWTCLASS; None when the class is not HTB's.

    Raises: NetlinkError when it is malformed.
    """
    _, _, _, ifindex, handle, parent, leaf = fixed(TCMSG, body, "tcmsg")
    attrs = parse_attrs(body, TCMSG.size)
    if get_text(attrs, TCA_KIND) != "htb":
        return None
    options = parse_attrs(attrs.get(TCA_OPTIONS, b""))
    fields = fixed(HTB_OPT, options.get(TCA_HTB_PARMS, b""), "tc_htb_opt")
    rate_Bps, ceil_Bps = fields[5], fields[11]
    burst, cburst, quantum, level, prio = fields[12:]
    return HtbClass(
        ifindex,
        handle,
        parent,
        leaf,
        rate_Bps=get_u64(options, TCA_HTB_RATE64, rate_Bps),
        ceil_Bps=get_u64(options, TCA_HTB_CEIL64, ceil_Bps),
        burst_ticks=burst,
        cburst_ticks=cburst,
        quantum=quantum,
        level=level,
        prio=prio,
        rate_framing=(fields[1], fields[2], fields[4]),
        ceil_framing=(fields[7], fields[8], fields[10]),
        attrs=attrs,
    )
