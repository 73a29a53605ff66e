"""Write down the tables that hold a network's containers to their limits on the host.

    table inet limit_NETWORK {              comment "cni-faasm limits"
        set egress {
            type ifname; limit rate over ...
            elements = { "faasm3" limit rate over 1287500 bytes/second burst 1 bytes, ... }
        }
        chain from {
            type filter hook prerouting priority raw
            iifgroup G iifname @egress counter drop
        }
    }
    table arp limit_NETWORK { ... }         the same for ARP, at its input hook
    table bridge limit_NETWORK { ... }      the same for the ports of bridges

Limits for some subnets (comment "... subnets") have a set and a chain for each list of subnets:

    set egress_HEX { ... }
    chain from { ...; iifgroup G jump to_HEX }
    chain to_HEX { ip daddr 10.0.0.0/8 return; iifname @egress_HEX counter drop }

What is not limited returns; where some subnets alone are, each of them has a rule with the set.

Packets ("... packets") and connections ("... connections", in inet alone) have chains of their own:

    set packets_from { type ifname; limit rate over 1/second; ... }     and packets_to
    chain packets_from { hook as that of "from"; iifgroup G iifname @packets_from counter drop }
    chain packets_to { hook postrouting; oifgroup G oifname @packets_to counter drop }
    set connections { type ifname; ct count over 1; ... }
    chain opened_from { hook prerouting priority mangle
        ct state new iifgroup G iifname @connections counter jump refuse }
    chain opened_to { hook postrouting; ct state new oifgroup G oifname @connections counter drop }
    chain refuse { meta l4proto tcp reject with tcp reset; reject with icmpx admin-prohibited }

backstop.py keeps these tables and tells why they are so.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cni_faasm.attachment.plan import Plan
from cni_faasm.config.counted import Counted
from cni_faasm.config.policy import digest, group
from cni_faasm.limits.shaping import ETHERNET_HEADER_BYTES, Shape, gso_max_bytes
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.netlink import nft, nft_expr, nft_limit, nft_match, nft_set
from cni_faasm.netlink.wire import Message
from cni_faasm.rules import own_tables
from cni_faasm.rules.guard import end_key
from cni_faasm.rules.guard_rules import NF_ARP_IN, NF_IP_PRI_RAW
from cni_faasm.spec import inet

SET = "egress"
CHAIN = "from"
TO = "to_"  # the chains of subnets begin so, the sets with SCOPED
SCOPED = f"{SET}_"
# Which families see the packets of a pair that the host routes, and of a bridge's port.
ROUTED = (nft.NFPROTO_INET, nft.NFPROTO_ARP)
BRIDGED = (nft.NFPROTO_BRIDGE,)
FAMILIES = (*ROUTED, *BRIDGED)
# A bucket of a second and 3 % let a cheat have 1.133 of its limit in ten seconds.
PERCENT = 103
_LATE_SECONDS_INVERSE = 10  # by so much what HTB has let through may come later than it was sent
OURS = f"{own_tables.MARK} limits"
_ANY_GROUP = ("any", "group")
SUBNETS = "subnets"  # words of the comment: what there is beside the set of all
PACKETS = "packets"
CONNECTIONS = "connections"  # the set, too
PACKETS_FROM = "packets_from"  # the sets, and the chains
PACKETS_TO = "packets_to"
OPENED_FROM = "opened_from"
OPENED_TO = "opened_to"
REFUSE = "refuse"
_WORDS = {PACKETS_FROM: PACKETS, PACKETS_TO: PACKETS, CONNECTIONS: CONNECTIONS}
_NF_IP_PRI_MANGLE = -150  # behind connection tracking
_HOOKS = {
    nft.NFPROTO_INET: (nft.NF_INET_PRE_ROUTING, NF_IP_PRI_RAW),
    nft.NFPROTO_ARP: (NF_ARP_IN, 0),
    nft.NFPROTO_BRIDGE: (nft.NF_INET_PRE_ROUTING, NF_IP_PRI_RAW),
}


class Element(NamedTuple):
    """What one set of one family holds of an interface."""

    family: int
    set: str
    bucket: nft_limit.Bucket


Scopes = dict[str, Scope]  # by mark


def table_name(network: str) -> str:
    """Return the name of a network's tables."""
    return own_tables.LIMIT + network


