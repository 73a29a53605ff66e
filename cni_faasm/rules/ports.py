"""Publish ports: one rule set per network, however many ports there are.

    table inet ports_NETWORK {                 comment "cni-faasm ports"
        map any4 { type inet_proto . inet_service : ipv4_addr . inet_service }
        map at4  { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
        set own4 { type ipv4_addr . ipv4_addr }     and the same for IPv6
        chain prerouting  { type nat hook prerouting priority dstnat + 1 ... }
        chain output      { type nat hook output priority dstnat + 1
            fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @at4
            fib daddr type local dnat ip to meta l4proto . th dport map @any4 }
        chain postrouting { type nat hook postrouting priority srcnat - 1
            oifgroup G ip saddr 127.0.0.0/8 masquerade      from the host itself, by 127.0.0.1
            oifgroup G ip6 saddr ::1 masquerade             and by ::1
            ip saddr . ip daddr @own4 masquerade }          from a container to its own port
        chain from { type filter hook prerouting priority raw
            iifgroup G ip daddr 127.0.0.0/8 drop }
    }

Behind portmap's rules, which have priority dstnat: what that has sent elsewhere stays so. For
connections from 127.0.0.1 the host's end has route_localnet, by which a container could reach what
listens there; so what comes from a container for 127.0.0.0/8 is dropped. What comes for ::1 the
kernel drops by itself, before any rule. Answers to connections from ::1 find it by a local route on
the host's end (link/veth.py).

UDP has no end of a connection that the kernel could see. So connections that it still tracks to a
published port are forgotten when the port comes or goes.
"""

import errno
from collections.abc import Iterable

from cni_faasm.attachment import plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import group
from cni_faasm.link import connections
from cni_faasm.netlink import dumps, nft, nft_expr, nft_map, nft_match, nft_set
from cni_faasm.netlink.lacking import IfNftables, is_lacking
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError, parse_attrs
from cni_faasm.rules import own_tables, seal
from cni_faasm.rules.guard_rules import NF_IP_PRI_RAW
from cni_faasm.spec import inet
from cni_faasm.spec.errors import PORT_TAKEN, TRY_AGAIN, CniError

Elements = dict[str, dict[bytes, bytes]]

COMMENT = f"{own_tables.MARK} ports"
FAMILIES = (nft.NFPROTO_INET,)
_INET = nft.NFPROTO_INET
_UDP = 17
_NAMES = {6: "tcp", _UDP: "udp", 132: "sctp"}
_LENGTHS = (4, 16)
_DSTNAT, _SRCNAT = -99, 99
_NF_INET_LOCAL_OUT = 3  # <linux/netfilter.h>
CHAINS = {
    "prerouting": ("nat", nft.NF_INET_PRE_ROUTING, _DSTNAT),
    "output": ("nat", _NF_INET_LOCAL_OUT, _DSTNAT),
    "postrouting": ("nat", nft.NF_INET_POST_ROUTING, _SRCNAT),
    "from": ("filter", nft.NF_INET_PRE_ROUTING, NF_IP_PRI_RAW),
}
PLACES = [(_INET, chain) for chain in CHAINS]
_LOOPBACK = (b"\x7f\0\0\0", 8)
_LOOPBACK_IPV6 = (bytes(15) + b"\x01", 128)
_MOST = 512  # elements of a message, whose lengths are of 16 bits
_FEW = 4  # keys that are asked for one by one
_ATTEMPTS = 8
_RACES = (errno.EEXIST, errno.ENOENT, errno.EINTR, errno.EBUSY)


def table_name(network: str) -> str:
    """Return the name of a network's table."""
    return own_tables.PORTS + network


