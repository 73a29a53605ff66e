"""GC: remove whatever belongs to no valid attachment (CNI specification, section "GC").

Leases, records, links and, when nothing of the network is left, its rules. Collects every
failure and goes on, so that one stuck attachment does not keep the others.
"""

from collections.abc import Callable, Iterable

from cni_faasm.attachment import plan, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import delegate
from cni_faasm.ipam.store import Store
from cni_faasm.link import egress, kernel, removal
from cni_faasm.netlink import dumps, link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import backstop, guard, guard_rules, limit_tables, limits_unused, nat, ports
from cni_faasm.spec.errors import INVALID_CONFIG, CniError
from cni_faasm.spec.protocol import Request
from cni_faasm.verbs import chained
from cni_faasm.verbs.delete import load_record, release


class _Choice:
    """Which attachments are to be removed: those named, or all but those named."""

    __slots__ = ("_names", "_removes")

    def __init__(self, names: set[tuple[str, str]], *, removes: bool) -> None:
        self._names = names
        self._removes = removes

    def dooms(self, container_id: str, ifname: str) -> bool:
        """Say whether an attachment is to go; one of all interfaces has no ifname."""
        named = (container_id, ifname) in self._names
        if not ifname and not self._removes:
            named = any(container_id == name for name, _ in self._names)
        return named == self._removes

    def of_aliases(self, network: str) -> Callable[[str], bool]:
        """Return a function that says the same of what a link's alias tells."""
        named = {plan.alias(network, *name) for name in self._names}
        return lambda alias: (alias in named) == self._removes


def gc(
    request: Request, *, only: set[tuple[str, str]] | None = None, dry_run: bool = False
) -> list[str]:
    """Remove what no attachment in cni.dev/valid-attachments accounts for.

    only: the attachments (container id, ifname) to remove; the list is not needed then,
    and what is attached meanwhile is safe. dry_run: remove nothing.
    Returns: what has been removed, or would be, a line each.
    Raises: CniError 7 when the list is missing (it would mean "everything"), else the
    first failure's code with all of them in the details.
    """
    config = configuration.load_tolerant(request.document, "GC")
    if not config.name:
        raise CniError(
            INVALID_CONFIG, "name: the network has no valid name", "give the network's name"
        )
    if only is None and config.valid_attachments is None:
        raise _unlisted(request)
    names = set(config.valid_attachments or ()) if only is None else only
    choice = _Choice(names, removes=only is not None)
    try:
        with Netlink() as host:
            return _collect(request, config, choice, host, dry_run=dry_run)
    except NetlinkError as error:
        raise kernel.refusal(error) from None


def _unlisted(request: Request) -> CniError:
    """Return why there is no list of what to keep: it is missing, or it has faults."""
    key = configuration.ATTACHMENT_KEYS[0]
    _, faults = configuration.check_faults(request.document, None, "", "GC")
    named = [str(fault) for fault in faults if fault.path.startswith(configuration.ATTACHMENT_KEYS)]
    return CniError(
        INVALID_CONFIG,
        "; ".join(named[: configuration.MAX_FAULTS]) or f"{key}: missing",
        f'give the list of attachments to keep, as "{key}": [{{"containerID": "c1", "ifname": '
        '"eth0"}]; [] or null keeps none',
    )


def _collect(
    request: Request, config: NetworkConfig, choice: _Choice, host: Netlink, *, dry_run: bool
) -> list[str]:
    removed: list[str] = []
    failures: list[CniError] = []
    # Before the links: what is attached meanwhile has a link that is not looked for, and keeps
    # its lease and its record, too.
    promises = {
        identity: load_record(config, config.name, *identity)
        for identity in list(record.list_network(config.state_dir, config.name))
        if choice.dooms(*identity)
    }
    marks = _Marks(config.name, choice, promises.values())
    doomed = _doomed_links(config, marks, host)
    if not dry_run:
        # Without an index it is being attached, or has never been.
        known = [one for one in promises.values() if one is not None and one.host_ifindex]
        guard.forget(host, *known)
        backstop.forget(host, *known)
        ports.forget(*known)
        doomed = removal.delete_all(host, doomed, marks.doom)
    removed.extend(f"link {found.name} ({found.alias})" for found in doomed)
    for (container_id, ifname), promised in promises.items():
        if dry_run:
            removed.append(f"attachment {container_id} {ifname}")
            continue
        try:
            if promised is not None and promised.shapes_only:
                _unshape(host, promised)
            # False for what is attached this moment: the next list has it.
            if release(request, config, config.name, (container_id, ifname), promised):
                removed.append(f"attachment {container_id} {ifname}")
        except CniError as error:
            failures.append(error)
    try:
        # After another plugin, a runtime's GC finds that plugin's leases in the folder.
        foreign = config.shapes_only and config.valid_attachments is not None
        if not config.ipam_plugin and not foreign:
            _release_strays(config, choice, removed, dry_run=dry_run)
        elif not dry_run:
            with Store(config.data_dir, config.name, config.lock_timeout_ms, create=False):
                record.sweep_temporary(config.state_dir, config.name)
            if config.ipam_plugin and config.valid_attachments is not None:
                delegate.pass_on(request, config)
    except CniError as error:
        failures.append(error)
    if not failures:
        _remove_rules(config, choice, removed, dry_run=dry_run)
    if not dry_run:
        guard.sweep(config.name, host)
        backstop.sweep(config.name, host, config.state_dir)
        limits_unused.sweep(config.name)
        ports.sweep(config.name, config.state_dir)
        record.note_collected(config.state_dir, config.name)
    if failures:
        raise CniError(
            failures[0].code,
            f"GC could not remove everything: {failures[0].msg}",
            "; ".join(error.msg for error in failures[1:]) or failures[0].details,
        )
    return removed


