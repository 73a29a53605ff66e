"""Shape a pair that an earlier plugin of the chain made, and nothing else.

faasm after `bridge` or `ptp`, without "ipam" of its own, takes the place of `bandwidth`: it
makes no interface and leases no address, but puts its queues on both ends of the pair that
prevResult tells of, and hands prevResult on as it is. The promise is a plan without
addresses, so CHECK, the tool's `status`, `check`, `repair` and `set-rate` hold it like any
other; the pair itself stays the earlier plugin's.
"""

import errno
import time

from cni_faasm.attachment import accepted, plan, plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.attachment.undo import Undo
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import reclaim
from cni_faasm.limits import shaping
from cni_faasm.link import egress, kernel, netns, veth
from cni_faasm.link import egress as on_host
from cni_faasm.netlink import link, tc, tc_mirred, tc_parse
from cni_faasm.netlink.link import Link
from cni_faasm.netlink.tc_parse import Qdisc
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop, limit_tables
from cni_faasm.spec.errors import INTERFACE_EXISTS, UNSUPPORTED_FIELD, CniError
from cni_faasm.spec.protocol import Request
from cni_faasm.spec.results import Result

# Nothing is there to be removed.
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.ENXIO)


def add(
    request: Request,
    config: NetworkConfig,
    prev_result: Result,
    undo: Undo,
    sockets: tuple[Netlink, Netlink],
) -> Result:
    """Shape both ends of the container's pair.

    sockets: on the host and inside.
    Returns: prevResult, with the ifb where there is one.
    Raises: CniError, NetlinkError.
    """
    host, inner = sockets
    inside, outside = _pair(request, prev_result, host, inner)
    boot_id = record.boot_id()
    marker = reclaim.read_marker(config.state_dir, config.name)
    if marker is None or marker.get("bootID") != boot_id:
        reclaim.forget_shaped(config.state_dir, config.name, boot_id, config.lock_timeout_ms)
    queue = kernel.queue(config.state_dir, config.name, boot_id, marker)
    scope = kernel.scope(config, boot_id, marker)
    ingress, egress = plan.both_shapes(config, inside.mtu, queue, scope)
    config.warnings += plan.burst_warnings(config, ingress, egress)
    promised = plan.Plan(
        network=config.name,
        container_id=request.container_id,
        ifname=request.ifname,
        netns=request.netns,
        boot_id=boot_id,
        created=int(time.time()),
        data_dir=config.data_dir,
        host_interface=outside.name,
        host_ifindex=outside.ifindex,
        ifindex=inside.ifindex,
        host_mac=outside.address,
        mac=inside.address,
        mtu=inside.mtu,
        addresses=[],
        routes=[],
        ranges=[],
        ingress=ingress,
        egress=egress,
        ip_masq=False,
        dns={},
        shapes_only=True,
        host_egress=plan.on_host(config, inside.mtu, queue, scope),
        counted=config.counted,
        shared=config.shared,
    )
    _demand_countable(promised, outside)
    for found, where in ((outside, "host"), (inside, "container")):
        if _has_root(host if found is outside else inner, found.ifindex):
            raise CniError(
                INTERFACE_EXISTS,
                f"{where} {found.name} has a root qdisc of somebody else's already",
                "another plugin of the chain (bandwidth?) limits it: leave one of them out",
            )
    undo.push("forget the attachment", _forget, config, promised)
    record.write(
        config.state_dir,
        config.name,
        request.container_id,
        request.ifname,
        {**plan_fields.to_fields(promised), **accepted.fields(config)},
    )
    undo.push("take the queues off", _restore, promised, (outside, inside), request.netns)
    host.execute(_messages(outside.ifindex, promised.ingress, promised.egress))
    inner.execute(_messages(inside.ifindex, promised.egress, promised.ingress))
    if promised.host_egress is not None:
        undo.push("enforce nothing on the host", on_host.undo, promised)
        on_host.make(host, promised)
        if prev_result.interfaces:  # none before 0.3.0
            # At the end, for addresses name the others by their indexes.
            prev_result.interfaces.extend(on_host.told(promised))
    if promised.is_held and (promised.host_egress is None or promised.counted or promised.shared):
        undo.push("limit it no more", backstop.forget_again, promised)
        if backstop.ensure(promised, config.state_dir, host, is_new=True):
            undo.push("remove the limits", backstop.remove_again, promised, config.state_dir)
    return prev_result


