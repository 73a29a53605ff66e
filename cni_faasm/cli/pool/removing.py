"""Remove members of a pool, many at a time.

What the kernel makes one wait for is done once for many: rules forget them in one transaction, and
their pairs go in one message. The order is that of DEL: rules, pair, lease, name.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cni_faasm.attachment.plan import Plan
from cni_faasm.cli import networks
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import netfolder, resolvers, traces
from cni_faasm.cli.pool.making import Member, Names, Outcome, network_of
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.link import egress, kernel, removal, several
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError
from cni_faasm.verbs.delete import delete, release

# Each umount waits for RCU; several wait together.
_THREADS = 8
# The kernel keeps all queues that filters can be put on in one list, the newest first, and goes
# through it for each that goes (find_indir_dev in net/core/flow_offload.c). So the newest pairs go
# first, in parts: what is deleted by one message goes in the order of its making.
_LINKS_AT_A_TIME = 500


def demand_none_stranded(names: Names, doomed: Sequence[Member]) -> None:
    """Refuse to remove members that are attached and whose records are not found.

    Raises: ToolError that names their networks.
    """
    stranded: dict[str, list[str]] = {}
    with Netlink() as host:
        for member in doomed:
            if not member.namespace or member.attachments:
                continue
            network = network_of(names, member, host)
            if network:
                stranded.setdefault(network, []).append(names.namespace(member.number))
    for network, namespaces in stranded.items():
        raise ToolError(
            f"{', '.join(namespaces[:5])}: attached to the network {network!r}, whose records are "
            "not found: its leases would be stranded",
            "put the network's file back, say where they are by --state-dir, or leave them behind "
            "by --force",
        )


def down(names: Names, doomed: Sequence[Member], step: Callable[[], None]) -> list[Outcome]:
    """Remove members: their rules and links in one stroke, then each one's lease and namespace.

    step: called as each has gone. Raises: ToolError when the links stay.
    """
    plans = [plan for member in doomed for plan in map(_simple, member.attachments) if plan]
    outcomes = []
    with Netlink() as host, ThreadPoolExecutor(_THREADS) as threads:
        is_forgotten = _forget(host, plans)
        _unlink(host, doomed)
        if is_forgotten:
            is_forgotten = _sweep(host, plans)
        remover = _Remover(names, host, threads, is_forgotten=is_forgotten)
        begun = [(member.number, remover.begin(member)) for member in doomed]
        for number, unnamed in begun:
            problem = unnamed if isinstance(unnamed, str) else _problem(unnamed)
            outcomes.append(Outcome(number, "failed" if problem else "removed", error=problem))
            step()
    return outcomes


def _problem(unnamed: "Future[None]") -> str:
    """Wait until a namespace has lost its name; say what was in the way."""
    try:
        unnamed.result()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _simple(one: Attachment) -> Plan | None:
    """Return the plan of an attachment of which DEL does nothing that is not done here."""
    plan = one.promised
    return None if plan is None or plan.shapes_only or plan.ports else plan


def _forget(host: Netlink, plans: Sequence[Plan]) -> bool:
    """Say whether the rules could be made to forget all; where not, each DEL says why."""
    try:
        traces.forget(host, plans)
    except NetlinkError:
        return False
    return True


def _sweep(host: Netlink, plans: Sequence[Plan]) -> bool:
    try:
        traces.sweep(host, plans)
    except NetlinkError:
        return False
    return True


def _unlink(host: Netlink, doomed: Sequence[Member]) -> None:
    """Delete the pairs of members, and their ifbs. Raises: ToolError."""
    promised = [one.promised for member in doomed for one in member.attachments if one.promised]
    found = several.find_outer(host, promised)
    found += [
        device
        for plan in promised
        if plan.host_egress is not None and (device := egress.find(host, plan)) is not None
    ]
    marks = {(end.kind, end.address) for end in found}
    found.sort(key=lambda end: -end.ifindex)
    try:
        for start in range(0, len(found), _LINKS_AT_A_TIME):
            some = found[start : start + _LINKS_AT_A_TIME]
            removal.delete_all(host, some, lambda one: (one.kind, one.address) in marks)
    except NetlinkError as error:
        raise ToolError(kernel.refusal(error).msg) from None


class _Remover:
    """Remove what is left of members whose pairs have gone."""

    def __init__(
        self, names: Names, host: Netlink, threads: ThreadPoolExecutor, *, is_forgotten: bool
    ) -> None:
        self._names = names
        self._host = host
        self._threads = threads
        self._is_forgotten = is_forgotten
        self._configs: dict[tuple[str, str], NetworkConfig] = {}

    def begin(self, member: Member) -> "Future[None] | str":
        """Do all but the unmounting, which threads do; return that, or what was in the way."""
        name = self._names.namespace(member.number)
        try:
            for one in member.attachments:
                self._detach(one)
            resolvers.remove(name)
        except NetlinkError as error:
            return kernel.refusal(error).msg
        except CniError as error:
            return error.msg
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return self._threads.submit(netfolder.remove, name)

    def _detach(self, one: Attachment) -> None:
        """Do the rest of a DEL. Raises: CniError, NetlinkError."""
        document: dict[str, object] = {"name": one.network, "stateDir": one.state_dir}
        request = networks.request("DEL", document, one.container_id, one.ifname)
        plan = _simple(one) if self._is_forgotten else None
        if plan is not None:
            if plan.host_egress is not None:
                egress.remove(self._host, plan, detach=False)
            config = self._config(one, document)
            if release(request, config, one.network, (one.container_id, one.ifname), plan):
                return
        delete(request, [], detach=False)

    def _config(self, one: Attachment, document: dict[str, object]) -> NetworkConfig:
        key = one.network, one.state_dir
        if key not in self._configs:
            self._configs[key] = configuration.load_tolerant(document)
        return self._configs[key]
