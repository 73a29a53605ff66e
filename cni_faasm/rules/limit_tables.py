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

What several have together ("... shared") is a limit by itself, to which their names lead:

    limit shared_from_HEX { rate over 1250000 bytes/second burst 1 bytes }
    map shared_from { type ifname : limit; elements = { "faasm3" : "shared_from_HEX" } }
    chain shared_from { limit name iifname map @shared_from counter drop }      and shared_to

backstop.py keeps these tables and tells why they are so.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cni_faasm.attachment.plan import Plan
from cni_faasm.config.counted import Counted
from cni_faasm.config.policy import digest, group
from cni_faasm.config.shared import Shared
from cni_faasm.limits.shaping import ETHERNET_HEADER_BYTES, Shape, gso_max_bytes
from cni_faasm.netlink import nft, nft_expr, nft_limit, nft_match, nft_object, nft_set
from cni_faasm.netlink.wire import Message
from cni_faasm.rules import limit_subnets, own_tables
from cni_faasm.rules.guard import end_key
from cni_faasm.rules.guard_rules import NF_ARP_IN, NF_IP_PRI_RAW

SET = "egress"
CHAIN = "from"
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
SHARED = "shared"
SHARED_FROM = "shared_from"  # the maps, and the chains
SHARED_TO = "shared_to"
PACKETS_FROM = "packets_from"  # the sets, and the chains
PACKETS_TO = "packets_to"
OPENED_FROM = "opened_from"
OPENED_TO = "opened_to"
REFUSE = "refuse"
_WORDS = {
    PACKETS_FROM: PACKETS,
    PACKETS_TO: PACKETS,
    CONNECTIONS: CONNECTIONS,
    SHARED_FROM: SHARED,
    SHARED_TO: SHARED,
}
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
    bucket: nft_limit.Bucket | nft_object.Reference


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
            found.append(Element(family, limit_subnets.SCOPED + limit_subnets.mark(scope), limit))
        elif not scope.only:  # as the queue has it: ARP is for no subnet
            found.append(Element(family, SET, limit))
    if plan.counted is not None:
        found += [one for family in families for one in _counted(plan.counted, family)]
    if plan.shared is not None:
        found += [one for family in families for one in _shared(plan.shared, family)]
    return found