def bucket(plan: Plan) -> nft_limit.Limit | None:
    """Return what the host lets an attachment send, None for all that its queue lets through.

    The rate counts from the IP header on, and HTB's with the Ethernet header: so who obeys is
    below it at any size of packet.
    """
    shape = plan.egress
    if shape is None or plan.host_egress is not None:
        return None
    return bucket_of_shape(shape, plan.mtu)


def bucket_of_shape(shape: Shape, mtu: int) -> nft_limit.Limit | None:
    """Return what who obeys a shape stays below, None when the kernel cannot count so."""
    rate = -(-shape.rate_Bps * PERCENT // 100)
    packet = max(gso_max_bytes(shape) or 0, mtu + ETHERNET_HEADER_BYTES)
    # HTB's burst, one packet that it lets through on credit and one on the way, and what was
    # late; all but the second that the kernel adds by itself.
    burst = shape.burst_bytes + 2 * packet + rate // _LATE_SECONDS_INVERSE - rate
    found = nft_limit.Limit(rate, max(burst, 1))
    if found.burst_bytes > nft_limit.MAX_BURST_BYTES:
        return None
    return found if rate + found.burst_bytes <= nft_limit.MAX_RATE_AND_BURST else None


def elements(plan: Plan, families: Iterable[int] = ROUTED) -> list[Element]:
    """Return what holds an attachment to its limits, in these families."""
    found: list[Element] = []
    limit = bucket(plan)
    scope = None if plan.egress is None else plan.egress.scope
    for family in families:
        if limit is None:
            continue
        if scope is None:
            found.append(Element(family, SET, limit))
        elif family != nft.NFPROTO_ARP:
            found.append(Element(family, SCOPED + mark(scope), limit))
        elif not scope.only:  # as the queue has it: ARP is for no subnet
            found.append(Element(family, SET, limit))
    if plan.counted is not None:
        found += [one for family in families for one in _counted(plan.counted, family)]
    return found


def _counted(counted: Counted, family: int) -> Iterator[Element]:
    if counted.egress is not None:
        one = counted.egress
        yield Element(family, PACKETS_FROM, nft_limit.Packets(one.rate_pps, one.burst))
    if counted.ingress is not None and family != nft.NFPROTO_ARP:
        one = counted.ingress
        yield Element(family, PACKETS_TO, nft_limit.Packets(one.rate_pps, one.burst))
    if counted.connections and family == nft.NFPROTO_INET:
        yield Element(family, CONNECTIONS, nft_limit.Connections(counted.connections))


def mark(scope: Scope) -> str:
    """Return what tells a list of subnets from others, in names of sets and chains."""
    subnets = sorted(inet.cidr(*one) for one in scope.subnets)
    return digest(" ".join(("only" if scope.only else "all but", *subnets)))[:8]


def scopes(plans: Iterable[Plan]) -> Scopes:
    """Return all lists of subnets of some attachments."""
    found = (plan.egress.scope for plan in plans if plan.egress is not None)
    return {mark(scope): scope for scope in found if scope is not None}


# ---- the comment


def comment(words: Iterable[str], *, any_group: bool) -> str:
    """Return a table's comment. words: what there is beside the set of all."""
    return " ".join((OURS, *(_ANY_GROUP if any_group else ()), *sorted(words)))


def is_known(table: nft.Table | None) -> bool:
    """Say whether a table has a comment of ours, and is at work."""
    return table is not None and table.comment.startswith(OURS) and not table.is_dormant


def is_any_group(table: nft.Table) -> bool:
    """Say whether a table's rules are for all interfaces, by its comment."""
    return tuple(table.comment.split()[2:4]) == _ANY_GROUP


def words_of(table: nft.Table) -> set[str]:
    """Return what a table has beside the set of all, by its comment."""
    return set(table.comment.split()[2:]) - set(_ANY_GROUP)


def words(wanted: Iterable[Element]) -> set[str]:
    """Return what a table must have beside the set of all, to hold these."""
    return {
        SUBNETS if one.set.startswith(SCOPED) else _WORDS[one.set]
        for one in wanted
        if one.set != SET
    }


def sets_of(family: int, has: set[str]) -> list[str]:
    """Return the sets of a table that has these words; those of subnets only it itself knows."""
    found = [SET]
    if PACKETS in has:
        found += [PACKETS_FROM] if family == nft.NFPROTO_ARP else [PACKETS_FROM, PACKETS_TO]
    if CONNECTIONS in has and family == nft.NFPROTO_INET:
        found.append(CONNECTIONS)
    return found


def chains_of(family: int, has: set[str]) -> dict[str, tuple[int, int]]:
    """Return the chains that see packets, of a table with these words: their hook and priority."""
    hook, priority = _HOOKS[family]
    found = {CHAIN: (hook, priority)}
    if PACKETS in has:
        found[PACKETS_FROM] = hook, priority
        if family != nft.NFPROTO_ARP:
            found[PACKETS_TO] = nft.NF_INET_POST_ROUTING, priority
    if CONNECTIONS in has and family == nft.NFPROTO_INET:
        found[OPENED_FROM] = hook, _NF_IP_PRI_MANGLE
        found[OPENED_TO] = nft.NF_INET_POST_ROUTING, _NF_IP_PRI_MANGLE
    return found


def places(families: Iterable[int], has: set[str]) -> list[tuple[int, str]]:
    """Return (family, chain) of all chains but those of subnets, as they are sealed."""
    found = [(family, chain) for family in families for chain in chains_of(family, has)]
    if any(chain == OPENED_FROM for _, chain in found):
        found.append((nft.NFPROTO_INET, REFUSE))
    return found


def scope_places(families: tuple[int, ...], one: str) -> list[tuple[int, str]]:
    """Return (family, chain) of a list of subnets, as it is sealed."""
    return [(families[0], TO + one)]  # ARP has none


# ---- what there is in a table


def made(
    network: str,
    families: Iterable[int],
    held: Mapping[str, list[Element]],
    known: Scopes,
    *,
    any_group: bool,
) -> list[Message]:
    """Return what makes a network's tables with all in them. held: by interface."""
    name = table_name(network)
    listed = [one for each in held.values() for one in each]
    has = words(listed)
    used = {one.set.removeprefix(SCOPED) for one in listed}
    known = {key: scope for key, scope in sorted(known.items()) if key in used}
    found: list[Message] = []
    for family in families:
        found.append(nft.new_table(family, name, comment=comment(has, any_group=any_group)))
        marks = () if family == nft.NFPROTO_ARP else known
        for each in (*sets_of(family, has), *(SCOPED + one for one in marks)):
            some = _SOME.get(each, _SOME[SET]).encode()
            found.append(nft_set.new_set(family, name, each, nft_set.TYPE_IFNAME, each=some))
        chains = chains_of(family, has)
        for chain, (hook, priority) in chains.items():
            found.append(
                nft.new_chain(family, name, chain, type="filter", hook=hook, priority=priority)
            )
        for one in marks:
            found.append(nft.new_chain(family, name, TO + one))
            rules = scope_rules(family, one, known[one])
            found += [nft.new_rule(family, name, TO + one, rule) for rule in rules]
        if OPENED_FROM in chains:
            found.append(nft.new_chain(family, name, REFUSE))
            found += [nft.new_rule(family, name, REFUSE, rule) for rule in refusal_rules()]
        found += [
            addition(name, interface, one)
            for interface, each in held.items()
            for one in each
            if one.family == family
        ]
        found += [
            nft.new_rule(family, name, chain, rule)
            for chain in chains
            for rule in rules_of(network, chain, marks, any_group=any_group)
        ]
    return found


_SOME: dict[str, nft_limit.Bucket] = {  # what an element without its own would have
    SET: nft_limit.Limit(1, 1),
    PACKETS_FROM: nft_limit.Packets(1, 1),
    PACKETS_TO: nft_limit.Packets(1, 1),
    CONNECTIONS: nft_limit.Connections(1),
}


def rules_of(network: str, chain: str, marks: Iterable[str], *, any_group: bool) -> list[bytes]:
    """Return the rules of a chain that sees packets. marks: of the lists of subnets."""
    key = nft_match.OIFGROUP if chain in (PACKETS_TO, OPENED_TO) else nft_match.IIFGROUP
    ours = b"" if any_group else nft_match.group(key, group(network))
    if chain == PACKETS_FROM:
        return [ours + _hold(PACKETS_FROM)]
    if chain == PACKETS_TO:
        return [ours + nft_match.listed(nft_match.OUT_INTERFACE, PACKETS_TO) + _DROP]
    if chain == OPENED_FROM:
        opened = nft_match.new_connection() + ours
        listed = nft_match.listed(nft_match.INTERFACE, CONNECTIONS)
        away = nft_expr.verdict(nft_expr.JUMP, REFUSE)
        return [opened + listed + nft_expr.counter() + away]
    if chain == OPENED_TO:
        opened = nft_match.new_connection() + ours
        return [opened + nft_match.listed(nft_match.OUT_INTERFACE, CONNECTIONS) + _DROP]
    jumps = [ours + nft_expr.verdict(nft_expr.JUMP, TO + one) for one in marks]
    return [ours + _hold(SET), *jumps]


def refusal_rules() -> list[bytes]:
    """Return the rules of the chain that answers who may open no more connections."""
    return [nft_match.refuse_tcp(), nft_match.refuse()]


_DROP = nft_expr.counter() + nft_expr.verdict(nft_expr.DROP)


def _hold(name: str) -> bytes:
    listed = nft_match.listed(nft_match.INTERFACE, name)
    return listed + _DROP


def scope_rules(family: int, one: str, scope: Scope) -> list[bytes]:
    """Return the rules of the chain of a list of subnets."""
    hold = _hold(SCOPED + one)
    if scope.only:
        return [_to(family, *subnet) + hold for subnet in _outermost(scope)]
    back = nft_expr.verdict(nft_expr.RETURN)
    return [*(_to(family, *subnet) + back for subnet in _outermost(scope)), hold]


def _to(family: int, network: bytes, prefix_len: int) -> bytes:
    if family == nft.NFPROTO_BRIDGE:
        return nft_match.bridged_to(network, prefix_len)
    return nft_expr.match_daddr(network, prefix_len)


def _outermost(scope: Scope) -> list[tuple[bytes, int]]:
    """Return the subnets without those that lie in others: no packet is to count twice."""
    found: list[tuple[bytes, int]] = []
    for network, prefix_len in sorted(scope.subnets, key=lambda one: one[1]):
        if not any(
            len(other) == len(network) and inet.network(network, length) == other
            for other, length in found
        ):
            found.append((network, prefix_len))
    return sorted(found)


def chain_place(family: int, chain: str, has: set[str]) -> str:
    """Return where a chain must be hooked, as Chain.place says it."""
    return nft.base_place("filter", *chains_of(family, has)[chain])


def addition(name: str, interface: str, one: Element) -> Message:
    """Return what puts an element in."""
    key = [end_key(interface)]
    return nft_set.new_elements(one.family, name, one.set, key, one.bucket.encode())


def removal(name: str, interface: str, family: int, place: str) -> Message:
    """Return what takes an element out of a set."""
    return nft_set.del_elements(family, name, place, [end_key(interface)])
