"""Have the host forget the connections of addresses that are to be another's."""

import errno
from collections.abc import Iterable, Sequence

from cni_faasm.netlink import conntrack, dumps
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import NetlinkError

# This namespace's, without asking netlink; it is not there where nothing is tracked.
COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
# Of this namespace, too; not on every kernel.
_TABLE = "/proc/thread-self/net/nf_conntrack"
# Up to here it is quicker to read the table as text, for which the kernel locks nothing: 0.3 ms for
# 262,144 buckets and 3 us for each connection. To be told of any takes 10 ms for the buckets alone.
_FEW = 1000
_UDP = 17
# What says that this kernel has no ctnetlink.
_LACKING = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def are_tracked() -> bool:
    """Say whether this thread's namespace tracks any connection."""
    return tracked() > 0


def tracked() -> int:
    """Return how many connections this thread's namespace tracks."""
    try:
        with open(COUNT, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def forget_udp(netfilter: Netlink, ports: frozenset[int], lengths: Iterable[int]) -> None:
    """Forget UDP's connections to ports of the host. A kernel that cannot tell keeps them.

    lengths: of addresses, 4 and 16: the versions of IP that are looked at.
    """
    count = tracked()
    if not count or (count <= _FEW and not _are_listed(ports)):
        return
    try:
        for length in lengths:
            family = conntrack.FAMILIES[length]
            stale = dumps.connections_to(netfilter, family, _UDP, ports)
            netfilter.execute_tolerant([conntrack.delete(one) for one in stale])
    except NetlinkError:
        return


def _are_listed(ports: frozenset[int]) -> bool:
    """Say whether any of UDP's connections is to one of these ports, or nobody can know."""
    wanted = {b"dport=%d" % one for one in ports}
    try:
        with open(_TABLE, "rb") as file:
            # ipv4 2 udp 17 29 src=127.0.0.1 dst=127.0.0.1 sport=40000 dport=53 ..., and without
            # the 29, after which it ends, where a device forwards it.
            return any(
                words[2:3] == [b"udp"] and not wanted.isdisjoint(words[7:9])
                for words in map(bytes.split, file)
            )
    except OSError:
        return True


def forget(netfilter: Netlink, addresses: Sequence[bytes]) -> int:
    """Forget all connections from and to addresses, and those that lead there by translation.

    The kernel walks through the whole of its table: 30 to 90 ms on a busy machine for 262,144
    buckets, however few the connections are. So ask for many addresses at once, where nobody
    waits for it.

    netfilter: a socket for nf_tables in the host's namespace.
    Returns: how many there were. Raises: NetlinkError.
    """
    count = 0
    for one in _found(netfilter, frozenset(addresses)):
        [answer] = netfilter.execute_tolerant([conntrack.delete(one)])
        if not isinstance(answer, NetlinkError):
            count += 1
        elif answer.errno != errno.ENOENT:
            raise answer
    return count


def _found(netfilter: Netlink, addresses: frozenset[bytes]) -> list[conntrack.Connection]:
    told: list[conntrack.Connection] = []
    try:
        for length, family in conntrack.FAMILIES.items():
            some = [address for address in addresses if len(address) == length]
            if length == 4 and len(some) == 1:
                for which in (conntrack.CTA_TUPLE_ORIG, conntrack.CTA_TUPLE_REPLY):
                    told += dumps.connections_from(netfilter, some[0], which)
            elif some:
                told += dumps.connections(netfilter, family)
    except NetlinkError as error:
        if error.errno in _LACKING:
            return []  # without ctnetlink nobody can know
        raise
    found = {one.identity: one for one in told if not addresses.isdisjoint(one.sources)}
    return list(found.values())


def open_socket() -> Netlink:
    """Open the socket that `forget` needs, in the present namespace. Raises: NetlinkError."""
    return Netlink(NETLINK_NETFILTER)
