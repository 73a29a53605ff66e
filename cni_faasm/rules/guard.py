"""Keep containers from what they must not do: one rule set for a whole network.

    table inet guard_NETWORK {              comment "cni-faasm names antiSpoof isolated ..."
        set learned { type ifname . ether_addr; flags dynamic,timeout; }
        set bound { type ifname; flags dynamic,timeout; }
        set also { type ifname . ipv4_addr; }                  and also6
        chain from {                                           antiSpoof
            type filter hook prerouting priority raw
            iifgroup G ip6 saddr { fe80::/10, :: } drop        made up at will
            iifgroup G ip saddr fib saddr . iif oif missing iifname . ip saddr != @also drop
            iifgroup G ip6 saddr the same
            iifgroup G iifname . ether saddr @learned update @learned, @bound return
            iifgroup G iifname @bound drop
            iifgroup G update @learned { iifname . ether saddr } update @bound { iifname }
        }
        chain to_host {                                        isolated
            type filter hook input priority filter
            iifgroup G ct state established,related accept
            iifgroup G icmpv6 type { 135, 136 } accept         the link needs them
            iifgroup G udp dport 53 accept                     allowHost
            iifgroup G drop
        }
        chain through {
            type filter hook forward priority filter
            iifgroup G oifgroup & 0xff000000 == 0x7a000000 drop
            oifgroup G iifgroup & 0xff000000 == 0x7a000000 drop
        }
    }
    table arp guard_NETWORK { ... }                            antiSpoof: the same for ARP

G is the interface group of the network's outer ends. Whose an address is says the host's own
routing table, which has a /32 for each container. A MAC address is the container's from its
first packet on: a later plugin of the list (tuning) may have changed the one that ADD made, and
nobody tells us; from then on there is no other. So a container costs no element but one for
ARP, which no routing table is asked about. A container of several attachments may send from
each of its addresses by all of them: `also` holds what the routing table does not tell.

All are kept by the interface's name. An index would be no later interface's, but nft lists it
as the name of the day, and refuses the whole of a saved ruleset when that interface has gone. So
what is of a name goes before its link does, and what packets of the last moment have put there
goes before the next container of that name is let in.
The tables follow the network's latest ADD.
"""

import errno
from collections.abc import Sequence

from cni_faasm.attachment import plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import Guard, group
from cni_faasm.link import several, veth
from cni_faasm.netlink import dumps, nft, nft_set
from cni_faasm.netlink.lacking import IfNftables, is_lacking
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError, text_of
from cni_faasm.rules import own_tables, seal
from cni_faasm.rules.guard_rules import (
    ALSO,
    BOUND,
    FAMILIES,
    LEARNED,
    OWN,
    comment,
    is_by_name,
    places,
    rules,
    table_name,
)
from cni_faasm.rules.guard_rules import tables as tables_of
from cni_faasm.spec.errors import TRY_AGAIN, CniError

Keys = list[tuple[int, str, bytes]]

_ATTEMPTS = 8
IFNAMSIZ = 16  # <linux/if.h>
_MAC_BYTES = 8  # of a key, whose fields take whole words
_RACES = (errno.EEXIST, errno.ENOENT, errno.EINTR)


def ensure(
    plan: Plan, state_dir: str | None, *, renew: bool = False, others: Sequence[Plan] = ()
) -> bool:
    """Make sure that the network is guarded as planned, and knows this attachment's end.

    Call it before the container's end is up. state_dir: where the other attachments' records
    are, None for none. renew: make everything anew. others: of this network, which are made now,
    and whose records have their indexes.
    Returns: whether there was nothing before.
    Raises: NetlinkError; CniError 11 when others change the tables all the time.
    """
    with IfNftables(needed=plan.guard is not None):
        return _ensure(plan, state_dir, others, renew=renew)
    return False


def _ensure(plan: Plan, state_dir: str | None, others: Sequence[Plan], *, renew: bool) -> bool:
    name = table_name(plan.network)
    plans = [plan, *others]
    with Nftables() as netfilter:
        for _ in range(_ATTEMPTS):
            tables = look(netfilter, name)
            anew = renew or not is_whole(tables, plan.guard)
            if not anew:
                # What a container of that name has left in its last moment binds this one not.
                left = [key for one in plans if _binds(one) for key in _of_packets(one)]
                messages = _removals(netfilter, name, left)
                messages += [each for one in plans for each in _additions(one, keys_of(one))]
            else:
                if plan.guard is not None:
                    needed = tables if plan.guard.anti_spoof else tables[:1]
                    own_tables.demand(netfilter, needed)
                messages = list(map(own_tables.removal, own_tables.ours(netfilter, tables)))
                if plan.guard is not None:
                    messages += tables_of(plan.network, plan.guard)
                    messages += _additions(plan, _recorded(state_dir, plan))
                    messages += rules(plan.network, plan.guard)
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                renew = _must_renew(error)
                continue
            if anew and plan.guard is not None:
                seal.put(netfilter, name, places(plan.guard))
            return plan.guard is not None and not any(tables)
    raise CniError(
        TRY_AGAIN, f"nft table {name} was changed by others at each attempt", "call again"
    )


