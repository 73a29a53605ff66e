"""DEL: take an attachment away, however often and in whatever state it is called.

Nothing stops it but an identity it cannot read: the configuration may have changed or be
broken, the namespace gone, the record or the lease missing. Rules stay (they are the
network's), then the link goes, and the address is released last.
"""

from collections.abc import Callable

from cni_faasm.attachment import files, plan, plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config import loading as configuration
from cni_faasm.config import policy
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import delegate
from cni_faasm.ipam.store import Store
from cni_faasm.link import egress, kernel, netns, removal, veth
from cni_faasm.netlink import dumps
from cni_faasm.netlink.link import Link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop, guard, ports, together
from cni_faasm.spec.errors import TRY_AGAIN, CniError
from cni_faasm.spec.protocol import RATE_ARGS, Request
from cni_faasm.verbs import chained

_ATTEMPTS = 8
# Of so many DELs one sweeps after the others: by the last byte of a random MAC address.
SWEEPS = 64


def delete(request: Request, warnings: list[str], *, detach: bool = True) -> None:
    """Detach a container from the network; what is already gone is success.

    detach: let a child wait for the kernel, so that the call returns 20 ms sooner.
    Raises: CniError when the link or the address could not be removed.
    """
    config = configuration.load_tolerant(request.document)
    names = [config.name] if config.name else []
    if not names:
        names = record.find_anywhere(config.state_dir, request.container_id, request.ifname)
        warnings.append(
            "DEL: the configuration names no valid network; "
            + (f"the records name {', '.join(names)}" if names else "no record names one either")
        )
    try:
        with Netlink() as host:
            for name in names or [""]:
                _detach(request, config, name, host, detach=detach, warnings=warnings)
    except NetlinkError as error:
        raise kernel.refusal(error) from None


def _detach(
    request: Request,
    config: NetworkConfig,
    name: str,
    host: Netlink,
    *,
    detach: bool,
    warnings: list[str],
) -> None:
    for _ in range(_ATTEMPTS):
        promised = load_record(config, name, request.container_id, request.ifname, warnings)
        if promised is not None and promised.shapes_only:
            chained.remove(host, promised, request.netns)
            record.remove(config.state_dir, name, request.container_id, request.ifname, warnings)
            return
        outer = _find_outer(request, config, name, promised, host)
        if promised is None and config.shapes_only and outer is None:
            # The pair and its lease are an earlier plugin's, but a record that cannot be
            # read, or is half written, tells that there was an ADD.
            identity = (request.container_id, request.ifname)
            other = _through_namespace(request, host)
            if other is not None and record.exists(config.state_dir, name, *identity):
                chained.remove_unrecorded(request, name, host, other)
            _remove_unrecorded(request, config, name, None, host)
            record.remove(config.state_dir, name, *identity, warnings)
            return
        before, after = _forgetting(request, config, name, promised, outer), _sweeping(promised)
        if outer is not None and detach:
            try:
                Netlink.kept_open = []  # for the child, which waits for the kernel anyway
                _unpublish(promised)
                removal.delete_detached(host, outer.ifindex, before, after)
            finally:
                Netlink.close_kept()
        else:
            _unpublish(promised)
            _forget_here(before, promised, warnings)
            if outer is not None:
                removal.delete(host, outer.ifindex)
            after()
        if promised is not None and promised.host_egress is not None:
            egress.remove(host, promised, detach=detach)
        if promised is None and name:
            _remove_unrecorded(request, config, name, outer, host)
        if not name or release(
            request, config, name, (request.container_id, request.ifname), promised, doubts=warnings
        ):
            return
    raise CniError(
        TRY_AGAIN,
        f"container {request.container_id!r} is being attached to network {name!r} again and again",
        "call DEL when the last ADD has returned",
    )


def _unpublish(promised: Plan | None) -> None:
    """Let no port lead to the container any more.

    What fails here keeps the address, or the ports would lead to whoever gets that.
    """
    if promised is not None and promised.ports:
        ports.forget(promised)


