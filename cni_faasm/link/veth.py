"""Make and find the pair, its addresses, routes and queues.

Both ends are driven by batches on two sockets, one per namespace; nothing of ours runs
inside the container. The link is routed and point to point: no bridge, no broadcast
domain, no ARP between containers.
"""

import errno
from collections.abc import Callable, Collection, Iterable

from cni_faasm.attachment.plan import MIN_MTU_IPV6, Plan, PlannedAddress
from cni_faasm.config.policy import group
from cni_faasm.limits import shaping
from cni_faasm.link import forwarding, inner_routes
from cni_faasm.netlink import addr, dumps, link, link_conf, neigh, route
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, CniError

LOOPBACK_IFINDEX = 1
LOOPBACK_IPV6 = bytes(15) + b"\x01"
LOOPBACK_METRIC = 4096  # lo itself has 0
NUD_STALE = 0x04  # <linux/neighbour.h>
NUD_PERMANENT = 0x80

# Public addresses that no host routes specially: what answers for them is the default
# route. Only the routing table is asked; nothing is ever sent there.
_PROBES = {4: "1.1.1.1", 16: "2606:4700:4700::1111"}


def find(netlink: Netlink, *, name: str = "", ifindex: int = 0) -> link.Link | None:
    """Return the link of that name or index in the socket's namespace, or None.

    Raises: NetlinkError for anything but "no such device".
    """
    message = link.get_link(name=name) if name else link.get_link(ifindex=ifindex)
    try:
        found = link.parse_link(netlink.get(message))
    except NetlinkError as error:
        if is_absent(error):
            return None
        raise
    if ifindex and not name and found.ifindex != ifindex:
        raise NetlinkError(errno.ENODATA, message[3], f"the kernel told of if{found.ifindex}")
    return found


def find_peer(netlink: Netlink, end: link.Link) -> link.Link | None:
    """Return the other end of a pair when it is in the socket's namespace, or None."""
    if end.kind != "veth" or not end.link:
        return None
    peer = find(netlink, ifindex=end.link)
    # The index may be another namespace's: the peer must point back.
    if peer is None or peer.kind != "veth" or peer.link != end.ifindex:
        return None
    return peer


def is_absent(error: NetlinkError) -> bool:
    """Say whether an error means that the link is already gone."""
    return error.errno in (errno.ENODEV, errno.ENXIO)


def _way_out(host: Netlink, length: int) -> tuple[list[link.Link], int | None]:
    """Return the interfaces of a family's default route, one for each hop, and its own MTU.

    length: of an address, 4 or 16. None, and no interface, when there is no such route.
    """
    probe = inet.pack(_PROBES[length])
    try:
        out = route.parse_route(host.get(route.get_route(probe)))
        if not out.oifs:  # kept apart (ip nexthop), and not told with the route
            out = route.parse_route(host.get(route.get_route(probe, fib_match=False)))
    except NetlinkError:
        return [], None
    ends = [find(host, ifindex=oif) for oif in out.oifs if oif != LOOPBACK_IFINDEX]
    return [end for end in ends if end is not None], out.mtu


def uplink_name(host: Netlink, length: int) -> str:
    """Return the name of the default route's first interface of a family (4 or 16), or ""."""
    ends, _ = _way_out(host, length)
    return ends[0].name if ends else ""


def uplink_mtu(host: Netlink, lengths: Collection[int] = ()) -> int:
    """Return the MTU of the host's way out, 0 when there is none: the smallest on it.

    lengths: of the addresses that are to go out by it, 4 and 16; the other family has a say only
    when none of theirs has a default route.
    Packets take any hop of a multipath route, and none larger than the route's own MTU.
    """
    own = [length for length in _PROBES if length in lengths]
    for families in (own, [length for length in _PROBES if length not in own]):
        mtus: list[int] = []
        for length in families:
            ends, route_mtu = _way_out(host, length)
            mtus += [end.mtu for end in ends]
            if ends and route_mtu is not None:
                mtus.append(route_mtu)
        if mtus:
            return min(mtus)
    return 0