def _remove_rules(
    config: NetworkConfig, choice: _Choice, removed: list[str], *, dry_run: bool
) -> None:
    """Take the network's tables away when it has no attachment left.

    Under the lock, which an ADD holds while it writes its record: one that comes after finds no
    table, and makes it.
    """
    with Store(
        config.data_dir, config.name, config.lock_timeout_ms, create=False, lock=not dry_run
    ):
        identities = record.list_network(config.state_dir, config.name)
        if any(not dry_run or not choice.dooms(*identity) for identity in identities):
            return
        if nat.remove(config.name, dry_run=dry_run):
            removed.append(f"nft table {nat.table_name(config.name)}")
        if guard.remove(config.name, dry_run=dry_run):
            removed.append(f"nft tables {guard_rules.table_name(config.name)}")
        if backstop.remove(config.name, dry_run=dry_run):
            removed.append(f"nft tables {limit_tables.table_name(config.name)}")
        if ports.remove(config.name, dry_run=dry_run):
            removed.append(f"nft table {ports.table_name(config.name)}")


def _unshape(host: Netlink, promised: Plan) -> None:
    """Take the limits off a pair that stays, for it is another plugin's. Raises: CniError."""
    try:
        chained.remove(host, promised)
    except NetlinkError as error:
        raise kernel.refusal(error) from None


class _Marks:
    """By what a link is known to be one of the network's, and to go.

    An outer end is known by its alias, or by the MAC in a record when its ADD was killed
    before the alias was set, or when the network's name is too long for an alias; an ifb by
    its network's group.
    """

    __slots__ = ("_dooms_alias", "_lost_macs", "_network", "_prefix")

    def __init__(self, network: str, choice: _Choice, promises: Iterable[Plan | None]) -> None:
        self._network = network
        self._prefix = plan.alias_head(network)
        self._dooms_alias = choice.of_aliases(network)
        # A pair that another plugin made is that plugin's to remove.
        self._lost_macs = {
            one.host_mac for one in promises if one is not None and not one.shapes_only
        }

    def doom(self, found: link.Link) -> bool:
        """Say whether a pair is to go, by its outer end; or whether a stray ifb is ours."""
        if found.kind == egress.KIND:
            return egress.is_of(found, self._network)
        if found.kind != "veth":
            return False
        is_named = found.alias.startswith(self._prefix) and self._dooms_alias(found.alias)
        return is_named or found.address in self._lost_macs


def _doomed_links(config: NetworkConfig, marks: _Marks, host: Netlink) -> list[link.Link]:
    """Return the outer ends of this network that no valid attachment owns, and stray ifbs."""
    doomed: list[link.Link] = []
    kept: list[link.Link] = []
    # Before the pairs: what an ADD makes meanwhile has its pair, and the pair is first.
    found_ifbs = egress.devices(host, config.name)
    for found in dumps.links(host, "veth"):
        (doomed if marks.doom(found) else kept).append(found)
    # What went without its ifb, or is to go now.
    return doomed + egress.strays(found_ifbs, kept)


def _release_strays(
    config: NetworkConfig, choice: _Choice, removed: list[str], *, dry_run: bool
) -> None:
    """Release the leases whose owner is no valid attachment, host-local's included."""
    if dry_run:
        with Store(config.data_dir, config.name, create=False, lock=False) as store:
            told = set(record.list_network(config.state_dir, config.name))
            removed.extend(
                f"lease of {container_id} {ifname}".rstrip()
                for _, container_id, ifname, _ in store.leases()
                if choice.dooms(container_id, ifname) and (container_id, ifname) not in told
            )
        return
    with Store(config.data_dir, config.name, config.lock_timeout_ms, create=False) as store:
        # What a kill leaves in the middle of a write.
        store.sweep_torn()
        record.sweep_temporary(config.state_dir, config.name)
        # With a record it is no stray: it was attached meanwhile, or could not be removed.
        recorded = set(record.list_network(config.state_dir, config.name))
        for address, container_id, ifname, _ in list(store.leases()):
            if not choice.dooms(container_id, ifname) or (container_id, ifname) in recorded:
                continue
            if store.release([address], container_id, ifname):
                removed.append(f"lease of {container_id} {ifname}".rstrip())
