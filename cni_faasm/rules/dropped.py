"""Count what a network's guards and its backstop have dropped, by the rules' own counters.

They begin at zero when a table is made anew.
"""

from collections.abc import Iterator

from cni_faasm.netlink import dumps, nft, nft_counter
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import guard_rules, limit_subnets, limit_tables
from cni_faasm.rules.limit_tables import FAMILIES
from cni_faasm.rules.own_tables import GUARD, LIMIT, is_marked

# What drops in which chain.
_CHAINS = {
    GUARD: {
        guard_rules.FROM: "antiSpoof",
        guard_rules.TO_HOST: "isolated",
        guard_rules.THROUGH: "isolated",
    },
    LIMIT: {
        limit_tables.CHAIN: "limit",
        limit_tables.PACKETS_FROM: "packetRate",
        limit_tables.PACKETS_TO: "packetRate",
        limit_tables.OPENED_FROM: "maxConnections",
        limit_tables.SHARED_FROM: "shared",
        limit_tables.SHARED_TO: "shared",
        limit_tables.OPENED_TO: "maxConnections",
    },
}


def every() -> Iterator[tuple[str, str, int]]:
    """Yield (network, what drops, packets) of all networks of this host that have such rules.

    What drops is "antiSpoof", "isolated", "limit", "packetRate", "maxConnections" or
    "shared". Raises: NetlinkError.
    """
    found: dict[tuple[str, str], int] = {}
    with IfNftables(), Nftables() as netfilter:
        for family in FAMILIES:
            for table in dumps.tables(netfilter, family):
                prefix = next((one for one in _CHAINS if table.name.startswith(one)), "")
                if not prefix or not is_marked(table):
                    continue
                network = table.name.removeprefix(prefix)
                chains = dict(_CHAINS[prefix])
                if limit_tables.SUBNETS in table.comment.split():
                    listed = dumps.chain_names(netfilter, family, table.name)
                    chains |= {one: "limit" for one in listed if one.startswith(limit_subnets.TO)}
                for chain, what in chains.items():
                    key = network, what
                    packets = _of_chain(netfilter, family, table, chain)
                    if packets is not None:
                        found[key] = found.get(key, 0) + packets
    for (network, what), count in sorted(found.items()):
        yield network, what, count


def _of_chain(netfilter: Netlink, family: int, table: nft.Table, chain: str) -> int | None:
    """Return what a chain's counters hold; None where it has no rule."""
    try:
        rules = dumps.rules(netfilter, family, table.name, chain)
    except NetlinkError:
        return None  # the table has gone meanwhile
    return sum(nft_counter.packets(one.expressions) for one in rules) if rules else None
