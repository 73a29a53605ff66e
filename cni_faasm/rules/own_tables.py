"""Know a table of nftables for ours before it, or anything in it, is replaced or deleted.

A name is anybody's to use: `nft add table inet guard_NAME` takes one of ours. What is ours says so
in its comment. A table without any comment may be ours as well, loaded from a ruleset that was
saved without: it is known by what it holds. There are chains and sets of our names, no others, and
among them what nobody else would make: a set of ours, or the seal.
"""

import errno
from collections.abc import Iterable

from cni_faasm.netlink import dumps, nft
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.spec.errors import TABLE_TAKEN, CniError

MARK = "cni-faasm"  # the first word of each comment
FAMILIES = (nft.NFPROTO_INET, nft.NFPROTO_ARP)
MASQUERADE, GUARD, LIMIT, PORTS = "faasm_", "guard_", "limit_", "ports_"
# What tables of these names hold: chains, and sets. "ends" is of an early 0.1.0.
_PARTS = {
    MASQUERADE: ({"postrouting"}, set[str]()),
    GUARD: (
        {"from", "to_host", "through"},
        {"learned", "bound", "own", "also", "also6", "ends"},
    ),
    LIMIT: (  # and those of subnets
        {
            "from",
            "packets_from",
            "packets_to",
            "opened_from",
            "opened_to",
            "shared_from",
            "shared_to",
            "refuse",
        },
        {"egress", "packets_from", "packets_to", "connections", "shared_from", "shared_to"},
    ),
    PORTS: (
        {"prerouting", "output", "postrouting", "from"},
        {f"{kind}{version}" for kind in ("any", "at", "own") for version in (4, 6)},
    ),
}
_SEAL = "seal_"
_SEAL_LENGTH = len(_SEAL) + 8


def look(netfilter: Netlink, name: str, families: tuple[int, ...]) -> list[nft.Table | None]:
    """Return the tables of a name, one per family. Raises: NetlinkError."""
    bodies = netfilter.ask([nft.get_table(family, name) for family in families])
    return [None if body is None else nft.parse_table(body) for body in bodies]


def is_marked(table: nft.Table) -> bool:
    """Say whether a table's comment is one of ours."""
    return table.comment.split(" ", 1)[0] == MARK


def is_ours(netfilter: Netlink, table: nft.Table) -> bool:
    """Say whether a table of one of our names is ours. Raises: NetlinkError."""
    if table.comment:
        return is_marked(table)
    prefix = next((one for one in _PARTS if table.name.startswith(one)), "")
    if not prefix:
        return False
    chains = set(dumps.chain_names(netfilter, table.family, table.name))
    sets = set(dumps.set_names(netfilter, table.family, table.name))
    seals = {one for one in chains if one.startswith(_SEAL) and len(one) == _SEAL_LENGTH}
    known_chains, known_sets = _PARTS[prefix]
    if prefix == LIMIT:
        chains -= {one for one in chains if one.startswith("to_")}
        sets = {"egress" if one.startswith("egress_") else one for one in sets}
    return bool(sets or seals) and chains - seals <= known_chains and sets <= known_sets


def ours(netfilter: Netlink, tables: Iterable[nft.Table | None]) -> list[nft.Table]:
    """Return those that are there and ours. Raises: NetlinkError."""
    return [one for one in tables if one is not None and is_ours(netfilter, one)]


def demand(netfilter: Netlink, tables: Iterable[nft.Table | None]) -> None:
    """Refuse to go on where a table is somebody else's. Raises: NetlinkError; CniError 109."""
    for table in tables:
        if table is not None and not is_ours(netfilter, table):
            raise _taken(table)


def _taken(table: nft.Table) -> CniError:
    name = nft.family_name(table.family, table.name)
    told = f'its comment is "{table.comment}"' if table.comment else "it has no comment"
    return CniError(
        TABLE_TAKEN,
        f'nft table {name} is somebody else\'s: {told}, and ours begin with "{MARK}"',
        f"give the network another name, or have that table renamed; where nobody needs it: "
        f"nft delete table {name}",
    )


def demand_free(names: Iterable[str]) -> None:
    """Refuse names that tables of somebody else's have. Raises: NetlinkError; CniError 109."""
    with IfNftables(), Nftables() as netfilter:
        for name in names:
            # One by one: where there is no nf_tables, each question has the kernel call modprobe.
            for family in FAMILIES[:1] if name.startswith((MASQUERADE, PORTS)) else FAMILIES:
                demand(netfilter, look(netfilter, name, (family,)))


def remove(name: str, families: tuple[int, ...], *, dry_run: bool) -> bool:
    """Take away our tables of a name; say if there were any. Raises: NetlinkError."""
    with IfNftables(), Nftables() as netfilter:
        found = ours(netfilter, look(netfilter, name, families))
        for table in [] if dry_run else found:
            try:
                netfilter.nft_batch([removal(table)])
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # another GC was quicker
                    raise
        return bool(found)
    return False


def removal(table: nft.Table) -> Message:
    """Return what deletes this very table, and none that has got its name since."""
    return nft.del_table(table.family, table.name, handle=table.handle)
