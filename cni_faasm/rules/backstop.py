"""Hold what a container sends to its limit on the host, too: a bucket for each, in one rule.

limit_tables.py shows what the tables hold.

The queue on the container's own end makes senders wait. But who has CAP_NET_RAW sends past it
(PACKET_QDISC_BYPASS), and who has CAP_NET_ADMIN takes it away. What is above the limit even so is
dropped here. Who obeys never meets it: the bucket gets more than HTB lets through, and holds a
second of it, since that is the least that the kernel makes. What is neither IP nor ARP, the host
hands on to nobody.

G is the interface group of the network's outer ends, so an element that was left behind limits no
other network's container of that name. Another plugin's pair is in no group of ours: where
there is one, the rule asks for the name alone, and the comment says so. What comes in by the port of
a bridge never reaches the host's IP under the port's name, if at all. The family bridge sees it,
whatever it is, so such a pair has its element there, and not in the others.

All are kept by the interface's name, as in guard.py. A DEL leaves an element there: names are given
again from the lowest on, mostly with the same limit, so an ADD finds it as it must be; and there
are never more than there were containers at once. To take one out costs the kernel 14 to 22 ms, in
which it does nothing else in nf_tables. GC takes out those that no end has.

Where the host's ifb enforces the limit
already there is no element; nor for the port of a switch that is no bridge of the kernel's (Open
vSwitch). A kernel without nft_limit does without all of it.
"""

import errno
from collections.abc import Sequence

from cni_faasm.attachment import plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import group
from cni_faasm.link import features, several, veth
from cni_faasm.netlink import dumps, nft, nft_limit, nft_object, nft_set
from cni_faasm.netlink.lacking import IfNftables, is_lacking
from cni_faasm.netlink.link import Link
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError, text_of
from cni_faasm.rules import limit_subnets, limit_tables, own_tables, seal
from cni_faasm.rules.guard import end_key, keys_in
from cni_faasm.rules.limit_tables import BRIDGED, FAMILIES, ROUTED, Element, table_name
from cni_faasm.spec.errors import TRY_AGAIN, CniError

_ATTEMPTS = 8
_RACES = (errno.EEXIST, errno.ENOENT, errno.EINTR)
WARNING = (
    "bandwidth: this kernel lacks limits in sets of nf_tables (nft_limit), so a container with "
    "CAP_NET_RAW can send more than its egressRate (docs/kernels.md)"
)
Place = tuple[int, str]  # a set of a family
Bucket = nft_limit.Bucket | nft_object.Reference
Present = dict[Place, Bucket | None]


class Held:
    """What is to hold an attachment: in which families, by which elements."""

    __slots__ = ("elements", "families")

    def __init__(self, families: tuple[int, ...], elements: list[Element]) -> None:
        self.families = families
        self.elements = elements


def held(host: Netlink, plan: Plan) -> Held:
    """Return what is to hold an attachment. Raises: NetlinkError."""
    families: tuple[int, ...] = ROUTED
    if plan.shapes_only and limit_tables.elements(plan):
        outer = veth.find_outer(host, plan)
        families = () if outer is None else families_at(outer)
    return Held(families, limit_tables.elements(plan, families))


def families_at(outer: Link) -> tuple[int, ...]:
    """Return the families that see what comes in by a pair's end on the host."""
    if not outer.master:
        return ROUTED
    # A VRF hands on what has been seen under the port's name before.
    return {"bridge": BRIDGED, "vrf": ROUTED}.get(outer.slave_kind, ())


def ensure(
    plan: Plan,
    state_dir: str | None,
    host: Netlink,
    *,
    renew: bool = False,
    is_new: bool = False,
) -> bool | None:
    """Make sure that the network's tables hold an attachment to its limit, or let it be.

    Call it before the container's end is up. state_dir: where the other attachments' records
    are, None for none. renew: make everything anew. is_new: what was counted under its name is
    another's.
    Returns: whether there was nothing before; None when the kernel cannot do it.
    Raises: NetlinkError; CniError 11 when others change the tables all the time.
    """
    wanted = held(host, plan)
    if not wanted.elements:
        # One that has gone without a DEL has left its own to whoever gets its name.
        take_out(plan.network, [plan.host_interface], families_of(plan))
        return False
    try:
        return _ensure(plan, wanted, state_dir, host, renew=renew, is_new=is_new)
    except NetlinkError as error:
        # The queue holds without it who obeys; packets and connections nothing else counts.
        is_needed = plan.counted is not None or plan.shared is not None
        if is_needed or not is_lacking(error) or not kernel_lacks(wanted.families):
            raise
        return None


def families_of(plan: Plan) -> tuple[int, ...]:
    """Return the families that may hold something of an attachment."""
    return FAMILIES if plan.shapes_only else ROUTED


def kernel_lacks(families: tuple[int, ...] = ROUTED) -> bool:
    """Say whether this kernel has no such buckets. Raises: CniError 5 without a namespace."""
    key = features.BACKSTOP_BRIDGED if families == BRIDGED else features.BACKSTOP
    return bool(features.missing({key}, makes_pairs=False))


