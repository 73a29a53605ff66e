"""Read limits of what is counted and not measured in bits: packets, and connections."""

from cni_faasm.config.schema import Section

MAX_PACKET_RATE = 100_000_000
MAX_PACKET_BURST = 10_000_000
MAX_CONNECTIONS = 10_000_000
DIRECTIONS = ("ingress", "egress")
_BURST_SECONDS_INVERSE = 20  # a burst that nobody gave: so much of a second
_MIN_BURST = 16  # a window of TCP begins with ten


class Packets:
    """A limit of one direction. rate_pps: packets/s. burst: how many may come at once."""

    __slots__ = ("burst", "rate_pps")

    def __init__(self, rate_pps: int, burst: int | None = None) -> None:
        self.rate_pps = rate_pps
        self.burst = burst or max(_MIN_BURST, rate_pps // _BURST_SECONDS_INVERSE)


class Counted:
    """What is counted of an attachment, each None for no limit.

    ingress, egress: packets to the container and from it. connections: how many it may have.
    """

    __slots__ = ("connections", "egress", "ingress")

    def __init__(
        self,
        ingress: Packets | None = None,
        egress: Packets | None = None,
        connections: int | None = None,
    ) -> None:
        self.ingress = ingress
        self.egress = egress
        self.connections = connections

    def __bool__(self) -> bool:
        return bool(self.ingress or self.egress or self.connections)

    def to_fields(self) -> dict[str, int]:
        """Return them as the attachment record and the tool's documents have them."""
        found: dict[str, int] = {}
        for direction in DIRECTIONS:
            packets: Packets | None = getattr(self, direction)
            if packets is not None:
                found[f"{direction}PacketRate"] = packets.rate_pps
                found[f"{direction}PacketBurst"] = packets.burst
        if self.connections:
            found["maxConnections"] = self.connections
        return found

    @classmethod
    def from_fields(cls, fields: dict[str, object]) -> "Counted":
        """Return what a record keeps. Raises: TypeError, ValueError."""
        sides = [
            Packets(
                _number(fields, f"{direction}PacketRate", MAX_PACKET_RATE),
                _number(fields, f"{direction}PacketBurst", MAX_PACKET_BURST),
            )
            if f"{direction}PacketRate" in fields
            else None
            for direction in DIRECTIONS
        ]
        most = None
        if "maxConnections" in fields:
            most = _number(fields, "maxConnections", MAX_CONNECTIONS)
        return cls(sides[0], sides[1], most)


def _number(fields: dict[str, object], key: str, most: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int):
        raise TypeError(key)
    if not 1 <= value <= most:
        raise ValueError(key)
    return value


def read(nested: Section) -> Counted | None:
    """Return what the object `bandwidth` says; None where it limits nothing of this."""
    both = nested.number("packetRate", 0, MAX_PACKET_RATE)
    burst = nested.number("packetBurst", 1, MAX_PACKET_BURST)
    sides = [_direction(nested, direction, both, burst) for direction in DIRECTIONS]
    if burst and not any(sides):
        nested.fault("packetBurst", must="have packetRate beside it: without a rate, no limit")
    connections = nested.number("maxConnections", 0, MAX_CONNECTIONS)
    return Counted(sides[0], sides[1], connections or None) or None


def _direction(
    nested: Section, direction: str, rate: int | None, burst: int | None
) -> Packets | None:
    """Return one direction's limit: its own keys come before those of both."""
    rate_key, burst_key = f"{direction}PacketRate", f"{direction}PacketBurst"
    own_rate = nested.number(rate_key, 0, MAX_PACKET_RATE)
    own_burst = nested.number(burst_key, 1, MAX_PACKET_BURST)
    found = rate if own_rate is None else own_rate
    if not found:
        if own_burst:
            nested.fault(burst_key, must=f"have {rate_key} beside it: without a rate, no limit")
        return None
    # The burst of both does not belong to a rate of one.
    return Packets(found, own_burst or (burst if own_rate is None else None))