def _must_renew(error: NetlinkError) -> bool:
    """Say whether the tables must be made anew to get any further. Raises: what is no race."""
    if error.errno == errno.ENOENT and error.label.startswith("nft delete element"):
        return False  # it has timed out meanwhile
    if is_lacking(error):
        raise error
    if error.errno == errno.ENOENT:
        return True  # a part of it is missing
    if error.errno not in _RACES:
        raise error
    return False


def look(netfilter: Netlink, name: str) -> list[nft.Table | None]:
    """Return the tables of a name, of families inet and arp. Raises: NetlinkError."""
    return own_tables.look(netfilter, name, FAMILIES)


def is_whole(tables: list[nft.Table | None], guard: Guard | None) -> bool:
    """Say by a network's two tables alone whether it is guarded; CHECK looks at what they hold."""
    inet, arp = tables
    if guard is None:
        return inet is None and arp is None
    if not guard.anti_spoof and arp is not None and own_tables.is_marked(arp):
        return False
    needed = [inet, arp] if guard.anti_spoof else [inet]
    told = comment(guard)
    return all(
        table is not None and table.comment == told and not table.is_dormant for table in needed
    )


def keys_of(plan: Plan) -> Keys:
    """Return what the sets hold of an attachment: (family, set, key) each."""
    return [
        (nft.NFPROTO_ARP, OWN, end_key(plan.host_interface, item.address))
        for item in plan.addresses
        if len(item.address) == 4
    ]


def end_key(name: str, rest: bytes = b"") -> bytes:
    """Return a key of the sets: an end's name, and what is of it."""
    return name.encode("utf-8", "surrogateescape").ljust(IFNAMSIZ, b"\0") + rest


def _recorded(state_dir: str | None, plan: Plan) -> Keys:
    """Return the keys of all of a network's attachments, and of this one."""
    keys = keys_of(plan)
    if state_dir is None:
        return keys
    several: dict[str, list[Plan]] = {}
    for container_id, ifname in record.list_network(state_dir, plan.network):
        other = plan_fields.load(state_dir, plan.network, container_id, ifname)
        # One without an index is not made yet, and adds itself.
        if other is not None and other.host_ifindex and not other.shapes_only:
            keys.extend(key for key in keys_of(other) if key not in keys)
            several.setdefault(container_id, []).append(other)
    return keys + _shared(state_dir, plan.network, several)


def _shared(state_dir: str, network: str, known: dict[str, list[Plan]]) -> Keys:
    """Return what `guard_several` has put in for containers of several attachments.

    known: the network's attachments by container; the others' records tell of other networks.
    """
    every = {container_id: list(plans) for container_id, plans in known.items()}
    for other_network in record.networks(state_dir):
        if other_network == network:
            continue
        try:
            identities = list(record.list_network(state_dir, other_network))
        except CniError:  # somebody else's folder
            continue
        for container_id, ifname in identities:
            if container_id in every:
                other = plan_fields.load(state_dir, other_network, container_id, ifname)
                if other is not None and other.host_ifindex and not other.shapes_only:
                    every[container_id].append(other)
    return [
        (nft.NFPROTO_INET, ALSO[len(item.address)], end_key(plan.host_interface, item.address))
        for container_id, plans in known.items()
        for plan in plans
        for other in every[container_id]
        if other is not plan
        for item in other.addresses
    ]


def _binds(plan: Plan) -> bool:
    return plan.guard is not None and plan.guard.anti_spoof


def _additions(plan: Plan, keys: Keys) -> list[Message]:
    if not _binds(plan):
        return []
    name = table_name(plan.network)
    return [nft_set.new_elements(family, name, place, [key]) for family, place, key in keys]


def complete(plan: Plan) -> None:
    """Put into the sets what an attachment has of its own, and leave what they hold.

    Raises: NetlinkError.
    """
    with Nftables() as netfilter:
        netfilter.nft_batch(_additions(plan, keys_of(plan)))


