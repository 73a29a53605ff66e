"""Turn the server's name into an address, and see whether namespaces can do the like."""

import ipaddress
import socket

from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.network_check.model import Finding
from cni_faasm.spec import inet

RESOLV_CONF = "/etc/resolv.conf"
NETNS_RESOLV_CONF = "/etc/netns/{}/resolv.conf"
_NAMED = 5


def resolve(server: str) -> bytes:
    """Return the address of a server, IPv4 if it has both. Raises: ToolError."""
    try:
        found = socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ToolError(
            f"{server!r} is neither an address nor a name that can be resolved",
            "give the server's IP address; for names, /etc/resolv.conf needs a nameserver "
            "that answers",
        ) from None
    texts = [str(one[4][0]).partition("%")[0] for one in found]
    address = inet.pack(next((text for text in texts if ":" not in text), texts[0]))
    if ipaddress.ip_address(address).is_loopback:
        raise ToolError(
            f"{server} is every namespace's own loopback address",
            "give the address of another machine that runs iperf3",
        )
    return address


def nameserver_findings(names: list[str]) -> list[Finding]:
    """Warn, once for all, about namespaces in which no name can be resolved."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for name in names:
        path, text = NETNS_RESOLV_CONF.format("NAME"), _read(NETNS_RESOLV_CONF.format(name))
        if text is None:
            path, text = RESOLV_CONF, _read(RESOLV_CONF) or ""
        servers = [address for address in map(_nameserver, text.splitlines()) if address]
        if any(address.is_global for address in servers):
            continue
        kind = "public nameserver" if servers else "nameserver that a namespace could reach"
        lacking.setdefault((path, kind), []).append(name)
    if not lacking:
        return []
    told = [
        f"{path} has no {kind}: {_listed(who)} may not be able to resolve names"
        for (path, kind), who in lacking.items()
    ]
    return [
        Finding(
            "; ".join(told),
            "put one there, like `nameserver 9.9.9.9`; a loopback address means the namespace "
            f"itself, a private one must answer its address. {NETNS_RESOLV_CONF.format('NAME')} "
            "is for one namespace alone",
        )
    ]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _nameserver(line: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    """Return the address on a line of resolv.conf that another namespace could reach."""
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return None
    try:
        address = ipaddress.ip_address(words[1])
    except ValueError:
        return None
    unusable = address.is_loopback or address.is_unspecified or address.is_link_local
    return None if unusable else address


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
