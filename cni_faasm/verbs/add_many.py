"""ADD to many new namespaces of one network: what does not depend on the container is done once.

One after the other, each ADD takes the store's lock three times, asks four tables of nftables how
they are and changes two of them. Here a batch takes the lock twice and makes one transaction per
table. The promises, their order and what a kill may leave are those of ADD.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cni_faasm.attachment import accepted
from cni_faasm.attachment.plan import Plan
from cni_faasm.attachment.undo import Undo
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import delegate
from cni_faasm.link import claims, egress, first_packet, forwarding, kernel, netns, removal, veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop, backstop_many, guard, nat
from cni_faasm.spec.protocol import Request
from cni_faasm.verbs import leasing
from cni_faasm.verbs.add import refusals

# A batch has two files open for each, of the 1,024 that a process may have.
MOST = 256


class End(NamedTuple):
    """A namespace: its descriptor, and a socket inside."""

    netns_fd: int
    inner: Netlink

    def close(self) -> None:
        """Close both."""
        self.inner.close()
        netns.close(self.netns_fd)


def is_possible(config: NetworkConfig) -> bool:
    """Say whether a network's attachments can be made many at a time.

    Not where another plugin leases, which is executed for each, nor where all want one address.
    """
    return not (config.ipam_plugin or config.prev_result or config.requested_addresses)


def add_many(
    requests: Sequence[Request], undo: Undo, warnings: list[str], ends: Sequence[End] = ()
) -> list[Plan]:
    """Attach new and empty namespaces to a network; all or none.

    requests: at most MOST, of one document for which `is_possible`, without CNI_ARGS.
    ends: their namespaces, where the caller has them open; they stay open.
    undo, warnings: as for ADD.
    Raises: CniError, which need not say whose attachment failed.
    """
    config = configuration.load(requests[0].document)
    config.accepted = accepted.text_of(requests[0].document)
    warnings.extend(config.warnings)
    own_fd = netns.open_own()
    opened: list[End] = []
    try:
        with Netlink() as host:
            if not ends:
                opened.extend(_open(request, own_fd) for request in requests)
            places = (ends or opened, own_fd)
            return _attach(requests, config, undo, host, places, warnings=warnings)
    except NetlinkError as error:
        cause = kernel.refusal(error, config)
        undo.roll_back(cause)
        raise cause from None
    except BaseException as cause:
        netns.come_back(own_fd)  # a signal may have come on the way
        undo.roll_back(cause)
        raise
    finally:
        for end in opened:
            end.close()
        netns.close(own_fd)


def _open(request: Request, own_fd: int) -> End:
    netns_fd = netns.open_container(request.netns, own_fd)
    try:
        with netns.Inside(netns_fd, own_fd):
            return End(netns_fd, Netlink())
    except BaseException:
        netns.close(netns_fd)
        raise


def _attach(
    requests: Sequence[Request],
    config: NetworkConfig,
    undo: Undo,
    host: Netlink,
    places: tuple[Sequence[End], int],
    *,
    warnings: list[str],
) -> list[Plan]:
    ends, own_fd = places
    # Last of all, when nobody's record is left that needs them.
    made: list[bool] = []
    plans: list[Plan] = []
    undo.push("remove the rules", _remove_rules, made, plans, config)
    leased, dead = leasing.lease(requests, config, host, undo, warnings)
    plans += leased
    if dead:
        warnings.extend(delegate.release_dead(requests[0], config, dead))
    # Gateways are the same for many; to ask for one takes the kernel longer with each pair.
    gateways = list(dict.fromkeys(one for promised in plans for one in promised.gateways))
    addresses = [item.address for promised in plans for item in promised.addresses]
    claims.demand(host, gateways, addresses)
    undo.push("delete the pairs", _delete_links, plans)
    for promised, end in zip(plans, ends, strict=True):
        veth.create(host, end.inner, promised, end.netns_fd)
    leasing.complete_records(config, plans)
    for promised in plans:
        if promised.host_egress is not None:
            undo.push("delete its ifb", egress.undo, promised)
            egress.make(host, promised)
        forwarding.apply(veth.outer_settings(promised, promised.host_interface))
        veth.configure_outer(host, promised)
    undo.push("take them out of the rules", _forget_rules, plans)
    made.append(guard.ensure(plans[0], config.state_dir, others=plans[1:]))
    was_missing = backstop_many.ensure(plans, config.state_dir, host)
    made.append(bool(was_missing))
    if was_missing is None:
        warnings.append(backstop.WARNING)
    for promised, end in zip(plans, ends, strict=True):
        _configure_inner(promised, end, own_fd)
    nat.ensure(plans[0])
    lengths = {len(item.address) for item in plans[0].addresses}
    missing = {length for length in lengths if not forwarding.is_on(length)}
    if missing:
        forwarding.switch_on(missing)
    warnings.extend(refusals(plans[0], host))
    for promised, end in zip(plans, ends, strict=True):
        first_packet.wait(host, end.inner, promised, last=veth.host_neighs(promised))
    return plans


def _configure_inner(promised: Plan, end: End, own_fd: int) -> None:
    if any(len(item.address) == 16 for item in promised.addresses):
        with netns.Inside(end.netns_fd, own_fd):
            forwarding.apply(veth.inner_settings(promised))
    veth.configure_inner(end.inner, promised)


def _delete_links(plans: Sequence[Plan]) -> None:
    with Netlink() as host:
        found = [end for one in plans if (end := veth.find_outer(host, one)) is not None]
        macs = {end.address for end in found}
        removal.delete_all(host, found, lambda one: one.kind == "veth" and one.address in macs)


def _forget_rules(plans: Sequence[Plan]) -> None:
    with Netlink() as host:
        guard.forget(host, *plans)
        backstop.forget(host, *plans)


def _remove_rules(made: Sequence[bool], plans: Sequence[Plan], config: NetworkConfig) -> None:
    """Take away the tables that were made here, unless somebody else needs them by now."""
    for was_made, remove in zip(made, (guard.remove_again, backstop.remove_again), strict=False):
        if was_made:
            remove(plans[0], config.state_dir)