def _ensure(
    plan: Plan, wanted: Held, state_dir: str | None, host: Netlink, *, renew: bool, is_new: bool
) -> bool:
    name = table_name(plan.network)
    if any(counts(one) for one in wanted.elements):
        nft_limit.demand_counts()
    with Nftables() as netfilter:
        for _ in range(_ATTEMPTS):
            tables, present = _state(netfilter, name, plan.host_interface, wanted)
            sealed: list[seal.Places] = []
            if not renew and is_whole(tables, plan, wanted.elements):
                stale = _stale(netfilter, tables, plan.host_interface, wanted.elements)
                messages = _removals(name, plan.host_interface, stale)
                for one in wanted.elements:
                    place = one.family, one.set
                    if present.get(place) == one.bucket and not (is_new and counts(one)):
                        continue
                    if place in present:
                        messages += _removals(name, plan.host_interface, [place])
                    messages += limit_tables.addition(name, plan.host_interface, one)
            else:
                own_tables.demand(netfilter, tables)
                messages = [own_tables.removal(table) for table in tables if table is not None]
                made, sealed = _made(plan, wanted, state_dir, host)
                messages += made
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno not in _RACES or is_lacking(error):
                    raise
                # A part of it is missing, unless it is an element that somebody else took out.
                renew = renew or (error.errno == errno.ENOENT and "add element" in error.label)
                continue
            for places in sealed:
                seal.put(netfilter, name, places)
            return not any(tables)
    raise CniError(
        TRY_AGAIN, f"nft table {name} was changed by others at each attempt", "call again"
    )


def counts(one: Element) -> bool:
    """Say whether an element remembers what it has counted, so that it is of one container."""
    return one.set == limit_tables.CONNECTIONS


def _state(
    netfilter: Netlink, name: str, interface: str, wanted: Held
) -> tuple[list[nft.Table | None], Present]:
    """Return a network's tables, and what they hold of an interface, in one exchange."""
    key = end_key(interface)
    answers = netfilter.ask(
        [
            *(nft.get_table(family, name) for family in wanted.families),
            *(nft_set.get_element(one.family, name, one.set, key) for one in wanted.elements),
        ]
    )
    count = len(wanted.families)
    tables = [None if body is None else nft.parse_table(body) for body in answers[:count]]
    present = {
        (one.family, one.set): bucket_in(body, key)
        for one, body in zip(wanted.elements, answers[count:], strict=True)
        if body is not None
    }
    return tables, present


def bucket_in(body: bytes, key: bytes) -> Bucket | None:
    """Return the bucket of the element that was asked for. Raises: NetlinkError."""
    for element in nft_set.parse_whole_elements(body):
        if element.key == key:
            if element.object:
                return nft_object.Reference(element.object)
            return nft_limit.parse(element.expression)
    return None


def is_whole(tables: list[nft.Table | None], plan: Plan, wanted: list[Element]) -> bool:
    """Say by a network's tables alone whether they see an attachment's packets."""
    needed = limit_tables.words(wanted)
    return all(
        table is not None
        and limit_tables.is_known(table)
        and (limit_tables.is_any_group(table) or not plan.shapes_only)
        and needed <= limit_tables.words_of(table)
        for table in tables
    )


def _made(
    plan: Plan, wanted: Held, state_dir: str | None, host: Netlink
) -> tuple[list[Message], list[seal.Places]]:
    """Return what makes a network's tables, of all attachments that are there, and what to seal."""
    plans = [plan]
    listed = {plan.host_interface: wanted.elements}
    for identity in [] if state_dir is None else record.list_network(state_dir, plan.network):
        other = plan_fields.load(state_dir or "", plan.network, *identity)
        # One without an index is not made yet, and adds itself.
        if other is None or not other.host_ifindex or other.boot_id != plan.boot_id:
            continue
        if identity == (plan.container_id, plan.ifname):
            continue
        found = held(host, other)
        if found.families != wanted.families or not found.elements:
            continue
        outer = veth.find(host, name=other.host_interface)
        if veth.owned(outer, other.alias, other.host_mac):
            listed.setdefault(other.host_interface, found.elements)
            plans.append(other)
    scopes = limit_subnets.scopes(plans)
    made = limit_tables.made(
        plan.network,
        wanted.families,
        listed,
        scopes,
        any_group=any(one.shapes_only for one in plans),
    )
    has = limit_tables.words(one for each in listed.values() for one in each)
    sealed = [limit_tables.places(wanted.families, has)]
    if limit_tables.SUBNETS in has:
        sealed += [limit_tables.scope_places(wanted.families, one) for one in scopes]
    return made, sealed


