"""Judge what was measured against what is configured. Pure; touches nothing.

A limit counts whole Ethernet frames, iperf3 the payload that arrived. Under a limit TCP
can therefore carry at most

    allowed = limit * MSS / (MTU + 14)

where MSS is the MTU without the IP header (20 bytes, IPv6 40), TCP's 20 and 12 of its
timestamps: 1448 of 1514 bytes at an MTU of 1500.
"""

from dataclasses import asdict, dataclass, field

ETHERNET_HEADER_BYTES = 14
HEADER_BYTES = {4: 52, 16: 72}  # IP and TCP with timestamps, by the address's length

# What a rate may differ from what its limit allows.
MAX_EXCESS = 0.05
MAX_MISS = 0.10

HOST = "host"
EGRESS = "egress"  # sent from the namespace
INGRESS = "ingress"  # received by the namespace
DIRECTIONS = (EGRESS, INGRESS)

OK = "ok"
TOO_FAST = "TOO FAST"
TOO_SLOW = "TOO SLOW"
FAILED = "FAILED"
NO_LIMIT = "no limit"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something missing or wrong outside of the figures, and what to do about it.

    fatal: nothing can be measured before it is put right.
    """

    text: str
    remedy: str = ""
    fatal: bool = False


@dataclass(slots=True)
class Flow:
    """What iperf3 and the pings beside it found for one flow.

    bps: payload that arrived. wire_bps: frames that left the end with the limit; None for
    the host. samples: (end of the interval in seconds, bit/s), of wire_bps or else of bps.
    rtt_ms: median while loaded; None when nothing answered. rtt_source: "ping" or "TCP".
    """

    where: str
    direction: str
    bps: float = 0.0
    retransmits: int = 0
    rtt_ms: float | None = None
    rtt_source: str = ""
    rtt_max_ms: float | None = None
    pings_lost: int = 0
    mss: int = 0
    wire_bps: float | None = None
    samples: list[tuple[float, float]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one direction of a namespace is configured to carry. rate_bps None: anything."""

    rate_bps: int | None
    burst_bytes: int
    mtu: int
    address_bytes: int  # 4 or 16: the family that is measured with
    packets_pps: int | None = None
    shared_bps: int | None = None

    def counted_bps(self) -> float | None:
        """Return the payload of as many full packets as may pass; super-packets carry more."""
        if not self.packets_pps:
            return None
        return self.packets_pps * (self.mtu - HEADER_BYTES[self.address_bytes]) * 8

    def allowed_bps(self, mss: int = 0) -> float | None:
        """Return the payload that fits under the limit.

        mss: what the connection really used. It is smaller than the MTU suggests when
        the path is narrower than the container's link; then frames are smaller, too.
        """
        if not self.rate_bps:
            return None
        headers = HEADER_BYTES[self.address_bytes]
        full = self.mtu - headers
        payload = mss if 0 < mss < full else full
        return self.rate_bps * payload / (payload + headers + ETHERNET_HEADER_BYTES)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Rates in bit/s; None where there is no such figure."""

    where: str
    direction: str
    limit_bps: int | None
    allowed_bps: float | None
    measured_bps: float | None
    share: float | None  # measured / allowed
    retransmits: int | None
    rtt_ms: float | None
    rtt_source: str
    host_bps: float | None
    verdict: str
    note: str = ""

    @property
    def broken(self) -> bool:
        """Say whether this row makes the check fail."""
        return self.verdict in (TOO_FAST, TOO_SLOW, FAILED)

    def document(self) -> dict[str, object]:
        """Return the row as JSON types, keys in the tool's usual spelling."""
        names = {
            "where": "namespace",
            "limit_bps": "limitBitsPerSecond",
            "allowed_bps": "allowedBitsPerSecond",
            "measured_bps": "measuredBitsPerSecond",
            "share": "measuredToAllowed",
            "rtt_ms": "loadedRttMs",
            "rtt_source": "rttSource",
            "host_bps": "unshapedHostBitsPerSecond",
        }
        return {names.get(key, key): value for key, value in asdict(self).items()}


