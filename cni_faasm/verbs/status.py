"""STATUS: say whether an ADD would work now (CNI specification, section "STATUS").

The first time, tries instead of asking: chooses an address, writes in the store, and makes a
whole attachment's kernel objects in an empty namespace that vanishes with the process. From then on
looks at what can change, and makes nothing, for as long as `rehearsed` says that it may.
"""

import os
import time

from cni_faasm.attachment import files, record, rehearsed
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import delegate, reclaim
from cni_faasm.ipam.store import Allocation, Store
from cni_faasm.link import claims, forwarding, kernel
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import firewall, own_tables
from cni_faasm.spec import inet
from cni_faasm.spec.errors import INVALID_CONFIG, PLUGIN_NOT_AVAILABLE, CniError
from cni_faasm.spec.protocol import Request
from cni_faasm.verbs import rehearsal

_LOOKS = 4
_LOOK_AGAIN_S = 0.5


def status(request: Request, warnings: list[str]) -> None:
    """Rehearse an ADD without a container, or look whether the last rehearsal still holds.

    warnings: receives what keeps only some containers from being attached, when it is rehearsed.
    Raises: CniError 50 that says what is missing; 51 when an ADD would work, but a firewall of
    the host's cuts the network off; 7 for a faulty configuration.
    """
    config = configuration.load(request.document, request.args, request.verb)
    if config.ipam_plugin:
        delegate.demand_path(request)
    try:
        looks = rehearsed.holds(config, request.document)
        allocations = []
        if not config.shapes_only:
            allocations = _try_leases(config, request, writes=not looks)
        _try_records(config, writes=not looks)
        if not config.shapes_only:
            for length in {len(item.address) for item in allocations}:
                forwarding.demand(length)
            gateways = [one.gateway for range_set in config.range_sets for one in range_set]
            with Netlink() as host:
                claims.demand(host, gateways, [])
        _demand_tables(config)
        if not looks:
            rehearsal.rehearse(config, request, allocations)
            warnings.extend(rehearsal.remarks(config))
    except NetlinkError as error:
        raise _unavailable(kernel.refusal(error, config)) from None
    except CniError as error:
        if error.code == INVALID_CONFIG:
            raise
        raise _unavailable(error) from None
    # Another plugin's ranges are not known.
    if not config.ipam_plugin and not config.shapes_only:
        _look_at_firewalls(config)


def _unavailable(error: CniError) -> CniError:
    return CniError(PLUGIN_NOT_AVAILABLE, f"ADD would fail: {error.msg}", error.details)


def _demand_tables(config: NetworkConfig) -> None:
    """Demand that the tables that an ADD would make or replace are nobody else's."""
    needed = {
        own_tables.MASQUERADE: config.ip_masq and not config.shapes_only,
        own_tables.GUARD: config.guard is not None and not config.shapes_only,
        own_tables.LIMIT: bool(config.egress.rate_bps) and not config.enforce_egress,
    }
    own_tables.demand_free(
        prefix + config.name for prefix, is_needed in needed.items() if is_needed
    )


def _look_at_firewalls(config: NetworkConfig) -> None:
    """Raise CniError 51 when the host's firewall refuses what containers should reach.

    Only what lasts is said: a firewall that is just being reloaded refuses everything.
    """
    senders = firewall.Senders.of(config)
    for attempt in range(_LOOKS):
        try:
            with Netlink() as host:
                found = firewall.refusals(host, senders)
        except NetlinkError:
            return  # an ADD has just been rehearsed; what cannot be read here forbids none
        if not found:
            return
        if attempt + 1 < _LOOKS:
            time.sleep(_LOOK_AGAIN_S)
    raise firewall.error(found, senders)


def _try_leases(config: NetworkConfig, request: Request, *, writes: bool) -> list[Allocation]:
    boot_id = record.boot_id()
    with Store(config.data_dir, config.name, config.lock_timeout_ms) as store:
        dead = reclaim.reclaim_earlier_boot(store, config.state_dir, config.name, boot_id).delegated
        allocations = store.choose(config.range_sets, [])
        if writes:
            store.probe()
        else:
            files.demand_room(store.path)
    if config.ipam_plugin or dead:
        delegate.release_dead(request, config, dead)
        if config.ipam_plugin:
            delegate.pass_on(request, config)
            # Which one it would give is not known; any shows what the kernel can do.
            return [Allocation(inet.pack("192.0.2.2"), 24, inet.pack("192.0.2.1"), -1)]
    return allocations


def _try_records(config: NetworkConfig, *, writes: bool) -> None:
    if not writes:  # what was kept has been read from there
        files.demand_room(f"{config.state_dir}/{config.name}")
        return
    folder = files.open_folder(config.state_dir, config.name, create=True, mode=0o700)
    try:
        files.replace_at(folder, ".status", ".status.new", b"status\n", 0o600)
        files.unlink_at(folder, ".status")
    except OSError as error:
        path = f"{config.state_dir}/{config.name}"
        raise files.io_error(error, "cannot write in", path) from None
    finally:
        os.close(folder)
