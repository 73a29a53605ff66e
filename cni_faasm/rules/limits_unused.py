"""Take away the limits that several had together once, and nobody has any more.

They are named by label and rate ("shared_from_HEX"), so that each pod's namespace, and each rate that
was tried, would leave one for as long as the network's table is there.
"""

import contextlib
import errno
from collections.abc import Iterator

from cni_faasm.netlink import dumps, nft_object
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import limit_tables, own_tables
from cni_faasm.rules.limit_tables import SHARED, SHARED_FROM, SHARED_TO

# An ADD has come to need it, or another GC was faster.
_RACES = (errno.EBUSY, errno.ENOENT, errno.EINTR)


def sweep(network: str) -> None:
    """Take away a network's named limits to which no element leads. Raises: NetlinkError."""
    name = limit_tables.table_name(network)
    with IfNftables(), Nftables() as netfilter:
        for table in own_tables.look(netfilter, name, limit_tables.FAMILIES):
            if table is None or SHARED not in limit_tables.words_of(table):
                continue
            if not table.comment.startswith(limit_tables.OURS):
                continue
            unused: list[str] = []
            with _unless_raced():
                unused = _unused(netfilter, table.family, name)
            for one in unused:
                with _unless_raced():
                    netfilter.nft_batch([nft_object.delete_limit(table.family, name, one)])


@contextlib.contextmanager
def _unless_raced() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.errno not in _RACES:
            raise


def _unused(netfilter: Netlink, family: int, name: str) -> list[str]:
    # Named before their elements are looked at: who comes in between is found by the kernel.
    known = dumps.limit_names(netfilter, family, name)
    used = {
        one.object
        for each in (SHARED_FROM, SHARED_TO)
        for one in dumps.whole_elements(netfilter, family, name, each)
    }
    return [one for one in known if one.startswith(SHARED) and one not in used]