def create(host: Netlink, inner: Netlink, plan: Plan, netns_fd: int) -> link.Link:
    """Create the pair, its inner end inside the namespace; both down.

    inner: a socket in that namespace.
    Fills in the plan's host_interface and both indexes, which only the kernel knows.
    Returns: the outer end as it is made. Raises: NetlinkError.
    """
    message = link.new_veth(
        plan.host_interface,
        plan.ifname,
        netns_fd,
        mtu=plan.mtu,
        address=plan.host_mac,
        peer_address=plan.mac,
        group=group(plan.network),
        gso_max_size=plan.outer_gso_bytes,
        gro_max_size=plan.inner_gso_bytes,
        peer_gso_max_size=plan.inner_gso_bytes,
        peer_gro_max_size=plan.outer_gso_bytes,
    )
    made = new_pair(host, inner, message, plan.ifname)
    plan.host_interface = made.name
    plan.host_ifindex = made.ifindex
    plan.ifindex = made.link
    return made


def new_pair(host: Netlink, inner: Netlink, message: Message, ifname: str) -> link.Link:
    """Have a pair made, and return its outer end.

    message: of link.new_veth. inner: a socket where the inner end is made. ifname: its name.
    Since Linux 6.2 the kernel tells what it has made. Before, the inner end's name is the one
    thing known, and that end tells the index of the other.
    Raises: NetlinkError.
    """
    [replies] = host.execute([message])
    if replies:
        return link.parse_link(replies[0])
    inside = find(inner, name=ifname)
    outside = find_peer(host, inside) if inside is not None else None
    if outside is None:
        text = "the kernel made it and tells nothing of it"
        raise NetlinkError(errno.ENODATA, message[3], text)
    return outside


def host_neighs(plan: Plan) -> list[Message]:
    """Return what tells the host a container's MAC; for when both of its ends are up.

    Before, the host's has no carrier, and when the kernel's linkwatch comes to see that, it throws
    away what is known there (neigh_carrier_down in net/core/neighbour.c).
    Known, but not permanent: a later plugin in the chain may change it. The entry stays when the
    table is full, whose size all namespaces share, so that any of them can fill it.
    """
    ifindex, mac = plan.host_ifindex, plan.mac
    return [
        neigh.new_neigh(ifindex, item.address, mac, NUD_STALE, neigh.NTF_EXT_LEARNED)
        for item in plan.addresses
    ]


def outer_messages(plan: Plan) -> list[Message]:
    """Return what the host's end needs: up, alias, gateways, routes, queues."""
    ifindex = plan.host_ifindex
    messages = [
        # No link-local address of the kernel's making, which it would have to probe first.
        # Said before the end goes up, for then it is made.
        link.set_link(ifindex, alias=plan.alias, addr_gen_mode=_no_link_local(plan.mtu)),
        link.set_link(ifindex, up=True),
    ]
    messages.extend(
        addr.new_addr(ifindex, address, len(address) * 8, nodad=True)
        for address in plan.host_addresses
    )
    messages.extend(
        route.new_route(item.address, item.prefix_len, ifindex) for item in plan.addresses
    )
    messages.extend(loopback_routes(plan))
    messages.extend(shaping.messages(ifindex, plan.ingress))
    return messages


def loopback_routes(plan: Plan) -> list[Message]:
    """Return what lets answers of published ports come back to ::1 by the host's end.

    The kernel looks for that address on the very interface by which a packet has come, once it has
    been translated back; what comes with it from outside is thrown away before (ip6_rcv_core).
    It stands behind that of lo, and one of each container's end behind the other.
    """
    if not plan.ports or not any(len(item.address) == 16 for item in plan.addresses):
        return []
    return [
        route.new_route(
            LOOPBACK_IPV6,
            128,
            plan.host_ifindex,
            priority=LOOPBACK_METRIC,
            table=route.RT_TABLE_LOCAL,
            kind=route.RTN_LOCAL,
            append=True,
        )
    ]


