"""Keep some slots of a pool free: make, take back, replace.

All that counts is in the files and in the kernel, so the process may be killed at any moment and
the next one goes on from there (`_take_over`). What it remembers is what it has heard of the folders;
where events are lost it looks again.

It holds the lock of all pool commands while it makes or takes away, a few members at a time.
"""

import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from cni_faasm.cli import attachments
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import making, netfolder, owners, resting, taken
from cni_faasm.cli.pool.folderevents import FolderEvents, LostError
from cni_faasm.cli.pool.making import Builder
from cni_faasm.cli.pool.offer import offer
from cni_faasm.cli.pool.renewal import Renewal
from cni_faasm.cli.pool.resting import Resting
from cni_faasm.cli.pool.slotfiles import CLAIMED, FREE, RETURNED, SlotFiles, is_number
from cni_faasm.slots import STATES

# So many are made or taken away before the folders' events are looked at again.
_AT_A_TIME = making.AT_A_TIME
_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_BLOCKED_S = 60.0


class Wishes(NamedTuple):
    """What an operator wants of a server. look_s: how long one look at all free slots takes."""

    free: int
    most: int
    look_s: float


Tell = Callable[[str, int | None, str], None]


class Server:
    """The server of one pool. tell: receives event, number of the member, and reason."""

    def __init__(
        self, builder: Builder, files: SlotFiles, rest: Resting, wishes: Wishes, tell: Tell
    ) -> None:
        self._builder = builder
        self._files = files
        self._resting = rest
        self._wishes = wishes
        self._tell = tell
        self._renewal = Renewal(builder, files, rest)
        self._poll = select.epoll()
        self._owners = owners.Owners(files, self._poll)
        self._events: FolderEvents | None = None
        self._free: set[int] = set()
        self._returned: set[int] = set()
        self._used: set[int] = set()  # in one of the three, or not to be made now
        self._lowest = 1  # all below are used, or in the heap
        self._gaps: list[int] = []
        self._blocked: dict[int, float] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._looking: list[int] = []
        self._look_at = 0.0
        self._ended = False
        self._wakeup, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_ready = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        before = signal.set_wakeup_fd(self._waker)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._poll.register(self._wakeup, select.EPOLLIN)
        try:
            self._take_over()
            while not self._ended:
                self._work()
                if not self._ended:
                    self._wait()
        finally:
            signal.set_wakeup_fd(before)
            self._owners.close()
            self._renewal.close()
            if self._events is not None:
                self._events.close()
            self._poll.close()

    def _end(self, *_: object) -> None:
        self._ended = True

    # ---- what is there

    def _take_over(self) -> None:
        """Learn what is there; what is in no state was half made, or half taken away."""
        with making.locked(lambda _: None):
            self._look_at_all()
            self._resting.load()
            names, states = self._builder.names, self._files.states()
            listed = {names.number(name) for name in os.listdir(netfolder.FOLDER)} - {0}
            inhabited = _inhabited() if listed - states.keys() else set()
            for number in sorted(listed - states.keys()):
                if _identity(netfolder.path_of(names.namespace(number))) in inhabited:
                    self._used.add(number)
                    self._tell("left alone", number, "it is no slot, and processes run in it")
                else:
                    self._returned.add(number)
                    self._used.add(number)
            for number in states.keys() - listed:
                if states[number] == FREE and self._files.withdraw(number):
                    self._tell("replaced", number, "its namespace has gone")

    def _look_at_all(self) -> None:
        """Begin anew with what the folders hold."""
        if self._events is not None:
            self._poll.unregister(self._events.fileno())
            self._events.close()
        self._files.make()
        self._events = FolderEvents([f"{self._files.path}/{state}" for state in STATES])
        self._poll.register(self._events.fileno(), select.EPOLLIN)
        self._free = self._files.numbers(FREE)
        self._returned = self._files.numbers(RETURNED)
        claimed = self._files.numbers(CLAIMED)
        self._used = self._free | self._returned | claimed
        self._lowest, self._gaps = 1, []
        for number in claimed:
            self._take_back_if_ended(number)

    def _hear(self) -> None:
        """Take in what has happened in the folders."""
        if self._events is None:
            return
        try:
            for event in self._events.read():
                if is_number(event.name):
                    self._heard(os.path.basename(event.folder), int(event.name), event.is_there)
        except LostError:
            self._look_at_all()

    def _heard(self, state: str, number: int, is_there: bool) -> None:
        if state == CLAIMED:
            if is_there:
                self._used.add(number)
                self._take_back_if_ended(number)
            else:
                self._owners.forget(number)
            return
        known = self._free if state == FREE else self._returned
        if is_there:
            known.add(number)
            self._used.add(number)
        else:
            known.discard(number)

    def _take_back_if_ended(self, number: int) -> None:
        owner = self._owners.look(number)
        if owner is not None and self._files.move(number, CLAIMED, RETURNED):
            self._tell("taken back", number, f"process {owner.pid} has ended")

    # ---- what is done

    def _work(self) -> None:
        """Do all that is to be done, and hear in between of what happens."""
        while not self._ended:
            self._hear()
            self._resting.wake()
            some = sorted(self._returned)[:_AT_A_TIME]
            missing = min(self._wishes.free - len(self._free), self._room())
            if missing <= 0 or time.monotonic() < self._retry_at:
                missing = 0
            if not some and not missing:
                if not self._is_ready and len(self._free) >= self._wishes.free:
                    self._is_ready = True
                    self._tell("ready", None, f"{len(self._free)} free")
                return
            with making.locked(lambda _: None):
                # Whoever waits for a slot comes before what is to be tidied up.
                self._make(min(missing, _AT_A_TIME))
                self._take_away(some)

    def _room(self) -> int:
        return self._wishes.most - len(self._used)

    def _take_away(self, numbers: list[int]) -> None:
        # Once more: what is not there any more may be another's by now.
        states = {number: self._files.state_of(number) for number in numbers}
        numbers = [one for one in numbers if states[one] in (RETURNED, None)]
        failures = {one.number: one for one in self._renewal.take_away(numbers)}
        for number in states:
            self._returned.discard(number)
        for number in numbers:
            if number in failures:
                self._tell("failed", number, failures[number].error)
                self._blocked[number] = time.monotonic() + _BLOCKED_S
            else:
                self._used.discard(number)
                heapq.heappush(self._gaps, number)

    def _make(self, count: int) -> None:
        """Make so many slots more; what fails is to be tried later."""
        numbers = []
        for _ in range(count):
            number = self._next()
            try:
                self._demand_free(number)
            except ToolError as error:
                self._tell("failed", number, str(error))
                self._blocked[number] = time.monotonic() + _BLOCKED_S
            else:
                numbers.append(number)
        failed = None
        for outcome in self._builder.up_many(numbers):
            number = outcome.number
            for warning in dict.fromkeys(self._builder.warnings):
                self._tell("warning", number, warning)
            self._builder.warnings.clear()
            if outcome.action == "failed":
                self._used.discard(number)
                heapq.heappush(self._gaps, number)
                failed = failed or outcome
                continue
            offer(self._files, self._builder, number, outcome.promised)
            self._free.add(number)
        if failed is None:
            self._failures = 0
            return
        delay = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._retry_at = time.monotonic() + delay
        self._tell("failed", failed.number, f"{failed.error}; trying again in {delay:.0f} s")

    def _next(self) -> int:
        """Return the lowest number that no slot has, and mark it as used."""
        while self._gaps:
            number = heapq.heappop(self._gaps)
            if number not in self._used:
                self._used.add(number)
                return number
        while self._lowest in self._used:
            self._lowest += 1
        self._used.add(self._lowest)
        return self._lowest

    def _demand_free(self, number: int) -> None:
        """Refuse names that somebody else has. Raises: ToolError."""
        names = self._builder.names
        name, inner = names.namespace(number), names.inner(number)
        if netfolder.exists(name):
            # Whatever it is, nobody knows what is in there.
            raise ToolError(f"{name} is somebody's namespace")
        one = attachments.load(self._builder.state_dir, self._builder.network, name, inner)
        own = [one] if one.fields else []
        taken.demand_free([taken.Wanted(name, inner, names.outer(number), own)], names.prefix)

    # ---- what is waited for

    def _wait(self) -> None:
        """Wait until there is something to do; look at a free slot when there is time."""
        moment = time.monotonic()
        due = [self._look_at]
        if self._retry_at > moment:
            due.append(self._retry_at)
        rested = self._resting.next_due()
        if rested is not None:
            due.append(moment + max(0.0, rested - resting.now()))
        ready = self._poll.poll(max(0.0, min(due) - moment))
        for descriptor, _ in ready:
            if descriptor == self._wakeup:
                os.read(self._wakeup, 64)
            for number in self._owners.ended(descriptor):
                self._take_back_if_ended(number)
        if time.monotonic() >= self._look_at:
            self._look()

    def _look(self) -> None:
        """Look at one free slot, the next one in its turn; after the last at all that is rare."""
        if not self._looking:
            self._looking = sorted(self._free, reverse=True)
            for number in self._owners.unwatched():
                self._take_back_if_ended(number)
            moment = time.monotonic()
            for number in [one for one, until in self._blocked.items() if until <= moment]:
                del self._blocked[number]
                if number in self._files.numbers(RETURNED):
                    self._returned.add(number)
                elif number in self._used:
                    self._used.discard(number)
                    heapq.heappush(self._gaps, number)
        self._look_at = time.monotonic() + self._wishes.look_s / max(1, len(self._free))
        if self._looking:
            number = self._looking.pop()
            if number in self._free:
                self._replace_if_drifted(number)

    def _replace_if_drifted(self, number: int) -> None:
        names, builder = self._builder.names, self._builder
        identity = names.namespace(number), names.inner(number)
        one = attachments.load(builder.state_dir, builder.network, *identity)
        drifts = builder.drifts(one) if one.fields else [("attachment", "", "gone")]
        if drifts and self._files.withdraw(number):
            what, expected, found = drifts[0]
            self._tell("replaced", number, f"{what}: {expected} expected, {found} found")


def _inhabited() -> set[tuple[int, int]]:
    """Return the network namespaces that processes are in."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        identity = _identity(f"/proc/{pid}/ns/net")
        if identity is not None:
            found.add(identity)
    return found


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
