"""Find out what is alive: every network namespace of this host, and what is in it.

A record says where its container was, a lease only whose it is. What decides is whether a
namespace that somebody runs in, or has mounted, holds the address or the other end.
"""

import os
from collections.abc import Iterator

from cni_faasm.link import netns
from cni_faasm.netlink import dumps
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError


class Living:
    """What all network namespaces hold.

    addresses: packed, on any interface. peers: indexes of the host's interfaces whose
    other end is in a namespace that is alive.
    """

    def __init__(self) -> None:
        self.addresses: set[bytes] = set()
        self.peers: set[int] = set()
        self.namespaces = 0
        own_fd = netns.open_own()
        try:
            for fd in _namespaces():
                try:
                    self._read(fd, own_fd)
                finally:
                    os.close(fd)
        finally:
            os.close(own_fd)

    def _read(self, fd: int, own_fd: int) -> None:
        is_own = netns.is_same(fd, own_fd)
        try:
            with netns.Inside(fd, own_fd):
                inner = Netlink()
        except (CniError, OSError):
            return
        with inner:
            try:
                links = dumps.links(inner, "veth")
                addresses = dumps.addrs(inner)
            except NetlinkError:
                return
        self.namespaces += 1
        self.addresses.update(one.address for one in addresses)
        if not is_own:
            self.peers.update(one.link for one in links if one.link_netnsid is not None)


def _namespaces() -> Iterator[int]:
    """Yield a descriptor for each network namespace that a process or a mount keeps."""
    seen: set[tuple[int, int]] = set()
    for path in (*_mounted(), *_of_processes()):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        if identity in seen or not netns.is_network_namespace(fd):
            os.close(fd)
            continue
        seen.add(identity)
        yield fd


def _of_processes() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield f"/proc/{name}/ns/net"


def _mounted() -> Iterator[str]:
    """Yield where namespaces are mounted (proc(5), mountinfo)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split()
            if len(words) > 4 and words[3].startswith("net:["):
                # Blanks in paths are written in octal.
                yield words[4].encode().decode("unicode_escape")
