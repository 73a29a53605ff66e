"""Lease addresses in the on-disk layout of the reference plugin `host-local`.

A host can move from `host-local` to us and back with its containers running, and both may
lease from one folder at the same time. The cost of a lease does not depend on how many
there are: only the candidates are looked at, which round robin keeps to one as a rule.
"""

import errno
import fcntl
import posix

from cni_faasm import files, inet
from cni_faasm.errors import ADDRESS_UNAVAILABLE, ADDRESSES_EXHAUSTED, TRY_AGAIN, CniError
from cni_faasm.files import io_error
from cni_faasm.ipam.layout import (
    assign,
    candidates,
    describe,
    lease_address,
    lease_holder,
    size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from cni_faasm.ipam.ranges import Range

# What stands at a candidate's name. Absent and torn are free.
_ABSENT, _TORN, _HELD, _ODD = range(4)

# So many candidates are opened one by one; then one listing of the folder is cheaper.
_PROBES = 64

# More than any lease: a container id is part of a file name elsewhere, hence below 256 bytes.
_LEASE_LIMIT = 1024

_CURSOR = "last_reserved_ip."
# host-local opens exactly last_reserved_ip.N and takes only what parses as an address for a
# lease, so this name means nothing to it. There is one for all cursors: a process killed
# before the rename leaves one file at most, and the next commit or release takes it away.
_TEMPORARY = ".last_reserved_ip"


class Allocation:
    """One address chosen for an attachment: what ADD is to configure and to commit."""

    __slots__ = ("address", "gateway", "prefix_len", "range_index")

    def __init__(self, address: bytes, prefix_len: int, gateway: bytes, range_index: int) -> None:
        self.address = address
        self.prefix_len = prefix_len  # of the subnet the address was taken from
        self.gateway = gateway
        self.range_index = range_index  # that of the range set, which names the cursor

    def __repr__(self) -> str:
        return (
            f"Allocation({inet.cidr(self.address, self.prefix_len)}, "
            f"gateway={inet.unpack(self.gateway)}, range_index={self.range_index})"
        )


class Store:
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
    ) -> None:
        """Name a store; `open` or `with` opens it.

        timeout_ms: how long to wait for the lock; 0 tries once.
        create: make absent folders. Otherwise an absent store opens as an empty one.
        lock: False to read only, as CHECK does, also on a read-only file system.
        """
        self.data_dir = data_dir.rstrip("/") or "/"
        self.network = network
        self.path = self.data_dir + "/" + network
        self._timeout_ms = timeout_ms
        self._create = create
        self._exclusive = lock
        self._folder = -1
        self._lock = -1

    def __enter__(self) -> "Self":
        self.open()
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def open(self) -> None:
        """Open the folder and take the lock.

        Raises: CniError 11 when the lock stays taken; 5 when the folder cannot be used.
        """
        for _ in range(8):
            self._folder = files.open_folder(
                self.data_dir, self.network, create=self._create, mode=0o755
            )
            if self._folder < 0 or not self._exclusive:
                return
            try:
                if self._acquire():
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
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
        try:
            self._lock = lock = posix.open("lock", flags, 0o600, dir_fd=self._folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Imported here: contention is rare, and this is the lean path.
                from cni_faasm.ipam.lockwait import wait_for_lock

                if not wait_for_lock(lock, self._timeout_ms):
                    raise CniError(
                        TRY_AGAIN,
                        f"try again later: {path} was locked by another process "
                        f"for {self._timeout_ms} ms",
                        "`lslocks` or `fuser` names the holder; lockTimeout sets how long to wait",
                    ) from None
            return posix.fstat(lock).st_nlink > 0
        except FileNotFoundError:
            return False  # the folder was removed between opening it and now
        except OSError as error:
            raise io_error(error, "cannot lock", path) from None

    # --- leasing ---------------------------------------------------------------------------

    def choose(
        self, range_sets: "Sequence[Sequence[Range]]", requested: "Iterable[bytes]" = ()
    ) -> "list[Allocation]":
        """Find one free address per range set, without writing anything.

        requested: addresses wanted, each for the set that contains it, at most one per set.
        Raises: CniError 104 when a requested address cannot be had, 103 when a set is full.
        """
        wanted = assign(range_sets, requested)
        chosen: list[Allocation] = []
        used: set[bytes] = set()
        for index, ranges in enumerate(range_sets):
            if index in wanted:
                source, address = wanted[index]
                self._demand_free(address)
            else:
                source, address = self._next_free(ranges, index, used)
            used.add(address)
            chosen.append(Allocation(address, source.prefix_len, source.gateway, index))
        return chosen

    def _demand_free(self, address: bytes) -> None:
        name = inet.unpack(address)
        state, container_id, ifname = self._inspect(name)
        if state == _HELD:
            holder = f"container {container_id}" + (f" ({ifname})" if ifname else "")
            raise CniError(
                ADDRESS_UNAVAILABLE,
                f"the requested address {name} is leased to {holder}",
                "detach that container (DEL, or GC when it no longer exists), "
                "or request another address",
            )
        if state == _ODD:
            raise CniError(
                ADDRESS_UNAVAILABLE,
                f"the requested address {name} is blocked: {self.path}/{name} "
                "is no readable lease file",
                "remove it, or request another address",
            )

    def _next_free(
        self, ranges: "Sequence[Range]", index: int, used: "set[bytes]"
    ) -> "tuple[Range, bytes]":
        """Find the next free address after the cursor, round robin over the ranges."""
        cursor = self._cursor(index)
        names: set[str] | None = None
        probes = 0
        for source, address in candidates(ranges, cursor):
            if address in used:
                continue
            name = inet.unpack(address)
            if names is not None:
                if name not in names:
                    return source, address
                continue
            if self._inspect(name)[0] <= _TORN:
                return source, address
            probes += 1
            if probes == _PROBES:
                names = set(self._names())
        if names is not None:
            # Every name is taken: only now is it worth opening all of them for a torn one.
            for source, address in candidates(ranges, cursor):
                if address not in used and self._inspect(inet.unpack(address))[0] <= _TORN:
                    return source, address
        total = size(ranges)
        raise CniError(
            ADDRESSES_EXHAUSTED,
            f"no address is free in {describe(ranges)}: {total} of {total} are leased",
            f"let the runtime collect what no longer exists (GC), look at {self.path} for leases "
            "without a container, or enlarge ipam.ranges",
        )

    def commit(
        self,
        allocations: "Sequence[Allocation]",
        container_id: str,
        ifname: str,
        *,
        move_cursor: bool = True,
    ) -> None:
        """Write the leases, then the cursors. On failure no lease of these stays.

        move_cursor: False when a lost lease is put back, after which nothing follows.
        Raises: CniError 5; CniError 11 when somebody who ignores the lock took an address.
        """
        content = f"{container_id}\r\n{ifname}".encode()
        made: list[str] = []
        name = ""
        try:
            for allocation in allocations:
                name = inet.unpack(allocation.address)
                try:
                    files.create_at(self._folder, name, content, 0o644)
                except FileExistsError:
                    if not self._remove_torn(name):
                        raise
                    files.create_at(self._folder, name, content, 0o644)
                made.append(name)
        except (OSError, CniError) as error:
            for name_made in made:
                files.unlink_at(self._folder, name_made)
            if isinstance(error, CniError):
                raise
            if error.errno == errno.EEXIST:
                raise CniError(
                    TRY_AGAIN,
                    f"try again later: {name} was leased meanwhile by a program that "
                    f"ignores {self.path}/lock",
                ) from None
            raise io_error(error, "cannot write the lease", f"{self.path}/{name}") from None
        if move_cursor:
            for allocation in allocations:
                self._set_cursor(allocation.range_index, allocation.address)

    def _cursor(self, index: int) -> "bytes | None":
        """Return the address leased last from a range set; None when unknown or nonsense."""
        if self._folder < 0:
            return None
        try:
            data = files.read_at(self._folder, f"{_CURSOR}{index}", 64)
            return inet.pack(data.decode("ascii").strip())
        except (OSError, ValueError):
            return None

    def _set_cursor(self, index: int, address: bytes) -> None:
        """Remember where to go on. It is a hint: failing to write it fails no ADD."""
        data = inet.unpack(address).encode()
        try:
            files.replace_at(self._folder, f"{_CURSOR}{index}", _TEMPORARY, data, 0o644)
        except OSError:
            files.unlink_at(self._folder, _TEMPORARY)

    def release(
        self, addresses: "Iterable[bytes]", container_id: str, ifname: str
    ) -> "list[bytes]":
        """Remove the leases that this attachment holds, and return their addresses.

        Torn ones go as well: they are what a killed ADD left. Absent ones and those of
        others are passed over. Raises: CniError 5, after all have been tried.
        """
        released: list[bytes] = []
        failure: CniError | None = None
        for address in addresses:
            name = inet.unpack(address)
            try:
                state, holder, holder_ifname = self._inspect(name, strict=True)
                if state == _TORN or (
                    state == _HELD and holder == container_id and holder_ifname in (ifname, "")
                ):
                    posix.unlink(name, dir_fd=self._folder)
                    released.append(address)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed = io_error(error, "cannot remove the lease", f"{self.path}/{name}")
                failure = failure or failed
            except CniError as error:
                failure = failure or error
        if self._folder >= 0:
            files.unlink_at(self._folder, _TEMPORARY)
        if failure is not None:
            raise failure
        return released

    def sweep_torn(self) -> "list[bytes]":
        """Remove every torn lease, and a half-written cursor; return the addresses. Slow."""
        swept = [
            address
            for name, address, state, _, _, _ in self._scan()
            if state == _TORN and self._remove_torn(name)
        ]
        if self._folder >= 0:
            files.unlink_at(self._folder, _TEMPORARY)
        return swept

    def probe(self) -> None:
        """Write and remove a file, as STATUS does. Raises: CniError 5."""
        try:
            files.replace_at(self._folder, _TEMPORARY, _TEMPORARY, b"probe", 0o644)
            posix.unlink(_TEMPORARY, dir_fd=self._folder)
        except OSError as error:
            raise io_error(error, "cannot write in", self.path) from None

    # --- reading ---------------------------------------------------------------------------

    def owner(self, address: bytes) -> "tuple[str, str] | None":
        """Return (container id, ifname) of a lease; ifname "" in the old format.

        Raises: CniError 5 when it cannot be read.
        """
        state, container_id, ifname = self._inspect(inet.unpack(address), strict=True)
        return (container_id, ifname) if state == _HELD else None

    def find(self, container_id: str, ifname: str) -> "list[bytes]":
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

    def leases(self) -> "Iterator[tuple[bytes, str, str, float]]":
        """Yield (address, container id, ifname, mtime) of every lease, in no order."""
        for _, address, state, container_id, ifname, mtime in self._scan():
            if state == _HELD:
                yield address, container_id, ifname, mtime

    def count(self, source: "Range") -> int:
        """Return how many addresses of a range have a lease file, torn ones included."""
        total = 0
        for name in self._names():
            address = lease_address(name)
            if address is not None and source.contains(address):
                total += 1
        return total

    def sweep_before(
        self,
        moment: float,
        keep: "set[tuple[str, str]]",
        dead: "Collection[tuple[str, str]]" = (),
    ) -> "list[bytes]":
        """Remove leases last written before `moment` whose attachment is not in `keep`.

        dead: attachments whose leases go whatever their age, for clocks go backwards.

        moment: seconds since the epoch. Torn ones of that age go too, and what cannot be
        removed (an immutable file) stays: it must not keep others from attaching.
        """
        swept: list[bytes] = []
        for name, address, state, container_id, ifname, mtime in self._scan():
            if state not in (_HELD, _TORN):
                continue
            if state == _HELD and (container_id, ifname) in keep:
                continue
            if mtime >= moment and not (state == _HELD and (container_id, ifname) in dead):
                continue
            if files.unlink_at(self._folder, name):
                swept.append(address)
        return swept

    # --- what stands on the disk -----------------------------------------------------------

    def _inspect(self, name: str, *, strict: bool = False) -> "tuple[int, str, str]":
        """Say what stands at a lease's name, and whose it is.

        What cannot be read (bad sectors, a security module) is odd like what is no file, lest
        it keep others from attaching; strict raises instead, where its owner is asked for.
        """
        if self._folder < 0:
            return _ABSENT, "", ""
        try:
            data = files.read_at(self._folder, name, _LEASE_LIMIT)
        except FileNotFoundError:
            return _ABSENT, "", ""
        except OSError as error:
            if error.errno in files.NOT_A_FILE:
                return _ODD, "", ""
            if not strict and error.errno not in files.EXHAUSTED:
                return _ODD, "", ""
            raise io_error(error, "cannot read the lease", f"{self.path}/{name}") from None
        owner = lease_holder(data)
        if owner is not None:
            return _HELD, owner[0], owner[1]
        # A FIFO that nobody writes to reads as empty.
        return (_TORN if files.is_regular(self._folder, name) else _ODD), "", ""

    def _scan(self) -> "Iterator[tuple[str, bytes, int, str, str, float]]":
        """Yield (name, address, state, container id, ifname, mtime) of all that is there."""
        for name in self._names():
            address = lease_address(name)
            if address is None:
                continue
            state, container_id, ifname = self._inspect(name)
            if state not in (_HELD, _TORN):
                continue
            try:
                status = posix.stat(name, dir_fd=self._folder, follow_symlinks=False)
            except OSError:
                continue
            yield name, address, state, container_id, ifname, status.st_mtime

    def _names(self) -> "list[str]":
        if self._folder < 0:
            return []
        try:
            return posix.listdir(self._folder)
        except OSError as error:
            raise io_error(error, "cannot list", self.path) from None

    def _remove_torn(self, name: str) -> bool:
        """Remove a lease file if it is torn; say whether it is gone."""
        return self._inspect(name)[0] == _TORN and files.unlink_at(self._folder, name)