def forget(host: Netlink, *plans: Plan, named: Sequence[Plan] | None = None) -> None:
    """Let nobody send from these attachments' addresses any more. Raises: NetlinkError.

    named: those whose end has its name, where the caller has just asked for that.

    Call it before their links go: their names are given again at once.
    Of those that are not guarded themselves, too: only a container of several attachments has
    more than its routes to tell, and its addresses are known where the others are.
    """
    addresses = [item.address for plan in plans for item in plan.addresses]
    if not addresses:
        return
    ends = several.having_their_names(host, plans) if named is None else named
    names = [end_key(plan.host_interface) for plan in ends]
    inet = nft.NFPROTO_INET
    with IfNftables(), Nftables() as netfilter:
        tables = {
            family: [one.name for one in dumps.tables(netfilter, family) if is_by_name(one)]
            for family in FAMILIES
        }
        for name in tables[inet]:
            keys = [
                key
                for plan in ends
                if table_name(plan.network) == name
                for key in [*keys_of(plan), *_of_packets(plan)]
                if name in tables[key[0]]
            ]
            keys += [
                (inet, place, key)
                for place in ALSO.values()
                for key in keys_in(netfilter, inet, name, place)
                if key[:IFNAMSIZ] in names or key[IFNAMSIZ:] in addresses
            ]
            _take_out(netfilter, name, keys)


def forget_again(plan: Plan) -> None:
    """Do as forget does, for a failed ADD. Raises: NetlinkError."""
    with Netlink() as host:
        forget(host, plan)


def _of_packets(plan: Plan) -> Keys:
    """Return what packets of an attachment's have put into the sets, as far as it is known."""
    mac = plan.mac.ljust(_MAC_BYTES, b"\0")
    return [
        *((family, BOUND, end_key(plan.host_interface)) for family in FAMILIES),
        (nft.NFPROTO_INET, LEARNED, end_key(plan.host_interface, mac)),
        (nft.NFPROTO_ARP, LEARNED, end_key(plan.host_interface, mac + mac)),
    ]


def remove_again(plan: Plan, state_dir: str) -> None:
    """Take away the tables that a failed ADD made, unless somebody else needs them by now."""
    own = (plan.container_id, plan.ifname)
    if all(one == own for one in record.list_network(state_dir, plan.network)):
        remove(plan.network)


def _take_out(netfilter: Netlink, name: str, keys: Keys) -> None:
    """Take out what is there of these keys. Raises: NetlinkError."""
    for _ in range(_ATTEMPTS):
        messages = _removals(netfilter, name, keys)
        try:
            netfilter.nft_batch(messages)
        except NetlinkError as error:
            if error.errno not in _RACES:  # one has timed out, or somebody else has done it
                raise
            continue
        return


def _removals(netfilter: Netlink, name: str, keys: Keys) -> list[Message]:
    """Return what takes out those of the keys that are there. Raises: NetlinkError."""
    questions = [nft_set.get_element(family, name, place, key) for family, place, key in keys]
    return [
        nft_set.del_elements(family, name, place, [key])
        for (family, place, key), body in zip(keys, netfilter.ask(questions), strict=True)
        if body is not None
    ]


def sweep(network: str, host: Netlink, only: set[str] | None = None) -> None:
    """Take out what is of names that no end of the network's has. Raises: NetlinkError.

    only: the names that may be concerned, None for all.
    """
    name = table_name(network)
    with IfNftables(), Nftables() as netfilter:
        tables = look(netfilter, name)
        if not is_by_name(tables[0]):
            return
        stale: Keys = []
        known: dict[bytes, bool] = {}
        wanted = None if only is None else {end_key(one)[:IFNAMSIZ] for one in only}
        for family, place in (
            (nft.NFPROTO_ARP, OWN),
            *((nft.NFPROTO_INET, each) for each in ALSO.values()),
            # Those that rules fill have room for 65535: full, they would bind nobody any more.
            *((family, each) for family in FAMILIES for each in (LEARNED, BOUND)),
        ):
            if not is_by_name(tables[FAMILIES.index(family)]):
                continue
            for key in keys_in(netfilter, family, name, place):
                end = key[:IFNAMSIZ]
                if wanted is not None and end not in wanted:
                    continue
                if end not in known:
                    found = veth.find(host, name=text_of(end))
                    known[end] = found is not None and found.group == group(network)
                if not known[end]:
                    stale.append((family, place, key))
        _take_out(netfilter, name, stale)


def keys_in(netfilter: Netlink, family: int, name: str, place: str) -> list[bytes]:
    """Return what a set holds, nothing where there is no such set. Raises: NetlinkError."""
    try:
        return dumps.elements(netfilter, family, name, place)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def remove(network: str, *, dry_run: bool = False) -> bool:
    """Take away a network's guard; say if there was any. Raises: NetlinkError."""
    return own_tables.remove(table_name(network), FAMILIES, dry_run=dry_run)