def judge(flow: Flow, limit: Limit | None, host: Flow | None) -> Row:
    """Compare one flow with its limit.

    A limit is exceeded when both payload and frames say so: a queue that was full before
    the measurement began is read within it, which at 256 kbit/s is some percent.

    limit: None for the host itself. host: the same direction measured from the host.
    """
    allowed = limit.allowed_bps(flow.mss) if limit else None
    host_bps = host.bps if host and not host.error else None
    share = flow.bps / allowed if allowed and not flow.error else None
    wire = None
    if limit and limit.rate_bps and flow.wire_bps is not None:
        wire = flow.wire_bps / limit.rate_bps
    verdict, note = OK, ""
    if flow.error:
        verdict, note = FAILED, flow.error
    elif share is None:
        verdict = NO_LIMIT
    elif share > 1 + MAX_EXCESS and (wire is None or wire > 1 + MAX_EXCESS):
        verdict = TOO_FAST
        note = _why_fast(flow, limit)
    elif share < 1 - MAX_MISS:
        verdict = TOO_SLOW
        note = _why_slow(flow, allowed, host_bps, wire)
        counted = limit.counted_bps() if limit else None
        if limit and counted is not None and allowed and counted < allowed:
            verdict = OK
            note = f"its limit of {limit.packets_pps} packets/s comes before that of bits"
        elif limit and limit.shared_bps:
            verdict = OK
            note = f"all that share {rate_text(limit.shared_bps)} with it count against that"
    return Row(
        where=flow.where,
        direction=flow.direction,
        limit_bps=limit.rate_bps if limit else None,
        allowed_bps=allowed,
        measured_bps=None if flow.error else flow.bps,
        share=share,
        retransmits=None if flow.error else flow.retransmits,
        rtt_ms=flow.rtt_ms,
        rtt_source=flow.rtt_source,
        host_bps=host_bps if limit else None,
        verdict=verdict,
        note=note,
    )


def _why_fast(flow: Flow, limit: Limit | None) -> str:
    note = f"carries {rate_text(flow.bps)}, which its limit does not allow"
    if limit and limit.rate_bps and limit.burst_bytes * 8 > limit.rate_bps:
        seconds = limit.burst_bytes * 8 / limit.rate_bps
        note += f"; its burst is as much as {seconds:.0f} s of the limit"
    return note


def _why_slow(flow: Flow, allowed: float | None, host_bps: float | None, wire: float | None) -> str:
    if allowed and host_bps is not None and host_bps < allowed:
        return (
            f"the host itself reaches only {rate_text(host_bps)}: "
            "the line or the server is slower than the limit"
        )
    if wire is not None and wire > 1 - MAX_EXCESS:
        return (
            f"its frames fill the limit, but TCP had to repeat {flow.retransmits} of them; "
            "a longer measurement (--seconds) tells whether that lasts"
        )
    return "misses what its limit allows"


def shared_line(rows: list[Row], direction: str, at_once: int) -> str:
    """Explain rows that are slow only because all of them together fill the host's line."""
    slow = [r for r in rows if r.direction == direction and r.verdict == TOO_SLOW]
    host_bps = next((row.host_bps for row in slow), None)
    if not slow or not host_bps or at_once < 2:
        return ""
    together = sorted((r.allowed_bps or 0 for r in rows if r.direction == direction), reverse=True)
    wanted = sum(together[:at_once])
    if wanted <= host_bps:
        return ""
    return (
        f"{direction}: the limits together allow {rate_text(wanted)}, "
        f"the host itself reaches {rate_text(host_bps)}: the line or the server is what is slow"
    )


def rate_text(bps: float | None) -> str:
    """Return a rate as a person writes it, four digits: 33.55 Mbit/s."""
    if bps is None:
        return "-"
    value, unit = float(bps), "bit/s"
    for larger in ("kbit/s", "Mbit/s", "Gbit/s"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.4g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def mbit(bps: float | None) -> str:
    """Return Mbit/s for a column of the table."""
    if bps is None:
        return "-"
    value = bps / 1e6
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def size_text(count: int) -> str:
    """Return bytes as a person writes them."""
    for unit, size in (("MB", 1_000_000), ("kB", 1000)):
        if count >= 10 * size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"
