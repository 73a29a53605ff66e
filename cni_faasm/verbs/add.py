"""ADD: give a container its shaped network (CNI specification, section "ADD")."""

from cni_faasm.attachment import accepted
from cni_faasm.attachment.plan import Plan
from cni_faasm.attachment.undo import Undo
from cni_faasm.config import args_rates
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import delegate
from cni_faasm.link import claims, egress, first_packet, forwarding, kernel, netns, removal, veth
from cni_faasm.netlink import link_conf
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop, firewall, guard, guard_several, nat, ports, ports_held
from cni_faasm.spec import inet
from cni_faasm.spec.errors import (
    INTERFACE_EXISTS,
    UNSUPPORTED_FIELD,
    CniError,
)
from cni_faasm.spec.protocol import RATE_ARGS, Request
from cni_faasm.spec.results import Interface, IPConfig, Result
from cni_faasm.verbs import chained, leasing


def add(request: Request, undo: Undo, warnings: list[str]) -> Result:
    """Attach a container to the network; all or nothing.

    undo: receives a step for everything done; on failure the steps have been run. The
    caller drops them once the runtime has the result, or runs them when it cannot.
    warnings: receives what the operator should know though nothing failed.
    Returns: what has been made.
    Raises: CniError.
    """
    remarks: list[str] = []
    if not RATE_ARGS.keys().isdisjoint(request.args):
        request.document = args_rates.merge(request.document, request.args, remarks)
    config = configuration.load(request.document, request.args)
    config.warnings += remarks
    config.accepted = accepted.text_of(request.document)
    config.called = accepted.name_in(request.args)
    warnings.extend(config.warnings)
    if config.prev_result is not None and not config.shapes_only:
        raise CniError(
            UNSUPPORTED_FIELD,
            "prevResult: another plugin has attached the container before this one",
            "with ipam, faasm makes the container's interface itself: put it first in the "
            "conflist, or leave ipam out and it only limits what the other has made",
        )
    if config.ipam_plugin:
        delegate.demand_path(request)
    own_fd = netns.open_own()
    netns_fd = -1
    try:
        netns_fd = netns.open_container(request.netns, own_fd)
        with Netlink() as host:
            with netns.Inside(netns_fd, own_fd):
                inner = Netlink()
            with inner:
                if config.prev_result is not None:
                    made = chained.add(request, config, config.prev_result, undo, (host, inner))
                    warnings.extend(config.warnings)
                    return made
                sockets, namespaces = (host, inner), (netns_fd, own_fd)
                return _attach(request, config, undo, sockets, namespaces, warnings=warnings)
    except NetlinkError as error:
        cause = kernel.refusal(error, config)
        undo.roll_back(cause)
        raise cause from None
    except BaseException as cause:
        if not isinstance(cause, CniError):
            netns.come_back(own_fd)  # a signal may have come on the way
        undo.roll_back(cause)
        raise
    finally:
        netns.close(netns_fd, own_fd)


def _attach(
    request: Request,
    config: NetworkConfig,
    undo: Undo,
    sockets: tuple[Netlink, Netlink],
    namespaces: tuple[int, int],
    *,
    warnings: list[str],
) -> Result:
    host, inner = sockets
    if veth.find(inner, name=request.ifname) is not None:
        raise CniError(
            INTERFACE_EXISTS,
            f"CNI_IFNAME: the container already has an interface {request.ifname!r}",
            "DEL the attachment that made it, or ask for another name",
        )
    [promised], dead = leasing.lease([request], config, host, undo, warnings)
    if config.ipam_plugin or dead:
        warnings.extend(delegate.release_dead(request, config, dead))
        if config.ipam_plugin:
            undo.push("have the IPAM plugin release", delegate.give_up, request, config)
            delegate.lease(request, config, promised, warnings)
    _make(config, promised, undo, sockets, namespaces, warnings=warnings)
    warnings.extend(refusals(promised, host))
    first_packet.wait(host, inner, promised, last=veth.host_neighs(promised))
    return result_of(promised)


