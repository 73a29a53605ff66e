"""Say what a network's containers must not do, and how its outer ends are known to rules."""

PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6")  # of allowHost

# The outer ends of a network are in an interface group of its own, by which rules know them:
# the upper byte says that it is one of ours, the rest is of the network's name.
GROUP_BASE = 0x7A000000
GROUP_MASK = 0xFF000000


def group(network: str) -> int:
    """Return the interface group of a network's outer ends."""
    return GROUP_BASE | int(digest(network)[-6:], 16)


def digest(text: str) -> str:
    """Return FNV-1a, 64 bit, as hex: not for secrecy, only to tell long texts apart."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


class Guard:
    """What a network's containers must not do.

    anti_spoof: send from addresses that are not theirs. isolated: reach one another, or the
    host but for allow_host, (protocol, port) each; port 0 is any.
    """

    __slots__ = ("allow_host", "anti_spoof", "isolated")

    def __init__(
        self, *, anti_spoof: bool, isolated: bool, allow_host: list[tuple[str, int]]
    ) -> None:
        self.anti_spoof = anti_spoof
        self.isolated = isolated
        self.allow_host = allow_host

    def __str__(self) -> str:
        words = ["antiSpoof"] if self.anti_spoof else []
        if self.isolated:
            words.append("isolated")
            if self.allow_host:
                words.append("allowHost")
                words += [service_text(one) for one in self.allow_host]
        return " ".join(words)


def service_text(service: tuple[str, int]) -> str:
    """Return "udp/53", or "icmp" for what has no port."""
    protocol, port = service
    return f"{protocol}/{port}" if port else protocol
