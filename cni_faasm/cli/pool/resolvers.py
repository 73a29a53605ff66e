"""Choose the nameservers of a pool's namespaces, and write their resolv.conf.

`ip netns exec NAME` shows /etc/netns/NAME/resolv.conf to its command in place of the
host's, whose nameserver is often one on the host's own loopback.
"""

import contextlib
import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cni_faasm.cli import output
from cni_faasm.cli.pool import netfolder
from cni_faasm.config import dns
from cni_faasm.config.ranges import Range
from cni_faasm.spec import inet

HOST = "/etc/resolv.conf"
# Where systemd-resolved tells the servers that hide behind its 127.0.0.53.
RESOLVED = "/run/systemd/resolve/resolv.conf"
_HEAD = "# Written by cni-faasm pool up"


class Choice(NamedTuple):
    """What goes into resolv.conf ("" for nothing), and what the operator should know."""

    text: str
    warning: str


def choose(wanted: Mapping[str, object], range_sets: Sequence[Sequence[Range]]) -> Choice:
    """Take the network's nameservers, else the host's public ones, else its private ones.

    wanted: the network's DNS object. A server of a family in which the network has no
    addresses is of no use to it.
    """
    servers = _texts(wanted, "nameservers")
    options = dict(wanted)
    warning = ""
    if not servers:
        families = {4 if len(one[0].network) == 4 else 6 for one in range_sets}
        usable = [server for server in _host_servers() if _version(server) in families]
        servers = [server for server in usable if ipaddress.ip_address(server).is_global]
        if not servers and usable:
            servers = usable
            warning = (
                f"{HOST} has no public nameserver; the namespaces get {', '.join(usable)}, "
                "which they can use only if it answers the network's addresses"
            )
        elif not servers:
            warning = (
                f"{HOST} has no public nameserver, so names cannot be resolved inside: add one "
                'to it, as "nameserver 9.9.9.9", or to "dns" of the network\'s configuration'
            )
    if not servers:
        return Choice("", warning)
    lines = [_HEAD, *(f"nameserver {server}" for server in servers)]
    if options.get("domain"):
        lines.append(f"domain {options['domain']}")
    lists = [(key, _texts(options, key)) for key in ("search", "options")]
    lines += [f"{key} {' '.join(words)}" for key, words in lists if words]
    return Choice("\n".join(lines) + "\n", warning)


def _texts(document: Mapping[str, object], key: str) -> list[str]:
    value = document.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []


def _host_servers() -> list[str]:
    """Return the host's nameservers that another namespace can reach."""
    for path in (HOST, RESOLVED):
        try:
            # One with a zone (fe80::1%eth0) is on the host's link, and left out.
            listed = _texts(dns.read_resolv_conf(path, []), "nameservers")
        except OSError:
            continue
        found = []
        for server in listed:
            address = ipaddress.ip_address(server)
            if not (address.is_loopback or address.is_unspecified or address.is_link_local):
                found.append(server)
        if found:
            return found
    return []


def _version(server: str) -> int:
    return 4 if len(inet.pack(server)) == 4 else 6


def put(name: str, text: str) -> bool:
    """Write a namespace's resolv.conf unless it has one; say whether it was written."""
    folder = f"{netfolder.ETC}/{name}"
    path = f"{folder}/resolv.conf"
    if os.path.lexists(path):
        return False
    os.makedirs(folder, mode=0o755, exist_ok=True)
    output.write_whole(path, text.encode())
    return True


def text_of(name: str) -> str:
    """Return what a namespace's resolv.conf says, "" without one."""
    try:
        with open(
            f"{netfolder.ETC}/{name}/resolv.conf", encoding="utf-8", errors="replace"
        ) as file:
            return file.read()
    except OSError:
        return ""


def remove(name: str) -> None:
    """Take away what `put` wrote; what somebody else wrote stays."""
    folder = f"{netfolder.ETC}/{name}"
    path = f"{folder}/resolv.conf"
    with contextlib.suppress(OSError):
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = file.readline().rstrip() == _HEAD
        if ours:
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)
