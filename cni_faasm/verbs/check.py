"""CHECK: find every drift from what ADD promised (CNI specification, section "CHECK").

The record says what was promised, prevResult what the chain made of it: a later plugin
may have changed a MAC address or added interfaces, addresses and rules, and that is no
drift. All drifts are reported at once.
"""

import errno

from cni_faasm import (
    accepted,
    forwarding,
    inet,
    nat,
    netns,
    plan,
    plan_fields,
    policy,
    shaping,
    shaping_drifts,
    veth,
)
from cni_faasm.errors import DRIFT, UNKNOWN_CONTAINER, CniError
from cni_faasm.ipam.store import Store
from cni_faasm.netlink import dumps, route, tc, tc_parse
from cni_faasm.netlink.link import IFF_UP
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.results import ROUTE_NUMBERS, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_faasm.netlink import addr
    from cni_faasm.netlink.link import Link
    from cni_faasm.plan import Plan
    from cni_faasm.protocol import Request
    from cni_faasm.results import Result

    Drift = tuple[str, str, str]

MAX_DRIFTS_IN_MESSAGE = 3
RT_TABLE_LOCAL = 255  # <linux/rtnetlink.h>
# What the kernel says of a queue that is not there, or whose parent is not.
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP)


def check(request: "Request") -> None:
    """Compare an attachment with its promise.

    Raises: CniError 107 that names every drift (what, expected, found); 3 when nothing is
    known of the attachment.
    """
    promised, prev_result = accepted.recall(request) or _validated(request)
    try:
        with Netlink() as host, netns.connect(request.netns) as inner:
            found = drifts(promised, host, inner, prev_result)
        if promised.ipam_plugin:
            from cni_faasm import config as configuration
            from cni_faasm.ipam import delegate

            timeout_ms = configuration.load_tolerant(request.document).ipam_timeout_ms
            found.extend(delegate.drifts(request, promised, timeout_ms))
    except NetlinkError as error:
        from cni_faasm import kernel  # only a refusal needs it

        raise kernel.refusal(error) from None
    if found:
        raise drift_error(found)


def _validated(request: "Request") -> "tuple[Plan, Result | None]":
    from cni_faasm import config as configuration

    config = configuration.load(request.document, request.args, request.verb)
    promised = plan_fields.load(config.state_dir, config.name, request.container_id, request.ifname)
    if promised is None:
        raise CniError(
            UNKNOWN_CONTAINER,
            f"container {request.container_id!r} has no attachment {request.ifname!r} "
            f"in network {config.name!r}",
            "ADD it; if it was attached by another plugin, its record does not exist here",
        )
    return promised, config.prev_result


def drift_error(found: "list[Drift]") -> CniError:
    """Return the one error that names every drift."""
    lines = [f"{what}: expected {expected}, found {actual}" for what, expected, actual in found]
    more = len(found) - MAX_DRIFTS_IN_MESSAGE
    summary = "; ".join(what for what, _, _ in found[:MAX_DRIFTS_IN_MESSAGE])
    summary += f"; and {more} more" if more > 0 else ""
    return CniError(
        DRIFT, f"the attachment has drifted from what ADD promised: {summary}", "; ".join(lines)
    )


def drifts(
    promised: "Plan", host: Netlink, inner: Netlink, prev_result: "Result | None" = None
) -> "list[Drift]":
    """List every difference between a promise and the kernel and the store.

    host, inner: sockets in the two namespaces. Returns: (what, expected, found) each.
    Raises: NetlinkError, CniError.
    """
    found: list[Drift] = []
    if prev_result is not None:
        _compare_result(promised, prev_result, found)
    _check_inner(promised, inner, prev_result, found)
    _check_outer(promised, host, found)
    if not promised.ipam_plugin:
        _check_leases(promised, found)
    for length in sorted({len(item.address) for item in promised.addresses}):
        if not forwarding.is_on(length):
            family = "IPv4" if length == 4 else "IPv6"
            found.append((f"{family} forwarding on the host", "on", "off"))
    found.extend(nat.drifts(promised))
    if promised.guard is not None:
        from cni_faasm import guard

        found.extend(guard.drifts(promised))
    return found


