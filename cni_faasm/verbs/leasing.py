"""Choose addresses for attachments, promise them in records, and take both back.

The record comes before the lease: from then on DEL and GC find whatever a kill leaves behind.
"""

import os
import time
from collections.abc import Sequence

from cni_faasm.attachment import accepted, plan, plan_fields, record
from cni_faasm.attachment.plan import Plan
from cni_faasm.attachment.undo import Undo
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import reclaim
from cni_faasm.ipam.store import Store
from cni_faasm.link import kernel, veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ALREADY_ATTACHED, TRY_AGAIN, CniError
from cni_faasm.spec.protocol import Request


def lease(
    requests: Sequence[Request],
    config: NetworkConfig,
    host: Netlink,
    undo: Undo,
    warnings: list[str],
) -> tuple[list[Plan], list[tuple[str, str]]]:
    """Promise attachments of one configuration, each with addresses of its own.

    Returns: the plans; and attachments of an earlier boot whose addresses another plugin leased.
    Raises: CniError 7, 103, 104, 109.
    """
    lengths = {len(range_set[0].network) for range_set in config.range_sets}
    mtu = plan.link_mtu(config, 0 if config.mtu else veth.uplink_mtu(host, lengths))
    boot_id = record.boot_id()
    promised: list[Plan] = []
    with Store(config.data_dir, config.name, config.lock_timeout_ms) as store:
        marker = reclaim.read_marker(config.state_dir, config.name)
        dead = reclaim.reclaim_earlier_boot(
            store, config.state_dir, config.name, boot_id, marker
        ).delegated
        queue = kernel.queue(config.state_dir, config.name, boot_id, marker)
        scope = kernel.scope(config, boot_id, marker)
        for request in requests:
            if record.read(config.state_dir, config.name, request.container_id, request.ifname):
                raise CniError(
                    ALREADY_ATTACHED,
                    f"container {request.container_id!r} already has a lease for "
                    f"{request.ifname!r} in network {config.name!r}",
                    "DEL that attachment first",
                )
            # None when another plugin leases: there are no range sets then.
            allocations = store.choose(config.range_sets, config.requested_addresses)
            one = plan.make(
                config,
                request,
                [plan.PlannedAddress(item.address, item.gateway) for item in allocations],
                mtu=mtu,
                queue=queue,
                boot_id=boot_id,
                created=int(time.time()),
                random=os.urandom(12),
                scope=scope,
            )
            if not promised:  # of the others it would be the same
                remarks = plan.burst_warnings(config, one.ingress, one.egress)
                config.warnings += remarks
                warnings += remarks
            undo.push("release the address", release, config, one)
            write_record(config, one)
            store.commit(allocations, request.container_id, request.ifname)
            promised.append(one)
    return promised, dead


def write_record(config: NetworkConfig, promised: Plan) -> None:
    """Write an attachment's record. Raises: CniError 5."""
    record.write(
        config.state_dir,
        promised.network,
        promised.container_id,
        promised.ifname,
        {**plan_fields.to_fields(promised), **accepted.fields(config)},
    )


def complete_records(config: NetworkConfig, plans: Sequence[Plan]) -> None:
    """Write records anew with the indexes that the kernel chose.

    Raises: CniError 11 when a DEL or GC took one away meanwhile: the lease went with it.
    """
    with Store(config.data_dir, config.name, config.lock_timeout_ms, create=False):
        for promised in plans:
            identity = (promised.network, promised.container_id, promised.ifname)
            now = record.read(config.state_dir, *identity)
            # The MAC tells one ADD from another; what else it says is known.
            if now is None or now.get("hostMAC") != inet.mac_text(promised.host_mac):
                raise CniError(
                    TRY_AGAIN,
                    f"container {promised.container_id!r} was detached while it was being attached",
                    "call ADD again if it is still wanted",
                )
            write_record(config, promised)


def release(config: NetworkConfig, promised: Plan) -> None:
    """Free the addresses and forget the attachment, but nothing of an ADD that came after."""
    with Store(config.data_dir, config.name, config.lock_timeout_ms, create=False) as store:
        now = _recorded(config, promised)
        is_own = now is None or now.host_mac == promised.host_mac
        others = [] if now is None or is_own else [item.address for item in now.addresses]
        store.release(
            [item.address for item in promised.addresses if item.address not in others],
            promised.container_id,
            promised.ifname,
        )
        if is_own:
            record.remove(
                config.state_dir, promised.network, promised.container_id, promised.ifname
            )


def _recorded(config: NetworkConfig, promised: Plan) -> Plan | None:
    """Return what the attachment's record says now: it may be another ADD's."""
    return plan_fields.load(
        config.state_dir, promised.network, promised.container_id, promised.ifname
    )