def _demand_countable(promised: Plan, outside: Link) -> None:
    """Refuse limits that no rule could hold. Raises: CniError 2."""
    counted = promised.counted
    families = backstop.families_at(outside)
    if (counted is None and promised.shared is None) or families == limit_tables.ROUTED:
        return
    if not families:
        raise _refusal(
            f"{outside.name} is the port of a switch that is no bridge of the kernel's "
            f"({outside.slave_kind or 'unknown'}), where nothing counts packets, connections and what several send",
            "leave packetRate, maxConnections and shared out of bandwidth",
        )
    if counted is not None and counted.connections:
        raise _refusal(
            f"{outside.name} is the port of a bridge, where the kernel does not tell whose a "
            "connection is",
            "leave maxConnections out of bandwidth, or chain faasm after ptp",
        )


def _pair(
    request: Request, prev_result: Result, host: Netlink, inner: Netlink
) -> tuple[Link, Link]:
    """Return both ends of the pair (inside, outside). Raises: CniError 2."""
    inside = veth.find(inner, name=request.ifname)
    if inside is None:
        raise _refusal(
            f"the container has no interface {request.ifname!r}",
            "without ipam, faasm shapes what an earlier plugin of the chain has made",
        )
    if inside.kind != "veth":
        raise _refusal(
            f"the container's interface {request.ifname!r} is {inside.kind or 'no veth'}",
            "only a veth pair has an end on the host to limit what the container receives: "
            "chain faasm after bridge or ptp, or leave macvlan, ipvlan and the like unlimited",
        )
    # Without a namespace id the peer is in the container too.
    outside = veth.find_peer(host, inside) if inside.link_netnsid is not None else None
    names = [one.name for one in prev_result.interfaces]  # none before 0.3.0
    if outside is None or (names and outside.name not in names):
        raise _refusal(
            f"the other end of the container's {request.ifname!r} is not on the host",
            "prevResult must tell of both ends, and the host's be in the plugin's namespace",
        )
    return inside, outside


def _refusal(what: str, remedy: str) -> CniError:
    return CniError(UNSUPPORTED_FIELD, f"prevResult: {what}", remedy)


def _messages(
    ifindex: int, own: shaping.Shape | None, other: shaping.Shape | None
) -> list[tuple[int, int, bytes, str]]:
    """Return what shapes one end: super-packets no larger than its and its peer's rates."""
    sizes = link.set_link(
        ifindex,
        gso_max_size=shaping.gso_max_bytes(own),
        gro_max_size=shaping.gso_max_bytes(other),
    )
    return [sizes, *shaping.messages(ifindex, own)]


def _has_root(netlink: Netlink, ifindex: int) -> bool:
    """Say whether somebody has put a qdisc there; the kernel's own default has no handle."""
    root = _root(netlink, ifindex)
    return root is not None and bool(root.handle)


def _has_ours(netlink: Netlink, ifindex: int) -> bool:
    """Say whether the root qdisc is one that we would make; others' are left to them."""
    root = _root(netlink, ifindex)
    return root is not None and root.kind == "htb" and root.handle == shaping.ROOT_HANDLE


def _root(netlink: Netlink, ifindex: int) -> Qdisc | None:
    [answer] = netlink.get_tolerant([tc.get_qdisc(ifindex)])
    return None if isinstance(answer, NetlinkError) else tc_parse.parse_qdisc(answer)


