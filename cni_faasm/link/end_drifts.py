"""Compare both ends of a pair with the promise: links, settings, addresses, routes, queues.

What is compared is what ADD sets, but for three things: what nobody can change later (numbers
of queues, the namespace), what decides nothing (HTB's r2q), and the host's neighbour entry for
the container, which the kernel learns anew while it is used.
"""

import errno

from cni_faasm.attachment import plan
from cni_faasm.attachment.plan import Plan
from cni_faasm.config import policy
from cni_faasm.config.defaults import GVISOR
from cni_faasm.limits import shaping_drifts
from cni_faasm.link import egress, forwarding, veth
from cni_faasm.netlink import addr, dumps, link, link_conf, link_state, neigh, route
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.results import ROUTE_NUMBERS, Result, Route

Drift = tuple[str, str, str]

_LINK_LOCAL = b"\xfe\x80"  # how IPv6 addresses begin that the kernel makes up
_PASSING = addr.IFA_F_DEPRECATED | addr.IFA_F_DADFAILED


def inner(promised: Plan, netlink: Netlink, prev_result: Result | None) -> list[Drift]:
    """Compare the container's end, and its loopback. netlink: a socket inside.

    Raises: NetlinkError.
    """
    found: list[Drift] = []
    where = f"container {promised.ifname}"
    one = veth.find(netlink, name=promised.ifname)
    if one is None:
        return [(f"{where}: interface", "veth", "none")]
    # Without a namespace id the peer is in this same namespace, whatever its index is.
    if one.kind != "veth" or one.link_netnsid is None or one.link != promised.host_ifindex:
        expected = f"veth, peer of {promised.host_interface}"
        return [
            (f"{where}: interface", expected, f"{one.kind or 'no veth'}, peer index {one.link}")
        ]
    mac, mtu = _changed_by_chain(promised, prev_result, one)
    _check_link(where, one, mac, mtu, found)
    _check_sizes(where, one, promised.inner_gso_bytes, promised.outer_gso_bytes, found)
    addresses = {item.address: item for item in dumps.addrs(netlink, one.ifindex)}
    # gVisor takes all of them, with the routes, into a network stack of its own.
    are_taken = promised.sandbox == GVISOR and not any(
        item.address in addresses for item in promised.addresses
    )
    gateways = [] if are_taken else promised.gateways
    if not promised.shapes_only:
        _check_settings(where, one, veth.inner_settings(promised), found)
        _check_surroundings(where, promised, one, netlink, gateways, found)
    if are_taken:
        return found + shaping_drifts.of_device(where, netlink, one.ifindex, promised.egress)
    for item in promised.addresses:
        _check_address(where, item.address, addresses, found)
    routes: list[route.RouteInfo] = []
    for family in sorted({inet.family(item.address) for item in promised.addresses}):
        routes += dumps.routes(netlink, family, oif=one.ifindex)
    for gateway in gateways:
        _check_route(where, Route(dst=gateway, prefix_len=len(gateway) * 8), routes, found)
    for wanted in promised.inner_routes():
        _check_route(where, wanted, routes, found)
    return found + shaping_drifts.of_device(where, netlink, one.ifindex, promised.egress)


def outer(promised: Plan, host: Netlink, *, forwards: bool) -> list[Drift]:
    """Compare the host's end, and the ifb behind it. Raises: NetlinkError.

    forwards: whether the host forwards IPv4 at all.
    """
    found: list[Drift] = []
    where = f"host {promised.host_interface}"
    one = veth.find(host, ifindex=promised.host_ifindex) if promised.host_ifindex else None
    if one is None or one.kind != "veth":
        return [(f"{where}: interface", "veth", "none" if one is None else str(one.kind))]
    addresses = {item.address: item for item in dumps.addrs(host, one.ifindex)}
    if one.name != promised.host_interface:
        found.append((f"{where}: name", promised.host_interface, one.name))
    if not promised.shapes_only:
        if one.alias != promised.alias:
            found.append((f"{where}: alias", promised.alias, one.alias or "none"))
        group = policy.group(promised.network)
        if one.group != group:
            found.append((f"{where}: group", str(group), str(one.group)))
        settings = veth.outer_settings(promised, one.name)
        if not forwards:  # switched off for all; that is told once
            settings.pop(link_conf.ipv4(one.name, "forwarding"), None)
        others = addresses.keys() - set(promised.host_addresses)
        if not any(len(address) == 16 and address[:2] == _LINK_LOCAL for address in others):
            # NetworkManager, when it ends, sets it anew for every interface, also for those that
            # it leaves alone. It counts when an end goes up, and shows by what that gives it.
            settings.pop(link_conf.ipv6(one.name, "addr_gen_mode"), None)
        _check_settings(where, one, settings, found)
    mtu = one.mtu if promised.shapes_only else promised.mtu
    _check_link(where, one, promised.host_mac, mtu, found)
    _check_sizes(where, one, promised.outer_gso_bytes, promised.inner_gso_bytes, found)
    for address in promised.host_addresses:
        _check_address(where, address, addresses, found)
    for item in promised.addresses:
        _check_host_route(where, item, host, one.ifindex, found)
    if veth.loopback_routes(promised):
        _check_loopback_route(where, host, one.ifindex, found)
    found += shaping_drifts.of_device(where, host, one.ifindex, promised.ingress)
    if promised.host_egress is not None:
        found += egress.drifts(host, promised)
    return found


