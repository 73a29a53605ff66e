"""Give back, at the first ADD of a boot, what attachments of an earlier boot held.

A reboot takes every container, link and namespace away, and no runtime calls DEL for them.
host-local keeps their addresses for ever; here the first ADD frees them, before it chooses
an address, so that a range which was full is usable again.
"""

import time
from collections.abc import Mapping

from cni_faasm.attachment import files, record
from cni_faasm.ipam.lockwait import wait_for_lock
from cni_faasm.ipam.store import Store
from cni_faasm.spec.errors import TRY_AGAIN, CniError

_MARKER = "boot"


def read_marker(state_dir: str, network: str) -> dict[str, object] | None:
    """Return the marker of a network; None when there is none that can be read.

    Keys: `bootID`; `kernel`, an object in which the verbs remember what this kernel can do;
    `stores`, the data folders swept in that boot.
    """
    return record.read_document(state_dir, network, _MARKER)


def write_marker(state_dir: str, network: str, marker: Mapping[str, object]) -> None:
    """Write the marker, as when `kernel` has a new entry. Raises: CniError 5."""
    record.write_document(state_dir, network, _MARKER, marker)


class Reclaimed:
    """What a sweep removed: addresses, attachments (container id, ifname).

    delegated: attachments whose addresses another plugin leased; their records are still
    there, for that plugin must not be called under our lock.
    """

    __slots__ = ("addresses", "attachments", "delegated")

    def __init__(self) -> None:
        self.addresses: list[bytes] = []
        self.attachments: list[tuple[str, str]] = []
        self.delegated: list[tuple[str, str]] = []


def reclaim_earlier_boot(
    store: Store,
    state_dir: str,
    network: str,
    boot_id: str,
    marker: Mapping[str, object] | None = None,
) -> Reclaimed:
    """Sweep leases and records of earlier boots.

    Call it with the store locked. marker: from `read_marker` when the caller has it already.
    When the marker is of this boot and names the store, nothing else is read. The marker is
    written last: a sweep that is killed is repeated by the next ADD.
    Raises: CniError 5.
    """
    if marker is None:
        marker = read_marker(state_dir, network) or {}
    swept: list[str] = []
    kernel: dict[str, object] = {}
    if marker.get("bootID") == boot_id:
        stores, cached = marker.get("stores"), marker.get("kernel")
        if isinstance(stores, list):
            if store.data_dir in stores:
                return Reclaimed()
            swept = [entry for entry in stores if isinstance(entry, str)]
        if isinstance(cached, dict):
            kernel = cached
    swept_now = Reclaimed()
    current: set[tuple[str, str]] = set()
    dead: set[tuple[str, str]] = set()
    torn: set[tuple[str, str]] = set()
    for container_id, ifname in list(record.list_network(state_dir, network)):
        document = record.read(state_dir, network, container_id, ifname)
        if document is None:
            torn.add((container_id, ifname))
            continue
        is_current = document["bootID"] == boot_id
        (current if is_current else dead).add((container_id, ifname))
        if not is_current and document.get("ipamPlugin"):
            swept_now.delegated.append((container_id, ifname))
    # The age of a lease tells those that host-local made in this boot from older ones.
    # Where the clock is set only after boot (no RTC, NTP steps it forward), the moment below
    # moves with it, and leases written before the step look older than the boot. Ours have a
    # record of this boot and are kept by it; only host-local's, made in this boot before the
    # step and before our first ADD on the same network, could be taken for dead. Those whose
    # record is of an earlier boot go whatever the clock says, and before the record.
    record.sweep_temporary(state_dir, network)
    swept_now.addresses = store.sweep_before(boot_time(), current, dead)
    if torn:
        # Its lease's age tells the boot of a record that cannot be read: it may be alive.
        dead |= torn - {(container_id, ifname) for _, container_id, ifname, _ in store.leases()}
    for container_id, ifname in sorted(dead.difference(swept_now.delegated)):
        try:
            if record.remove(state_dir, network, container_id, ifname):
                swept_now.attachments.append((container_id, ifname))
        except CniError:  # a folder of that name, an immutable file: no reason to fail others
            continue
    write_marker(
        state_dir,
        network,
        {"bootID": boot_id, "kernel": kernel, "stores": [*swept, store.data_dir]},
    )
    return swept_now


def forget_shaped(state_dir: str, network: str, boot_id: str, timeout_ms: int) -> None:
    """Remove what an earlier boot's records promise of other plugins' pairs: only limits.

    Leases are not looked at, for they are the other plugins'. Call it before anything is
    written; who comes meanwhile waits, so that no record is removed that is written just now.
    Raises: CniError 5; 11 when another process takes longer.
    """
    folder = files.open_folder(state_dir, network, create=True, mode=0o700)
    try:
        if not wait_for_lock(folder, timeout_ms):
            raise CniError(
                TRY_AGAIN, f"try again later: {state_dir}/{network} is locked by another process"
            )
        for identity in list(record.list_network(state_dir, network)):
            document = record.read(state_dir, network, *identity)
            if document is None or document["bootID"] == boot_id:
                continue
            if document.get("shapesOnly") is True:
                record.remove(state_dir, network, *identity)
    finally:
        files.close(folder)


def boot_time() -> float:
    """Return when this boot began, in seconds since the epoch by today's clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
