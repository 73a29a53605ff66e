"""Try things of the kernel's, in a namespace that vanishes: how each feature is asked for.

Each function returns what tries one. What it raises is the kernel's answer.
"""

import errno
from collections.abc import Callable, Iterator

from cni_faasm.link import forwarding
from cni_faasm.netlink import (
    dumps,
    link,
    nft,
    nft_limit,
    nft_map,
    nft_object,
    nft_set,
    tc_filter,
)
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError

LOOPBACK = 1
ROOT = 0x10000  # 1:
_TABLE = "faasm_probe"
_CHAIN = "probe"


def devices(name: str, kind: str) -> Callable[[Netlink], None]:
    """Return what makes a device."""
    made = link.new_link(kind, name, group=0, mtu=1500, address=b"\2\0\0\0\0\1")
    return lambda netlink: execute(netlink, made)


def execute(netlink: Netlink, *messages: Message) -> None:
    """Have the kernel do something. Raises: NetlinkError."""
    netlink.execute(messages)


def ipv6(_: Netlink) -> None:
    """Look whether there is IPv6. Raises: NetlinkError."""
    if not forwarding.has_ipv6():
        raise NetlinkError(errno.EAFNOSUPPORT, "IPv6")


def classifier(parent: int, *kinds: str) -> Callable[[Netlink], None]:
    """Return what makes a filter of the first of these kinds that there is."""
    one = tc_filter.Filter(bytes(4), 0, ROOT, by_source=False)

    def probe(netlink: Netlink) -> None:
        answers = netlink.execute_tolerant(
            tc_filter.new_filter(LOOPBACK, parent, kind, one) for kind in kinds
        )
        if all(isinstance(answer, NetlinkError) for answer in answers):
            raise NetlinkError(errno.ENOENT, f"tc filter add dev lo {kinds[0]}")

    return probe


def nftables(*messages: Message) -> Callable[[Netlink], None]:
    """Return what does something to nftables; without messages, it asks for the tables."""

    def probe(_: Netlink) -> None:
        with Nftables() as netfilter:
            if messages:
                netfilter.nft_batch(messages)
            else:
                dumps.tables(netfilter, nft.NFPROTO_INET)

    return probe


def nftables_of(make: Callable[[], Iterator[Message]]) -> Callable[[Netlink], None]:
    """Return what does to nftables what is made only then."""

    def probe(netlink: Netlink) -> None:
        nftables(*make())(netlink)

    return probe


def limits(*families: int) -> Iterator[Message]:
    """Yield what makes sets whose elements have limits, and takes them away again."""
    for family in families:
        some = nft_limit.Limit(1, 1).encode()
        yield nft.new_table(family, _TABLE)
        yield nft_set.new_set(family, _TABLE, _CHAIN, nft_set.TYPE_IFNAME, each=some)
        yield nft_set.new_elements(family, _TABLE, _CHAIN, [b"probe0".ljust(16, b"\0")], some)
        yield nft.del_table(family, _TABLE)


def counts() -> Iterator[Message]:
    """Yield what makes a set whose elements count connections, and takes it away again.

    Raises: NetlinkError where the kernel would take it, and then miscount.
    """
    nft_limit.demand_counts()
    family, some = nft.NFPROTO_INET, nft_limit.Connections(1).encode()
    yield nft.new_table(family, _TABLE)
    yield nft_set.new_set(family, _TABLE, _CHAIN, nft_set.TYPE_IFNAME, each=some)
    yield nft_set.new_elements(family, _TABLE, _CHAIN, [b"probe0".ljust(16, b"\0")], some)
    yield nft.del_table(family, _TABLE)


def redirect() -> Iterator[Message]:
    """Yield what sends on by a map, as published ports are, and takes it away again."""
    family, hook = nft.NFPROTO_INET, nft.NF_INET_PRE_ROUTING
    one = nft_map.redirect(_CHAIN, 4, by_address=False)
    yield nft.new_table(family, _TABLE)
    yield nft_map.new_map(family, _TABLE, _CHAIN, 4, by_address=False)
    yield nft.new_chain(family, _TABLE, _CHAIN, type="nat", hook=hook, priority=1)
    yield nft.new_rule(family, _TABLE, _CHAIN, one)
    yield nft.del_table(family, _TABLE)


def maps() -> Iterator[Message]:
    """Yield what makes a map to limits with one in it, and takes it away again."""
    family = nft.NFPROTO_INET
    yield nft.new_table(family, _TABLE)
    yield nft_object.new_limit(family, _TABLE, "some", nft_limit.Limit(1, 1))
    yield nft_object.new_map(family, _TABLE, _CHAIN)
    yield nft_object.new_element(family, _TABLE, _CHAIN, b"probe0".ljust(16, b"\0"), "some")
    yield nft.del_table(family, _TABLE)


def rule(family: int, *expressions: bytes, type: str = "filter") -> Callable[[Netlink], None]:  # noqa: A002
    """Return what makes rules, each of one of these expressions, and takes them away again."""
    hook = nft.NF_INET_POST_ROUTING if type == "nat" else nft.NF_INET_PRE_ROUTING
    return nftables(
        nft.new_table(family, _TABLE),
        nft.new_chain(family, _TABLE, _CHAIN, type=type, hook=hook, priority=1),
        *(nft.new_rule(family, _TABLE, _CHAIN, one) for one in expressions),
        nft.del_table(family, _TABLE),
    )
