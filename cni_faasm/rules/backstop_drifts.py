"""Compare what holds a container to its limit on the host with the promise."""

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import dumps, nft, nft_expr, nft_set
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.rules import backstop, seal
from cni_faasm.rules.guard import end_key
from cni_faasm.rules.guard_rules import FAMILIES

Drift = tuple[str, str, str]

WHERE = "limit"
ELEMENT = ": element"


def drifts(plan: Plan, host: Netlink) -> list[Drift]:
    """Compare the tables with the promise. Raises: NetlinkError, CniError.

    What an earlier version has attached is held to its limit from the network's next ADD on, or
    from its repair.
    """
    wanted = backstop.bucket_of(host, plan)
    if wanted is None:
        return []
    name = backstop.table_name(plan.network)
    what = f"{WHERE}: nft table {name}"
    key = end_key(plan.host_interface)
    with IfNftables(), Netlink(NETLINK_NETFILTER) as netfilter:
        answers = netfilter.ask(
            [
                *(nft.get_table(family, name) for family in FAMILIES),
                *(nft.get_chain(family, name, backstop.CHAIN) for family in FAMILIES),
                *(nft_set.get_element(family, name, backstop.SET, key) for family in FAMILIES),
            ]
        )
        tables = [None if body is None else nft.parse_table(body) for body in answers[:2]]
        if not any(tables) and backstop.kernel_lacks():
            return []
        if not backstop.is_whole(tables, plan):
            told = "none" if None in tables else "another"
            if any(table is not None and table.is_dormant for table in tables):
                told = "dormant"
            return [(what, "of families inet and arp", told)]
        found: list[Drift] = []
        for family, body in zip(FAMILIES, answers[2:4], strict=True):
            actual = "none" if body is None else nft.parse_chain(body).place
            if actual != backstop.chain_place(family):
                where = f"{what}: chain {nft.family_name(family, backstop.CHAIN)}"
                found.append((where, backstop.chain_place(family), actual))
        if not found and not seal.holds(netfilter, name, backstop.PLACES):
            found += _rule_drifts(netfilter, plan.network, name, what, tables)
        for body in answers[4:]:
            limit = None if body is None else backstop.bucket_in(body, key)
            if limit != wanted:
                told = "none" if body is None else str(limit or "another")
                found.append((f"{what}{ELEMENT}", f"{plan.host_interface} {wanted}", told))
                break
        return found
    return []


def _rule_drifts(
    netfilter: Netlink, network: str, name: str, what: str, tables: list[nft.Table | None]
) -> list[Drift]:
    found = []
    for family, table in zip(FAMILIES, tables, strict=True):
        any_group = table is not None and backstop.expects_any_group(table)
        wanted = [nft_expr.describe(backstop.rule(network, any_group=any_group))]
        rules = dumps.rules(netfilter, family, name, backstop.CHAIN)
        actual = [nft_expr.describe(one.expressions) for one in rules]
        if actual != wanted:
            where = f"{what}: rules of {nft.family_name(family, backstop.CHAIN)}"
            found.append((where, "1 rule", f"{len(actual)} rules, not the same"))
    return found
