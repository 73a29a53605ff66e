"""Call the plugin on a kernel that answers less, and sends more, than it is asked for.

    python -m tests.reluctant        in the place of: python -m cni_faasm

The kernel below is the real one. But what it makes it does not tell of (no NLM_F_ECHO, as
before Linux 6.2), and no filter of a dump has an effect (as before strict checking, or while a
module is not loaded): every dump is the widest that there is. So a caller who trusts a filter
meets what is not its own.
"""

import sys
from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING

from cni_faasm.__main__ import main
from cni_faasm.netlink import addr, link, nft, nft_set, route, tc, tc_mirred
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NLM_F_ECHO, NetlinkError, get_text, parse_attrs

if TYPE_CHECKING:
    from cni_faasm.netlink.wire import Message

NFT_MSG_GETSET = 0x0A0A
ROOT_HANDLE = 0x10000

_dump = Netlink.dump
_execute_tolerant = Netlink.execute_tolerant


def execute_tolerant(
    self: Netlink, messages: "Iterable[Message]"
) -> "list[NetlinkError | list[bytes]]":
    """Have all carried out, without a word about links that are made."""
    told_less = [
        (kind, flags & ~NLM_F_ECHO if kind == link.RTM_NEWLINK else flags, body, label)
        for kind, flags, body, label in messages
    ]
    return _execute_tolerant(self, told_less)


def dump(self: Netlink, message: "Message") -> "list[bytes]":
    """Return all objects of the kind that is asked for, whatever the filter says."""
    kind = message[0]
    if kind == link.RTM_GETLINK:
        return _dump(self, link.dump_links(stats=True))
    if kind == addr.RTM_GETADDR:
        return _dump(self, addr.dump_addrs())
    if kind == route.RTM_GETROUTE:
        return [
            body for family in (2, 10) for body in _dump(self, route.dump_routes(family=family))
        ]
    if kind in (tc.RTM_GETTFILTER, tc.RTM_GETTCLASS):
        return _of_all_links(self, kind)
    if kind in (nft.NFT_MSG_GETRULE, nft.NFT_MSG_GETTABLE):
        return _dump(self, (kind, message[1], nft.head(0), message[3]))
    if kind == nft_set.NFT_MSG_GETSETELEM:
        _dump(self, message)  # its absence is an error, whatever else there is
        return _elements_of_all(self)
    return _dump(self, message)


def _of_all_links(netlink: Netlink, kind: int) -> "list[bytes]":
    links = [link.parse_link(body) for body in _dump(netlink, link.dump_links())]
    questions = [tc.dump_classes(one.ifindex) for one in links]
    if kind == tc.RTM_GETTFILTER:
        parents = (ROOT_HANDLE, tc_mirred.CLSACT_INGRESS)
        questions = [
            tc.dump_filters(one.ifindex, parent) for one, parent in product(links, parents)
        ]
    found = []
    for question in questions:
        try:
            found += _dump(netlink, question)
        except NetlinkError:
            continue  # no such qdisc there
    return found


def _elements_of_all(netfilter: Netlink) -> "list[bytes]":
    found = []
    for body in _dump(netfilter, (NFT_MSG_GETSET, 0, nft.head(0), "nft list sets")):
        attrs = parse_attrs(body, 4)
        table = get_text(attrs, nft_set.NFTA_SET_TABLE)
        name = get_text(attrs, nft_set.NFTA_SET_NAME)
        found += _dump(netfilter, nft_set.dump_elements(body[0], table, name))
    return found


def patch() -> None:
    """Let every socket of this process be such a kernel's."""
    setattr(Netlink, "execute_tolerant", execute_tolerant)  # noqa: B010 -- mypy: a method
    setattr(Netlink, "dump", dump)  # noqa: B010 -- mypy: a method


if __name__ == "__main__":
    patch()
    sys.exit(main())
