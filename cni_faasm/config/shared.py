"""Read limits that several containers have together."""

from cni_faasm.config import units
from cni_faasm.config.schema import SHARED, Section

DIRECTIONS = ("ingress", "egress")
MAX_LABEL = 253


class Shared:
    """What a container may pass together with others.

    ingress_bps, egress_bps: to all of them and from all of them; None for no limit. by: the name
    of the argument whose value they have in common, "" for all of the network. of: the value.
    """

    __slots__ = ("by", "egress_bps", "ingress_bps", "of")

    def __init__(
        self,
        ingress_bps: int | None = None,
        egress_bps: int | None = None,
        *,
        by: str = "",
        of: str = "",
    ) -> None:
        self.ingress_bps = ingress_bps
        self.egress_bps = egress_bps
        self.by = by
        self.of = of

    def to_fields(self) -> dict[str, object]:
        """Return it as the attachment record keeps it."""
        found: dict[str, object] = {}
        for direction in DIRECTIONS:
            rate_bps = getattr(self, f"{direction}_bps")
            if rate_bps:
                found[f"{direction}Rate"] = rate_bps
        return {**found, "by": self.by, "of": self.of} if found else {}

    @classmethod
    def from_fields(cls, fields: dict[str, object]) -> "Shared":
        """Return what a record keeps. Raises: KeyError, TypeError, ValueError."""
        rates: list[int | None] = []
        for direction in DIRECTIONS:
            rate_bps = fields.get(f"{direction}Rate")
            if rate_bps is not None and not isinstance(rate_bps, int):
                raise TypeError(direction)
            if rate_bps is not None and not 8 <= rate_bps <= units.MAX_RATE_BPS:
                raise ValueError(direction)
            rates.append(rate_bps)
        by, of = fields["by"], fields["of"]
        if not isinstance(by, str) or not isinstance(of, str):
            raise TypeError("of")
        return cls(rates[0], rates[1], by=by, of=of)


def read(nested: Section, args: dict[str, str], labels: object) -> Shared | None:
    """Return what the object `bandwidth` says of limits with others; None for nothing.

    args: CNI_ARGS. labels: args.cni.labels, a list of objects with "key" and "value".
    """
    section = nested.section("shared", SHARED)
    if section is None:
        return None
    allowed = f"{units.ALLOWED_RATE}; 0 is no limit"
    rates = [section.parsed(f"{each}Rate", units.parse_rate, allowed) for each in DIRECTIONS]
    by = section.text("by") or ""
    if len(by) > MAX_LABEL:
        section.fault("by", f"a name of at most {MAX_LABEL} characters")
    if not any(rates):
        return None
    of = _value(by, args, labels)[:MAX_LABEL] if by else ""
    return Shared(rates[0] or None, rates[1] or None, by=by, of=of)


def _value(by: str, args: dict[str, str], labels: object) -> str:
    """Return what the runtime says of an argument; "" where it says nothing."""
    if by in args:
        return args[by]
    for one in labels if isinstance(labels, list) else []:
        if isinstance(one, dict) and one.get("key") == by and isinstance(one.get("value"), str):
            return str(one["value"])
    return ""