def remove(host: Netlink, promised: Plan, path: str = "") -> None:
    """Take the queues off both ends, as far as they are there.

    path: of the container's namespace, where the record's is not the one to go by.
    Raises: NetlinkError; CniError when the namespace is there and cannot be entered.
    """
    outside = veth.find_outer(host, promised)
    if promised.is_held:
        backstop.forget(host, promised)
    if outside is not None:
        _unshape(host, outside.ifindex, has_queue=promised.ingress is not None)
    if promised.host_egress is not None:
        if outside is not None:
            host.execute_tolerant([tc_mirred.del_redirect(outside.ifindex)])
        egress.remove(host, promised)
    try:
        inner = netns.connect(path or promised.netns)
    except netns.NoNamespaceError:
        return  # gone, and its end with it
    with inner:
        inside = veth.find(inner, name=promised.ifname)
        if inside is not None and outside is not None and inside.link == outside.ifindex:
            _unshape(inner, inside.ifindex, has_queue=promised.egress is not None)


def remove_unrecorded(request: Request, network: str, host: Netlink, outside: Link) -> None:
    """Take all queues off a pair whose record is there and cannot be read.

    Whatever they are, they are ours: ADD refuses a pair that has others'.
    Raises: NetlinkError, CniError as `remove`.
    """
    any_shape = shaping.Shape(rate_bps=8, burst_bytes=1, leaf="", leaf_bytes=1, target_us=1)
    nothing_known = plan.Plan(
        network=network,
        container_id=request.container_id,
        ifname=request.ifname,
        netns=request.netns,
        boot_id="",
        created=0,
        data_dir="",
        host_interface=outside.name,
        host_ifindex=outside.ifindex,
        ifindex=outside.link,
        host_mac=outside.address,
        mac=b"",
        mtu=outside.mtu,
        addresses=[],
        routes=[],
        ranges=[],
        ingress=any_shape,
        egress=any_shape,
        ip_masq=False,
        dns={},
        shapes_only=True,
        host_egress=any_shape,
    )
    remove(host, nothing_known, request.netns)


def _unshape(netlink: Netlink, ifindex: int, *, has_queue: bool) -> None:
    size = shaping.MAX_GSO_BYTES
    messages = [link.set_link(ifindex, gso_max_size=size, gro_max_size=size)]
    if has_queue and _has_ours(netlink, ifindex):
        messages.append(tc.del_qdisc(ifindex))
    for answer in netlink.execute_tolerant(messages):
        if isinstance(answer, NetlinkError) and answer.errno not in _ABSENT:
            raise answer


def _forget(config: NetworkConfig, promised: Plan) -> None:
    record.remove(config.state_dir, config.name, promised.container_id, promised.ifname)


def _restore(promised: Plan, ends: tuple[Link, Link], path: str) -> None:
    """Leave the pair as it was found."""
    with netns.connect(path) as inner, Netlink() as host:
        for netlink, end, shape in (
            (host, ends[0], promised.ingress),
            (inner, ends[1], promised.egress),
        ):
            _unshape(netlink, end.ifindex, has_queue=shape is not None)
            sizes = link.set_link(
                end.ifindex, gso_max_size=end.gso_max_size, gro_max_size=end.gro_max_size
            )
            netlink.execute([sizes])


def rehearse(config: NetworkConfig, sockets: tuple[Netlink, Netlink], inner_fd: int) -> None:
    """Shape a pair between two empty namespaces, for STATUS. Raises: NetlinkError."""
    host, inner = sockets
    made = link.new_veth("faasm0", "eth0", inner_fd)
    outside = veth.new_pair(host, inner, made, "eth0")
    scope = kernel.scope(config, "", None)
    ingress, egress = plan.both_shapes(config, plan.DEFAULT_MTU, kernel.BFIFO, scope)
    host.execute(_messages(outside.ifindex, ingress, egress))
    inner.execute(_messages(outside.link, egress, ingress))
