"""Give an attachment other limits: first in its record, then in the kernel.

CHECK and repair hold the new limits for what was promised. After set-rate the record keeps
those that it had before under the key "configured".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cni_faasm.attachment import accepted, plan, plan_fields, record
from cni_faasm.cli import attachments, filed
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import APPLIED, COUNTED, DIRECTIONS, SHARED, Filed, queue_of
from cni_faasm.cli.rates.requeue import requeue
from cni_faasm.config import loading as configuration
from cni_faasm.config import units
from cni_faasm.config.counted import Counted, Packets
from cni_faasm.config.rates import Limit
from cni_faasm.ipam import reclaim
from cni_faasm.ipam.store import Store
from cni_faasm.limits import shaping
from cni_faasm.limits.shaping import Shape
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.link import kernel
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

CONFIGURED = "configured"
SHAPES = (*DIRECTIONS, "hostEgress", COUNTED, SHARED)
KEPT = (*DIRECTIONS, COUNTED, SHARED)  # of before set-rate

# By direction: rate or None to keep it, burst or None to compute it.
Wanted = dict[str, tuple[int | None, int | None]]
# Packets/s by direction, and "connections"; 0 for no limit.
Counts = dict[str, int]


class Changed(NamedTuple):
    """An attachment with its new promise, and which directions are not as before."""

    attachment: Attachment
    directions: list[str]


def change(one: Attachment, decide: Callable[[Attachment], Attachment]) -> Changed:
    """Give an attachment other limits.

    The record first: a call that is killed leaves a drift, which repair puts right.
    decide: returns an attachment, as its record is under the lock, with its new limits.
    Raises: ToolError, CniError.
    """
    promised = one.promised
    with attachments.opened(one) as inner, Netlink() as host:
        if promised is None:
            raise ToolError(f"{one.called}: its record cannot be read")
        # DEL removes the record under the same lock: it must not come back after that.
        with Store(promised.data_dir, promised.network, create=False):
            before = _reload(one)
            after = decide(before)
            if after.fields == before.fields:
                return Changed(after, [])
            _write(after)
        try:
            requeue(before, after, host, inner)
        except NetlinkError as error:
            with Store(promised.data_dir, promised.network, create=False):
                _reload(one)
                _write(before)
            if attachments.drifts_of(before, host, inner):
                raise ToolError(
                    f"{one.called}: it differs from what ADD promised, so its limits are not changed",
                    f"cni-faasm repair {one.container_id} puts it right; then try again",
                ) from None
            raise kernel.refusal(error) from None
    names = [
        "egress" if name == "hostEgress" else name
        for name in SHAPES
        if before.fields.get(name) != after.fields.get(name)
    ]
    return Changed(after, list(dict.fromkeys(names)))


def _reload(one: Attachment) -> Attachment:
    now = attachments.load(one.state_dir, one.network, one.container_id, one.ifname)
    if now.promised is None:
        raise ToolError(f"{one.called}: it was detached this moment")
    return now


def _write(one: Attachment) -> None:
    record.write(one.state_dir, one.network, one.container_id, one.ifname, one.fields)


def as_wanted(one: Attachment, wanted: Wanted) -> Attachment:
    """Return an attachment whose record has the limits that somebody asked for."""
    promised = one.promised
    if promised is None:
        return one
    _demand_limit(one, promised, wanted)
    fields: dict[str, Any] = dict(one.fields)
    keep(fields)
    queue = queue_of(one)
    for direction, (rate_bps, burst_bits) in wanted.items():
        shape: Shape | None = getattr(promised, direction)
        configured = fields[CONFIGURED][direction]
        latency_ms = _latency(configured and Shape.from_fields(configured), promised.mtu)
        fresh = _shape(shape, (rate_bps, burst_bits), latency_ms, promised.mtu, queue)
        if fresh is not None:
            fresh.scope = shape.scope if shape else _scope(one, direction)
        fields[direction] = fresh and fresh.to_fields()
    if fields["egress"] != one.fields.get("egress"):
        _enforce(fields, promised.mtu, queue)
    return with_fields(one, unless_as_before(fields))


def as_counted(one: Attachment, wanted: Counts) -> Attachment:
    """Return an attachment whose record has other limits of packets and connections."""
    promised = one.promised
    if promised is None:
        return one
    fields: dict[str, Any] = dict(one.fields)
    keep(fields)
    counted = promised.counted or Counted()
    sides = [
        getattr(counted, key)
        if wanted.get(key) is None
        else Packets(wanted[key])
        if wanted[key]
        else None
        for key in DIRECTIONS
    ]
    connections = wanted.get("connections", counted.connections) or None
    put(fields, COUNTED, Counted(sides[0], sides[1], connections).to_fields())
    return with_fields(one, unless_as_before(fields))


def keep(fields: dict[str, Any]) -> None:
    """Keep what the limits were before set-rate."""
    kept = {key: fields.get(key) for key in KEPT if key in DIRECTIONS or fields.get(key)}
    fields.setdefault(CONFIGURED, kept)


def put(fields: dict[str, Any], key: str, value: object) -> None:
    """Let a record hold something, or not mention it where there is nothing."""
    fields.pop(key, None)
    if value:
        fields[key] = value


def unless_as_before(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields without what they were before, where that is what they are."""
    before = fields[CONFIGURED]
    if all((fields.get(key) or None) == (before.get(key) or None) for key in KEPT):
        del fields[CONFIGURED]
    return fields


