"""Have the host forget the connections of addresses that are to be another's."""

import errno
from collections.abc import Sequence

from cni_faasm.netlink import conntrack, dumps
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import NetlinkError

# This namespace's, without asking netlink; it is not there where nothing is tracked.
COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
# What says that this kernel has no ctnetlink.
_LACKING = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def are_tracked() -> bool:
    """Say whether this thread's namespace tracks any connection."""
    try:
        with open(COUNT, "rb") as file:
            return file.read().strip() != b"0"
    except OSError:
        return False


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
