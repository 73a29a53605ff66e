"""Compare the queues of one end of a pair with their shape; shaping makes them."""

import errno
from collections.abc import Sequence

from cni_faasm.limits import shaping, shaping_scope
from cni_faasm.limits.shaping import Shape
from cni_faasm.netlink import dumps, tc, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

Drift = tuple[str, str, str]

# What the kernel says of a queue that is not there, or whose parent is not. Of the noop that a
# device has until it is up, it says nothing at all: Netlink.get_tolerant makes that ENODATA.
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODATA)
# What a packet counts for besides its bytes: nothing, and no less than they are.
_FRAMING = (tc.TC_LINKLAYER_ETHERNET, 0, 0)
_UNITS = {
    "limit": " packets",
    "target_us": " us",
    "interval_us": " us",
    "memory_limit": " bytes",
    "quantum": " bytes",
    "ce_threshold_us": " us",
}


def of_device(where: str, netlink: Netlink, ifindex: int, one: Shape | None) -> list[Drift]:
    """Compare the queues of one device with its shape. Raises: NetlinkError."""
    questions = [
        tc.get_qdisc(ifindex),
        tc.get_class(ifindex, shaping.CLASS_ID),
        tc.get_qdisc(ifindex, shaping.CLASS_ID),
    ]
    if one is not None and one.cut_bytes:
        questions.append(tc.get_qdisc(ifindex, shaping.CUTTER_CLASS_ID))
    # No dumps: those of qdiscs cost more with every interface of the host.
    answers = netlink.get_tolerant(questions if one is not None else questions[:1])
    for answer in answers:
        if isinstance(answer, NetlinkError) and answer.errno not in _ABSENT:
            raise answer
    bodies = [None if isinstance(answer, NetlinkError) else answer for answer in answers]
    bodies += [None] * (4 - len(bodies))
    root, one_class, cutter, leaf = bodies
    if one is None or not one.cut_bytes:
        cutter, leaf = None, cutter
    filters = []
    if one is not None and root is not None:
        # Also where there must be none: one of somebody's can lead past the class.
        filters = dumps.filters(netlink, ifindex, shaping.ROOT_HANDLE)
    return drifts(
        where,
        one,
        root=None if root is None else tc_parse.parse_qdisc(root),
        cutter=None if cutter is None else tc_parse.parse_qdisc(cutter),
        queue=None if leaf is None else tc_parse.parse_qdisc(leaf),
        one_class=None if one_class is None else tc_parse.parse_class(one_class),
        filters=filters,
    )


def drifts(
    where: str,
    one: Shape | None,
    *,
    root: tc_parse.Qdisc | None,
    queue: tc_parse.Qdisc | None,
    one_class: tc_parse.HtbClass | None,
    cutter: tc_parse.Qdisc | None = None,
    filters: Sequence[bytes] = (),
) -> list[Drift]:
    """Compare one end with its shape. Returns: (what, expected, found) for each difference.

    root, queue, one_class: what there is at the root, as leaf, and of class 1:1. cutter: what is
    between the two. A tbf does not tell of its burst.
    filters: those of the root, as they were dumped.
    A clsact or ingress qdisc that somebody else attached limits nothing of ours. HTB's r2q
    decides nothing where the class has a quantum of its own.
    """
    found: list[Drift] = []
    if one is None:
        if root is not None and root.kind == "htb":
            found.append((f"{where}: root qdisc", "no limit", "htb"))
        return found
    if root is None or root.kind != "htb" or root.handle != shaping.ROOT_HANDLE:
        found.append((f"{where}: root qdisc", "htb 1:", _name(root)))
        return found
    if root.htb_defcls != one.default_class:
        texts = (f"1:{one.default_class:x}", f"1:{root.htb_defcls or 0:x}")
        found.append((f"{where}: htb default class", *texts))
    if root.direct_qlen != one.direct_qlen:
        texts = (f"{one.direct_qlen} packets", f"{root.direct_qlen} packets")
        found.append((f"{where}: htb direct queue", *texts))
    if one.scope is not None or filters:
        found.extend(shaping_scope.drifts(where, one.scope, filters))
    if one_class is None:
        found.append((f"{where}: class", "htb 1:1", "none"))
        return found
    found.extend(_class_drifts(f"{where}: class 1:1", one, one_class))
    if one.cut_bytes:
        if cutter is None or cutter.kind != "tbf" or cutter.handle != shaping.CUTTER_HANDLE:
            found.append((f"{where}: cutter qdisc", "tbf 11:", _name(cutter)))
            return found
        for what, wanted, actual in (
            ("rate", shaping.CUTTER_RATE_Bps, cutter.rate_Bps),
            ("limit", one.leaf_bytes, cutter.limit),
        ):
            if actual != wanted:
                found.append((f"{where}: tbf {what}", f"{wanted} bytes", f"{actual} bytes"))
    if queue is None or queue.kind != one.leaf or queue.handle != shaping.LEAF_HANDLE:
        expected = f"{one.leaf} {tc.handle_text(shaping.LEAF_HANDLE)}"
        found.append((f"{where}: leaf qdisc", expected, _name(queue)))
    elif one.leaf == "fq_codel":
        found.extend(_fq_codel_drifts(f"{where}: fq_codel", one, queue))
    elif queue.limit != one.leaf_bytes:
        found.append((f"{where}: bfifo limit", f"{one.leaf_bytes} bytes", f"{queue.limit} bytes"))
    return found


