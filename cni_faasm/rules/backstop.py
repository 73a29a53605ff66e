"""Hold what a container sends to its limit on the host, too: a bucket for each, in one rule.

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

The queue on the container's own end makes senders wait. But who has CAP_NET_RAW sends past it
(PACKET_QDISC_BYPASS), and who has CAP_NET_ADMIN takes it away. What is above the limit even so is
dropped here. Who obeys never meets it: the bucket gets more than HTB lets through, and holds a
second of it, since that is the least that the kernel makes. What is neither IP nor ARP, the host
hands on to nobody.

G is the interface group of the network's outer ends, so an element that was left behind limits no
other network's container of that name. Another plugin's pair is in no group of ours: where
there is one, the rule asks for the name alone, and the comment says so.

All are kept by the interface's name, as in guard.py. Where the host's ifb enforces the limit
already, or it holds for some subnets only, there is no element; nor for an end that is the port of a
bridge, whose packets need not come by here. A kernel without nft_limit does without all of it.
"""

import errno

from cni_faasm.attachment import plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import group
from cni_faasm.limits.shaping import ETHERNET_HEADER_BYTES, Shape, gso_max_bytes
from cni_faasm.link import features, veth
from cni_faasm.netlink import nft, nft_expr, nft_limit, nft_match, nft_set
from cni_faasm.netlink.lacking import IfNftables, is_lacking
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import Message, NetlinkError, text_of
from cni_faasm.rules import own_tables, seal
from cni_faasm.rules.guard import end_key, has_name, keys_in, look
from cni_faasm.rules.guard_rules import FAMILIES, NF_ARP_IN, NF_IP_PRI_RAW
from cni_faasm.spec.errors import TRY_AGAIN, CniError

Buckets = dict[str, nft_limit.Limit]

SET = "egress"
CHAIN = "from"
# A bucket of a second and 3 % let a cheat have 1.133 of its limit in ten seconds.
PERCENT = 103
_LATE_SECONDS_INVERSE = 10  # by so much what HTB has let through may come later than it was sent
_OURS = f"{own_tables.MARK} limits"
_OTHERS = f"{_OURS} any group"
_ATTEMPTS = 8
_RACES = (errno.EEXIST, errno.ENOENT, errno.EINTR)
_HOOKS = {
    nft.NFPROTO_INET: (nft.NF_INET_PRE_ROUTING, NF_IP_PRI_RAW),
    nft.NFPROTO_ARP: (NF_ARP_IN, 0),
}
WARNING = (
    "bandwidth: this kernel lacks limits in sets of nf_tables (nft_limit), so a container with "
    "CAP_NET_RAW can send more than its egressRate (docs/kernels.md)"
)
PLACES = [(family, CHAIN) for family in FAMILIES]


def table_name(network: str) -> str:
    """Return the name of a network's two tables."""
    return own_tables.LIMIT + network


def bucket(plan: Plan) -> nft_limit.Limit | None:
    """Return what the host lets an attachment send, None for all that its queue lets through.

    The rate counts from the IP header on, and HTB's with the Ethernet header: so who obeys is
    below it at any size of packet.
    """
    shape = plan.egress
    if shape is None or plan.host_egress is not None or shape.scope is not None:
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


def bucket_of(host: Netlink, plan: Plan) -> nft_limit.Limit | None:
    """Do as bucket does; of another plugin's pair that is a bridge's port, None.

    Raises: NetlinkError.
    """
    found = bucket(plan)
    if found is None or not plan.shapes_only:
        return found
    outer = veth.find_outer(host, plan)
    return None if outer is None or outer.master else found


def ensure(plan: Plan, state_dir: str | None, host: Netlink, *, renew: bool = False) -> bool | None:
    """Make sure that the network's tables hold an attachment to its limit, or let it be.

    Call it before the container's end is up. state_dir: where the other attachments' records
    are, None for none. renew: make everything anew.
    Returns: whether there was nothing before; None when the kernel cannot do it.
    Raises: NetlinkError; CniError 11 when others change the tables all the time.
    """
    wanted = bucket_of(host, plan)
    if wanted is None:
        # One that has gone without a DEL has left its own to whoever gets its name.
        take_out(plan.network, [plan.host_interface])
        return False
    try:
        return _ensure(plan, wanted, state_dir, host, renew=renew)
    except NetlinkError as error:
        if not is_lacking(error) or not kernel_lacks():
            raise
        return None