def _changed_by_chain(
    promised: "Plan", prev_result: "Result | None", mtu_found: int
) -> "tuple[bytes, int]":
    """Return the inner end's MAC and MTU as the whole chain left them.

    Results tell of MTUs from 1.1.0 on. Before, a later plugin (tuning) may have lowered it.
    """
    mac, mtu = promised.mac, promised.mtu
    if prev_result is not None:
        for interface in prev_result.interfaces:
            if interface.name == promised.ifname and interface.sandbox:
                mtu = interface.mtu or min(mtu, mtu_found)
                try:
                    mac = inet.parse_mac(interface.mac)
                except ValueError:
                    continue  # no or an odd MAC in the result: ours holds
    return mac, mtu


def _compare_result(promised: "Plan", prev_result: "Result", found: "list[Drift]") -> None:
    """Demand that the runtime's result still holds what ADD gave it; more is no drift."""
    addresses = [item.address for item in prev_result.ips]
    for item in promised.addresses:
        if item.address not in addresses:
            texts = ", ".join(inet.unpack(address) for address in addresses) or "none"
            found.append(("prevResult: address", inet.unpack(item.address), texts))
    if not prev_result.interfaces:
        return  # results before 0.3.0 name no interfaces
    names = [interface.name for interface in prev_result.interfaces]
    for name in (promised.host_interface, promised.ifname):
        if name not in names:
            found.append(("prevResult: interface", name, ", ".join(names)))


def _check_link(
    where: str,
    one: "Link",
    expected: "tuple[bytes, int, int | None]",
    found: "list[Drift]",
) -> None:
    mac, mtu, gso_bytes = expected
    if not one.flags & IFF_UP:
        found.append((f"{where}: state", "up", "down"))
    if one.address != mac:
        found.append((f"{where}: MAC", inet.mac_text(mac), inet.mac_text(one.address)))
    if one.mtu != mtu:
        found.append((f"{where}: MTU", str(mtu), str(one.mtu)))
    if gso_bytes is not None and one.gso_max_size not in (None, gso_bytes):
        found.append((f"{where}: gso_max_size", str(gso_bytes), str(one.gso_max_size)))


def _check_inner(
    promised: "Plan", inner: Netlink, prev_result: "Result | None", found: "list[Drift]"
) -> None:
    where = f"container {promised.ifname}"
    one = veth.find(inner, name=promised.ifname)
    if one is None:
        found.append((f"{where}: interface", "veth", "none"))
        return
    # Without a namespace id the peer is in this same namespace, whatever its index is.
    if one.kind != "veth" or one.link_netnsid is None or one.link != promised.host_ifindex:
        expected = f"veth, peer of {promised.host_interface}"
        actual = f"{one.kind or 'no veth'}, peer index {one.link}"
        found.append((f"{where}: interface", expected, actual))
        return
    mac, mtu = _changed_by_chain(promised, prev_result, one.mtu)
    _check_link(where, one, (mac, mtu, promised.inner_gso_bytes), found)
    addresses = {item.address: item for item in _addresses(inner, one.ifindex)}
    for item in promised.addresses:
        _check_address(where, item.address, addresses, found)
    routes: list[route.RouteInfo] = []
    for family in sorted({inet.family(item.address) for item in promised.addresses}):
        routes += dumps.routes(inner, family, oif=one.ifindex)
    for gateway in promised.gateways:
        _check_route(where, Route(dst=gateway, prefix_len=len(gateway) * 8), routes, found)
    for wanted in promised.inner_routes():
        _check_route(where, wanted, routes, found)
    found.extend(shape_drifts(where, inner, one.ifindex, promised.egress))


def _check_outer(promised: "Plan", host: Netlink, found: "list[Drift]") -> None:
    where = f"host {promised.host_interface}"
    one = veth.find(host, ifindex=promised.host_ifindex) if promised.host_ifindex else None
    if one is None or one.kind != "veth":
        found.append((f"{where}: interface", "veth", "none" if one is None else str(one.kind)))
        return
    if one.name != promised.host_interface:
        found.append((f"{where}: name", promised.host_interface, one.name))
    if one.alias != promised.alias and not promised.shapes_only:
        found.append((f"{where}: alias", promised.alias, one.alias or "none"))
    if promised.guard is not None:
        _check_trust(where, promised, one, found)
    mtu = one.mtu if promised.shapes_only else promised.mtu
    expected = (promised.host_mac, mtu, promised.outer_gso_bytes)
    _check_link(where, one, expected, found)
    addresses = {item.address: item for item in _addresses(host, one.ifindex)}
    for address in promised.host_addresses:
        _check_address(where, address, addresses, found)
    for item in promised.addresses:
        _check_host_route(where, item, host, one.ifindex, found)
    found.extend(shape_drifts(where, host, one.ifindex, promised.ingress))
    if promised.host_egress is not None:
        from cni_faasm import egress

        found.extend(egress.drifts(host, promised))