def _name(queue: tc_parse.Qdisc | None) -> str:
    return "none" if queue is None else f"{queue.kind} {tc.handle_text(queue.handle)}"


def _class_drifts(where: str, one: Shape, actual: tc_parse.HtbClass) -> list[Drift]:
    found: list[Drift] = []
    ticks = tc.burst_ticks(one.rate_Bps, one.burst_bytes)
    for what, rate in (("rate", actual.rate_Bps), ("ceil", actual.ceil_Bps)):
        if rate != one.rate_Bps:
            found.append((f"{where} {what}", f"{one.rate_Bps * 8} bit/s", f"{rate * 8} bit/s"))
    for what, number in (("burst", actual.burst_ticks), ("cburst", actual.cburst_ticks)):
        if number != ticks:
            bytes_found = tc_parse.burst_bytes(actual.rate_Bps, number)
            found.append((f"{where} {what}", f"{one.burst_bytes} bytes", f"{bytes_found} bytes"))
    if actual.quantum != one.quantum_bytes:
        texts = (f"{one.quantum_bytes} bytes", f"{actual.quantum} bytes")
        found.append((f"{where} quantum", *texts))
    if actual.prio:
        found.append((f"{where} prio", "0", str(actual.prio)))
    for what, framing in (("rate", actual.rate_framing), ("ceil", actual.ceil_framing)):
        if framing != _FRAMING:
            found.append((f"{where} framing of {what}", _framing(_FRAMING), _framing(framing)))
    return found


def _framing(framing: tuple[int, int, int]) -> str:
    layer, overhead, mpu = framing
    name = "ethernet" if layer == tc.TC_LINKLAYER_ETHERNET else f"number {layer}"
    return f"linklayer {name} overhead {overhead} mpu {mpu}"


def _fq_codel_drifts(where: str, one: Shape, queue: tc_parse.Qdisc) -> list[Drift]:
    found: list[Drift] = []
    expected: dict[str, int | None] = {
        **shaping.fq_codel(one),
        "flows": shaping.FLOWS,
        "ce_threshold_us": None,
    }
    for key in ("target_us", "interval_us"):
        expected[key] = tc.codel_us(expected[key] or 0)
    for key, number in expected.items():
        actual: int | None = getattr(queue, key)
        if actual != number:
            unit = _UNITS.get(key, "")
            name = f"{where} {key.removesuffix('_us')}"
            found.append((name, _number(number, unit), _number(actual, unit)))
    return found


def _number(number: int | None, unit: str) -> str:
    return "none" if number is None else f"{number}{unit}"
