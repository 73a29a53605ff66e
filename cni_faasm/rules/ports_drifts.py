"""Compare what publishes a container's ports with the promise."""

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import dumps, nft, nft_expr
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import own_tables, ports, seal

WHERE = "ports"
ELEMENTS = ": elements"
_INET = nft.NFPROTO_INET


def drifts(plan: Plan) -> list[tuple[str, str, str]]:
    """Compare the table with the promise. Returns: (what, expected, found). Raises: NetlinkError."""
    wanted = ports.elements(plan)
    if not wanted:
        return []
    name = ports.table_name(plan.network)
    what = f"{WHERE}: nft table inet {name}"
    with IfNftables(), Nftables() as netfilter:
        [table] = own_tables.look(netfilter, name, ports.FAMILIES)
        if table is None or table.is_dormant or table.comment != ports.COMMENT:
            told = "none" if table is None else "dormant" if table.is_dormant else "another"
            return [(what, "present", told)]
        found = []
        bodies = netfilter.ask([nft.get_chain(_INET, name, chain) for chain in ports.CHAINS])
        for (chain, place), body in zip(ports.CHAINS.items(), bodies, strict=True):
            actual = "none" if body is None else nft.parse_chain(body).place
            if actual != nft.base_place(*place):
                found.append((f"{what}: chain {chain}", nft.base_place(*place), actual))
        if not found and not seal.holds(netfilter, name, ports.PLACES):
            found += _rule_drifts(netfilter, plan.network, name, what)
        missing = {
            place: len(listed) - len(present)
            for place, listed in wanted.items()
            for present in [ports.present(netfilter, name, {place: listed})[place]]
        }
        if any(missing.values()):
            total = sum(len(listed) for listed in wanted.values())
            told = f"{total - sum(missing.values())}"
            found.append((f"{what}{ELEMENTS}", f"{total}", told))
        return found
    return []


def _rule_drifts(
    netfilter: Netlink, network: str, name: str, what: str
) -> list[tuple[str, str, str]]:
    found = []
    for chain, expressions in ports.rules(network).items():
        wanted = [nft_expr.describe(one) for one in expressions]
        listed = dumps.rules(netfilter, _INET, name, chain)
        if [nft_expr.describe(one.expressions) for one in listed] != wanted:
            told = f"{len(listed)} rules, not the same"
            found.append((f"{what}: rules of {chain}", f"{len(wanted)} rules", told))
    return found
