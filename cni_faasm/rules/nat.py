"""Masquerade a network and let its packets be forwarded: one rule set for all containers.

    table inet faasm_NETWORK {
        comment "cni-faasm 10.200.0.0/16"
        chain postrouting {
            type nat hook postrouting priority srcnat
            ip daddr 10.200.0.0/16 return       what stays in the network keeps its address
            ip daddr 224.0.0.0/4 return         so do multicasts
            ip saddr 10.200.0.0/16 masquerade
        }
    }

The comment is how ADD knows by one question what the table masquerades. A table is made or
made anew in one transaction, and nothing is executed.

An accept of ours cannot overrule the drop of another chain at the same hook. So where
iptables' own FORWARD chain has the policy drop, as Docker and ufw set it, two rules go there,
in the form that iptables writes, behind those that ask the operator's own (`DOCKER-USER`,
`ufw route deny`). Chains of other owners are their own business.
"""

import errno

from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import digest
from cni_faasm.link import features
from cni_faasm.netlink import dumps, nft, nft_comment, nft_expr
from cni_faasm.netlink.lacking import IfNftables, is_lacking
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.rules import own_tables, seal
from cni_faasm.spec import inet
from cni_faasm.spec.errors import TRY_AGAIN, CniError

Network = tuple[bytes, int]

CHAIN = "postrouting"
FAMILIES = (nft.NFPROTO_INET,)
_PLACES = [(nft.NFPROTO_INET, CHAIN)]
_PLACE = nft.base_place("nat", nft.NF_INET_POST_ROUTING, nft.NF_IP_PRI_NAT_SRC)
_COMMENT = own_tables.MARK
_MULTICAST = {4: (b"\xe0\0\0\0", 4), 16: (b"\xff" + bytes(15), 8)}
_ATTEMPTS = 8
_RACES = (errno.EEXIST, errno.ENOENT, errno.EINTR)
_IPTABLES = {4: nft.NFPROTO_IPV4, 16: nft.NFPROTO_IPV6}
_IPTABLES_NAMES = {4: "iptables", 16: "ip6tables"}
# Chains in which the operator says what is forwarded, jumped to from FORWARD; what they refuse
# we must not accept before. Of Docker, ufw and containernetworking's "firewall".
OPERATORS = ("DOCKER-USER", "ufw-before-forward", "ufw6-before-forward", "CNI-ADMIN")


def table_name(network: str) -> str:
    """Return the name of a network's table, of family inet."""
    return own_tables.MASQUERADE + network


def ensure(plan: Plan, *, renew: bool = False) -> None:
    """Make sure that an attachment's network is masqueraded (or is not) and forwarded.

    Ranges that earlier containers of the network got under another configuration stay.
    renew: make the table anew even when it looks right; connections keep their addresses.
    Raises: NetlinkError; CniError 11 when others change the table all the time.
    """
    with IfNftables(needed=plan.ip_masq), Nftables() as netfilter:
        for _ in range(_ATTEMPTS):
            if _ensure_table(netfilter, plan, renew=renew):
                break
        else:
            raise CniError(
                TRY_AGAIN,
                f"nft table {table_name(plan.network)} was changed by others at each attempt",
                "call again",
            )
        for length in sorted({len(item.address) for item in plan.addresses}):
            for _ in range(_ATTEMPTS):
                if _ensure_accepts(netfilter, plan, length):
                    break
            else:
                raise _never_forwarded(length)


def _never_forwarded(length: int) -> CniError:
    """Return why FORWARD never took our rules."""
    lacks = features.missing({features.FORWARD}, makes_pairs=False)
    if lacks:
        return features.lacking(lacks)
    return CniError(
        TRY_AGAIN,
        f"chain FORWARD of {_IPTABLES_NAMES[length]} was changed by others at each attempt",
        "call again",
    )


def _ensure_table(netfilter: Netlink, plan: Plan, *, renew: bool) -> bool:
    """Return whether the table is as it must be, or has been made so."""
    name = table_name(plan.network)
    table, chain = _look(netfilter, name)
    if table is not None and not own_tables.is_ours(netfilter, table):
        if plan.ip_masq:
            own_tables.demand(netfilter, [table])
        return True
    present = [] if table is None else _ranges(table.comment, plan.ranges)
    if plan.ip_masq:
        wanted = present + [one for one in plan.ranges if one not in present]
    else:
        wanted = [one for one in present if one not in plan.ranges]
    if table is None and not wanted:
        return True
    is_awake = table is not None and not table.is_dormant
    if is_awake and wanted == present and _has_rules(chain, wanted) and not renew:
        return True
    messages = [] if table is None else [own_tables.removal(table)]
    if wanted:
        messages += _messages(name, wanted)
    try:
        netfilter.nft_batch(messages)
    except NetlinkError as error:
        if is_lacking(error) or error.errno not in _RACES:
            raise
        return False  # another ADD was here between the question and the transaction
    if wanted:
        seal.put(netfilter, name, _PLACES)
    return True