def _demand_limit(one: Attachment, promised: plan.Plan, wanted: Wanted) -> None:
    """Refuse a burst that no limit would have. Raises: ToolError."""
    rates = [
        getattr(promised, direction) if rate_bps is None else rate_bps
        for direction, (rate_bps, _) in wanted.items()
    ]
    if any(burst_bits is not None for _, burst_bits in wanted.values()) and not any(rates):
        raise ToolError(
            f"{one.called}: --burst is of a limit, and there is none",
            "give the limit as well: --ingress RATE, --egress RATE",
        )


def as_before(one: Attachment) -> Attachment:
    """Return an attachment whose record has the limits of before set-rate again."""
    promised = one.promised
    fields: dict[str, Any] = dict(one.fields)
    configured = fields.pop(CONFIGURED, None)
    if promised is None or not isinstance(configured, dict):
        return one
    fields |= {key: configured.get(key) for key in DIRECTIONS}
    for key in (COUNTED, SHARED):
        put(fields, key, configured.get(key))
    if fields["egress"] != one.fields.get("egress"):
        _enforce(fields, promised.mtu, queue_of(one))
    return with_fields(one, fields)


def as_filed(one: Attachment, file: Filed) -> Attachment:
    """Return an attachment whose record has the limits of its network's file."""
    fields: dict[str, Any] = dict(one.fields)
    fields.pop(CONFIGURED, None)
    for key, shape in filed.shapes(one, file).items():
        if shape is None and key not in DIRECTIONS:
            fields.pop(key, None)
        else:
            fields[key] = shape and shape.to_fields()
    counted = file.config.counted
    put(fields, COUNTED, counted and counted.to_fields())
    together = filed.shared(one, file)
    put(fields, SHARED, together and together.to_fields())
    if filed.same_but_version(file.document, filed.accepted_document(fields) or {}):
        fields.pop(APPLIED, None)
    else:
        fields[APPLIED] = accepted.text_of(file.document)
    return with_fields(one, fields)


def with_fields(one: Attachment, fields: dict[str, Any]) -> Attachment:
    """Return an attachment with another record. Raises: CniError."""
    return one._replace(fields=fields, promised=plan_fields.from_fields(fields))


def _enforce(fields: dict[str, Any], mtu: int, queue: str) -> None:
    """Let what the host enforces of egress follow the limit, where the host does."""
    config = _config(fields)
    if not config.enforce_egress:
        return
    fields.pop("hostEgress", None)
    if fields["egress"]:
        inner = Shape.from_fields(fields["egress"])
        limit = Limit(shaping.on_host_bps(inner.rate_bps), inner.burst_bytes * 8)
        shape = shaping.shape(limit, None, mtu, queue, inner.scope)
        if shape is not None:
            shape.leaf_bytes = inner.leaf_bytes
            fields["hostEgress"] = shape.to_fields()


def _config(fields: dict[str, Any]) -> configuration.NetworkConfig:
    return configuration.load_tolerant(filed.limits_document(fields))


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
    usual = shaping.shape(Limit(shape.rate_bps), None, mtu, shape.queue)
    if usual is None or usual.leaf_bytes == shape.leaf_bytes:
        return None
    return max(1, round(shape.leaf_bytes * 1000 / max(shape.rate_Bps, 1)))


def _shape(
    shape: Shape | None,
    wanted: tuple[int | None, int | None],
    latency_ms: int | None,
    mtu: int,
    queue: str,
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
    return shaping.shape(Limit(rate_bps or None, burst_bits), latency_ms, mtu, queue)
