"""Change a running container's limits in place, and remember the configuration's.

The new limits go into the attachment record, so that CHECK and repair hold them for what
was promised; under the key "configured" the record keeps those that ADD had put there.
"""

import json
import time
from typing import Annotated, Any

import typer

from cni_faasm import accepted, egress, kernel, plan, plan_fields, record, shaping, units
from cni_faasm import config as configuration
from cni_faasm.cli import attachments, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.mending import reshape
from cni_faasm.cli.status import complete_containers
from cni_faasm.config_rates import Limit
from cni_faasm.ipam import reclaim
from cni_faasm.ipam.store import Store
from cni_faasm.netlink import link, tc, tc_mirred, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.shaping import Shape
from cni_faasm.shaping_scope import Scope

CONFIGURED = "configured"
DIRECTIONS = ("ingress", "egress")
# How long a queue that is to become shorter is waited for.
DRAIN_S = 2.0
_POLL_S = 0.002


def set_rate(
    container: Annotated[
        str,
        typer.Argument(
            metavar="CONTAINER",
            help="Id of a container, its beginning, or the name of its interface on the host.",
            autocompletion=complete_containers,
        ),
    ],
    ingress: Annotated[
        str, typer.Option("--ingress", metavar="RATE", help="Limit of what it receives; 0: none.")
    ] = "",
    egress: Annotated[
        str, typer.Option("--egress", metavar="RATE", help="Limit of what it sends; 0: none.")
    ] = "",
    burst: Annotated[
        str,
        typer.Option("--burst", metavar="BITS", help="Burst of the directions given, or of both."),
    ] = "",
    reset: Annotated[
        bool, typer.Option("--reset", help="Go back to what the configuration says.")
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Change a running container's limits, while it sends and receives.

    Rates are bits/s with a unit: 10M, 1.5G, 256k. The change holds until the container
    goes; check and repair know of it.

    Examples:

        cni-faasm set-rate faasm3 --ingress 100M --egress 10M

        cni-faasm set-rate 3f2a --egress 256k --burst 64k

        cni-faasm set-rate faasm3 --reset
    """
    if reset == bool(ingress or egress or burst):
        raise typer.BadParameter("give --reset, or any of --ingress, --egress, --burst")
    folders = networks.state_dirs(networks.installed(conf_dir), state_dir)
    known = attachments.matching(attachments.every(folders), container)
    wanted = None if reset else _wanted(ingress, egress, burst)
    changed = [change(one, wanted) for one in known]
    if as_json:
        output.print_json({"attachments": [_document(one) for one in changed]})
        return
    for one in changed:
        for direction in DIRECTIONS:
            shape: Shape | None = getattr(one.promised, direction)
            limit = output.exact_rate(shape.rate_bps if shape else None)
            extra = f", burst {shape.burst_bytes} bytes" if shape else ""
            typer.echo(f"{one.title}: {direction} {limit}{extra}")


Wanted = dict[str, tuple[int | None, int | None]]


def _wanted(ingress: str, egress: str, burst: str) -> Wanted:
    """Return (rate or None to keep it, burst or None to compute it) by direction."""
    burst_bits = None
    if burst:
        try:
            burst_bits = units.parse_burst(_number(burst))
        except (ValueError, OverflowError):
            raise typer.BadParameter(f"--burst {burst}: allowed is {units.ALLOWED_BURST}") from None
    wanted: Wanted = {}
    for direction, text in (("ingress", ingress), ("egress", egress)):
        if not text:
            continue
        try:
            wanted[direction] = units.parse_rate(_number(text)), burst_bits
        except (ValueError, OverflowError):
            raise typer.BadParameter(
                f"--{direction} {text}: allowed is {units.ALLOWED_RATE}, or 0 for no limit"
            ) from None
    return wanted or dict.fromkeys(DIRECTIONS, (None, burst_bits))


def _number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def change(one: Attachment, wanted: Wanted | None) -> Attachment:
    """Give an attachment other limits. wanted: None for the configuration's.

    The record first: a call that is killed leaves a drift, which repair puts right.
    Returns: the attachment with its new promise. Raises: ToolError, CniError.
    """
    promised = one.promised
    with attachments.opened(one) as inner, Netlink() as host:
        if promised is None:
            raise ToolError(f"{one.title}: its record cannot be read")
        # DEL removes the record under the same lock: it must not come back after that.
        with Store(promised.data_dir, promised.network, create=False):
            before = _reload(one)
            after = _with_limits(before, wanted)
            _write(after)
        try:
            apply(before, after, host, inner)
        except NetlinkError as error:
            with Store(promised.data_dir, promised.network, create=False):
                _reload(one)
                _write(before)
            if attachments.drifts_of(before, host, inner):
                raise ToolError(
                    f"{one.title}: it differs from what ADD promised, so its limits are not changed",
                    f"cni-faasm repair {one.container_id} puts it right; then try again",
                ) from None
            raise kernel.refusal(error) from None
    return after


def _reload(one: Attachment) -> Attachment:
    now = attachments.load(one.state_dir, one.network, one.container_id, one.ifname)
    if now.promised is None:
        raise ToolError(f"{one.title}: it was detached this moment")
    return now


def _write(one: Attachment) -> None:
    record.write(one.state_dir, one.network, one.container_id, one.ifname, one.fields)


def _with_limits(one: Attachment, wanted: Wanted | None) -> Attachment:
    """Return an attachment whose record has other limits."""
    promised = one.promised
    fields: dict[str, Any] = dict(one.fields)
    if promised is None:
        return one
    if wanted is None:
        configured = fields.pop(CONFIGURED, None)
        if isinstance(configured, dict):
            fields |= {key: configured.get(key) for key in DIRECTIONS}
            _enforce(fields, promised.mtu, _leaf(one))
    else:
        fields.setdefault(CONFIGURED, {key: fields.get(key) for key in DIRECTIONS})
        leaf = _leaf(one)
        for direction, (rate_bps, burst_bits) in wanted.items():
            shape: Shape | None = getattr(promised, direction)
            configured = fields[CONFIGURED][direction]
            latency_ms = _latency(configured and Shape.from_fields(configured), promised.mtu)
            fresh = _shape(shape, (rate_bps, burst_bits), latency_ms, promised.mtu, leaf)
            if fresh is not None:
                fresh.scope = shape.scope if shape else _scope(one, direction)
            fields[direction] = fresh and fresh.to_fields()
        _enforce(fields, promised.mtu, leaf)
        if {key: fields[key] for key in DIRECTIONS} == fields[CONFIGURED]:
            del fields[CONFIGURED]
    return one._replace(fields=fields, promised=plan_fields.from_fields(fields))


def _enforce(fields: dict[str, Any], mtu: int, leaf: str) -> None:
    """Let what the host enforces of egress follow the limit, where the host does."""
    config = _config(fields)
    if not config.enforce_egress:
        return
    fields.pop("hostEgress", None)
    if fields["egress"]:
        inner = Shape.from_fields(fields["egress"])
        limit = Limit(shaping.on_host_bps(inner.rate_bps), inner.burst_bytes * 8)
        shape = shaping.shape(limit, None, mtu, leaf, inner.scope)
        if shape is not None:
            shape.leaf_bytes = inner.leaf_bytes
            fields["hostEgress"] = shape.to_fields()


def _config(fields: dict[str, Any]) -> configuration.NetworkConfig:
    text = fields.get(accepted.KEY)
    return configuration.load_tolerant(json.loads(text) if isinstance(text, str) and text else {})


def _scope(one: Attachment, direction: str) -> Scope | None:
    """Return what the limit of a direction that had none holds for: as ADD was told."""
    config = _config(one.fields)
    marker = reclaim.read_marker(one.state_dir, one.network)
    scope = kernel.scope(config, record.boot_id(), marker)
    return scope and scope.seen_from(host=direction == "ingress")


def _latency(shape: Shape | None, mtu: int) -> int | None:
    """Return the latency that a shape was configured with; None for the usual one."""
    if shape is None:
        return None
    usual = shaping.shape(Limit(shape.rate_bps), None, mtu, shape.leaf)
    if usual is None or usual.leaf_bytes == shape.leaf_bytes:
        return None
    return max(1, round(shape.leaf_bytes * 1000 / max(shape.rate_Bps, 1)))


def _shape(
    shape: Shape | None,
    wanted: tuple[int | None, int | None],
    latency_ms: int | None,
    mtu: int,
    leaf: str,
) -> Shape | None:
    """Work out a direction's new shape.

    wanted: rate (None keeps it, 0 is no limit) and burst (None computes it).
    """
    rate_bps, burst_bits = wanted
    if rate_bps is None:
        if shape is None:
            return None
        rate_bps = shape.rate_bps
    if burst_bits is not None and rate_bps:
        burst_bits = min(burst_bits, units.max_burst_bits(rate_bps))
    return shaping.shape(Limit(rate_bps or None, burst_bits), latency_ms, mtu, leaf)


def _leaf(one: Attachment) -> str:
    """Return the leaf queue to use: that of the attachment, else what the kernel offers."""
    promised = one.promised
    for shape in (promised.ingress, promised.egress) if promised else ():
        if shape is not None:
            return shape.leaf
    marker = reclaim.read_marker(one.state_dir, one.network)
    return kernel.leaf(one.state_dir, one.network, record.boot_id(), marker)


def apply(before: Attachment, after: Attachment, host: Netlink, inner: Netlink) -> None:
    """Have the kernel limit an attachment as its new record says. Raises: NetlinkError."""
    old, new = before.promised, after.promised
    if old is None or new is None:
        return
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
    else:
        egress.change(host, new)


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
        _drain(netlink, ifindex, 0)
        netlink.execute([tc.del_qdisc(ifindex)])
        return
    leaf = shaping.leaf_message(ifindex, new, replace=True)
    rate = shaping.class_message(ifindex, new, replace=True)
    if new.leaf_bytes < old.leaf_bytes:
        # At the old rate it drains sooner; what does not fit into the new queue would be lost.
        _drain(netlink, ifindex, new.leaf_bytes)
    netlink.execute([leaf, rate])


def _drain(netlink: Netlink, ifindex: int, most_bytes: int) -> None:
    """Wait until no more than so much is queued; a sender that never pauses is not waited for."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        body = netlink.get(tc.get_class(ifindex, shaping.CLASS_ID))
        found = tc_parse.parse_class(body)
        if found is None or found.stats.backlog_bytes <= most_bytes:
            return
        time.sleep(_POLL_S)


def _document(one: Attachment) -> dict[str, Any]:
    promised = one.promised
    sides = {
        direction: getattr(promised, direction) and getattr(promised, direction).to_fields()
        for direction in DIRECTIONS
    }
    return {
        "container": one.container_id,
        "ifname": one.ifname,
        "network": one.network,
        "changed": CONFIGURED in one.fields,
        **sides,
    }
