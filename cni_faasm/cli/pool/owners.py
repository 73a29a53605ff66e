"""Hear of the end of those who have claimed slots (pidfd_open(2))."""

import os
import select

from cni_faasm.cli.pool.slotfiles import Owner, SlotFiles, is_alive


class Owners:
    """Who has claimed which member of a pool, and a descriptor of each that tells of its end.

    Those of another PID namespace, and those for which there is no descriptor to be had, are
    without; the latter are looked at from time to time.
    """

    def __init__(self, files: SlotFiles, poll: "select.epoll") -> None:
        self._files = files
        self._poll = poll
        self._of: dict[int, Owner | None] = {}
        self._numbers: dict[Owner, set[int]] = {}
        self._descriptors: dict[int, Owner] = {}
        self._descriptor_of: dict[Owner, int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def close(self) -> None:
        for descriptor in list(self._descriptors):
            self._drop(self._descriptors[descriptor])

    def look(self, number: int) -> Owner | None:
        """Read who has a member; return its owner when that one has ended."""
        self.forget(number)
        owner = self._files.owner(number)
        self._of[number] = owner
        if owner is None:
            return None
        if owner in self._numbers:
            self._numbers[owner].add(number)
            return None if is_alive(owner) else owner
        descriptor = _open(owner)
        # After opening: the descriptor is of the process whose start time is looked at.
        if not is_alive(owner):
            if descriptor >= 0:
                os.close(descriptor)
            return owner
        self._numbers[owner] = {number}
        if descriptor >= 0:
            self._descriptors[descriptor] = owner
            self._descriptor_of[owner] = descriptor
            self._poll.register(descriptor, select.EPOLLIN)
        return None

    def forget(self, number: int) -> None:
        """A member is claimed no more."""
        owner = self._of.pop(number, None)
        if owner is None or owner not in self._numbers:
            return
        self._numbers[owner].discard(number)
        if not self._numbers[owner]:
            self._drop(owner)

    def ended(self, descriptor: int) -> list[int]:
        """Return the members of the owner whose descriptor became readable."""
        owner = self._descriptors.get(descriptor)
        if owner is None:
            return []
        numbers = sorted(self._numbers[owner])
        self._drop(owner)
        return numbers

    def unwatched(self) -> list[int]:
        """Return the members whose owner's end nobody tells."""
        return [
            number
            for number, owner in self._of.items()
            if owner is not None and owner not in self._descriptor_of
        ]

    def _drop(self, owner: Owner) -> None:
        self._numbers.pop(owner, None)
        descriptor = self._descriptor_of.pop(owner, -1)
        if descriptor >= 0:
            del self._descriptors[descriptor]
            self._poll.unregister(descriptor)
            os.close(descriptor)


def _open(owner: Owner) -> int:
    """Return a descriptor that becomes readable when a process ends, -1 where there is none."""
    if owner.namespace and owner.namespace != os.stat("/proc/self/ns/pid").st_ino:
        return -1
    try:
        return os.pidfd_open(owner.pid)
    except (OSError, OverflowError):
        return -1
