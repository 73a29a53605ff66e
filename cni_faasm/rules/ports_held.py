"""Publish no port that a program of the host has: it would get no connection any more.

The kernel is asked by taking the port for a moment, and of many ports only those at which anything
listens at all. podman takes the ports of its own container before it has the network made, and has
conmon keep them, so that nobody else gets them; these are let be.
"""

import errno
import os
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket

from cni_faasm.config.ports import Port
from cni_faasm.netlink import dumps, sock_diag
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.errors import PORT_TAKEN, CniError

_KINDS = {6: ("tcp", SOCK_STREAM), 17: ("udp", SOCK_DGRAM)}  # the kernel may be without SCTP
# In which a socket takes a port from others.
_STATES = {6: sock_diag.TCP_LISTEN, 17: sock_diag.TCP_CLOSE}
_FEW = 4  # are asked one by one: to have all sockets told takes as long
_KEEPERS = (b"podman\n", b"conmon\n")


def demand_free(ports: list[Port]) -> None:
    """Refuse ports that somebody on the host has taken. Raises: CniError 110."""
    for protocol, (name, kind) in _KINDS.items():
        asked = [
            (one.host_address, number)
            for one in ports
            if one.protocol == protocol
            for number in range(one.host_port, one.host_port + one.count)
        ]
        taken = _taken(protocol) if len(asked) > _FEW else None
        for address, number in asked:
            if taken is not None and number not in taken:
                continue
            if _is_held(address, number, kind) and not _is_kept(name, number):
                raise CniError(
                    PORT_TAKEN,
                    f"port {number}/{name}: a program of this host listens there",
                    f"publish another one, or end that program: ss -l{name[0]}np shows it",
                )


def _taken(protocol: int) -> set[int] | None:
    """Return all ports at which anything listens, at whatever address; None if the kernel has no inet_diag."""
    found: set[int] = set()
    try:
        with Netlink(sock_diag.NETLINK_SOCK_DIAG) as netlink:
            for family in (AF_INET, AF_INET6):
                found |= dumps.taken_ports(netlink, family, protocol, _STATES[protocol])
    except NetlinkError:
        return None
    return found


def _is_held(address: bytes | None, number: int, kind: int) -> bool:
    """Say whether nobody else could listen there. A socket of IPv6 asks for both versions."""
    family: int = AF_INET6
    text = "::"
    if address is not None:
        family, text = inet.family(address), inet.unpack(address)
    for each, where in ((family, text), (AF_INET, "0.0.0.0")):  # noqa: S104 -- nothing listens
        try:
            one = socket(each, kind)
        except OSError:
            continue  # a host without IPv6
        try:
            if kind == SOCK_STREAM:  # a connection that ends takes no port; of UDP there is none
                one.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            one.bind((where, number))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        finally:
            one.close()
        return False
    return False


def _is_kept(name: str, number: int) -> bool:
    """Say whether podman has a port, or its conmon, and nobody else."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(name, number)}
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or not inodes:
            continue
        try:
            if _read(f"/proc/{pid}/comm") not in _KEEPERS:
                continue
            for fd in os.listdir(f"/proc/{pid}/fd"):
                inodes.discard(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue  # it has ended
    return not inodes


def _inodes(name: str, number: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen at a port (proc(5), /proc/net/tcp)."""
    wanted = b":%04X" % number
    for path in (f"/proc/thread-self/net/{name}", f"/proc/thread-self/net/{name}6"):
        try:
            lines = _read(path).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            # 0A is LISTEN, 07 of UDP one without a peer.
            if words[1].endswith(wanted) and words[3] in (b"0A", b"07"):
                yield words[9].decode()


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