def elements(plan: Plan) -> Elements:
    """Return what the table holds of an attachment, by map or set and key; sets lead to b""."""
    found: Elements = {}
    if not plan.ports:
        return found
    for item in plan.addresses:
        length = len(item.address)
        version = 4 if length == 4 else 6
        for one in plan.ports:
            if one.host_address is not None and len(one.host_address) != length:
                continue
            is_any = one.host_address is None or not any(one.host_address)
            name = f"{'any' if is_any else 'at'}{version}"
            head = (b"" if is_any else one.host_address or b"") + nft_map.protocol(one.protocol)
            place = found.setdefault(name, {})
            for index in range(one.count):
                key = head + nft_map.port(one.host_port + index)
                place.setdefault(key, item.address + nft_map.port(one.port + index))
        found.setdefault(f"own{version}", {})[item.address * 2] = b""
    return found


def rules(network: str) -> dict[str, list[bytes]]:
    """Return the rules of each chain."""
    number = group(network)
    redirects = [
        nft_map.redirect(f"{name}{version}", length, by_address=name == "at")
        for length, version in ((4, 4), (16, 6))
        for name in ("at", "any")
    ]
    out = nft_match.group(nft_match.OIFGROUP, number)
    into = nft_match.group(nft_match.IIFGROUP, number)
    return {
        "prerouting": redirects,
        "output": redirects,
        "postrouting": [
            out + nft_expr.match_saddr(*_LOOPBACK) + nft_expr.masquerade(),
            out + nft_expr.match_saddr(*_LOOPBACK_IPV6) + nft_expr.masquerade(),
            nft_map.to_itself("own4", 4) + nft_expr.masquerade(),
            nft_map.to_itself("own6", 16) + nft_expr.masquerade(),
        ],
        "from": [into + nft_expr.match_daddr(*_LOOPBACK) + nft_expr.verdict(nft_expr.DROP)],
    }


def _made(network: str) -> list[Message]:
    name = table_name(network)
    made: list[Message] = [nft.new_table(_INET, name, comment=COMMENT)]
    for length, version in ((4, 4), (16, 6)):
        kind = nft_set.TYPE_IPADDR if length == 4 else nft_set.TYPE_IP6ADDR
        made += [
            nft_map.new_map(_INET, name, f"any{version}", length, by_address=False),
            nft_map.new_map(_INET, name, f"at{version}", length, by_address=True),
            nft_set.new_set(_INET, name, f"own{version}", kind, kind),
        ]
    for chain, (kind_, hook, priority) in CHAINS.items():
        made.append(nft.new_chain(_INET, name, chain, type=kind_, hook=hook, priority=priority))
    for chain, expressions in rules(network).items():
        made += [nft.new_rule(_INET, name, chain, one) for one in expressions]
    return made


def _additions(name: str, wanted: Elements) -> list[Message]:
    made = []
    for place, found in wanted.items():
        for part in _parts(list(found)):
            if place.startswith("own"):
                made.append(nft_set.new_elements(_INET, name, place, part))
            else:
                listed = {key: found[key] for key in part}
                made.append(nft_map.new_elements(_INET, name, place, listed))
    return made


def _removals(name: str, place: str, keys: list[bytes]) -> list[Message]:
    return [nft_set.del_elements(_INET, name, place, part) for part in _parts(keys)]


def _parts(keys: list[bytes]) -> Iterable[list[bytes]]:
    """Yield keys as many as one message can hold."""
    for start in range(0, len(keys), _MOST):
        yield keys[start : start + _MOST]


