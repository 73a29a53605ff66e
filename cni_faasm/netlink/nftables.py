"""A netlink socket for nf_tables, that does not ask again and again for what is not there.

Where the subsystem is missing, each question about it has the kernel run modprobe, which costs
milliseconds and, on some hosts, a line in a log.
"""

import time
from errno import EINVAL, EOPNOTSUPP, EPROTONOSUPPORT
from typing import ClassVar

from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import NetlinkError, Replies

# Longer than a call, and no longer than who has just loaded the module wants to wait for a
# program that stays.
REMEMBERED_S = 10.0


class Nftables(Netlink):
    """One socket for nf_tables in the namespace of its creation.

    Raises: NetlinkError from the constructor, too, when the kernel was found to have no nf_tables.
    """

    __slots__ = ()

    # Of the process: until when it is remembered that there is none.
    absent_until_s: ClassVar[float] = 0.0

    def __init__(self) -> None:
        if Nftables.absent_until_s and time.monotonic() < Nftables.absent_until_s:
            text = "there is no nf_tables, as the kernel said before"
            raise NetlinkError(EOPNOTSUPP, "netlink socket for nf_tables", text)
        try:
            super().__init__(NETLINK_NETFILTER)
        except NetlinkError as error:
            if error.errno == EPROTONOSUPPORT:
                _remember()
            raise

    def _result(
        self, replies: Replies, index: int, label: str, lost: int
    ) -> NetlinkError | list[bytes]:
        result = super()._result(replies, index, label, lost)
        # What nfnetlink says to a question to a subsystem that nobody has registered.
        if (
            isinstance(result, NetlinkError)
            and result.errno == EINVAL
            and label.startswith("nft list ")
        ):
            _remember()
        return result


def _remember() -> None:
    Nftables.absent_until_s = time.monotonic() + REMEMBERED_S
