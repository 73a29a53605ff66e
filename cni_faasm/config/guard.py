"""Read antiSpoof, isolated and allowHost."""

from cni_faasm.config.policy import Guard
from cni_faasm.config.schema import Fault, Section

PORTLESS = ("icmp", "icmpv6")  # of allowHost


def read_guard(top: Section) -> Guard | None:
    """Return what is forbidden; None for nothing."""
    anti_spoof = top.flag("antiSpoof")
    isolated = top.flag("isolated") or False
    allowed: list[tuple[str, int]] = []
    for index, text in enumerate(top.texts("allowHost")):
        protocol, slash, port = text.lower().partition("/")
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
        if (protocol in PORTLESS and not slash) or (
            protocol in ("tcp", "udp") and 1 <= number <= 65535
        ):
            allowed.append((protocol, number))
        else:
            allowed_text = "tcp/PORT, udp/PORT, icmp or icmpv6"
            top.faults.append(Fault(f"{top.path}allowHost[{index}]", text, allowed_text))
    if anti_spoof is False and not isolated:
        return None
    return Guard(anti_spoof=anti_spoof is not False, isolated=isolated, allow_host=allowed)
