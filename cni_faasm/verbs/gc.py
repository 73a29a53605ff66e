"""GC: remove whatever belongs to no valid attachment (CNI specification, section "GC").

Leases, records, links and, when nothing of the network is left, its rules. Collects every
failure and goes on, so that one stuck attachment does not keep the others.
"""

from cni_faasm import config as configuration
from cni_faasm import nat, plan, record, veth
from cni_faasm.errors import INVALID_CONFIG, CniError
from cni_faasm.ipam.store import Store
from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.verbs.delete import load_record, release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_faasm.config import NetworkConfig
    from cni_faasm.protocol import Request


def gc(request: "Request") -> "list[str]":
    """Remove what no attachment in cni.dev/valid-attachments accounts for.

    Returns: what has been removed, a line each.
    Raises: CniError 7 when the list is missing (it would mean "everything"), else the
    first failure's code with all of them in the details.
    """
    config = configuration.load_tolerant(request.document)
    if not config.name:
        raise CniError(
            INVALID_CONFIG, "name: the network has no valid name", "give the network's name"
        )
    if config.valid_attachments is None:
        raise CniError(
            INVALID_CONFIG,
            "cni.dev/valid-attachments: missing",
            "give the list of attachments to keep, [] to keep none",
        )
    try:
        with Netlink() as host:
            return _collect(config, set(config.valid_attachments), host)
    except NetlinkError as error:
        from cni_faasm import kernel  # only a refusal needs it

        raise kernel.refusal(error) from None


def _collect(config: "NetworkConfig", valid: "set[tuple[str, str]]", host: Netlink) -> "list[str]":
    removed: list[str] = []
    failures: list[CniError] = []
    _remove_links(config, valid, host, removed)
    kept = 0
    for container_id, ifname in list(record.list_network(config.state_dir, config.name)):
        if (container_id, ifname) in valid:
            kept += 1
            continue
        promised = load_record(config, config.name, container_id, ifname)
        try:
            if release(config, config.name, container_id, ifname, promised):
                removed.append(f"attachment {container_id} {ifname}")
            else:
                kept += 1  # attached this moment: the next list has it
        except CniError as error:
            failures.append(error)
    try:
        _release_strays(config, valid, removed)
    except CniError as error:
        failures.append(error)
    if not kept and not failures and nat.remove(config.name):
        removed.append(f"nft table {nat.table_name(config.name)}")
    if failures:
        raise CniError(
            failures[0].code,
            f"GC could not remove everything: {failures[0].msg}",
            "; ".join(error.msg for error in failures[1:]) or failures[0].details,
        )
    return removed


def _remove_links(
    config: "NetworkConfig", valid: "set[tuple[str, str]]", host: Netlink, removed: "list[str]"
) -> None:
    """Delete the outer ends of this network that no valid attachment owns.

    An outer end is known by its alias, or by the MAC in a record when its ADD was killed
    before the alias was set, or when the network's name is too long for an alias.
    """
    prefix = plan.alias(config.name, "", "").rstrip() + " "
    keep = {plan.alias(config.name, *identity) for identity in valid}
    lost_macs = set()
    for identity in record.list_network(config.state_dir, config.name):
        promised = load_record(config, config.name, *identity)
        if promised is not None and identity not in valid:
            lost_macs.add(promised.host_mac)
    doomed = []
    for body in host.dump(link.dump_links(kind="veth")):
        found = link.parse_link(body)
        ours = found.alias.startswith(prefix) and found.alias not in keep
        if ours or found.address in lost_macs:
            doomed.append(found)
    veth.delete_all(host, doomed)
    removed.extend(f"link {found.name} ({found.alias})" for found in doomed)


def _release_strays(
    config: "NetworkConfig", valid: "set[tuple[str, str]]", removed: "list[str]"
) -> None:
    """Release the leases whose owner is no valid attachment, host-local's included."""
    containers = {container_id for container_id, _ in valid}
    with Store(config.data_dir, config.name, config.lock_timeout_ms, create=False) as store:
        # What a kill leaves in the middle of a write.
        store.sweep_torn()
        record.sweep_temporary(config.state_dir, config.name)
        for address, container_id, ifname, _ in list(store.leases()):
            if (container_id, ifname) in valid or (not ifname and container_id in containers):
                continue
            if store.release([address], container_id, ifname):
                removed.append(f"lease of {container_id} {ifname}".rstrip())