def _changed_by_chain(
    promised: Plan, prev_result: Result | None, one: link.Link
) -> tuple[bytes, int]:
    """Return the MAC and the MTU that the inner end may have.

    A later plugin of the list (tuning) changes both and need not say so in the result. So a
    runtime is told of no MAC but that of the host's end, with which nothing could be received,
    and of no MTU that is lower: what is sent passes either way. Who asks without a result is
    told of all.
    """
    if prev_result is None:
        return promised.mac, promised.mtu
    mtu = promised.mtu
    for interface in prev_result.interfaces:
        if interface.name == promised.ifname and interface.sandbox and interface.mtu:
            mtu = interface.mtu
    mac = promised.mac if one.address == promised.host_mac else one.address
    return mac, min(mtu, one.mtu)


def _check_link(where: str, one: link.Link, mac: bytes, mtu: int, found: list[Drift]) -> None:
    if not one.is_up:
        found.append((f"{where}: state", "up", "down"))
    if one.address != mac:
        found.append((f"{where}: MAC", inet.mac_text(mac), inet.mac_text(one.address)))
    if one.mtu != mtu:
        found.append((f"{where}: MTU", str(mtu), str(one.mtu)))


def _check_sizes(
    where: str,
    one: link.Link,
    sent: int | None,
    received: int | None,
    found: list[Drift],
) -> None:
    """Compare the sizes of super-packets. sent, received: bytes, None for any."""
    for name, wanted in (
        ("gso_max_size", sent),
        ("gso_ipv4_max_size", sent),
        ("gro_max_size", received),
        ("gro_ipv4_max_size", received),
    ):
        size: int = getattr(one, name)
        # Before Linux 5.19 there was no gro_max_size, before 6.3 none for IPv4 alone.
        if wanted is not None and size not in (0, wanted):
            found.append((f"{where}: {name}", str(wanted), str(size)))


def _check_settings(where: str, one: link.Link, wanted: dict[str, int], found: list[Drift]) -> None:
    """Compare settings; those that the kernel tells nothing of need not be set."""
    told = link_conf.settings(one)
    for path, value in wanted.items():
        actual = str(told[path]) if path in told else ""
        if not actual and where.startswith("host "):
            # Linux 5.10 tells of addr_gen_mode only beside many counters.
            actual = forwarding.read(path)
        if actual not in ("", str(value)):
            found.append((f"{where}: {path}", str(value), actual))


def _check_surroundings(  # noqa: PLR0917 -- the one call stands above
    where: str,
    promised: Plan,
    one: link.Link,
    netlink: Netlink,
    gateways: list[bytes],
    found: list[Drift],
) -> None:
    """Look at what the container needs besides its end: lo, and the gateways' MAC."""
    questions = [neigh.get_neigh(one.ifindex, gateway) for gateway in gateways]
    answers = netlink.get_tolerant([link.get_link(ifindex=veth.LOOPBACK_IFINDEX), *questions])
    if isinstance(answers[0], NetlinkError):
        raise answers[0]
    if not link_state.is_up(answers[0]):
        found.append(("container lo: state", "up", "down"))
    # Who changes an end's MAC has the kernel forget all its neighbours, and learn them anew.
    may_be_learned = one.address != promised.mac
    expected = f"{inet.mac_text(promised.host_mac)} permanent"
    for gateway, answer in zip(gateways, answers[1:], strict=True):
        if not isinstance(answer, NetlinkError):
            known = neigh.parse_neigh(answer)
        elif answer.errno == errno.ENOENT:
            known = None
        else:
            raise answer
        mac = b"" if known is None else known.lladdr
        is_permanent = known is not None and bool(known.state & neigh.NUD_PERMANENT)
        if is_permanent or not may_be_learned:
            is_right = is_permanent and mac == promised.host_mac
        else:
            is_right = mac in (b"", promised.host_mac)
        if not is_right:
            word = "permanent" if is_permanent else "not permanent"
            actual = f"{inet.mac_text(mac)} {word}" if mac else "none"
            found.append((f"{where}: neighbour {inet.unpack(gateway)}", expected, actual))