def _forgetting(
    request: Request,
    config: NetworkConfig,
    name: str,
    promised: Plan | None,
    outer: Link | None,
) -> Callable[[], None]:
    """Return what lets guards and limits forget an attachment, before its link goes.

    In a child, for the kernel keeps who has taken something out of nf_tables for 14 to 22 ms
    when the socket is closed. What it could not take out, the next ADD of that name does.
    """
    varies = names_rates(request)

    def forget_guarded(plans: list[Plan]) -> None:
        with Netlink() as host:
            guard.forget(host, *plans)

    def forget() -> None:
        if promised is not None and promised.addresses:
            together.act(config.state_dir, promised, forget_guarded)
        if promised is not None and promised.is_held:
            # A count goes with whom it has counted.
            counts = promised.counted is not None and bool(promised.counted.connections)
            with Netlink() as host:
                backstop.forget(host, promised, leave=not varies and not counts)
        elif promised is None and outer is not None and name:
            backstop.take_out(name, [outer.name])

    return forget


def _forget_here(forget: Callable[[], None], promised: Plan | None, warnings: list[str]) -> None:
    """Forget without a child; a DEL goes on where that fails."""
    try:
        forget()
    except (NetlinkError, CniError, OSError) as error:
        name = "the container" if promised is None else promised.host_interface
        warnings.append(f"DEL: guard and limits remember {name}: {error}")


def names_rates(request: Request) -> bool:
    """Say whether the runtime gives rates for this container, so that the next has others."""
    runtime = request.document.get("runtimeConfig")
    return bool(isinstance(runtime, dict) and runtime.get("bandwidth")) or not (
        RATE_ARGS.keys().isdisjoint(request.args)
    )


def _sweeping(promised: Plan | None) -> Callable[[], None]:
    """Return what a DEL of many does after the others."""

    def sweep() -> None:
        if promised is None or promised.guard is None or not promised.guard.anti_spoof:
            return
        if promised.host_mac[5] % SWEEPS == 0:
            with Netlink() as host:
                guard.sweep(promised.network, host)

    return sweep


def _remove_unrecorded(
    request: Request,
    config: NetworkConfig,
    name: str,
    outer: Link | None,
    host: Netlink,
) -> None:
    """Take away what of an attachment is not its pair, by prevResult and the pair's name."""
    told = [] if config.prev_result is None else config.prev_result.interfaces
    names = {one.name for one in told if not one.sandbox and 0 < len(one.name.encode()) <= 15}
    if outer is None and not names:
        return
    if outer is not None:
        names.add(egress.device_name(outer.name))
    alias = plan.alias(name, request.container_id, request.ifname)
    egress.remove_unrecorded(host, name, alias, names)


def load_record(
    config: NetworkConfig,
    name: str,
    container_id: str,
    ifname: str,
    doubts: list[str] | None = None,
    *,
    known: Plan | None = None,
) -> Plan | None:
    """Return what ADD promised, or None when no readable record is there.

    doubts: receives why there is none to be believed, as others may write in its folder: it
    names a link and a plugin. None refuses the folder. known: as plan_fields.load.
    """
    if not name:
        return None
    try:
        return plan_fields.load(config.state_dir, name, container_id, ifname, known)
    except files.UntrustedFolderError as error:
        if doubts is None:
            raise
        text = f"{error.msg}; {error.details}"
        if text not in doubts:
            doubts.append(text)
        return None


def _find_outer(
    request: Request,
    config: NetworkConfig,
    name: str,
    promised: Plan | None,
    host: Netlink,
) -> Link | None:
    """Find the host's end by the record, else by the namespace, else by prevResult.

    Names and indexes are used again by the kernel, so each find is verified by the alias
    or the MAC address before it is believed.
    """
    alias = plan.alias(name, request.container_id, request.ifname)
    if promised is not None:
        found = veth.find_outer(host, promised)
        if found is not None:
            return found
    found = _through_namespace(request, host)
    if found is not None and (
        _is_marked(found, name, alias) or _is_leased_here(request, config, name)
    ):
        return found
    if config.prev_result is not None:
        for interface in config.prev_result.interfaces:
            if interface.sandbox or not interface.name or len(interface.name) > 15:
                continue
            found = veth.find(host, name=interface.name)
            if veth.owned(found, alias, b""):
                return found
    return None


