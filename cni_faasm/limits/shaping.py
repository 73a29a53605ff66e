"""Rate-limit one end of a pair: HTB root 1:, class 1:1, a cutter, one bounded leaf queue.

Egress of the inner end is what the container sends, egress of the outer end what it
receives, so the same messages on each end limit both directions without ifb and
without policing. Why these numbers and not others: docs/design.md, "Shaping".
"""

from __future__ import annotations

from cni_faasm.config.rates import Limit
from cni_faasm.limits import shaping_scope
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.netlink import tc
from cni_faasm.netlink.transport import Message

ROOT_HANDLE = 0x10000  # 1:
CLASS_ID = 0x10001  # 1:1
CUTTER_HANDLE = 0x110000  # 11:
CUTTER_CLASS_ID = 0x110001  # 11:1
LEAF_HANDLE = 0x100000  # 10:
CUTTER = "tbf "  # stands before the leaf's kind where the kernel has it

ETHERNET_HEADER_BYTES = 14
LONGEST_HEADERS_BYTES = 86
# A single class never competes, so the quantum only has to keep the kernel from
# warning; it does so outside 1,000 to 200,000 bytes.
QUANTUM_BYTES = 60_000
# By so much a timer, or the sender itself, may be late on a busy machine without loss. With a
# packet sent on credit, a start is less than a fiftieth of a second ahead.
BURST_MS = 18
# What is forwarded comes in super-packets of up to 64 KB. Where a cutter makes frames of them,
# the queue is 15 ms: behind a path of 20 ms, 5 ms take 4 % at 100 Mbit/s and 15 ms nothing. From
# 670 Mbit/s on no more than a megabyte, for what stands in the queue is what everything else
# waits behind; 2 ms at least.
LATENCY_MS = 15
LARGE_QUEUE_BYTES = 1_250_000
LARGE_LATENCY_MS = 2
# Without a cutter a super-packet that finds no room is lost whole.
UNCUT_LATENCY_MS = 25
SUPER_PACKET_BYTES = 70_000
# Six full frames, and room beside them for a small packet: in a queue of just whole frames
# a ping, a SYN or a DNS question finds no place while a transfer runs.
MIN_LEAF_FRAMES = 6
LEAF_HEADROOM_BYTES = 700
MIN_GSO_BYTES = 1700
MAX_GSO_BYTES = 65536
# A quarter of a millisecond: HTB sends a super-packet first and waits for it after, so what
# waits behind it waits that long. From 800 Mbit/s on smaller ones cost more processor than
# a busy machine has.
GSO_PER_SECOND = 4_000
LARGE_GSO_RATE_BPS = 800_000_000
# As fast as never to wait: a burst takes no time at all.
CUTTER_RATE_Bps = 1 << 60
CUTTER_NONE_BYTES = 1 << 20
# Of fq_codel, the kernel's own.
FLOWS = 1024
TARGET_US = 5000
# It counts what memory packets take, 2,304 bytes for a frame of 1,514; and once it is full it drops
# half of what a flow has there, which must not be the usual way.
MEMORY_PER_BYTE = 3


