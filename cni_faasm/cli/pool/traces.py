"""Take out of the host's rules what they hold of many members, in few transactions.

Closing a netfilter socket after a deletion waits for RCU, about 20 ms, whether one element has
gone or a thousand.
"""

from collections.abc import Iterator, Sequence

from cni_faasm.attachment.plan import Plan
from cni_faasm.link import several
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import backstop, guard

# In one transaction: seven elements of each, about 100 bytes long.
_AT_A_TIME = 500


def forget(host: Netlink, plans: Sequence[Plan]) -> None:
    """Let guards and limits forget members, before their names are given again.

    Raises: NetlinkError.
    """
    for some in _parts(plans):
        # Each look at a link takes the kernel longer, the more namespaces there are.
        named = several.having_their_names(host, some)
        guard.forget(host, *some, named=named)
        backstop.forget(host, *some, named=named)


def sweep(host: Netlink, plans: Sequence[Plan]) -> None:
    """Let guards forget the MAC addresses that were learned at ends that have gone.

    They are by the end's name, which the next one will have, and nobody else tells them.
    Raises: NetlinkError.
    """
    ends: dict[str, set[str]] = {}
    for one in plans:
        if one.guard is not None and one.guard.anti_spoof:
            ends.setdefault(one.network, set()).add(one.host_interface)
    for network, names in ends.items():
        guard.sweep(network, host, names)


def _parts(plans: Sequence[Plan]) -> Iterator[Sequence[Plan]]:
    for start in range(0, len(plans), _AT_A_TIME):
        yield plans[start : start + _AT_A_TIME]