def _shared(shared: Shared, family: int) -> Iterator[Element]:
    """Yield what leads to the limits that an attachment has with others: not for ARP."""
    for name, rate_bps in ((SHARED_FROM, shared.egress_bps), (SHARED_TO, shared.ingress_bps)):
        if rate_bps and family != nft.NFPROTO_ARP:
            # Who is to have another rate shares with those of that rate.
            one = digest(f"{shared.by}={shared.of} {rate_bps}")
            limit = nft_limit.Limit(-(-rate_bps // 8), 1)
            yield Element(family, name, nft_object.Reference(f"{name}_{one}", limit))


def _counted(counted: Counted, family: int) -> Iterator[Element]:
    if counted.egress is not None:
        one = counted.egress
        yield Element(family, PACKETS_FROM, nft_limit.Packets(one.rate_pps, one.burst))
    if counted.ingress is not None and family != nft.NFPROTO_ARP:
        one = counted.ingress
        yield Element(family, PACKETS_TO, nft_limit.Packets(one.rate_pps, one.burst))
    if counted.connections and family == nft.NFPROTO_INET:
        yield Element(family, CONNECTIONS, nft_limit.Connections(counted.connections))


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
        SUBNETS if one.set.startswith(limit_subnets.SCOPED) else _WORDS[one.set]
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
    if SHARED in has and family != nft.NFPROTO_ARP:
        found += [SHARED_FROM, SHARED_TO]
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
    if SHARED in has and family != nft.NFPROTO_ARP:
        # Behind the others: what these drop takes nothing from those who share.
        found[SHARED_FROM] = hook, priority + 1
        found[SHARED_TO] = nft.NF_INET_POST_ROUTING, priority + 1
    return found


def places(families: Iterable[int], has: set[str]) -> list[tuple[int, str]]:
    """Return (family, chain) of all chains but those of subnets, as they are sealed."""
    found = [(family, chain) for family in families for chain in chains_of(family, has)]
    if any(chain == OPENED_FROM for _, chain in found):
        found.append((nft.NFPROTO_INET, REFUSE))
    return found


def scope_places(families: tuple[int, ...], one: str) -> list[tuple[int, str]]:
    """Return (family, chain) of a list of subnets, as it is sealed."""
    return [(families[0], limit_subnets.TO + one)]  # ARP has none


# ---- what there is in a table


def made(
    network: str,
    families: Iterable[int],
    held: Mapping[str, list[Element]],
    known: limit_subnets.Scopes,
    *,
    any_group: bool,
) -> list[Message]:
    """Return what makes a network's tables with all in them. held: by interface."""
    name = table_name(network)
    listed = [one for each in held.values() for one in each]
    has = words(listed)
    used = {one.set.removeprefix(limit_subnets.SCOPED) for one in listed}
    known = {key: scope for key, scope in sorted(known.items()) if key in used}
    found: list[Message] = []
    for family in families:
        found.append(nft.new_table(family, name, comment=comment(has, any_group=any_group)))
        marks = () if family == nft.NFPROTO_ARP else known
        for each in (*sets_of(family, has), *(limit_subnets.SCOPED + one for one in marks)):
            if each in (SHARED_FROM, SHARED_TO):
                found.append(nft_object.new_map(family, name, each))
                continue
            some = _SOME.get(each, _SOME[SET]).encode()
            found.append(nft_set.new_set(family, name, each, nft_set.TYPE_IFNAME, each=some))
        chains = chains_of(family, has)
        for chain, (hook, priority) in chains.items():
            found.append(
                nft.new_chain(family, name, chain, type="filter", hook=hook, priority=priority)
            )
        for one in marks:
            found.append(nft.new_chain(family, name, limit_subnets.TO + one))
            rules = limit_subnets.scope_rules(family, one, known[one])
            found += [nft.new_rule(family, name, limit_subnets.TO + one, rule) for rule in rules]
        if OPENED_FROM in chains:
            found.append(nft.new_chain(family, name, REFUSE))
            found += [nft.new_rule(family, name, REFUSE, rule) for rule in refusal_rules()]
        found += [
            message
            for interface, each in held.items()
            for one in each
            if one.family == family
            for message in addition(name, interface, one)
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
    key = nft_match.OIFGROUP if chain in (PACKETS_TO, OPENED_TO, SHARED_TO) else nft_match.IIFGROUP
    ours = b"" if any_group else nft_match.group(key, group(network))
    if chain == PACKETS_FROM:
        return [ours + limit_subnets.hold(PACKETS_FROM)]
    if chain == PACKETS_TO:
        return [ours + nft_match.listed(nft_match.OUT_INTERFACE, PACKETS_TO) + limit_subnets.DROP]
    if chain == SHARED_FROM:
        return [ours + nft_object.above(nft_match.INTERFACE, SHARED_FROM) + limit_subnets.DROP]
    if chain == SHARED_TO:
        return [ours + nft_object.above(nft_match.OUT_INTERFACE, SHARED_TO) + limit_subnets.DROP]
    if chain == OPENED_FROM:
        opened = nft_match.new_connection() + ours
        listed = nft_match.listed(nft_match.INTERFACE, CONNECTIONS)
        away = nft_expr.verdict(nft_expr.JUMP, REFUSE)
        return [opened + listed + nft_expr.counter() + away]
    if chain == OPENED_TO:
        opened = nft_match.new_connection() + ours
        return [
            opened + nft_match.listed(nft_match.OUT_INTERFACE, CONNECTIONS) + limit_subnets.DROP
        ]
    jumps = [ours + nft_expr.verdict(nft_expr.JUMP, limit_subnets.TO + one) for one in marks]
    return [ours + limit_subnets.hold(SET), *jumps]


def refusal_rules() -> list[bytes]:
    """Return the rules of the chain that answers who may open no more connections."""
    return [nft_match.refuse_tcp(), nft_match.refuse()]


def chain_place(family: int, chain: str, has: set[str]) -> str:
    """Return where a chain must be hooked, as Chain.place says it."""
    return nft.base_place("filter", *chains_of(family, has)[chain])


def addition(name: str, interface: str, one: Element) -> list[Message]:
    """Return what puts an element in."""
    key = end_key(interface)
    if not isinstance(one.bucket, nft_object.Reference):
        return [nft_set.new_elements(one.family, name, one.set, [key], one.bucket.encode())]
    to = one.bucket
    made = [] if to.limit is None else [nft_object.new_limit(one.family, name, to.name, to.limit)]
    return [*made, nft_object.new_element(one.family, name, one.set, key, to.name)]


def removal(name: str, interface: str, family: int, place: str) -> Message:
    """Return what takes an element out of a set."""
    return nft_set.del_elements(family, name, place, [end_key(interface)])
