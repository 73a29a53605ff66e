"""Read dumps, and believe no filter: a kernel may send more than it was asked for.

A filter is a wish. Links of one kind are not filtered while no module of that kind is loaded,
and before strict checking (Linux 4.20) most filters are passed over. So every object is looked
at once more here, and nothing else of ours reads a dump.
"""

from cni_faasm.netlink import (
    addr,
    conntrack,
    link,
    nft,
    nft_object,
    nft_set,
    route,
    sock_diag,
    tc,
    tc_parse,
)
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import attr_u32, fixed

_FAMILIES = (2, 10)  # AF_INET, AF_INET6


def links(netlink: Netlink, kind: str, *, stats: bool = False) -> list[link.Link]:
    """Return all interfaces of a kind. Raises: NetlinkError."""
    bodies = netlink.dump(link.dump_links(kind, stats=stats))
    return [one for one in map(link.parse_link, bodies) if one.kind == kind]


def all_links(netlink: Netlink) -> list[link.Link]:
    """Return all interfaces. Raises: NetlinkError."""
    return [link.parse_link(body) for body in netlink.dump(link.dump_links())]


def group_members(netlink: Netlink, group: int) -> list[link.Link]:
    """Return all interfaces of a group, of whatever kind. Raises: NetlinkError."""
    # Among thousands those that cannot be in it are not worth reading.
    mark = attr_u32(link.IFLA_GROUP, group)
    bodies = [body for body in netlink.dump(link.dump_links()) if mark in body]
    return [one for one in map(link.parse_link, bodies) if one.group == group]


def addrs(netlink: Netlink, ifindex: int = 0) -> list[addr.Addr]:
    """Return the IPv4 and IPv6 addresses of an interface (0: of all). Raises: NetlinkError."""
    bodies = netlink.dump(addr.dump_addrs(ifindex))
    found = [addr.parse_addr(body) for body in bodies if body[:1] and body[0] in _FAMILIES]
    return [one for one in found if ifindex in (0, one.ifindex)]


def routes(
    netlink: Netlink,
    family: int,
    *,
    oif: int | None = None,
    table: int | None = None,
    hop: int | None = None,
) -> list[route.RouteInfo]:
    """Return the routes of a family by an interface, in a table (None: all).

    hop: of a multipath route tell the hop by this interface; else the one by oif.
    Raises: NetlinkError.
    """
    bodies = netlink.dump(route.dump_routes(family=family, oif=oif, table=table))
    hop = hop if oif is None else oif
    found = [route.parse_route(body, hop) for body in bodies if body[:1] == bytes([family])]
    return [one for one in found if oif in (None, one.oif) and table in (None, one.table)]


def next_hops(netlink: Netlink, family: int) -> set[bytes]:
    """Return the gateways of all routes of a family. Raises: NetlinkError."""
    bodies = netlink.dump(route.dump_routes(family=family))
    return {hop for body in bodies if body[:1] == bytes([family]) for hop in route.next_hops(body)}


def qdiscs(netlink: Netlink) -> list[tc_parse.Qdisc]:
    """Return the qdiscs of all interfaces. Raises: NetlinkError."""
    return [tc_parse.parse_qdisc(body) for body in netlink.dump(tc.dump_qdiscs())]


def classes(netlink: Netlink, ifindex: int) -> list[tc_parse.HtbClass]:
    """Return an interface's HTB classes. Raises: NetlinkError."""
    found = map(tc_parse.parse_class, netlink.dump(tc.dump_classes(ifindex)))
    return [one for one in found if one is not None and one.ifindex == ifindex]


def filters(netlink: Netlink, ifindex: int, parent: int) -> list[bytes]:
    """Return the filters of one qdisc as they came. Raises: NetlinkError."""
    found = []
    for body in netlink.dump(tc.dump_filters(ifindex, parent)):
        _, _, _, its_ifindex, _, its_parent, _ = fixed(tc.TCMSG, body, "tcmsg")
        if its_ifindex == ifindex and its_parent == parent:
            found.append(body)
    return found


def tables(netfilter: Netlink, family: int) -> list[nft.Table]:
    """Return the nftables tables of a family. Raises: NetlinkError."""
    found = map(nft.parse_table, netfilter.dump(nft.dump_tables(family)))
    return [one for one in found if one.family == family]