def _stale(
    netfilter: Netlink, tables: list[nft.Table | None], interface: str, wanted: list[Element]
) -> list[Place]:
    """Return the sets that an interface of this name was left in by somebody before it.

    Nothing is asked where the tables have no other sets than those that are wanted.
    """
    asked: list[tuple[Place, Message]] = []
    known = {(one.family, one.set) for one in wanted}
    for table in tables:
        if table is None or not own_tables.is_marked(table):
            continue
        for each in _sets(netfilter, table):
            if (table.family, each) not in known:
                question = nft_set.get_element(table.family, table.name, each, end_key(interface))
                asked.append(((table.family, each), question))
    answers = netfilter.ask([question for _, question in asked]) if asked else []
    return [place for (place, _), body in zip(asked, answers, strict=True) if body is not None]


def _sets(netfilter: Netlink, table: nft.Table) -> list[str]:
    """Return the sets of a table; it is asked for them only where they are not known."""
    words = limit_tables.words_of(table)
    if limit_tables.SUBNETS not in words or table.family == nft.NFPROTO_ARP:
        return limit_tables.sets_of(table.family, words)
    return dumps.set_names(netfilter, table.family, table.name)


def _removals(name: str, interface: str, found: list[Place]) -> list[Message]:
    return [limit_tables.removal(name, interface, *place) for place in found]


def take_out(
    network: str,
    interfaces: list[str],
    families: tuple[int, ...] = FAMILIES,
    *,
    leave: bool = False,
) -> None:
    """Limit interfaces of these names no more, as far as they are limited.

    leave: unless the rules are only for the network's own ends.
    Raises: NetlinkError.
    """
    name = table_name(network)
    with IfNftables(), Nftables() as netfilter:
        for _ in range(_ATTEMPTS):
            listed = [(family, each) for each in interfaces for family in families]
            answers = netfilter.ask(
                [
                    *(nft.get_table(family, name) for family in families),
                    *(
                        nft_set.get_element(family, name, limit_tables.SET, end_key(one))
                        for family, one in listed
                    ),
                ]
            )
            count = len(families)
            tables = [nft.parse_table(body) for body in answers[:count] if body is not None]
            if leave and not any(limit_tables.is_any_group(table) for table in tables):
                return
            own = [table.family for table in tables if own_tables.is_marked(table)]
            messages = [
                limit_tables.removal(name, one, family, limit_tables.SET)
                for (family, one), body in zip(listed, answers[count:], strict=True)
                if body is not None and family in own
            ]
            known = [Element(family, limit_tables.SET, _ANY) for family in own]
            for one in interfaces:
                messages += _removals(name, one, _stale(netfilter, [*tables], one, known))
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno not in _RACES:
                    raise
                continue
            return


_ANY = nft_limit.Limit(1, 1)


def forget(
    host: Netlink, *plans: Plan, leave: bool = False, named: Sequence[Plan] | None = None
) -> None:
    """Take out what is of these attachments. Raises: NetlinkError.

    leave: but for what the next container of that name needs again, and harms nobody until then.
    named: those whose end has its name, where the caller has just asked for that.
    Call it before their links go: their names are given again at once. A name that is another's
    by now stays.
    """
    names: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    if named is None:
        named = several.having_their_names(host, [one for one in plans if one.is_held])
    for plan in filter(lambda one: one.is_held, named):
        names.setdefault((plan.network, families_of(plan)), []).append(plan.host_interface)
    for (network, families), listed in names.items():
        take_out(network, listed, families, leave=leave)


def forget_again(plan: Plan) -> None:
    """Do as forget does, for a failed ADD. Raises: NetlinkError."""
    with Netlink() as host:
        forget(host, plan)


def remove_again(plan: Plan, state_dir: str) -> None:
    """Take away the tables that a failed ADD made, unless somebody else needs them by now."""
    for identity in record.list_network(state_dir, plan.network):
        if identity == (plan.container_id, plan.ifname):
            continue
        other = plan_fields.load(state_dir, plan.network, *identity)
        if other is None or other.is_held:
            return
    remove(plan.network)


def sweep(network: str, host: Netlink, state_dir: str) -> None:
    """Take out what is of names that no end of the network's has. Raises: NetlinkError."""
    name = table_name(network)
    stale: list[str] = []
    with IfNftables(), Nftables() as netfilter:
        for table in own_tables.look(netfilter, name, FAMILIES):
            if table is None or not table.comment.startswith(limit_tables.OURS):
                continue
            keys = {
                key
                for each in _sets(netfilter, table)
                for key in keys_in(netfilter, table.family, name, each)
            }
            for key in sorted(keys):
                found = veth.find(host, name=text_of(key))
                if found is None or (
                    not limit_tables.is_any_group(table) and found.group != group(network)
                ):
                    stale.append(text_of(key))
    if not stale:
        return
    take_out(network, list(dict.fromkeys(stale)))
    # An ADD that has got one of these names meanwhile may have found its element there.
    for identity in record.list_network(state_dir, network):
        plan = plan_fields.load(state_dir, network, *identity)
        if plan is not None and plan.host_interface in stale and veth.find_outer(host, plan):
            ensure(plan, state_dir, host)


def remove(network: str, *, dry_run: bool = False) -> bool:
    """Take away a network's tables; say if there were any. Raises: NetlinkError."""
    return own_tables.remove(table_name(network), FAMILIES, dry_run=dry_run)