def ensure(plan: Plan, state_dir: str | None, *, renew: bool = False) -> bool:
    """Make sure that an attachment's ports lead to it. Returns: whether there was no table before.

    state_dir: where the other attachments' records are, None for none. renew: make all anew.
    Raises: NetlinkError; CniError 110 when a port leads elsewhere, 11 when others change it.
    """
    wanted = elements(plan)
    if not wanted:
        return False
    name = table_name(plan.network)
    with Nftables() as netfilter:
        tables = dumps.tables(netfilter, _INET)
        others = [
            one.name
            for one in tables
            if one.name.startswith(own_tables.PORTS) and one.name != name and one.comment == COMMENT
        ]
        _demand_free(netfilter, plan, wanted, state_dir, others)
        stale: list[Message] = []
        for attempt in range(_ATTEMPTS):
            if attempt:
                [table] = own_tables.look(netfilter, name, FAMILIES)
            else:
                table = next((one for one in tables if one.name == name), None)
            is_whole = table is not None and table.comment == COMMENT and not table.is_dormant
            anew = renew or not is_whole
            messages: list[Message] = []
            if anew:
                own_tables.demand(netfilter, [table])
                messages = [] if table is None else [own_tables.removal(table)]
                messages += _made(plan.network)
                for other in _recorded(state_dir, plan):
                    messages += _additions(name, elements(other))
            messages += [*([] if anew else stale), *_additions(name, wanted)]
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno not in _RACES or is_lacking(error):
                    raise
                renew = renew or (error.errno == errno.ENOENT and "add element" in error.label)
                if error.errno in (errno.EBUSY, errno.EEXIST):  # one is there that leads elsewhere
                    stale = _demand_free(netfilter, plan, wanted, state_dir, None)
                continue
            if anew:
                seal.put(netfilter, name, PLACES)
            _forget_connections(netfilter, plan)
            return table is None
    raise CniError(
        TRY_AGAIN, f"nft table {name} was changed by others at each attempt", "call again"
    )


def _recorded(state_dir: str | None, plan: Plan) -> Iterable[Plan]:
    """Yield the network's other attachments of this boot."""
    for identity in [] if state_dir is None else record.list_network(state_dir, plan.network):
        other = plan_fields.load(state_dir or "", plan.network, *identity)
        if (
            other is not None
            and other.boot_id == plan.boot_id
            and identity != (plan.container_id, plan.ifname)
        ):
            yield other


def _demand_free(
    netfilter: Netlink,
    plan: Plan,
    wanted: Elements,
    state_dir: str | None,
    others: list[str] | None,
) -> list[Message]:
    """Refuse ports that lead to another container.

    others: the tables of our other networks; None for the network's own, which the kernel has refused
    to change.
    Returns: what takes away those of the network's own that lead to no attachment any more.
    Raises: CniError 110; NetlinkError.
    """
    own = table_name(plan.network)
    places = {place: found for place, found in wanted.items() if not place.startswith("own")}
    stale: dict[str, list[bytes]] = {}
    for name in [own] if others is None else others:
        for place, found in places.items():
            keys = _suspects(netfilter, name, place, list(found))
            questions = [nft_set.get_element(_INET, name, place, key) for key in keys]
            for key, body in zip(keys, netfilter.ask(questions), strict=True):
                data = None if body is None else _data(body, key)
                if data is None or data == found[key]:
                    continue
                whose = _whose(name, data[:-4], state_dir)
                if whose or others is not None or state_dir is None:
                    raise _taken(name, key, whose or f"somebody with {inet.unpack(data[:-4])}")
                stale.setdefault(place, []).append(key)
    return [one for place, listed in stale.items() for one in _removals(own, place, listed)]


def _suspects(netfilter: Netlink, name: str, place: str, keys: list[bytes]) -> list[bytes]:
    """Return those of many keys that a map may have; one answer with all it has tells it sooner."""
    if len(keys) <= _FEW:
        return keys
    try:
        told = set(dumps.elements(netfilter, _INET, name, place))
    except NetlinkError:  # it is gone, or changes all the time
        return keys
    return [key for key in keys if key in told]


def _data(body: bytes, key: bytes) -> bytes | None:
    for one in nft_set.parse_whole_elements(body):
        if one.key == key:
            return parse_attrs(one.data).get(nft_set.NFTA_DATA_VALUE, b"")
    return None


def _whose(table: str, address: bytes, state_dir: str | None) -> str:
    """Return which container has an address of a table's network, "" for none that is known."""
    network = table.removeprefix(own_tables.PORTS)
    for identity in [] if state_dir is None else record.list_network(state_dir, network):
        other = plan_fields.load(state_dir or "", network, *identity)
        if other is not None and address in [item.address for item in other.addresses]:
            name = (record.read(state_dir or "", network, *identity) or {}).get("name")
            return (
                f"container {name} ({other.container_id[:12]})"
                if name
                else f"container {other.container_id}"
            )
    return ""


