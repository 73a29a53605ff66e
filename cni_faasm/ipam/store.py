"""Lease addresses in the on-disk layout of the reference plugin `host-local`.

A host can move from `host-local` to us and back with its containers running, and both may
lease from one folder at the same time. The cost of a lease does not depend on how many
there are: only the candidates are looked at, which round robin keeps to one as a rule.
"""

import errno
import os
from collections.abc import Collection, Iterable, Sequence

from cni_faasm.attachment import files
from cni_faasm.attachment.files import io_error
from cni_faasm.config.ranges import Range
from cni_faasm.ipam.layout import assign, candidates, describe, size
from cni_faasm.ipam.leases import HELD, ODD, TORN, Leases
from cni_faasm.spec import inet
from cni_faasm.spec.errors import (
    ADDRESS_UNAVAILABLE,
    ADDRESSES_EXHAUSTED,
    TRY_AGAIN,
    CniError,
)

# So many candidates are opened one by one; then one listing of the folder is cheaper.
_PROBES = 64

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


class Store(Leases):
    """The leases of one network, with what an ADD, a DEL and a GC do to them."""

    __slots__ = ()

    def choose(
        self, range_sets: Sequence[Sequence[Range]], requested: Iterable[bytes] = ()
    ) -> list[Allocation]:
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
        if state == HELD:
            holder = f"container {container_id}" + (f" ({ifname})" if ifname else "")
            raise CniError(
                ADDRESS_UNAVAILABLE,
                f"the requested address {name} is leased to {holder}",
                "detach that container (DEL, or GC when it no longer exists), "
                "or request another address",
            )
        if state == ODD:
            raise CniError(
                ADDRESS_UNAVAILABLE,
                f"the requested address {name} is blocked: {self.path}/{name} "
                "is no readable lease file",
                "remove it, or request another address",
            )

    def _next_free(
        self, ranges: Sequence[Range], index: int, used: set[bytes]
    ) -> tuple[Range, bytes]:
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
            if self._inspect(name)[0] <= TORN:
                return source, address
            probes += 1
            if probes == _PROBES:
                names = set(self._names())
        if names is not None:
            # Every name is taken: only now is it worth opening all of them for a torn one.
            for source, address in candidates(ranges, cursor):
                if address not in used and self._inspect(inet.unpack(address))[0] <= TORN:
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
        allocations: Sequence[Allocation],
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

    def _cursor(self, index: int) -> bytes | None:
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
        name, data = f"{_CURSOR}{index}", inet.unpack(address).encode()
        try:
            if not files.overwrite_at(self._folder, name, data):
                files.replace_at(self._folder, name, _TEMPORARY, data, 0o644)
        except OSError:
            files.unlink_at(self._folder, _TEMPORARY)

    def release(self, addresses: Iterable[bytes], container_id: str, ifname: str) -> list[bytes]:
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
                if state == TORN or (
                    state == HELD and holder == container_id and holder_ifname in (ifname, "")
                ):
                    os.unlink(name, dir_fd=self._folder)
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

    def hand_over(self, address: bytes, holder: tuple[str, str], heir: tuple[str, str]) -> None:
        """Let another attachment hold a lease of `holder`; what is not its own stays as it is.

        Both are (container id, ifname). Raises: CniError 5.
        """
        name = inet.unpack(address)
        try:
            if self._inspect(name, strict=True) == (HELD, *holder):
                content = "\r\n".join(heir).encode()
                files.replace_at(self._folder, name, _TEMPORARY, content, 0o644)
        except OSError as error:
            raise io_error(error, "cannot write the lease", f"{self.path}/{name}") from None

    def sweep_torn(self) -> list[bytes]:
        """Remove every torn lease, and a half-written cursor; return the addresses. Slow."""
        swept = [
            address
            for name, address, state, _, _, _ in self._scan()
            if state == TORN and self._remove_torn(name)
        ]
        if self._folder >= 0:
            files.unlink_at(self._folder, _TEMPORARY)
        return swept

    def probe(self) -> None:
        """Write and remove a file, as STATUS does. Raises: CniError 5."""
        try:
            files.replace_at(self._folder, _TEMPORARY, _TEMPORARY, b"probe", 0o644)
            os.unlink(_TEMPORARY, dir_fd=self._folder)
        except OSError as error:
            raise io_error(error, "cannot write in", self.path) from None

    def sweep_before(
        self,
        moment: float,
        keep: set[tuple[str, str]],
        dead: Collection[tuple[str, str]] = (),
    ) -> list[bytes]:
        """Remove leases last written before `moment` whose attachment is not in `keep`.

        dead: attachments whose leases go whatever their age, for clocks go backwards.

        moment: seconds since the epoch. Torn ones of that age go too, and what cannot be
        removed (an immutable file) stays: it must not keep others from attaching.
        """
        swept: list[bytes] = []
        for name, address, state, container_id, ifname, mtime in self._scan():
            if state not in (HELD, TORN):
                continue
            if state == HELD and (container_id, ifname) in keep:
                continue
            if mtime >= moment and not (state == HELD and (container_id, ifname) in dead):
                continue
            if files.unlink_at(self._folder, name):
                swept.append(address)
        return swept
