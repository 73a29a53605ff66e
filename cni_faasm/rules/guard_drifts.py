"""Compare what keeps a network's containers from what they must not do with the promise."""

from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import Guard
from cni_faasm.netlink import dumps, nft, nft_expr, nft_set
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import guard, guard_several, seal
from cni_faasm.rules.guard_rules import chains, comment, places, rules_of, table_name

Drift = tuple[str, str, str]


def drifts(plan: Plan, host: Netlink, inner: Netlink) -> list[Drift]:
    """Compare the guard with the promise. Raises: NetlinkError.

    host, inner: sockets in the two namespaces.
    """
    policy = plan.guard
    if policy is None:
        return []
    name = table_name(plan.network)
    what = f"guard: nft table {name}"
    found: list[Drift] = []
    with Nftables() as netfilter:
        tables = guard.look(netfilter, name)
        if not guard.is_whole(tables, policy):
            told = tables[0].comment if tables[0] is not None else "none"
            if any(table is not None and table.is_dormant for table in tables):
                told = "dormant"
            return [(what, comment(policy), told or "another")]
        found += _chain_drifts(netfilter, name, policy)
        if not seal.holds(netfilter, name, places(policy)):
            found += _rule_drifts(netfilter, plan, policy)
        if policy.anti_spoof:
            keys = guard.keys_of(plan) + guard_several.keys_of_several(plan, host, inner)
            questions = [
                nft_set.get_element(family, name, place, key) for family, place, key in keys
            ]
            answers = netfilter.ask(questions)
            places_missing = {
                place for (_, place, _), answer in zip(keys, answers, strict=True) if answer is None
            }
            if places_missing:
                texts = (plan.host_interface, f"not in {', '.join(sorted(places_missing))}")
                found.append((f"{what}: sets", *texts))
    return found


def _chain_drifts(netfilter: Netlink, name: str, policy: Guard) -> list[Drift]:
    """Look whether the chains see the packets: the same rules elsewhere keep nobody from anything."""
    found: list[Drift] = []
    wanted = chains(policy)
    answers = netfilter.ask([nft.get_chain(family, name, chain) for family, chain, _, _ in wanted])
    for (_, chain, hook, priority), answer in zip(wanted, answers, strict=True):
        actual = "none" if answer is None else nft.parse_chain(answer).place
        expected = nft.base_place("filter", hook, priority)
        if actual != expected:
            found.append((f"guard: nft table {name}: chain {chain}", expected, actual))
    return found


def _rule_drifts(netfilter: Netlink, plan: Plan, policy: Guard) -> list[Drift]:
    name = table_name(plan.network)
    found = []
    for family, chain, listed in rules_of(plan.network, policy):
        found_rules = dumps.rules(netfilter, family, name, chain)
        actual = [nft_expr.describe(one.expressions) for one in found_rules]
        expected = [nft_expr.describe(rule) for rule in listed]
        if actual != expected:
            texts = (f"{len(expected)} rules", f"{len(actual)} rules, not the same")
            found.append((f"guard: nft table {name}: rules of {chain}", *texts))
    return found