def kernel_lacks() -> bool:
    """Say whether this kernel has no such buckets. Raises: CniError 5 without a namespace."""
    return bool(features.missing({features.BACKSTOP}, makes_pairs=False))


def _ensure(
    plan: Plan, wanted: nft_limit.Limit, state_dir: str | None, host: Netlink, *, renew: bool
) -> bool:
    name = table_name(plan.network)
    with Netlink(NETLINK_NETFILTER) as netfilter:
        for _ in range(_ATTEMPTS):
            tables, present = _state(netfilter, name, plan.host_interface)
            anew = renew or not is_whole(tables, plan)
            if not anew:
                messages = []
                for family in FAMILIES:
                    if family in present and present[family] != wanted:
                        messages.append(_removal(family, name, plan.host_interface))
                    if present.get(family) != wanted:
                        messages.append(_addition(family, name, plan.host_interface, wanted))
            else:
                own_tables.demand(netfilter, tables)
                messages = [own_tables.removal(table) for table in tables if table is not None]
                buckets, any_group = _recorded(host, state_dir, plan)
                messages += _made(plan.network, {**buckets, plan.host_interface: wanted}, any_group)
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno not in _RACES or is_lacking(error):
                    raise
                # A part of it is missing, unless it is an element that somebody else took out.
                renew = renew or (error.errno == errno.ENOENT and "add element" in error.label)
                continue
            if anew:
                seal.put(netfilter, name, PLACES)
            return not any(tables)
    raise CniError(
        TRY_AGAIN, f"nft table {name} was changed by others at each attempt", "call again"
    )


def _state(
    netfilter: Netlink, name: str, interface: str
) -> tuple[list[nft.Table | None], dict[int, nft_limit.Limit | None]]:
    """Return a network's tables, and by family what they hold of an interface, in one exchange."""
    key = end_key(interface)
    answers = netfilter.ask(
        [
            *(nft.get_table(family, name) for family in FAMILIES),
            *(nft_set.get_element(family, name, SET, key) for family in FAMILIES),
        ]
    )
    tables = [None if body is None else nft.parse_table(body) for body in answers[:2]]
    present = {
        family: bucket_in(body, key)
        for family, body in zip(FAMILIES, answers[2:], strict=True)
        if body is not None
    }
    return tables, present


def bucket_in(body: bytes, key: bytes) -> nft_limit.Limit | None:
    """Return the bucket of the element that was asked for. Raises: NetlinkError."""
    for element in nft_set.parse_whole_elements(body):
        if element.key == key:
            return nft_limit.parse(element.expression)
    return None


def is_whole(tables: list[nft.Table | None], plan: Plan) -> bool:
    """Say by a network's two tables alone whether they see an attachment's packets."""
    known = (_OTHERS,) if plan.shapes_only else (_OURS, _OTHERS)
    return all(
        table is not None and table.comment in known and not table.is_dormant for table in tables
    )


def _recorded(host: Netlink, state_dir: str | None, plan: Plan) -> tuple[Buckets, bool]:
    """Return the buckets of all of a network's attachments that are there, by name.

    And whether any is another plugin's pair.
    """
    buckets: Buckets = {}
    any_group = plan.shapes_only
    for identity in [] if state_dir is None else record.list_network(state_dir, plan.network):
        other = plan_fields.load(state_dir or "", plan.network, *identity)
        # One without an index is not made yet, and adds itself.
        if other is None or not other.host_ifindex or other.boot_id != plan.boot_id:
            continue
        found = bucket_of(host, other)
        outer = None if found is None else veth.find(host, name=other.host_interface)
        if found is not None and veth.owned(outer, other.alias, other.host_mac):
            buckets[other.host_interface] = found
            any_group = any_group or other.shapes_only
    return buckets, any_group