def _is_marked(found: Link, name: str, alias: str) -> bool:
    """Say whether a pair in the container is ours, though no record tells.

    An ADD that was killed before it set the alias has made the pair in its network's group; a
    pair with neither is another plugin's.
    """
    if found.alias:
        return found.alias == alias
    if not name:
        return found.group & policy.GROUP_MASK == policy.GROUP_BASE
    return found.group == policy.group(name)


def _is_leased_here(request: Request, config: NetworkConfig, name: str) -> bool:
    """Say whether the container's interface has an address that the network leased to it.

    So it is with those that ptp or bridge attached with host-local, before their list was
    translated to ours; not with a pair for whose name an ADD was refused. A network without
    ranges leases nothing: there the pair and its lease are an earlier plugin's of the list.
    """
    if not name or not config.range_sets:
        return False
    try:
        inner = netns.connect(request.netns)
    except netns.NoNamespaceError:
        return False
    with inner:
        found = veth.find(inner, name=request.ifname)
        addresses = [] if found is None else dumps.addrs(inner, found.ifindex)
    with Store(config.data_dir, name, create=False, lock=False) as store:
        owners = [store.owner(one.address) for one in addresses]
    identities = [(request.container_id, ifname) for ifname in (request.ifname, "")]
    return any(owner in identities for owner in owners)


def _through_namespace(request: Request, host: Netlink) -> Link | None:
    """Return the host's end of the pair whose inner end has the attachment's name."""
    if not request.netns:
        return None
    try:
        inner = netns.connect(request.netns)
    except netns.NoNamespaceError:
        return None  # gone, or no namespace: then the pair is gone with it
    with inner:
        found = veth.find(inner, name=request.ifname)
    return None if found is None else veth.find_peer(host, found)


def release(
    request: Request,
    config: NetworkConfig,
    name: str,
    identity: tuple[str, str],
    promised: Plan | None,
    *,
    doubts: list[str] | None = None,
) -> bool:
    """Free the addresses of an attachment, then forget it: a lease is never without record.

    identity: (container id, ifname). doubts: receives which folders are not to be trusted, which is
    no reason to stop; None refuses them.
    Returns: False, and nothing is done, when the record is not the one that the link was
    looked for by: an ADD is at work, and has made another link or has only now made it.
    """
    container_id, ifname = identity
    data_dir = config.data_dir if promised is None else promised.data_dir
    plugin = config.ipam_plugin if promised is None else promised.ipam_plugin
    if plugin:
        delegate.release(request, config, name, identity, promised)
    timeout_ms = config.lock_timeout_ms
    with Store(data_dir, name, timeout_ms, create=False, doubts=doubts) as store:
        current = load_record(config, name, container_id, ifname, doubts, known=promised)
        if current is not None and (
            promised is None
            or current.host_mac != promised.host_mac
            or current.host_ifindex != promised.host_ifindex
        ):
            return False
        if plugin:
            addresses = []
        elif promised is not None:
            addresses = [item.address for item in promised.addresses]
        elif config.prev_result is not None and config.prev_result.ips:
            addresses = [item.address for item in config.prev_result.ips]
        else:
            addresses = []
        released = store.release(addresses, container_id, ifname)
        if (
            promised is None
            and not plugin
            and not released
            and not _was_removed(config, name, identity, doubts)
        ):
            # Attached by host-local, or the record is lost: look through all leases.
            found = store.find(container_id, ifname)
            store.release(found, container_id, ifname)
        record.remove(config.state_dir, name, container_id, ifname, doubts)
    return True


def _was_removed(
    config: NetworkConfig, name: str, identity: tuple[str, str], doubts: list[str] | None
) -> bool:
    try:
        return record.was_removed(config.state_dir, name, *identity)
    except files.UntrustedFolderError:
        if doubts is None:
            raise
        return False