def _look(netfilter: Netlink, name: str) -> tuple[nft.Table | None, nft.Chain | None]:
    """Return the network's table and its chain, as far as they are there."""
    table, chain = netfilter.ask(
        [nft.get_table(nft.NFPROTO_INET, name), nft.get_chain(nft.NFPROTO_INET, name, CHAIN)]
    )
    return (
        None if table is None else nft.parse_table(table),
        None if chain is None else nft.parse_chain(chain),
    )


def _forward_chain(netfilter: Netlink, family: int) -> nft.Chain | None:
    """Return iptables' FORWARD chain of a family, if there is one."""
    [chain] = netfilter.ask([nft.get_chain(family, "filter", "FORWARD")])
    return None if chain is None else nft.parse_chain(chain)


def _has_rules(chain: nft.Chain | None, ranges: list[Network]) -> bool:
    """Say by their number whether the chain has its rules; CHECK compares each of them."""
    return chain is not None and chain.place == _PLACE and chain.use == _count(ranges)


def _count(ranges: list[Network]) -> int:
    """Return how many rules the ranges need: two for each, and one for each family."""
    return 2 * len(ranges) + len({len(net) for net, _ in ranges})


def _ranges(comment: str, hoped: list[Network]) -> list[Network]:
    """Return the ranges that a table's comment lists.

    hoped: those that are taken for listed when the comment is just theirs, shortened.
    """
    if comment == _comment(hoped):
        return hoped
    ranges = []
    for text in comment.split()[1:]:
        try:
            ranges.append(inet.parse_cidr(text))
        except ValueError:
            return []  # shortened, or changed by somebody: the table is made anew
    return ranges


def _comment(ranges: list[Network]) -> str:
    text = " ".join((_COMMENT, *(inet.cidr(*one) for one in ranges)))
    return text if len(text) < nft_comment.COMMENT_MAX else f"{_COMMENT} ~{digest(text)}"


def _rules(ranges: list[Network]) -> list[bytes]:
    """Return the expressions of each rule, in order."""
    rules = []
    for length in (4, 16):
        family = [one for one in ranges if len(one[0]) == length]
        if family:
            stay = [*family, _MULTICAST[length]]
            rules += [
                nft_expr.match_daddr(*one) + nft_expr.verdict(nft_expr.RETURN) for one in stay
            ]
            rules += [nft_expr.match_saddr(*one) + nft_expr.masquerade() for one in family]
    return rules


def _messages(name: str, ranges: list[Network]) -> list[Message]:
    return [
        nft.new_table(nft.NFPROTO_INET, name, comment=_comment(ranges)),
        nft.new_chain(
            nft.NFPROTO_INET,
            name,
            CHAIN,
            type="nat",
            hook=nft.NF_INET_POST_ROUTING,
            priority=nft.NF_IP_PRI_NAT_SRC,
        ),
        *(nft.new_rule(nft.NFPROTO_INET, name, CHAIN, rule) for rule in _rules(ranges)),
    ]


def _ensure_accepts(netfilter: Netlink, plan: Plan, length: int) -> bool:
    """Return whether iptables' FORWARD chain lets the network pass, or has been made to."""
    lacking, misplaced = _lacking_accepts(netfilter, plan, length)
    try:
        netfilter.nft_batch(misplaced + lacking)
    except NetlinkError as error:
        if error.errno not in _RACES:
            raise
        return False  # a rule that we would have come after has just gone
    return True