def _make(
    config: NetworkConfig,
    promised: Plan,
    undo: Undo,
    sockets: tuple[Netlink, Netlink],
    namespaces: tuple[int, int],
    *,
    warnings: list[str],
) -> None:
    host, inner = sockets
    netns_fd, own_fd = namespaces
    lengths = {len(item.address) for item in promised.addresses}
    claims.demand_free(host, promised)
    undo.push("delete the pair", _delete_link, promised)
    made = veth.create(host, inner, promised, netns_fd)
    leasing.complete_records(config, [promised])
    if promised.host_egress is not None:
        # After the record knows the pair's name: the ifb is found by that and nothing else.
        undo.push("delete its ifb", egress.undo, promised)
        egress.make(host, promised)
    settings = veth.outer_settings(promised, promised.host_interface)
    forwarding.apply(settings, link_conf.settings(made))
    if 16 in lengths:
        with netns.Inside(netns_fd, own_fd):
            forwarding.apply(veth.inner_settings(promised))
    undo.push("take it out of the guard", guard.forget_again, promised)

    def protect() -> None:
        if guard.ensure(promised, config.state_dir):
            undo.push("remove the guard", guard.remove_again, promised, config.state_dir)
        guard_several.let_several(promised, host, inner)
        _hold(config, promised, undo, host, warnings)

    veth.configure(host, inner, promised, protect)
    nat.ensure(promised)
    if promised.ports:
        ports_held.demand_free(promised.ports)
        undo.push("publish its ports no more", ports.forget_again, promised)
        if ports.ensure(promised, config.state_dir):
            undo.push("remove the table of ports", ports.remove_again, promised, config.state_dir)
    missing = {length for length in lengths if not forwarding.is_on(length)}
    if missing:
        forwarding.switch_on(missing)


def _hold(
    config: NetworkConfig,
    promised: Plan,
    undo: Undo,
    host: Netlink,
    warnings: list[str],
) -> None:
    """Hold on the host what the container sends to its limit, where it has one."""
    if promised.is_held:
        undo.push("limit it no more", backstop.forget_again, promised)
    was_missing = backstop.ensure(promised, config.state_dir, host, is_new=True)
    if was_missing:
        undo.push("remove the limits", backstop.remove_again, promised, config.state_dir)
    if was_missing is None:
        warnings.append(backstop.WARNING)


def refusals(promised: Plan, host: Netlink) -> list[str]:
    """Return what the operator should know of a firewall that cuts the container off."""
    senders = firewall.Senders(
        promised.network,
        promised.ranges or [(one.address, len(one.address) * 8) for one in promised.addresses],
        promised.host_interface,
        isolated=not promised.ranges or (promised.guard is not None and promised.guard.isolated),
    )
    try:
        found = firewall.refusals(host, senders, all_chains=False)
    except NetlinkError:
        return []  # whatever cannot be read: the container is attached
    if not found:
        return []
    cut_off = firewall.error(found, senders)
    return [f"{cut_off.msg}: {cut_off.details}"]


def _delete_link(promised: Plan) -> None:
    with Netlink() as host:
        outer = veth.find_outer(host, promised)
        if outer is not None:
            removal.delete(host, outer.ifindex)


def result_of(promised: Plan) -> Result:
    """Return the CNI result that describes an attachment.

    The pair's ends come first, whatever else is made: addresses name the second by its index.
    """
    more = []
    if promised.host_egress is not None:
        more = egress.told(promised)
    return Result(
        interfaces=[
            Interface(
                name=promised.host_interface,
                mac=inet.mac_text(promised.host_mac),
                sandbox="",
                mtu=promised.mtu,
            ),
            Interface(
                name=promised.ifname,
                mac=inet.mac_text(promised.mac),
                sandbox=promised.netns,
                mtu=promised.mtu,
            ),
            *more,
        ],
        ips=[
            IPConfig(
                address=item.address,
                prefix_len=item.prefix_len,
                gateway=item.gateway,
                interface=1,
            )
            for item in promised.addresses
        ],
        routes=promised.result_routes(),
        dns=promised.dns,
    )
