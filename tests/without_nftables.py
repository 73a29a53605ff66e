"""Call the plugin on a kernel without nf_tables: requests for it are refused as nfnetlink does.

python -m tests.without_nftables             in the place of: python -m cni_faasm
python -m tests.without_nftables tool ...                     python -m cni_faasm.cli ...

Everything else goes to the real kernel.
"""

import errno
import sys
from typing import TYPE_CHECKING

from cni_faasm.__main__ import main
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni_faasm.netlink.wire import Message

_run_batch = Netlink._run_batch
_dump = Netlink.dump


def _is_nft(message: "Message") -> bool:
    return message[3].startswith("nft")


def run_batch(self: Netlink, batch: "list[Message]") -> "list[NetlinkError | list[bytes]]":
    """Refuse each question about nf_tables: nobody has registered the subsystem."""
    if not any(map(_is_nft, batch)):
        return _run_batch(self, batch)
    return [NetlinkError(errno.EINVAL, label) for _, _, _, label in batch]


def dump(self: Netlink, message: "Message") -> "list[bytes]":
    """Refuse it as well."""
    if _is_nft(message):
        raise NetlinkError(errno.EINVAL, message[3])
    return _dump(self, message)


def nft_batch(self: Netlink, messages: "Sequence[Message]") -> None:
    """Refuse the transaction as a whole."""
    del self
    if messages:
        label = f"nft transaction ({messages[0][3]}; …)"
        raise NetlinkError(errno.EOPNOTSUPP, label)


if __name__ == "__main__":
    for method in (run_batch, dump, nft_batch):
        name = "_run_batch" if method is run_batch else method.__name__
        setattr(Netlink, name, method)
    if sys.argv[1:2] == ["tool"]:
        from cni_faasm.cli.main import main as tool

        del sys.argv[1]
        tool()
    sys.exit(main())