def _lacking_accepts(
    netfilter: Netlink, plan: Plan, length: int
) -> tuple[list[Message], list[Message]]:
    """Return what makes the rules that FORWARD lacks, and what takes those away that it has.

    From the network everything is accepted; to it, what belongs to a connection that it
    began or that a published port let in. So the policy still keeps strangers out. Nothing is
    lacking where the policy accepts. A rule that stands before the operator's is made anew.
    """
    family = _IPTABLES[length]
    chain = _forward_chain(netfilter, family)
    if chain is None or chain.policy != nft.NF_DROP:
        return [], []
    present: dict[str, int] = {}
    before: dict[str, int] = {}  # of the operator's
    behind: int | None = None
    for rule in dumps.rules(netfilter, family, "filter", "FORWARD"):
        if nft_expr.jump_target(rule.expressions) in OPERATORS:
            behind = rule.handle
            before |= present
            present.clear()
        present[rule.comment] = rule.handle
    lacking, misplaced = [], []
    for comment, expressions in _accepts(plan, length):
        if comment in present:
            continue
        if comment in before:
            misplaced.append(nft.del_rule(family, "filter", "FORWARD", before[comment]))
        lacking.append(
            nft.new_rule(
                family,
                "filter",
                "FORWARD",
                expressions,
                comment=comment,
                insert=behind is None,
                position=behind,
            )
        )
    return lacking, misplaced


def _accepts(plan: Plan, length: int) -> list[tuple[str, bytes]]:
    """Return (comment, expressions) of what a network needs in iptables' FORWARD chain."""
    published = (
        nft_expr.XT_CONNTRACK_STATE_ESTABLISHED
        | nft_expr.XT_CONNTRACK_STATE_RELATED
        | nft_expr.XT_CONNTRACK_STATE_DNAT
    )
    found = []
    for one in plan.ranges:
        if len(one[0]) == length:
            text = inet.cidr(*one)
            for words, expressions in (
                ("from", nft_expr.iptables_accept(saddr=one)),
                ("to", nft_expr.iptables_accept(daddr=one, states=published)),
            ):
                comment = f"{_COMMENT} {plan.network} {words} {text}"
                found.append((comment[: nft_comment.COMMENT_MAX - 1], expressions))
    return found


def remove(network: str, *, dry_run: bool = False) -> bool:
    """Take away a network's table and its rules in iptables' chains; say if there were any.

    dry_run: only say it.
    Raises: NetlinkError.
    """
    removed = own_tables.remove(table_name(network), FAMILIES, dry_run=dry_run)
    with IfNftables(), Nftables() as netfilter:
        for family in _IPTABLES.values():
            if _forward_chain(netfilter, family) is None:
                continue
            for rule in dumps.rules(netfilter, family, "filter", "FORWARD"):
                if rule.comment.startswith(f"{_COMMENT} {network} "):
                    if not dry_run:
                        message = nft.del_rule(family, "filter", "FORWARD", rule.handle)
                        netfilter.nft_batch([message])
                    removed = True
    return removed


def drifts(plan: Plan) -> list[tuple[str, str, str]]:
    """Compare the rules with the promise. Returns: (what, expected, found) for each.

    Raises: NetlinkError.
    """
    found: list[tuple[str, str, str]] = []
    name = table_name(plan.network)
    with IfNftables(needed=plan.ip_masq), Nftables() as netfilter:
        if plan.ip_masq:
            what = f"masquerade: nft table inet {name}"
            table, chain = _look(netfilter, name)
            if table is None or table.is_dormant:
                found.append((what, "present", "none" if table is None else "dormant"))
            else:
                ranges = _ranges(table.comment, plan.ranges)
                lacking = [inet.cidr(*one) for one in plan.ranges if one not in ranges]
                if lacking:
                    found.append((f"{what}: ranges", ", ".join(lacking), table.comment or "none"))
                found.extend(_rule_drifts(netfilter, chain, what, ranges))
        for length in sorted({len(item.address) for item in plan.addresses}):
            messages, misplaced = _lacking_accepts(netfilter, plan, length)
            texts = ("after the operator's own", "before") if misplaced else ("present", "none")
            found.extend((f"forwarding: {message[3]}", *texts) for message in messages)
    return found


def _rule_drifts(
    netfilter: Netlink, chain: nft.Chain | None, what: str, ranges: list[Network]
) -> list[tuple[str, str, str]]:
    if chain is None or chain.place != _PLACE:
        return [(f"{what}: chain {CHAIN}", _PLACE, "none" if chain is None else chain.place)]
    if _has_rules(chain, ranges) and seal.holds(netfilter, chain.table, _PLACES):
        return []
    found = dumps.rules(netfilter, nft.NFPROTO_INET, chain.table, CHAIN)
    actual = [nft_expr.describe(one.expressions) for one in found]
    expected = [nft_expr.describe(rule) for rule in _rules(ranges)]
    if actual == expected:
        return []
    missing = [rule for rule in expected if rule not in actual]
    return [
        (
            f"{what}: rules of {CHAIN}",
            f"{len(expected)} rules" + (f", among them: {missing[0]}" if missing else ""),
            f"{len(actual)} rules",
        )
    ]