def chain_names(netfilter: Netlink, family: int, table: str) -> list[str]:
    """Return the names of a table's chains. Raises: NetlinkError."""
    found = map(nft.parse_chain, netfilter.dump(nft.dump_chains(family)))
    return [one.name for one in found if (one.family, one.table) == (family, table)]


def set_names(netfilter: Netlink, family: int, table: str) -> list[str]:
    """Return the names of a table's sets. Raises: NetlinkError."""
    found = map(nft_set.parse_set_place, netfilter.dump(nft_set.dump_sets(family, table)))
    return [name for *place, name in found if place == [family, table]]


def limit_names(netfilter: Netlink, family: int, table: str) -> list[str]:
    """Return the names of a table's named limits. Raises: NetlinkError."""
    found = map(nft_object.parse_place, netfilter.dump(nft_object.dump_limits(family, table)))
    wanted = [family, table, nft_object.NFT_OBJECT_LIMIT]
    return [name for *place, name in found if place == wanted]


def rules(netfilter: Netlink, family: int, table: str, chain: str) -> list[nft.Rule]:
    """Return the rules of one chain, in order. Raises: NetlinkError."""
    return [nft.parse_rule(body) for body in rule_bodies(netfilter, family, table, chain)]


def rule_bodies(netfilter: Netlink, family: int, table: str, chain: str) -> list[bytes]:
    """Return the rules of one chain as they came, in order. Raises: NetlinkError."""
    question = nft.dump_rules(family, table, chain)
    bodies = netfilter.dump(question)
    # The kernel says where a rule is as it is asked, before all else.
    place = question[2][nft.HEAD_BYTES :]
    if all(
        body[:1] == bytes([family]) and body.startswith(place, nft.HEAD_BYTES) for body in bodies
    ):
        return bodies
    found = zip(map(nft.parse_rule, bodies), bodies, strict=True)
    return [
        body for one, body in found if (one.family, one.table, one.chain) == (family, table, chain)
    ]


def elements(netfilter: Netlink, family: int, table: str, name: str) -> list[bytes]:
    """Return the keys of a set. Raises: NetlinkError; ENOENT when the set is not there."""
    found = []
    for body in netfilter.dump(nft_set.dump_elements(family, table, name)):
        if nft_set.parse_place(body) == (family, table, name):
            found.extend(nft_set.parse_elements(body))
    return found


def whole_elements(netfilter: Netlink, family: int, table: str, name: str) -> list[nft_set.Element]:
    """Return the elements of a set, with what they hold beside their keys. Raises: NetlinkError."""
    found = []
    for body in netfilter.dump(nft_set.dump_elements(family, table, name)):
        if nft_set.parse_place(body) == (family, table, name):
            found.extend(nft_set.parse_whole_elements(body))
    return found


def connections(netfilter: Netlink, family: int) -> list[conntrack.Connection]:
    """Return what the host tracks of a family. Raises: NetlinkError."""
    return [conntrack.parse(body) for body in netfilter.dump(conntrack.dump(family))]


def taken_ports(netlink: Netlink, family: int, protocol: int, state: int) -> set[int]:
    """Return the ports of all sockets in a state. Raises: NetlinkError."""
    bodies = netlink.dump(sock_diag.dump_sockets(family, protocol, state))
    return {sock_diag.parse_port(body) for body in bodies}


def connections_to(
    netfilter: Netlink, family: int, protocol: int, ports: frozenset[int]
) -> list[conntrack.Connection]:
    """Return the connections whose first packet was for one of these ports. Raises: NetlinkError."""
    only = next(iter(ports)) if len(ports) == 1 else 0
    found = map(conntrack.parse, netfilter.dump(conntrack.dump_to(family, protocol, only)))
    return [one for one in found if one.service[0] == protocol and one.service[1] in ports]


def connections_from(
    netfilter: Netlink, address: bytes, direction: int
) -> list[conntrack.Connection]:
    """Return the connections that come from an address in one direction. Raises: NetlinkError."""
    bodies = netfilter.dump(conntrack.dump_from(address, direction))
    return [one for one in map(conntrack.parse, bodies) if address in one.sources]