def _check_host_route(
    where: str, item: plan.PlannedAddress, host: Netlink, ifindex: int, found: list[Drift]
) -> None:
    """Ask which route the host takes to the container: a dump costs more with each container."""
    what, expected = f"{where}: route", inet.cidr(item.address, item.prefix_len)
    try:
        taken = route.parse_route(host.get(route.get_route(item.address)))
    except NetlinkError:
        found.append((what, expected, "none"))
        return
    if taken.prefix_len != item.prefix_len:
        found.append((what, expected, f"only {inet.cidr(taken.dst, taken.prefix_len)}"))
    elif taken.oif != ifindex:
        found.append((what, f"{expected} by this interface", f"by interface {taken.oif}"))


def _check_loopback_route(where: str, host: Netlink, ifindex: int, found: list[Drift]) -> None:
    question = route.get_route(veth.LOOPBACK_IPV6, oif=ifindex)
    [answer] = host.get_tolerant([question])
    if isinstance(answer, NetlinkError) or route.parse_route(answer).oif != ifindex:
        found.append((f"{where}: route", "::1/128 by this interface", "none"))


def _check_address(
    where: str, address: bytes, addresses: dict[bytes, addr.Addr], found: list[Drift]
) -> None:
    wanted = inet.cidr(address, len(address) * 8)
    one = addresses.get(address)
    if one is None:
        others = ", ".join(inet.cidr(item.address, item.prefix_len) for item in addresses.values())
        found.append((f"{where}: address", wanted, others or "none"))
    elif one.prefix_len != len(address) * 8:
        found.append((f"{where}: address", wanted, inet.cidr(address, one.prefix_len)))
    elif not one.flags & addr.IFA_F_PERMANENT or one.flags & _PASSING:
        found.append((f"{where}: address", wanted, f"{wanted} for a time only, or not in use"))


def _check_route(
    where: str, wanted: Route, routes: list[route.RouteInfo], found: list[Drift]
) -> None:
    dst, gateway = inet.network(wanted.dst, wanted.prefix_len), wanted.gateway
    alike = [one for one in routes if one.dst == dst and one.prefix_len == wanted.prefix_len]
    same = [one for one in alike if one.table == (wanted.table or plan.RT_TABLE_MAIN)]
    if not same:
        # A later plugin (sbr) may have moved the routes to a table of their own.
        same = [one for one in alike if one.table != route.RT_TABLE_LOCAL]
    expected = inet.cidr(dst, wanted.prefix_len)
    if gateway:
        expected += f" via {inet.unpack(gateway)}"
    if not same:
        found.append((f"{where}: route", expected, "none"))
        return
    by_gateway = [one for one in same if one.gateway == gateway]
    if not by_gateway:
        texts = (inet.unpack(one.gateway) if one.gateway else "the link" for one in same)
        found.append((f"{where}: route", expected, f"via {', '.join(texts)}"))
        return
    # The kernel fills in what the configuration leaves out.
    asked = {key: value for key in ROUTE_NUMBERS if (value := getattr(wanted, key)) is not None}
    asked.pop("table", None)
    if len(dst) == 16:
        asked.pop("scope", None)  # IPv6 has no scopes of routes
    differing = [
        [key for key, value in asked.items() if getattr(one, key) != value] for one in by_gateway
    ]
    if all(differing):
        best, keys = min(zip(by_gateway, differing, strict=True), key=lambda pair: len(pair[1]))
        for key in keys:
            actual = str(getattr(best, key) or "none")
            found.append((f"{where}: route {expected}: {key}", str(asked[key]), actual))