def _check_trust(where: str, promised: "Plan", one: "Link", found: "list[Drift]") -> None:
    group = policy.group(promised.network)
    if one.group != group:
        found.append((f"{where}: group", str(group), str(one.group)))
    for path in veth.distrusted(one.name):
        value = forwarding.read(path)
        if value not in ("", "0"):
            found.append((f"{where}: {path}", "0", value))


def _addresses(netlink: Netlink, ifindex: int) -> "list[addr.Addr]":
    return dumps.addrs(netlink, ifindex)


def _check_host_route(
    where: str, item: "plan.PlannedAddress", host: Netlink, ifindex: int, found: "list[Drift]"
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


def shape_drifts(
    where: str, netlink: Netlink, ifindex: int, one: "shaping.Shape | None"
) -> "list[Drift]":
    """Compare the queues of one device with its shape. Raises: NetlinkError."""
    questions = [
        tc.get_qdisc(ifindex),
        tc.get_qdisc(ifindex, shaping.CLASS_ID),
        tc.get_class(ifindex, shaping.CLASS_ID),
    ]
    # No dumps: those of qdiscs cost more with every interface of the host.
    answers = netlink.get_tolerant(questions if one is not None else questions[:1])
    for answer in answers:
        if isinstance(answer, NetlinkError) and answer.errno not in _ABSENT:
            raise answer
    bodies = [None if isinstance(answer, NetlinkError) else answer for answer in answers]
    bodies += [None] * (len(questions) - len(bodies))
    root, leaf, one_class = bodies
    filters = []
    if one is not None and root is not None:
        # Also where there must be none: one of somebody's can lead past the class.
        filters = dumps.filters(netlink, ifindex, shaping.ROOT_HANDLE)
    return shaping_drifts.drifts(
        where,
        one,
        root=None if root is None else tc_parse.parse_qdisc(root),
        queue=None if leaf is None else tc_parse.parse_qdisc(leaf),
        one_class=None if one_class is None else tc_parse.parse_class(one_class),
        filters=filters,
    )


def _check_address(
    where: str, address: bytes, addresses: "dict[bytes, addr.Addr]", found: "list[Drift]"
) -> None:
    wanted = inet.cidr(address, len(address) * 8)
    one = addresses.get(address)
    if one is None:
        others = ", ".join(inet.cidr(item.address, item.prefix_len) for item in addresses.values())
        found.append((f"{where}: address", wanted, others or "none"))
    elif one.prefix_len != len(address) * 8:
        found.append((f"{where}: address", wanted, inet.cidr(address, one.prefix_len)))


def _check_route(
    where: str, wanted: Route, routes: "list[route.RouteInfo]", found: "list[Drift]"
) -> None:
    dst, gateway = inet.network(wanted.dst, wanted.prefix_len), wanted.gateway
    alike = [one for one in routes if one.dst == dst and one.prefix_len == wanted.prefix_len]
    same = [one for one in alike if one.table == (wanted.table or plan.RT_TABLE_MAIN)]
    if not same:
        # A later plugin (sbr) may have moved the routes to a table of their own.
        same = [one for one in alike if one.table != RT_TABLE_LOCAL]
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


def _check_leases(promised: "Plan", found: "list[Drift]") -> None:
    with Store(promised.data_dir, promised.network, create=False, lock=False) as store:
        for item in promised.addresses:
            owner = store.owner(item.address)
            if owner is None:
                found.append((f"lease {inet.unpack(item.address)}", promised.container_id, "none"))
            elif owner[0] != promised.container_id or owner[1] not in ("", promised.ifname):
                found.append(
                    (
                        f"lease {inet.unpack(item.address)}: owner",
                        f"{promised.container_id} {promised.ifname}",
                        " ".join(owner).rstrip(),
                    )
                )