def inner_messages(plan: Plan, routes: Iterable[Message]) -> list[Message]:
    """Return what the container's end needs: lo and it up, addresses, routes, queues.

    routes: what makes those beyond the ones to its gateways.
    """
    ifindex = plan.ifindex
    has_ipv6 = any(len(item.address) == 16 for item in plan.addresses)
    messages = [link.set_link(LOOPBACK_IFINDEX, up=True)]
    mode = None if has_ipv6 else _no_link_local(plan.mtu)
    if mode is not None:
        # Without an IPv6 address the shaped link is spared router solicitations.
        messages.append(link.set_link(ifindex, addr_gen_mode=mode))
    messages.append(link.set_link(ifindex, up=True, gso_max_size=_inner_gso_bytes(plan)))
    messages.extend(
        addr.new_addr(ifindex, item.address, item.prefix_len, nodad=True) for item in plan.addresses
    )
    for gateway in plan.gateways:
        # Behind what the container has: its earlier interfaces keep what goes by them.
        messages.append(route.new_route(gateway, len(gateway) * 8, ifindex, append=True))
        # The gateway's MAC never changes, and no request waits behind a full queue.
        messages.append(neigh.new_neigh(ifindex, gateway, plan.host_mac, NUD_PERMANENT))
    messages.extend(routes)
    messages.extend(shaping.messages(ifindex, plan.egress))
    return messages


def _inner_gso_bytes(plan: Plan) -> int | None:
    """Return what to say again: before Linux 5.19 a pair's inner end gets the outer one's size."""
    if plan.inner_gso_bytes is None and plan.outer_gso_bytes is not None:
        return shaping.MAX_GSO_BYTES
    return plan.inner_gso_bytes


def _no_link_local(mtu: int) -> int | None:
    """Return the mode without a link-local address; None on a link without IPv6.

    Raises: CniError 5 when that cannot be found out.
    """
    if mtu < MIN_MTU_IPV6 or not forwarding.has_ipv6():
        return None
    return link.IN6_ADDR_GEN_MODE_NONE


def configure(
    host: Netlink, inner: Netlink, plan: Plan, between: Callable[[], None] | None = None
) -> None:
    """Make both ends as planned, the outer one first.

    between: called before the container's end is up.
    What is left is to tell the host the container's MAC (host_neighs).

    The end that comes up second has its carrier at once, the first a moment later by the
    kernel's own work queue; and it is the container that speaks first.
    Raises: NetlinkError; CniError 104 when the host already routes an address elsewhere.
    """
    configure_outer(host, plan)
    if between is not None:
        between()
    configure_inner(inner, plan)


def configure_inner(inner: Netlink, plan: Plan) -> None:
    """Make the container's end as planned. Raises: NetlinkError."""
    routes = inner_routes.messages(inner, plan.ifindex, plan.inner_routes())
    inner.execute(inner_messages(plan, routes))


def configure_outer(host: Netlink, plan: Plan) -> None:
    """Make the host's end as planned. Raises: NetlinkError; CniError 104."""
    questions = [route.get_route(item.address) for item in plan.addresses]
    # In one exchange: the questions are answered after all is made.
    answers = host.execute_tolerant([*outer_messages(plan), *questions])
    is_taken = False
    for answer in answers[: -len(questions)]:
        if not isinstance(answer, NetlinkError):
            continue
        if answer.errno != errno.EEXIST or not answer.label.startswith("ip route add"):
            raise answer
        is_taken = True  # an address's route; which one's, the answers below tell
    for item, answer in zip(plan.addresses, answers[-len(questions) :], strict=True):
        taken = None
        if not isinstance(answer, NetlinkError) and answer:
            taken = route.parse_route(answer[0])
        # Another interface alone proves nothing: rules may route by more than the address.
        if (taken is not None and taken.type == route.RTN_LOCAL) or (
            is_taken and (taken is None or taken.oif != plan.host_ifindex)
        ):
            _take_route(host, plan, item, taken)


