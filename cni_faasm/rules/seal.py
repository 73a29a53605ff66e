"""Note in a table of nftables what its rules look like to the kernel.

By the name of an empty chain, which holds a sum of them. So CHECK need not write the rules down
and put both into words to see that they are the same; where the sum is another, or none is
there, it does. A sum is no signature: who may change the rules may change it, too.
"""

import binascii
import errno
import sys

from cni_faasm.netlink import dumps, nft
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

Places = list[tuple[int, str]]

_COUNTER = b"counter\0"  # an expression's name; its numbers follow
# struct nfgenmsg. It tells how often anybody has changed any rule of the host.
_HEADER_BYTES = 4


def put(netfilter: Netlink, table: str, places: Places) -> None:
    """Seal a table that was just made. places: (family, chain) of all that have rules.

    Raises: NetlinkError.
    """
    chain = name(netfilter, table, places)
    try:
        netfilter.nft_batch([nft.new_chain(_family(places), table, chain)])
    except NetlinkError as error:
        # Another was as quick, or the table is gone again: then it is not sealed.
        if error.errno not in (errno.EEXIST, errno.ENOENT, errno.EINTR):
            raise


def holds(netfilter: Netlink, table: str, places: Places) -> bool:
    """Say whether the rules are those that were there when the table was sealed."""
    question = nft.get_chain(_family(places), table, name(netfilter, table, places))
    return not isinstance(netfilter.execute_tolerant([question])[0], NetlinkError)


def _family(places: Places) -> int:
    """Return the family of the table that the seal is in: inet, where that has a chain."""
    families = [family for family, _ in places]
    return nft.NFPROTO_INET if nft.NFPROTO_INET in families else families[0]


def name(netfilter: Netlink, table: str, places: Places) -> str:
    """Return the name of the chain that seals the rules of today."""
    value = 0
    for family, chain in places:
        for body in dumps.rule_bodies(netfilter, family, table, chain):
            head, *rest = body[_HEADER_BYTES:].split(_COUNTER)
            value = binascii.crc32(head, value)
            for part in rest:  # each begins with the numbers, as one attribute
                length = int.from_bytes(part[:2], sys.byteorder)
                value = binascii.crc32(part[length:], value)
    return f"seal_{value:08x}"
