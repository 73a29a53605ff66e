"""Parse rates, bursts and times as people and runtimes write them.

A rate is a number of bits per second: 10000000, or text with a unit. The grammar::

    rate   = digits [ "." digits ] [ " " ] [ prefix ] [ "bit" [ "/s" ] ]
    prefix = "k" | "M" | "G" | "T" | "P"         powers of 1000
           | "Ki" | "Mi" | "Gi" | "Ti" | "Pi"    powers of 1024

Letters match without regard to case but for one: a bare "m" is a thousandth to
Kubernetes, so million must be "M" or "mbit". "bps" is refused: to tc it means bytes.
"""

from cni_faasm.spec import jsonio

KILO = 1000
MIN_RATE_BPS = KILO  # as Kubernetes allows
MAX_RATE_BPS = KILO**5

# What runtimes send for "not set": 0, the largest int32, the largest uint32 (containerd), and one
# less than eight times that (CRI-O).
BURST_UNSET = (0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF * 8 - 1)
# From here on a runtime's number is none either: what it does not know, it writes as the largest
# number of some type, and pods tell no burst by their annotations.
RUNTIME_BURST_UNSET = 0x7FFFFFFF
MAX_BURST_BITS = (1 << 63) - 1

# An HTB class keeps its burst as transmit time: a u32 of 64 ns ticks.
_MAX_BURST_TICKS = 0xFFFFFFFF
_TICK_NS = 64
_SECOND_NS = 1_000_000_000

ALLOWED_RATE = '1 kbit/s to 1 Pbit/s, as bits/s or text like "10M", "10mbit", "1.5G", "10Mi"'
ALLOWED_BURST = 'a number of bits, or text like "64k", "1Mbit"'
ALLOWED_LATENCY = '1 to 10000 milliseconds, as a number or text like "5ms", "1s"'

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_rate(value: object) -> int:
    """Return bits/s; 0 when the value says unlimited. Raises: ValueError."""
    rate_bps = _parse_bits(value)
    if rate_bps and not MIN_RATE_BPS <= rate_bps <= MAX_RATE_BPS:
        raise ValueError(value)
    return rate_bps


def parse_burst(value: object) -> int | None:
    """Return bits, None for what means "not set". Raises: ValueError."""
    bits = _parse_bits(value)
    if bits > MAX_BURST_BITS:
        raise ValueError(value)
    return None if bits in BURST_UNSET else bits


def max_burst_bits(rate_bps: int) -> int:
    """Return the largest burst that the kernel can keep for a class of this rate."""
    return rate_bps // 8 * _MAX_BURST_TICKS * _TICK_NS // _SECOND_NS * 8


def parse_latency(value: object) -> int:
    """Return milliseconds. Raises: ValueError."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text.endswith("ms"):
            latency_ms = _decimal(text[:-2].rstrip(), 1)
        elif text.endswith("s"):
            latency_ms = _decimal(text[:-1].rstrip(), 1000)
        else:
            latency_ms = _decimal(text, 1)
    else:
        latency_ms = _whole(value)
    if not 1 <= latency_ms <= 10_000:
        raise ValueError(value)
    return latency_ms


def rate_text(rate_bps: int) -> str:
    """Return a rate for people: 10 Mbit/s."""
    for prefix, power in (("P", 5), ("T", 4), ("G", 3), ("M", 2), ("k", 1)):
        unit = KILO**power
        if rate_bps >= unit:
            whole, rest = divmod(rate_bps, unit)
            fraction = str(rest).rjust(3 * power, "0").rstrip("0")
            return f"{whole}{'.' if fraction else ''}{fraction} {prefix}bit/s"
    return f"{rate_bps} bit/s"


def _whole(value: object) -> int:
    """Return a JSON number that has no fraction. Raises: ValueError."""
    number = jsonio.whole(value)
    if number is None or number < 0:
        raise ValueError(value)
    return number


def _parse_bits(value: object) -> int:
    if not isinstance(value, str):
        return _whole(value)
    text = value.strip()
    folded = text.lower()
    if folded.endswith("/s"):
        folded = folded[:-2]
        if not folded.endswith("bit"):
            raise ValueError(value)
    if folded.endswith("bit"):
        folded = folded[:-3]
    elif text.endswith("m"):
        raise ValueError(value)
    digits = folded.rstrip("kmgtpi")
    prefix = folded[len(digits) :]
    power = _POWERS.get(prefix.removesuffix("i"))
    if power is None or prefix == "i":
        raise ValueError(value)
    return _decimal(digits.rstrip(), 1024**power if prefix.endswith("i") else KILO**power)


def _decimal(text: str, unit: int) -> int:
    """Return the decimal number in text times unit, rounded down. Raises: ValueError."""
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not digits.isascii() or not digits.isdigit() or len(digits) > 30:
        raise ValueError(text)
    if not whole or (point and not fraction):
        raise ValueError(text)
    return int(digits) * unit // int(10 ** len(fraction))
