"""What differs between the kernels that tests run on (see tests/vm)."""

import os
import re
from typing import TYPE_CHECKING

from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink

if TYPE_CHECKING:
    from cni_faasm.netlink.wire import Message

# RTM_NEWLINK with NLM_F_ECHO is answered by the new link.
ECHOES_LINKS = (6, 2)
# gro_max_size; and nft_connlimit counts for each element of a set.
SIZES_OF_GRO = (5, 17)
COUNTS_OF_CONNECTIONS = (5, 17)
# A veth's second end has a gso_max_size of its own, and not the first one's.
OWN_GSO_OF_PEERS = (5, 19)
# gso_ipv4_max_size, gro_ipv4_max_size.
SIZES_OF_IPV4 = (6, 3)
# What HTB thinks of a quantum comes by netlink, and not in the kernel's log.
HTB_REMARKS = (6, 5)


def kernel_version() -> tuple[int, int]:
    """Return the first two numbers of this kernel's version."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def make_link(netlink: Netlink, message: "Message", name: str) -> link.Link:
    """Make a link that will be called so; return it as the kernel tells it, here and when asked."""
    (echo,) = netlink.execute([message])
    ((answer,),) = netlink.execute([link.get_link(name=name)])
    made = link.parse_link(answer)
    echoed = [(one.ifindex, one.name) for one in map(link.parse_link, echo)]
    assert echoed == ([(made.ifindex, name)] if kernel_version() >= ECHOES_LINKS else [])
    return made