def _take_route(
    host: Netlink, plan: Plan, item: PlannedAddress, taken: route.RouteInfo | None
) -> None:
    """Replace a dead attachment's route to an address that is now leased to this one.

    Dead is only what our own network left: its store has just given us the address. A
    route of another network or of the operator's is in use, for all that we know.
    """
    where = "nowhere" if taken is None else "to itself"
    if taken is not None and taken.type != route.RTN_LOCAL:
        other = find(host, ifindex=taken.oif) if taken.oif else None
        if other is not None and other.alias.startswith(f"{plan.alias_prefix} "):
            message = route.new_route(
                item.address, item.prefix_len, plan.host_ifindex, replace=True
            )
            host.execute([message])
            return
        where = "elsewhere" if other is None else f"to {other.name} {other.alias}".rstrip()
    raise CniError(
        ADDRESS_UNAVAILABLE,
        f"the host routes {inet.unpack(item.address)} {where}",
        "it belongs to somebody else: do two networks share a range, or has the host an "
        "address of this network's? Give this network another range",
    )


def outer_settings(plan: Plan, ifname: str) -> dict[str, int]:
    """Return what the host's end must be set to, by the settings' paths, where they exist.

    It believes nothing that a container says of routes: a router advertisement of a container's
    could give the host a default route through it (CVE-2020-10749), and a redirect move the
    host's own traffic. It forwards, whatever new interfaces do by default.
    """
    wanted = {
        link_conf.ipv6(ifname, "accept_ra"): 0,
        link_conf.ipv6(ifname, "accept_redirects"): 0,
        link_conf.ipv4(ifname, "accept_redirects"): 0,
    }
    if any(len(item.address) == 4 for item in plan.addresses):
        wanted[link_conf.ipv4(ifname, "forwarding")] = 1
        if plan.ports:  # for connections from 127.0.0.1; rules/ports.py says what it takes
            wanted[link_conf.ipv4(ifname, "route_localnet")] = 1
    if any(len(item.address) == 16 for item in plan.addresses):
        # Operators of hosts without IPv6 switch it off for all interfaces to come.
        wanted[link_conf.ipv6(ifname, "disable_ipv6")] = 0
    if plan.mtu >= MIN_MTU_IPV6:
        wanted[link_conf.ipv6(ifname, "addr_gen_mode")] = link.IN6_ADDR_GEN_MODE_NONE
    return wanted


def inner_settings(plan: Plan) -> dict[str, int]:
    """Return what the container's end must be set to, by the settings' paths, where they exist."""
    if any(len(item.address) == 16 for item in plan.addresses):
        # Runtimes often start namespaces with IPv6 switched off for interfaces to come.
        return {link_conf.ipv6(plan.ifname, "disable_ipv6"): 0}
    if plan.mtu >= MIN_MTU_IPV6:
        return {link_conf.ipv6(plan.ifname, "addr_gen_mode"): link.IN6_ADDR_GEN_MODE_NONE}
    return {}


def owned(found: link.Link | None, alias: str, mac: bytes) -> bool:
    """Say whether a link is an attachment's outer end: numbers and names are used again.

    A kill between the pair's creation and its alias leaves only the MAC to tell, and so
    does somebody who changes the alias; nobody else is given the same random MAC.
    """
    if found is None or found.kind != "veth":
        return False
    return found.alias == alias or (bool(mac) and found.address == mac)


def describe(found: link.Link) -> str:
    """Return a link's name with its MAC, for messages."""
    return f"{found.name} ({inet.mac_text(found.address)})"


def find_outer(host: Netlink, plan: Plan) -> link.Link | None:
    """Return a recorded attachment's outer end, verified to be its own, or None.

    Only a record whose ADD was killed between the pair's creation and the record's second
    writing has no index; then all pairs of the host are looked through for its MAC.
    """
    if plan.host_ifindex:
        found = find(host, ifindex=plan.host_ifindex)
        return found if owned(found, plan.alias, plan.host_mac) else None
    for found in dumps.links(host, "veth"):
        if owned(found, plan.alias, plan.host_mac):
            return found
    return None
