"""Keep some slots of a pool free: offer, take back, have others made and taken away.

All that counts is in the files and in the kernel, so the process may be killed at any moment and
the next one goes on from there (`_take_over`). What it remembers is what it has heard of the folders;
where events are lost it looks again.

Some more than are to be free are made before anybody asks. They are in reserve: when a slot is claimed,
or comes back, one of them is free a moment later, by rename(2). To make one, and to take away what came
back, takes longer and is done by a thread (workshop.py).
"""

import heapq
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cni_faasm.cli.pool import making, netfolder, owners, resting
from cni_faasm.cli.pool.folderevents import FolderEvents, LostError
from cni_faasm.cli.pool.making import Builder
from cni_faasm.cli.pool.resting import Resting
from cni_faasm.cli.pool.slotfiles import (
    CLAIMED,
    FREE,
    PLACES,
    RESERVE,
    RETURNED,
    SlotFiles,
    is_number,
)
from cni_faasm.cli.pool.workshop import AT_A_TIME, Done, Workshop, identity, inhabited

_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_BLOCKED_S = 60.0
# So much of a processor at most goes into looking at slots.
_LOOKING_SHARE = 0.05


class Wishes(NamedTuple):
    """What an operator wants of a server.

    free: how many. most: of free and claimed ones. reserve: how many are kept ready beside them.
    look_s: how long one look at all free slots takes.
    """

    free: int
    most: int
    reserve: int
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
        self._wakeup, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._workshop = Workshop(builder, files, rest, self._wake)
        self._poll = select.epoll()
        self._owners = owners.Owners(files, self._poll)
        self._events: FolderEvents | None = None
        self._in: dict[str, set[int]] = {state: set() for state in PLACES}
        self._planned: list[int] = []  # to be made next; their namespaces are made already
        self._in_work: set[int] = set()
        self._used: set[int] = set()  # in one of the places, in work, or not to be made now
        self._lowest = 1  # all below are used, or in the heap
        self._gaps: list[int] = []
        self._blocked: dict[int, float] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._looking: list[int] = []
        self._look_at = 0.0
        self._ended = False
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
            self._workshop.close()
            self._owners.close()
            if self._events is not None:
                self._events.close()
            self._poll.close()

    def _end(self, *_: object) -> None:
        self._ended = True

    def _wake(self) -> None:
        os.write(self._waker, b"\0")

    # ---- what is there

    def _take_over(self) -> None:
        """Learn what is there; what is in no state was half made, or half taken away."""
        with making.locked(lambda _: None):
            self._look_at_all()
            self._resting.load()
            names, states = self._builder.names, self._files.states()
            listed = {names.number(name) for name in os.listdir(netfolder.FOLDER)} - {0}
            lived_in = inhabited() if listed - states.keys() else set()
            for number in sorted(listed - states.keys()):
                self._used.add(number)
                if identity(netfolder.path_of(names.namespace(number))) in lived_in:
                    self._tell("left alone", number, "it is no slot, and processes run in it")
                else:
                    self._in[RETURNED].add(number)
            for number in states.keys() - listed:
                if states[number] in (FREE, RESERVE) and self._files.withdraw(number):
                    self._tell("replaced", number, "its namespace has gone")

    def _look_at_all(self) -> None:
        """Begin anew with what the folders hold."""
        if self._events is not None:
            self._poll.unregister(self._events.fileno())
            self._events.close()
        self._files.make()
        self._events = FolderEvents([f"{self._files.path}/{state}" for state in PLACES])
        self._poll.register(self._events.fileno(), select.EPOLLIN)
        self._in = {state: self._files.numbers(state) for state in PLACES}
        self._used = self._in_work.union(self._blocked, *self._in.values())
        self._lowest, self._gaps = 1, []
        for number in sorted(self._in[CLAIMED]):
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
        if is_there:
            self._in[state].add(number)
            self._used.add(number)
        else:
            self._in[state].discard(number)
        if state == CLAIMED:
            if is_there:
                self._take_back_if_ended(number)
            else:
                self._owners.forget(number)

    def _take_back_if_ended(self, number: int) -> None:
        owner = self._owners.look(number)
        if owner is not None and self._files.move(number, CLAIMED, RETURNED):
            self._tell("taken back", number, f"process {owner.pid} has ended")

    # ---- what is done

    def _work(self) -> None:
        """Do what is to be done at once, and have the rest begun."""
        self._hear()
        self._offer()
        done = self._workshop.ended()
        if done is not None:
            self._take_in(done)
            self._hear()
            self._offer()
        if not self._is_ready and len(self._in[FREE]) >= self._wishes.free:
            self._is_ready = True
            self._tell("ready", None, f"{len(self._in[FREE])} free")
        if not self._workshop.is_busy:
            self._begin()

    def _offer(self) -> None:
        """Make free what is in reserve, as long as too few are free."""
        reserve = self._in[RESERVE]
        while reserve and self._missing() > 0:
            number = min(reserve)
            reserve.discard(number)
            if self._files.move(number, RESERVE, FREE):
                self._in[FREE].add(number)

    def _missing(self) -> int:
        """Return how many more are to be free now."""
        free = len(self._in[FREE])
        return min(self._wishes.free, self._wishes.most - len(self._in[CLAIMED])) - free

    def _begin(self) -> None:
        """Have members made, taken away and looked at."""
        moment = time.monotonic()
        returned = sorted(self._in[RETURNED] - self._blocked.keys())[:AT_A_TIME]
        wanted = self._wishes.reserve + max(0, self._missing()) - len(self._in[RESERVE])
        if moment < self._retry_at:
            wanted = 0
        look = self._next_look(moment)
        rested = self._resting.next_due()
        is_rested = rested is not None and rested <= resting.now()
        if returned or wanted > 0 or look is not None or is_rested:
            count = max(0, min(wanted, AT_A_TIME))
            later = max(0, min(wanted - count, AT_A_TIME))
            while len(self._planned) < count + later:
                self._planned.append(self._next())
            new, self._planned = self._planned[:count], self._planned[count:]
            self._in_work.update(new, returned, self._planned)
            self._workshop.begin(new, returned, look, self._planned)

    def _take_in(self, done: Done) -> None:
        """Learn what a job has done; what fails is to be tried later."""
        moment = time.monotonic()
        for one in done.told:
            self._tell(*one)
        self._planned = [one for one in self._planned if one not in done.blocked]
        self._in_work = set(self._planned)
        self._in[RETURNED].difference_update(done.handled)
        for number in done.blocked:
            self._blocked[number] = moment + _BLOCKED_S
        self._free_numbers(done.gone)
        if done.drifted is not None:
            drifted, text = done.drifted
            if self._files.withdraw(drifted):
                self._tell("replaced", drifted, text)
        self._look_at = max(self._look_at, moment + done.look_s / _LOOKING_SHARE)
        if not done.failed:
            self._failures = 0
            return
        delay = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._retry_at = moment + delay
        event, failed, reason = done.failed[0]
        self._tell(event, failed, f"{reason}; trying again in {delay:.0f} s")

    def _free_numbers(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._used.discard(number)
            heapq.heappush(self._gaps, number)

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

    # ---- what is waited for

    def _wait(self) -> None:
        """Wait until there is something to do."""
        # While a job is being done, nothing else can be begun.
        seconds = None if self._workshop.is_busy else self._due_in()
        for descriptor, _ in self._poll.poll(seconds):
            if descriptor == self._wakeup:
                os.read(self._wakeup, 64)
            for number in self._owners.ended(descriptor):
                self._take_back_if_ended(number)

    def _due_in(self) -> float:
        """Return in how many seconds there is something to begin."""
        moment = time.monotonic()
        due = [self._look_at]
        if self._retry_at > moment:
            due.append(self._retry_at)
        rested = self._resting.next_due()
        if rested is not None:
            due.append(moment + max(0.0, rested - resting.now()))
        return max(0.0, min(due) - moment)

    def _next_look(self, moment: float) -> int | None:
        """Return the free slot whose turn it is to be looked at, None when it is not time.

        After the last one, look at all that is rare.
        """
        if moment < self._look_at:
            return None
        here = self._in[FREE] | self._in[RESERVE]
        if not self._looking:
            self._looking = sorted(here, reverse=True)
            for number in self._owners.unwatched():
                self._take_back_if_ended(number)
            over = [one for one, until in self._blocked.items() if until <= moment]
            for number in over:
                del self._blocked[number]
            here_still = self._files.numbers(RETURNED)
            self._in[RETURNED].update(here_still.intersection(over))
            self._free_numbers(set(over) - here_still)
        self._look_at = moment + self._wishes.look_s / max(1, len(here))
        while self._looking:
            number = self._looking.pop()
            if number in here:
                return number
        return None
