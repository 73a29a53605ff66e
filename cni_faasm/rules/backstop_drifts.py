"""Compare what holds a container to its limit on the host with the promise."""

from collections.abc import Iterator

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import dumps, nft, nft_expr, nft_set
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import backstop, limit_subnets, limit_tables, seal
from cni_faasm.rules.guard import end_key

Drift = tuple[str, str, str]

WHERE = "limit"
ELEMENT = ": element"


def drifts(plan: Plan, host: Netlink) -> list[Drift]:
    """Compare the tables with the promise. Raises: NetlinkError, CniError.

    What an earlier version has attached is held to its limit from the network's next ADD on, or
    from its repair.
    """
    wanted = backstop.held(host, plan)
    if not wanted.elements:
        return []
    families = wanted.families
    has = limit_tables.words(wanted.elements)
    chains = [(family, one) for family in families for one in limit_tables.chains_of(family, has)]
    name = limit_tables.table_name(plan.network)
    what = f"{WHERE}: nft table {name}"
    key = end_key(plan.host_interface)
    with IfNftables(), Nftables() as netfilter:
        answers = netfilter.ask(
            [
                *(nft.get_table(family, name) for family in families),
                *(nft.get_chain(family, name, chain) for family, chain in chains),
                *(nft_set.get_element(one.family, name, one.set, key) for one in wanted.elements),
            ]
        )
        count = len(families)
        tables = [None if body is None else nft.parse_table(body) for body in answers[:count]]
        if not any(tables) and backstop.kernel_lacks(families):
            return []
        if not backstop.is_whole(tables, plan, wanted.elements):
            told = "none" if None in tables else "another"
            if any(table is not None and table.is_dormant for table in tables):
                told = "dormant"
            names = " and ".join(nft.family_name(family) for family in families)
            return [(what, f"of families {names}", told)]
        found: list[Drift] = []
        behind = count + len(chains)
        for (family, chain), body in zip(chains, answers[count:behind], strict=True):
            actual = "none" if body is None else nft.parse_chain(body).place
            expected = limit_tables.chain_place(family, chain, has)
            if actual != expected:
                where = f"{what}: chain {nft.family_name(family, chain)}"
                found.append((where, expected, actual))
        if not found:
            found += _rule_drifts(netfilter, plan, what, tables, wanted)
        for one, body in zip(wanted.elements, answers[behind:], strict=True):
            limit = None if body is None else backstop.bucket_in(body, key)
            if limit != one.bucket:
                told = "none" if body is None else str(limit or "another")
                found.append((f"{what}{ELEMENT}", f"{plan.host_interface} {one.bucket}", told))
                break
        return found
    return []


def _rule_drifts(
    netfilter: Netlink,
    plan: Plan,
    what: str,
    tables: list[nft.Table | None],
    wanted: backstop.Held,
) -> Iterator[Drift]:
    name = limit_tables.table_name(plan.network)
    known = limit_subnets.scopes([plan])
    has = {one for table in tables if table for one in limit_tables.words_of(table)}
    if not seal.holds(netfilter, name, limit_tables.places(wanted.families, has)):
        by_family = {table.family: table for table in tables if table is not None}
        for family, chain in limit_tables.places(wanted.families, has):
            table = by_family[family]
            rules = dumps.rules(netfilter, family, name, chain)
            if chain == limit_tables.REFUSE:
                yield from _compare(what, family, chain, limit_tables.refusal_rules(), rules)
                continue
            others = {nft_expr.jump_target(one.expressions) for one in rules}
            marks = {
                one.removeprefix(limit_subnets.TO)
                for one in others
                if one.startswith(limit_subnets.TO)
            }
            if family != nft.NFPROTO_ARP:
                marks |= set(known)
            any_group = limit_tables.is_any_group(table)
            expected = limit_tables.rules_of(
                plan.network, chain, sorted(marks), any_group=any_group
            )
            yield from _compare(what, family, chain, expected, rules)
    for key, scope in known.items():
        chain = limit_subnets.TO + key
        sealed = limit_tables.scope_places(wanted.families, key)
        if not seal.holds(netfilter, name, sealed):
            [(family, _)] = sealed
            expected = limit_subnets.scope_rules(family, key, scope)
            rules = dumps.rules(netfilter, family, name, chain)
            yield from _compare(what, family, chain, expected, rules)


def _compare(
    what: str, family: int, chain: str, wanted: list[bytes], rules: list[nft.Rule]
) -> Iterator[Drift]:
    actual = [one.expressions for one in rules]
    if list(map(nft_expr.describe, actual)) != list(map(nft_expr.describe, wanted)):
        where = f"{what}: rules of {nft.family_name(family, chain)}"
        counted = f"{len(wanted)} rule" + ("s" if len(wanted) != 1 else "")
        yield where, counted, f"{len(actual)} rules, not the same"