class Shape:
    """What one direction is limited to, in the kernel's own quantities.

    scope: which of the traffic, None for all of it. cut_bytes: larger super-packets are cut into
    frames before the leaf; 0 where the leaf takes them as they are. gso_bytes: the largest
    super-packet that the end itself may send.
    """

    __slots__ = (
        "burst_bytes",
        "cut_bytes",
        "gso_bytes",
        "leaf",
        "leaf_bytes",
        "quantum_bytes",
        "rate_bps",
        "scope",
        "target_us",
    )

    def __init__(
        self,
        *,
        rate_bps: int,
        burst_bytes: int,
        leaf: str,
        leaf_bytes: int,
        target_us: int,
        quantum_bytes: int = QUANTUM_BYTES,
        scope: Scope | None = None,
        cut_bytes: int = 0,
        gso_bytes: int = MAX_GSO_BYTES,
    ) -> None:
        self.rate_bps = rate_bps
        self.burst_bytes = burst_bytes
        self.leaf = leaf
        self.leaf_bytes = leaf_bytes
        self.target_us = target_us
        self.quantum_bytes = quantum_bytes
        self.scope = scope
        self.cut_bytes = cut_bytes
        self.gso_bytes = gso_bytes

    @property
    def queue(self) -> str:
        """Return the kind of the leaf, CUTTER before it where there is one."""
        return CUTTER + self.leaf if self.cut_bytes else self.leaf

    @property
    def leaf_parent(self) -> int:
        """Return the class that the leaf hangs below."""
        return CUTTER_CLASS_ID if self.cut_bytes else CLASS_ID

    @property
    def default_class(self) -> int:
        """Return the minor number of the class for what no filter classifies; 0 for none."""
        return 0 if self.scope is not None and self.scope.only else CLASS_ID & 0xFFFF

    @property
    def direct_qlen(self) -> int:
        """Return how many packets may wait to go past the class.

        None where nothing is exempt: HTB sends so whatever has its handle for a priority, and
        any program with CAP_NET_RAW may give its socket that one (SO_PRIORITY).
        """
        return 0 if self.scope is None else 1000

    @property
    def rate_Bps(self) -> int:
        """Return the rate in bytes/s, as the kernel counts it."""
        return self.rate_bps // 8

    def to_fields(self) -> dict[str, object]:
        """Return the shape as the attachment record keeps it."""
        usual_bytes = _first_gso_bytes(self.rate_bps)
        return {
            "rateBps": self.rate_bps,
            "burstBytes": self.burst_bytes,
            "leaf": self.leaf,
            "leafBytes": self.leaf_bytes,
            "targetUs": self.target_us,
            "quantumBytes": self.quantum_bytes,
            **({"gsoBytes": self.gso_bytes} if self.gso_bytes != usual_bytes else {}),
            **({"cutBytes": self.cut_bytes} if self.cut_bytes else {}),
            **({"scope": self.scope.to_fields()} if self.scope is not None else {}),
        }

    @classmethod
    def from_fields(cls, fields: dict[str, object]) -> Shape:
        """Return the shape an attachment record keeps.

        Raises: KeyError, TypeError or ValueError when the fields are not a shape.
        """
        numbers = {}
        for key in ("rateBps", "burstBytes", "leafBytes", "targetUs", "quantumBytes"):
            value = fields[key]
            most = 1 << 63 if key in ("rateBps", "burstBytes") else 0xFFFFFFFF
            if not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(key)
            numbers[key] = value
        sizes = {}
        for key, missing in (("cutBytes", 0), ("gsoBytes", _first_gso_bytes(numbers["rateBps"]))):
            value = fields.get(key, missing)
            if not isinstance(value, int) or not 0 <= value <= 0xFFFFFFFF:
                raise ValueError(key)
            sizes[key] = value
        scope = None
        kept = fields.get("scope")
        if kept is not None:
            if not isinstance(kept, dict):
                raise TypeError("scope")
            scope = Scope.from_fields(kept)
        return cls(
            rate_bps=numbers["rateBps"],
            burst_bytes=numbers["burstBytes"],
            leaf=str(fields["leaf"]),
            leaf_bytes=numbers["leafBytes"],
            target_us=numbers["targetUs"],
            quantum_bytes=numbers["quantumBytes"],
            scope=scope,
            cut_bytes=sizes["cutBytes"],
            gso_bytes=sizes["gsoBytes"],
        )


