"""Write down the tables that keep a network's containers from what they must not do.

guard.py tells what stands in them, and keeps them.
"""

from cni_faasm.config.policy import GROUP_BASE, GROUP_MASK, Guard, digest, group
from cni_faasm.netlink import nft, nft_comment, nft_expr, nft_match, nft_set
from cni_faasm.netlink.wire import Message
from cni_faasm.rules import own_tables

LEARNED = "learned"
BOUND = "bound"
OWN = "own"
ALSO = {4: "also", 16: "also6"}
FROM = "from"
TO_HOST = "to_host"
THROUGH = "through"
NF_IP_PRI_RAW = -300
NF_ARP_IN = 0
_COMMENT = f"{own_tables.MARK} names"  # the second word tells what sets are keyed by
_LEARNED_MS = 3_600_000  # without a packet; then it may be another
_LINK_LOCAL = b"\xfe\x80" + bytes(14), 10
_UNSPECIFIED = bytes(16), 128  # of neighbour discovery and MLD
FAMILIES = own_tables.FAMILIES


def table_name(network: str) -> str:
    """Return the name of a network's two tables."""
    return own_tables.GUARD + network


def comment(guard: Guard) -> str:
    text = f"{_COMMENT} {guard}"
    return text if len(text) < nft_comment.COMMENT_MAX else f"{_COMMENT} ~{digest(text)}"


def is_by_name(table: nft.Table | None) -> bool:
    """Say whether a table's sets have our keys; those of an earlier version have indexes."""
    return table is not None and table.comment.startswith(_COMMENT)


def tables(network: str, guard: Guard) -> list[Message]:
    """Return what makes both tables, without their rules."""
    name = table_name(network)
    inet, arp = FAMILIES
    made = [nft.new_table(inet, name, comment=comment(guard))]
    if guard.anti_spoof:
        made.append(nft.new_table(arp, name, comment=comment(guard)))
        link, mac, ip4 = nft_set.TYPE_IFNAME, nft_set.TYPE_ETHERADDR, nft_set.TYPE_IPADDR
        made += [
            nft_set.new_set(arp, name, OWN, link, ip4),
            nft_set.new_set(inet, name, ALSO[4], link, ip4),
            nft_set.new_set(inet, name, ALSO[16], link, nft_set.TYPE_IP6ADDR),
        ]
        for family, macs in ((inet, [mac]), (arp, [mac, mac])):
            made += [
                nft_set.new_set(family, name, LEARNED, link, *macs, dynamic=True),
                nft_set.new_set(family, name, BOUND, link, dynamic=True),
            ]
    for family, chain, hook, priority in chains(guard):
        made.append(nft.new_chain(family, name, chain, type="filter", hook=hook, priority=priority))
    return made


def places(guard: Guard) -> list[tuple[int, str]]:
    """Return (family, chain) of all that have rules."""
    return [(family, chain) for family, chain, _, _ in chains(guard)]


def rules(network: str, guard: Guard) -> list[Message]:
    """Return what makes the rules of both tables."""
    name = table_name(network)
    return [
        nft.new_rule(family, name, chain, rule)
        for family, chain, listed in rules_of(network, guard)
        for rule in listed
    ]


def chains(guard: Guard) -> list[tuple[int, str, int, int]]:
    """Return (family, chain, hook, priority) of all that have rules."""
    inet, arp = FAMILIES
    found = []
    if guard.anti_spoof:
        found.append((arp, FROM, NF_ARP_IN, 0))
        found.append((inet, FROM, nft.NF_INET_PRE_ROUTING, NF_IP_PRI_RAW))
    if guard.isolated:
        found.append((inet, TO_HOST, nft.NF_INET_LOCAL_IN, nft.NF_IP_PRI_FILTER))
        found.append((inet, THROUGH, nft.NF_INET_FORWARD, nft.NF_IP_PRI_FILTER))
    return found


def rules_of(network: str, guard: Guard) -> list[tuple[int, str, list[bytes]]]:
    """Return (family, chain, rules) of everything."""
    ours = nft_match.group(nft_match.IIFGROUP, group(network))
    drop = nft_expr.counter() + nft_expr.verdict(nft_expr.DROP)
    accept = nft_expr.verdict(nft_expr.ACCEPT)
    found: list[tuple[int, str, list[bytes]]] = []
    inet, arp = FAMILIES
    if guard.anti_spoof:
        refuse = nft_expr.verdict(nft_expr.DROP)
        v4, v6 = (
            nft_match.protocol_family(number) for number in (nft.NFPROTO_IPV4, nft.NFPROTO_IPV6)
        )
        nowhere = nft_match.source_not_routed_back()
        not4, not6 = (
            nft_match.listed(key, ALSO[length], negate=True)
            for key, length in ((nft_match.SOURCE4, 4), (nft_match.SOURCE6, 16))
        )
        rules = [
            # The host needs nothing from these: the link's neighbours are known by their own
            # addresses. Any number of them would make as many entries in its neighbour table.
            # Not counted, since every kernel sends some when an interface comes up.
            ours + nft_expr.match_saddr(*_LINK_LOCAL) + refuse,
            ours + nft_expr.match_saddr(*_UNSPECIFIED) + refuse,
            ours + v4 + nowhere + not4 + drop,
            ours + v6 + nowhere + not6 + drop,
        ]
        found.append((inet, FROM, rules + _binding(ours, nft_match.SENDER)))
        rules = [ours + nft_match.listed(nft_match.ARP_ADDRESS, OWN, negate=True) + drop]
        found.append((arp, FROM, rules + _binding(ours, nft_match.ARP_SENDER)))
    if guard.isolated:
        rules = [
            ours + nft_match.known_connection() + accept,
            ours + nft_match.icmpv6(nft_match.ND_NEIGHBOR_SOLICIT) + accept,
            ours + nft_match.icmpv6(nft_match.ND_NEIGHBOR_ADVERT) + accept,
        ]
        rules += [ours + nft_match.service(*one) + accept for one in guard.allow_host]
        found.append((inet, TO_HOST, [*rules, ours + drop]))
        any_of_us = (GROUP_BASE, GROUP_MASK)
        rules = [
            ours + nft_match.group(nft_match.OIFGROUP, *any_of_us) + drop,
            nft_match.group(nft_match.OIFGROUP, group(network))
            + nft_match.group(nft_match.IIFGROUP, *any_of_us)
            + drop,
        ]
        found.append((inet, THROUGH, rules))
    return found


def _binding(ours: bytes, sender: str) -> list[bytes]:
    """Return the rules that hold each end to one MAC address."""
    back = nft_expr.verdict(nft_expr.RETURN)
    bind = nft_match.remember(nft_match.INTERFACE, BOUND, _LEARNED_MS)
    learn, again = (
        nft_match.remember(sender, LEARNED, _LEARNED_MS, matched=known) for known in (False, True)
    )
    return [
        ours + nft_match.listed(sender, LEARNED) + again + bind + back,
        ours
        + nft_match.listed(nft_match.INTERFACE, BOUND)
        + nft_expr.counter()
        + nft_expr.verdict(nft_expr.DROP),
        ours + learn + bind,
    ]
