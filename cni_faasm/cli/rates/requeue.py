"""Have the kernel limit a running container otherwise, without loss where it has a way."""

import time

from cni_faasm.attachment import plan
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.repair.mending import reshape
from cni_faasm.config import units
from cni_faasm.limits import shaping
from cni_faasm.limits.shaping import Shape
from cni_faasm.link import egress
from cni_faasm.netlink import link, tc, tc_mirred, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import backstop, limit_tables

# How long a queue that is to become shorter is waited for.
DRAIN_S = 2.0
_POLL_S = 0.002


def requeue(before: Attachment, after: Attachment, host: Netlink, inner: Netlink) -> None:
    """Have the kernel limit an attachment as its new record says. Raises: NetlinkError."""
    old, new = before.promised, after.promised
    if old is None or new is None:
        return
    had, wanted = limit_tables.bucket(old), limit_tables.bucket(new)
    has_changed = limit_tables.elements(old) != limit_tables.elements(new)
    # What passes the container's end is never to be more than the host lets through.
    is_wider = had is not None and (wanted is None or wanted.rate_Bps > had.rate_Bps)
    if has_changed and is_wider:
        backstop.ensure(new, after.state_dir, host)
    outer = new.outer_gso_bytes or shaping.MAX_GSO_BYTES
    inside = new.inner_gso_bytes or shaping.MAX_GSO_BYTES
    # Smaller packets first, so that none is larger than the queue to come.
    host.execute([link.set_link(new.host_ifindex, gso_max_size=outer, gro_max_size=inside)])
    inner.execute([link.set_link(new.ifindex, gso_max_size=inside, gro_max_size=outer)])
    for netlink, ifindex, old_shape, new_shape in (
        (host, new.host_ifindex, old.ingress, new.ingress),
        (inner, new.ifindex, old.egress, new.egress),
    ):
        if (old_shape and old_shape.to_fields()) != (new_shape and new_shape.to_fields()):
            _change_end(netlink, ifindex, old_shape, new_shape)
    _change_host(host, old, new)
    if has_changed and not is_wider:
        backstop.ensure(new, after.state_dir, host)


def _change_host(host: Netlink, old: plan.Plan, new: plan.Plan) -> None:
    """Let the host's own limit of egress follow. Raises: NetlinkError."""
    if (old.host_egress and old.host_egress.to_fields()) == (
        new.host_egress and new.host_egress.to_fields()
    ):
        return
    if new.host_egress is None:
        host.execute_tolerant([tc_mirred.del_redirect(new.host_ifindex)])
        egress.remove(host, old)
    elif old.host_egress is None:
        egress.make(host, new)
    elif _scope_of(old.host_egress) != _scope_of(new.host_egress):
        egress.renew(host, new)
    else:
        egress.change(host, new)


def _scope_of(shape: Shape | None) -> object:
    return shape and shape.scope and shape.scope.to_fields()


def _change_end(netlink: Netlink, ifindex: int, old: Shape | None, new: Shape | None) -> None:
    """Change the queues of one end, without loss where the kernel has a way."""
    if old is None:
        netlink.execute(reshape(netlink, ifindex, new, "root qdisc"))
        return
    if new is None:
        # Opened wide and empty, the queues can go without taking packets along.
        wide = Shape(
            rate_bps=units.MAX_RATE_BPS,
            burst_bytes=old.burst_bytes,
            leaf=old.leaf,
            leaf_bytes=old.leaf_bytes,
            target_us=old.target_us,
        )
        netlink.execute([shaping.class_message(ifindex, wide, replace=True)])
        _drain(netlink, ifindex, old, 0)
        netlink.execute([tc.del_qdisc(ifindex)])
        return
    if (old.default_class, old.direct_qlen, old.queue) != (
        *(new.default_class, new.direct_qlen, new.queue),
    ):
        # What HTB does with packets that no filter classifies is said when it is made.
        netlink.execute(reshape(netlink, ifindex, new, "root qdisc"))
        return
    if _scope_of(old) != _scope_of(new):
        netlink.execute(reshape(netlink, ifindex, new, "filters"))
    queue = shaping.queue_messages(ifindex, new, replace=True)
    rate = shaping.class_message(ifindex, new, replace=True)
    if new.leaf_bytes < old.leaf_bytes:
        # At the old rate it drains sooner; what does not fit into the new queue would be lost.
        _drain(netlink, ifindex, new, new.leaf_bytes)
    netlink.execute([*queue, rate])


def _drain(netlink: Netlink, ifindex: int, shape: Shape, most_bytes: int) -> None:
    """Wait until no more than so much is queued; a sender that never pauses is not waited for."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        found = tc_parse.parse_qdisc(netlink.get(tc.get_qdisc(ifindex, shape.leaf_parent)))
        if found.stats.backlog_bytes <= most_bytes:
            return
        time.sleep(_POLL_S)