def _made(network: str, buckets: Buckets, any_group: bool) -> list[Message]:
    """Return what makes both tables with all in them."""
    name = table_name(network)
    comment = _OTHERS if any_group else _OURS
    some = nft_limit.Limit(1, 1).encode()  # what an element without its own would have
    made: list[Message] = []
    for family in FAMILIES:
        hook, priority = _HOOKS[family]
        made += [
            nft.new_table(family, name, comment=comment),
            nft_set.new_set(family, name, SET, nft_set.TYPE_IFNAME, each=some),
            nft.new_chain(family, name, CHAIN, type="filter", hook=hook, priority=priority),
            *(_addition(family, name, *one) for one in buckets.items()),
            nft.new_rule(family, name, CHAIN, rule(network, any_group=any_group)),
        ]
    return made


def rule(network: str, *, any_group: bool) -> bytes:
    """Return the one rule of both tables."""
    ours = b"" if any_group else nft_match.group(nft_match.IIFGROUP, group(network))
    listed = nft_match.listed(nft_match.INTERFACE, SET)
    return ours + listed + nft_expr.counter() + nft_expr.verdict(nft_expr.DROP)


def expects_any_group(table: nft.Table) -> bool:
    """Say whether a table's rule is for all interfaces, by its comment."""
    return table.comment == _OTHERS


def chain_place(family: int) -> str:
    """Return where the chain of a family must be hooked, as Chain.place says it."""
    return nft.base_place("filter", *_HOOKS[family])


def _addition(family: int, name: str, interface: str, one: nft_limit.Limit) -> Message:
    return nft_set.new_elements(family, name, SET, [end_key(interface)], one.encode())


def _removal(family: int, name: str, interface: str) -> Message:
    return nft_set.del_elements(family, name, SET, [end_key(interface)])


def take_out(network: str, interfaces: list[str]) -> None:
    """Limit interfaces of these names no more, as far as they are limited. Raises: NetlinkError."""
    name = table_name(network)
    with IfNftables(), Netlink(NETLINK_NETFILTER) as netfilter:
        for _ in range(_ATTEMPTS):
            places = [(family, each) for each in interfaces for family in FAMILIES]
            answers = netfilter.ask(
                [
                    *(nft.get_table(family, name) for family in FAMILIES),
                    *(
                        nft_set.get_element(family, name, SET, end_key(one))
                        for family, one in places
                    ),
                ]
            )
            tables = [nft.parse_table(body) for body in answers[:2] if body is not None]
            own = [table.family for table in tables if own_tables.is_marked(table)]
            messages = [
                _removal(family, name, one)
                for (family, one), body in zip(places, answers[2:], strict=True)
                if body is not None and family in own
            ]
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno not in _RACES:
                    raise
                continue
            return


def forget(host: Netlink, *plans: Plan) -> None:
    """Take out what is of these attachments. Raises: NetlinkError.

    Call it before their links go: their names are given again at once. A name that is another's
    by now stays.
    """
    names: dict[str, list[str]] = {}
    for plan in plans:
        if plan.egress is not None and has_name(host, plan):
            names.setdefault(plan.network, []).append(plan.host_interface)
    for network, listed in names.items():
        take_out(network, listed)


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
        if other is None or other.egress is not None:
            return
    remove(plan.network)


def sweep(network: str, host: Netlink) -> None:
    """Take out what is of names that no end of the network's has. Raises: NetlinkError."""
    name = table_name(network)
    stale: list[str] = []
    with IfNftables(), Netlink(NETLINK_NETFILTER) as netfilter:
        tables = look(netfilter, name)
        for family, table in zip(FAMILIES, tables, strict=True):
            if table is None or not table.comment.startswith(_OURS):
                continue
            for key in keys_in(netfilter, family, name, SET):
                found = veth.find(host, name=text_of(key))
                if found is None or (
                    not expects_any_group(table) and found.group != group(network)
                ):
                    stale.append(text_of(key))
    if stale:
        take_out(network, list(dict.fromkeys(stale)))


def remove(network: str, *, dry_run: bool = False) -> bool:
    """Take away a network's tables; say if there were any. Raises: NetlinkError."""
    return own_tables.remove(table_name(network), FAMILIES, dry_run=dry_run)
