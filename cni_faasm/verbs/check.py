"""CHECK: find every drift from what ADD promised (CNI specification, section "CHECK").

The record says what was promised, prevResult what the chain made of it: a later plugin
may have changed a MAC address or added interfaces, addresses and rules, and that is no
drift. All drifts are reported at once.
"""

from cni_faasm.attachment import accepted, plan_fields
from cni_faasm.attachment.plan import Plan
from cni_faasm.config import loading as configuration
from cni_faasm.ipam import delegate
from cni_faasm.ipam.store import Store
from cni_faasm.link import end_drifts, forwarding, kernel, netns, veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop_drifts, guard_drifts, nat, ports_drifts
from cni_faasm.spec import inet
from cni_faasm.spec.errors import DRIFT, UNKNOWN_CONTAINER, CniError
from cni_faasm.spec.protocol import Request
from cni_faasm.spec.results import Result

Drift = tuple[str, str, str]

MAX_DRIFTS_IN_MESSAGE = 3
ATTEMPTS = 3  # one end, the other, and then there is nothing left to go


def check(request: Request) -> None:
    """Compare an attachment with its promise.

    Raises: CniError 107 that names every drift (what, expected, found); 3 when nothing is
    known of the attachment.
    """
    promised, prev_result = accepted.recall(request) or _validated(request)
    try:
        with Netlink() as host, netns.connect(request.netns) as inner:
            found = drifts(promised, host, inner, prev_result)
        if promised.ipam_plugin:
            timeout_ms = configuration.load_tolerant(request.document).ipam_timeout_ms
            found.extend(delegate.drifts(request, promised, timeout_ms))
    except NetlinkError as error:
        raise kernel.refusal(error) from None
    if found:
        raise drift_error(found)


def _validated(request: Request) -> tuple[Plan, Result | None]:
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


def drift_error(found: list[Drift]) -> CniError:
    """Return the one error that names every drift."""
    lines = [f"{what}: expected {expected}, found {actual}" for what, expected, actual in found]
    more = len(found) - MAX_DRIFTS_IN_MESSAGE
    summary = "; ".join(what for what, _, _ in found[:MAX_DRIFTS_IN_MESSAGE])
    summary += f"; and {more} more" if more > 0 else ""
    return CniError(
        DRIFT, f"the attachment has drifted from what ADD promised: {summary}", "; ".join(lines)
    )


def drifts(
    promised: Plan, host: Netlink, inner: Netlink, prev_result: Result | None = None
) -> list[Drift]:
    """List every difference between a promise and the kernel and the store.

    host, inner: sockets in the two namespaces. Returns: (what, expected, found) each.
    An end that goes while it is looked at has gone. Raises: NetlinkError, CniError.
    """
    for _ in range(ATTEMPTS):
        try:
            return _drifts(promised, host, inner, prev_result)
        except NetlinkError as error:
            if not veth.is_absent(error):
                raise
    return _drifts(promised, host, inner, prev_result)


def _drifts(
    promised: Plan, host: Netlink, inner: Netlink, prev_result: Result | None
) -> list[Drift]:
    found: list[Drift] = []
    if prev_result is not None:
        _compare_result(promised, prev_result, found)
    lengths = {len(item.address) for item in promised.addresses}
    off = {length for length in lengths if not forwarding.is_on(length)}
    found += end_drifts.inner(promised, inner, prev_result)
    found += end_drifts.outer(promised, host, forwards=4 not in off)
    if not promised.ipam_plugin:
        _check_leases(promised, found)
    for length in sorted(off):
        family = "IPv4" if length == 4 else "IPv6"
        found.append((f"{family} forwarding on the host", "on", "off"))
    found.extend(nat.drifts(promised))
    if promised.guard is not None:
        found.extend(guard_drifts.drifts(promised, host, inner))
    if promised.ports:
        found.extend(ports_drifts.drifts(promised))
    if promised.is_held:
        found.extend(backstop_drifts.drifts(promised, host))
    return found


def _compare_result(promised: Plan, prev_result: Result, found: list[Drift]) -> None:
    """Demand that the runtime's result still holds what ADD gave it; more is no drift."""
    addresses = [item.address for item in prev_result.ips]
    for item in promised.addresses:
        if item.address not in addresses:
            texts = ", ".join(inet.unpack(address) for address in addresses) or "none"
            found.append(("prevResult: address", inet.unpack(item.address), texts))
    if not prev_result.interfaces:
        return  # results before 0.3.0 name no interfaces
    # The ifb is looked for itself; older results do not name it.
    names = [interface.name for interface in prev_result.interfaces]
    found.extend(
        ("prevResult: interface", name, ", ".join(names))
        for name in (promised.host_interface, promised.ifname)
        if name not in names
    )


def _check_leases(promised: Plan, found: list[Drift]) -> None:
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