def shape(
    limit: Limit,
    latency_ms: int | None,
    mtu: int,
    queue: str,
    scope: Scope | None = None,
) -> Shape | None:
    """Turn a configured limit into a shape; None when the direction is unlimited.

    queue: "fq_codel" or "bfifo", CUTTER before it, as the kernel offers. scope: as seen from the end it is for.
    """
    rate_bps = limit.rate_bps
    if not rate_bps:
        return None
    frame_bytes = mtu + ETHERNET_HEADER_BYTES
    rate_Bps = rate_bps // 8
    cuts = queue.startswith(CUTTER)
    burst_bytes = rate_Bps * BURST_MS // 1000 if limit.burst_bits is None else limit.burst_bits // 8
    leaf_bytes = max(
        MIN_LEAF_FRAMES * frame_bytes + LEAF_HEADROOM_BYTES,
        _queue_bytes(rate_Bps, latency_ms, cuts=cuts),
    )
    gso_bytes = _gso_bytes(rate_bps)
    cut_bytes = 0
    if cuts:
        # Each segment counts with its headers, so what the end itself sends is a little longer.
        uncut = max(gso_bytes + gso_bytes // 8, frame_bytes + LONGEST_HEADERS_BYTES)
        cut_bytes = uncut if gso_bytes < MAX_GSO_BYTES else CUTTER_NONE_BYTES
    # CoDel must not drop what merely takes long to put on a slow line.
    target_us = max(_target_us(latency_ms, cuts=cuts), frame_bytes * 1_500_000 // max(rate_Bps, 1))
    return Shape(
        rate_bps=rate_bps,
        burst_bytes=max(burst_bytes, frame_bytes + LONGEST_HEADERS_BYTES),
        leaf=queue.removeprefix(CUTTER),
        leaf_bytes=min(leaf_bytes, 0xFFFFFFFF),
        target_us=min(target_us, 10_000_000),
        scope=scope,
        cut_bytes=cut_bytes,
        gso_bytes=gso_bytes,
    )


def became(burst_bits: int | None, one: Shape | None) -> str:
    """Say what became of a burst that was asked for; "" when it is as asked, or none was."""
    if burst_bits is None or one is None:
        return ""
    if burst_bits // 8 < one.burst_bytes:
        return f"{burst_bits} bits raised to {one.burst_bytes * 8}: one packet must fit"
    if burst_bits // 8 > one.burst_bytes:
        return f"{burst_bits} bits lowered to {one.burst_bytes * 8}, the most that the kernel keeps"
    return ""


def _queue_bytes(rate_Bps: int, latency_ms: int | None, *, cuts: bool) -> int:
    if latency_ms:
        return rate_Bps * latency_ms // 1000
    usual = rate_Bps * LATENCY_MS // 1000
    if not cuts:
        usual = min(rate_Bps * UNCUT_LATENCY_MS // 1000, max(SUPER_PACKET_BYTES, usual))
    return min(usual, max(LARGE_QUEUE_BYTES, rate_Bps * LARGE_LATENCY_MS // 1000))


def _target_us(latency_ms: int | None, *, cuts: bool) -> int:
    """Return how long CoDel lets packets wait: a third of the queue's length."""
    return (latency_ms or LATENCY_MS) * 1000 // 3 if cuts else TARGET_US


def on_host_bps(rate_bps: int) -> int:
    """Return the rate at which the host enforces an egress limit: who obeys never waits twice."""
    return rate_bps * 102 // 100


def gso_max_bytes(one: Shape | None) -> int | None:
    """Return the largest super-packet an end may send; None leaves the kernel's default.

    A 64 KB super-packet takes 52 ms at 10 Mbit/s: it would burst past a small queue
    and keep TCP's own back-pressure from working.
    """
    return None if one is None else one.gso_bytes


def _gso_bytes(rate_bps: int) -> int:
    if rate_bps >= LARGE_GSO_RATE_BPS:
        return MAX_GSO_BYTES
    return max(rate_bps // 8 // GSO_PER_SECOND, MIN_GSO_BYTES)


def _first_gso_bytes(rate_bps: int) -> int:
    """Return what an attachment of a version has whose records did not say it."""
    if rate_bps >= 2_000_000_000:
        return MAX_GSO_BYTES
    return min(max(rate_bps // 8 // 12_000, MIN_GSO_BYTES), 32768)


def messages(ifindex: int, one: Shape | None) -> list[Message]:
    """Return what makes the shape on one end; nothing for an unlimited direction."""
    if one is None:
        return []
    made = [
        tc.new_qdisc_htb(ifindex, ROOT_HANDLE, one.default_class, one.direct_qlen),
        class_message(ifindex, one),
        *queue_messages(ifindex, one),
    ]
    if one.scope is not None:
        made += shaping_scope.messages(ifindex, one.scope)
    return made


def class_message(ifindex: int, one: Shape, *, replace: bool = False) -> Message:
    """Return what makes class 1:1, or with replace changes its numbers under traffic."""
    return tc.new_class_htb(
        ifindex,
        ROOT_HANDLE,
        CLASS_ID,
        one.rate_Bps,
        one.rate_Bps,
        one.burst_bytes,
        one.burst_bytes,
        one.quantum_bytes,
        replace=replace,
    )


def queue_messages(ifindex: int, one: Shape, *, replace: bool = False) -> list[Message]:
    """Return what makes all below class 1:1, or changes its numbers."""
    leaf = leaf_message(ifindex, one, replace=replace)
    if not one.cut_bytes:
        return [leaf]
    cutter = tc.new_qdisc_tbf(
        ifindex,
        CLASS_ID,
        CUTTER_HANDLE,
        rate_Bps=CUTTER_RATE_Bps,
        max_bytes=one.cut_bytes,
        # A bfifo below it gets this limit, too.
        limit_bytes=one.leaf_bytes,
        replace=replace,
    )
    return [cutter, leaf]


def leaf_message(ifindex: int, one: Shape, *, replace: bool = False) -> Message:
    """Return what makes the bounded leaf queue, or changes its bounds."""
    if one.leaf == "fq_codel":
        return tc.new_qdisc_fq_codel(
            ifindex,
            one.leaf_parent,
            LEAF_HANDLE,
            **fq_codel(one),
            # Said, so that replacing takes away what somebody else has set.
            ce_threshold_us=tc.NO_CE_THRESHOLD_US,
            flows=None if replace else FLOWS,
            replace=replace,
        )
    return tc.new_qdisc_bfifo(
        ifindex, one.leaf_parent, LEAF_HANDLE, one.leaf_bytes, replace=replace
    )


def fq_codel(one: Shape) -> dict[str, int]:
    """Return the numbers of an fq_codel leaf, as tc.new_qdisc_fq_codel calls them."""
    memory = one.leaf_bytes * MEMORY_PER_BYTE if one.cut_bytes else max(one.leaf_bytes, 64 * 1514)
    return {
        "limit": 10240,
        "target_us": one.target_us,
        "interval_us": max(100_000, one.target_us * 20),
        "memory_limit": min(memory, tc.FQ_CODEL_MAX_MEMORY),
        "quantum": 1514,
        "ecn": 1,
    }
