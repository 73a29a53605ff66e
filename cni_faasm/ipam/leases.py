"""Hold one network's folder of leases under its lock, and read what stands there.

The layout is that of the reference plugin `host-local`; store.py writes it.
"""

import fcntl
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from cni_faasm.attachment import files
from cni_faasm.attachment.files import io_error
from cni_faasm.config.ranges import Range
from cni_faasm.ipam.layout import lease_address, lease_holder
from cni_faasm.ipam.lockwait import wait_for_lock
from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec import inet
from cni_faasm.spec.errors import TRY_AGAIN, CniError

# What stands at an address's name. Absent and torn are free.
ABSENT, TORN, HELD, ODD = range(4)

# More than any lease: a container id is part of a file name elsewhere, hence below 256 bytes.
_LEASE_LIMIT = 1024


class Leases:
    r"""The leases of one network, held under its lock from `open` to `close`.

    On disk::

        <dataDir>/                       0755
        └── <network>/                   0755
            ├── lock                     empty; whoever holds flock(LOCK_EX) on it owns the folder
            ├── 10.200.0.2               0644  "<containerID>\r\n<ifname>": the address is leased
            ├── 10.200.0.3                     (from host-local before 0.8: "<containerID>" alone)
            ├── fd00::2                        IPv6 names as inet_ntop prints them
            ├── last_reserved_ip.0       0644  "10.200.0.3": where range set 0 goes on from
            ├── last_reserved_ip.1       0644  "fd00::2"
            └── .last_reserved_ip        a cursor being written (ours only)

    The lock protocol, which host-local shares:

    1. Open `lock` (never removed, never replaced), flock(LOCK_EX). Should the folder have been
       removed while we waited, the file we hold is unlinked and guards nothing: begin again.
    2. Only the holder creates, replaces or removes leases and cursors. Reading one lease needs
       no lock; what is read then may be half written, which readers take for torn.
    3. Unlock by LOCK_UN, not by closing alone: a child forked meanwhile shares the lock, and
       would prolong it. A child must not use the store.

    An ADD under the lock: `choose` (writes nothing), then the attachment record, then `commit`.
    So no lease of ours is without a record, and whatever moment the process is killed in, the
    record leads DEL and GC to the lease.

    Nothing here is synced to the disk. A lease means nothing after a reboot: the containers
    are gone, and reclaim.py sweeps what an earlier boot left, torn files included. An fsync
    would cost milliseconds per ADD to preserve what is thrown away.

    A lease file that is empty or does not begin with a plausible container id (a process was
    killed between creating and writing it, or the power failed) is free and gets replaced.
    What is no readable regular file (a symlink, a folder, a FIFO, bad sectors) is neither
    followed nor touched; its address counts as taken.
    """

    __slots__ = (
        "_create",
        "_doubts",
        "_exclusive",
        "_folder",
        "_lock",
        "_timeout_ms",
        "data_dir",
        "network",
        "path",
    )

    def __init__(
        self,
        data_dir: str,
        network: str,
        timeout_ms: int = 10_000,
        *,
        create: bool = True,
        lock: bool = True,
        doubts: list[str] | None = None,
    ) -> None:
        """Name a store; `open` or `with` opens it.

        timeout_ms: how long to wait for the lock; 0 tries once.
        create: make absent folders. Otherwise an absent store opens as an empty one.
        lock: False to read only, as CHECK does, also on a read-only file system.
        doubts: receives why the folder is not to be trusted; None refuses it.
        """
        self.data_dir = data_dir.rstrip("/") or "/"
        self.network = network
        self.path = self.data_dir + "/" + network
        self._timeout_ms = timeout_ms
        self._create = create
        self._exclusive = lock
        self._doubts = doubts
        self._folder = -1
        self._lock = -1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Open the folder and take the lock.

        Raises: CniError 11 when the lock stays taken; 5 when the folder cannot be used.
        """
        for _ in range(8):
            self._folder = files.open_folder(
                self.data_dir,
                self.network,
                create=self._create,
                mode=0o755,
                doubts=self._doubts,
            )
            if self._folder < 0 or not self._exclusive:
                return
            try:
                if self._acquire():
                    if Netlink.log is not None:
                        Netlink.log.step(f"lock {self.path}/lock: held")
                    return
            except BaseException:
                self.close()
                raise
            self.close()
        raise CniError(TRY_AGAIN, f"try again later: {self.path} is being removed")

    def close(self) -> None:
        """Release the lock and the descriptors. May be called again."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_UN)
            except OSError:
                files.close(lock)  # unlocks as well, unless a child of ours holds it too
            else:
                files.close(lock)
        folder, self._folder = self._folder, -1
        if folder >= 0:
            files.close(folder)

    def _acquire(self) -> bool:
        """Lock; say whether the file locked is still the store's."""
        path = self.path + "/lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock = lock = os.open("lock", flags, 0o600, dir_fd=self._folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait_for_lock(lock, self._timeout_ms):
                    raise CniError(
                        TRY_AGAIN,
                        f"try again later: {path} was locked by another process "
                        f"for {self._timeout_ms} ms",
                        "`lslocks` or `fuser` names the holder; lockTimeout sets how long to wait",
                    ) from None
            return os.fstat(lock).st_nlink > 0
        except FileNotFoundError:
            return False  # the folder was removed between opening it and now
        except OSError as error:
            raise io_error(error, "cannot lock", path) from None

    def owner(self, address: bytes) -> tuple[str, str] | None:
        """Return (container id, ifname) of a lease; ifname "" in the old format.

        Raises: CniError 5 when it cannot be read.
        """
        state, container_id, ifname = self._inspect(inet.unpack(address), strict=True)
        return (container_id, ifname) if state == HELD else None

    def find(self, container_id: str, ifname: str) -> list[bytes]:
        """Return the addresses an attachment holds, by reading every lease.

        The rare path, for attachments without a record: those that host-local made. Leases
        in the old format, without ifname, count only when there are no others, as there.
        """
        exact: list[bytes] = []
        old: list[bytes] = []
        for address, holder, holder_ifname, _ in self.leases():
            if holder == container_id:
                if holder_ifname == ifname:
                    exact.append(address)
                elif not holder_ifname:
                    old.append(address)
        return exact or old

    def leases(self) -> Iterator[tuple[bytes, str, str, float]]:
        """Yield (address, container id, ifname, mtime) of every lease, in no order."""
        for _, address, state, container_id, ifname, mtime in self._scan():
            if state == HELD:
                yield address, container_id, ifname, mtime

    def count(self, source: Range) -> int:
        """Return how many addresses of a range have a lease file, torn ones included."""
        total = 0
        for name in self._names():
            address = lease_address(name)
            if address is not None and source.contains(address):
                total += 1
        return total

    # --- what stands on the disk -----------------------------------------------------------

    def _inspect(self, name: str, *, strict: bool = False) -> tuple[int, str, str]:
        """Say what stands at a lease's name, and whose it is.

        What cannot be read (bad sectors, a security module) is odd like what is no file, lest
        it keep others from attaching; strict raises instead, where its owner is asked for.
        """
        if self._folder < 0:
            return ABSENT, "", ""
        try:
            data = files.read_at(self._folder, name, _LEASE_LIMIT)
        except FileNotFoundError:
            return ABSENT, "", ""
        except OSError as error:
            if error.errno in files.NOT_A_FILE:
                return ODD, "", ""
            if not strict and error.errno not in files.EXHAUSTED:
                return ODD, "", ""
            raise io_error(error, "cannot read the lease", f"{self.path}/{name}") from None
        owner = lease_holder(data)
        if owner is not None:
            return HELD, owner[0], owner[1]
        # A FIFO that nobody writes to reads as empty.
        return (TORN if files.is_regular(self._folder, name) else ODD), "", ""

    def _scan(self) -> Iterator[tuple[str, bytes, int, str, str, float]]:
        """Yield (name, address, state, container id, ifname, mtime) of all that is there."""
        for name in self._names():
            address = lease_address(name)
            if address is None:
                continue
            state, container_id, ifname = self._inspect(name)
            if state not in (HELD, TORN):
                continue
            try:
                status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            except OSError:
                continue
            yield name, address, state, container_id, ifname, status.st_mtime

    def _names(self) -> list[str]:
        if self._folder < 0:
            return []
        try:
            return os.listdir(self._folder)
        except OSError as error:
            raise io_error(error, "cannot list", self.path) from None

    def _remove_torn(self, name: str) -> bool:
        """Remove a lease file if it is torn; say whether it is gone."""
        return self._inspect(name)[0] == TORN and files.unlink_at(self._folder, name)
