"""Work out each direction's limit from the file, the runtime and the operator's caps."""

from cni_faasm.config import units
from cni_faasm.config.schema import Fault, Section
from cni_faasm.spec import inet

SUBNET_KEYS = ("unshapedSubnets", "shapedSubnets")
# Each is a filter that packets are compared with, one after the other.
MAX_SUBNETS = 256


class Limit:
    """One direction's limit. rate_bps None: unlimited; burst_bits None: computed later."""

    __slots__ = ("burst_bits", "rate_bps")

    def __init__(self, rate_bps: int | None = None, burst_bits: int | None = None) -> None:
        self.rate_bps = rate_bps
        self.burst_bits = burst_bits

    def __repr__(self) -> str:
        return f"Limit(rate_bps={self.rate_bps}, burst_bits={self.burst_bits})"


def limit(
    direction: str,
    top: Section,
    nested: Section | None,
    asked: Section | None,
    warnings: list[str],
) -> Limit:
    """Work out one direction's limit.

    A burst belongs to its rate: the file's does not hold for a rate that the runtime set,
    or a pod limited to 1 Mbit/s would run for minutes on the burst of a gigabit.
    """
    rate_key, burst_key = direction + "Rate", direction + "Burst"
    cap_key = "max" + rate_key[0].upper() + rate_key[1:]
    section = top  # in which the burst stands
    faults_before = len(top.faults)
    for key in (rate_key, burst_key):
        if nested and key in nested.values and key in top.values:
            _check_same(top, nested, key)
    rate_bps = _rate(top, rate_key)
    burst_bits = _burst(top, burst_key)
    if nested:
        rate_bps = _rate(nested, rate_key) if rate_key in nested.values else rate_bps
        if burst_key in nested.values:
            burst_bits, section = _burst(nested, burst_key), nested
    cap_bps = _rate(top, cap_key)
    if asked:
        asked_bps = _rate(asked, rate_key)
        asked_bits = _burst(asked, burst_key)
        if asked_bits is not None and asked_bits >= units.RUNTIME_BURST_UNSET:
            asked_bits = None
        if asked_bps:
            if cap_bps and asked_bps > cap_bps:
                warnings.append(
                    f"{asked.path}{rate_key}: {units.rate_text(asked_bps)} lowered to "
                    f"{units.rate_text(cap_bps)}, the network's {cap_key}"
                )
                asked_bps = cap_bps
            rate_bps, burst_bits, section = asked_bps, asked_bits, asked
        elif asked_bits:
            burst_bits, section = asked_bits, asked
    if not rate_bps:
        if burst_bits and len(top.faults) == faults_before:
            # As the reference does: a limit was meant, and there would be none.
            section.fault(burst_key, must=f"have {rate_key} beside it: without a rate, no limit")
        return Limit()
    if burst_bits:
        most = units.max_burst_bits(rate_bps)
        if burst_bits > most:
            warnings.append(
                f"{section.path}{burst_key}: {burst_bits} bits lowered to {most}, the most that "
                f"the kernel keeps at {units.rate_text(rate_bps)}"
            )
            burst_bits = most
    return Limit(rate_bps, burst_bits)


def _check_same(top: Section, nested: Section, key: str) -> None:
    parse = units.parse_rate if key.endswith("Rate") else units.parse_burst
    try:
        same = parse(nested.values[key]) == parse(top.values[key])
    except (ValueError, OverflowError):
        return  # a fault of its own
    if not same:
        nested.fault(key, must=f"be that of {top.path}{key}: use only one of them")


def _rate(section: Section, key: str) -> int | None:
    return section.parsed(key, units.parse_rate, f"{units.ALLOWED_RATE}; 0 is no limit")


def _burst(section: Section, key: str) -> int | None:
    return section.parsed(key, units.parse_burst, units.ALLOWED_BURST)


def read_subnets(places: list[Section]) -> tuple[list[tuple[bytes, int]], bool]:
    """Return the subnets that limits do not hold for, or alone hold for, and which it is.

    places: sections in which the keys may stand; the first that has one counts.
    """
    for place in places:
        found = {key: _subnets(place, key) for key in SUBNET_KEYS if key in place.values}
        if len([key for key in found if place.values[key]]) > 1:
            place.fault(SUBNET_KEYS[1], must=f"not stand beside {SUBNET_KEYS[0]}: use only one")
        for key, subnets in found.items():
            if subnets:
                return subnets, key == SUBNET_KEYS[1]
    return [], False


def _subnets(place: Section, key: str) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    texts = place.texts(key)
    if len(texts) > MAX_SUBNETS:
        place.fault(key, f"at most {MAX_SUBNETS} networks")
    for index, text in enumerate(texts[:MAX_SUBNETS]):
        try:
            address, prefix_len = inet.parse_cidr(text)
        except ValueError:
            fault = Fault(f"{place.path}{key}[{index}]", text, "a network like 10.0.0.0/8")
            place.faults.append(fault)
            continue
        # Host bits are cut off, as the reference does.
        subnet = inet.network(address, prefix_len), prefix_len
        if subnet not in found:
            found.append(subnet)
    return found