def _taken(table: str, key: bytes, whose: str) -> CniError:
    number = int.from_bytes(key[-4:-2], "big")
    network = table.removeprefix(own_tables.PORTS)
    return CniError(
        PORT_TAKEN,
        f"port {number}/{_NAMES[key[-8]]} is published for {whose} of network {network!r}",
        "publish another one, or stop that container; cni-faasm gc finds what is left of dead ones",
    )


def forget(*plans: Plan) -> None:
    """Take out the ports of these attachments; what leads elsewhere by now stays.

    Raises: NetlinkError.
    """
    for plan in plans:
        wanted = elements(plan)
        if not wanted:
            continue
        name = table_name(plan.network)
        with IfNftables(), Nftables() as netfilter:
            for _ in range(_ATTEMPTS):
                [table] = own_tables.look(netfilter, name, FAMILIES)
                if table is None or not own_tables.is_ours(netfilter, table):
                    break
                messages = [
                    message
                    for place, keys in present(netfilter, name, wanted).items()
                    for message in _removals(name, place, keys)
                ]
                try:
                    netfilter.nft_batch(messages)
                except NetlinkError as error:
                    if error.errno not in _RACES:
                        raise
                    continue
                _forget_connections(netfilter, plan)
                break


def present(netfilter: Netlink, name: str, wanted: Elements) -> dict[str, list[bytes]]:
    """Return which of some elements are there, and lead where they are to."""
    found: dict[str, list[bytes]] = {}
    for place, listed in wanted.items():
        keys = list(listed)
        bodies = netfilter.ask([nft_set.get_element(_INET, name, place, key) for key in keys])
        found[place] = [
            key
            for key, body in zip(keys, bodies, strict=True)
            if body is not None and (_data(body, key) or b"") == listed[key]
        ]
    return found


def _forget_connections(netfilter: Netlink, plan: Plan) -> None:
    """Have the kernel forget UDP's connections to the ports."""
    stale = {
        one.host_port + index
        for one in plan.ports
        if one.protocol == _UDP
        for index in range(one.count)
    }
    if stale:
        lengths = sorted({len(item.address) for item in plan.addresses})
        connections.forget_udp(netfilter, frozenset(stale), lengths)


def forget_again(plan: Plan) -> None:
    """Do as forget does, for a failed ADD. Raises: NetlinkError."""
    forget(plan)


def remove_again(plan: Plan, state_dir: str) -> None:
    """Take away the table that a failed ADD made, unless somebody else needs it by now."""
    if not any(other.ports for other in _recorded(state_dir, plan)):
        remove(plan.network)


def sweep(network: str, state_dir: str) -> None:
    """Take out what leads to an address of no attachment of the network. Raises: NetlinkError."""
    name = table_name(network)
    with IfNftables(), Nftables() as netfilter:
        [table] = own_tables.look(netfilter, name, FAMILIES)
        if table is None or not own_tables.is_ours(netfilter, table):
            return
        alive: set[bytes] = set()
        for identity in record.list_network(state_dir, network):
            other = plan_fields.load(state_dir, network, *identity)
            if other is None:
                return  # nobody knows which are its
            alive |= {item.address for item in other.addresses}
        messages: list[Message] = []
        for place in (f"{kind}{version}" for kind in ("any", "at", "own") for version in (4, 6)):
            stale = []
            for one in dumps.whole_elements(netfilter, _INET, name, place):
                data = parse_attrs(one.data).get(nft_set.NFTA_DATA_VALUE, b"")
                address = data[:-4] if data else one.key[: len(one.key) // 2]
                if address not in alive:
                    stale.append(one.key)
            messages += _removals(name, place, stale)
        try:
            netfilter.nft_batch(messages)
        except NetlinkError as error:
            if error.errno not in _RACES:
                raise


def remove(network: str, *, dry_run: bool = False) -> bool:
    """Take away a network's table; say if there was one. Raises: NetlinkError."""
    return own_tables.remove(table_name(network), FAMILIES, dry_run=dry_run)
