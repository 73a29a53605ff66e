"""Make and take away members in a thread, so that the server hears at once of claims and returns.

One job at a time, each under the lock of all pool commands. What a job does to a member shows in the
folders; what else is to be told comes with its end.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from cni_faasm.cli import attachments
from cni_faasm.cli.attachments import Drift
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import making, netfolder, taken
from cni_faasm.cli.pool.making import Builder
from cni_faasm.cli.pool.offer import offer
from cni_faasm.cli.pool.renewal import Renewal
from cni_faasm.cli.pool.resting import Resting
from cni_faasm.cli.pool.slotfiles import RESERVE, RETURNED, SlotFiles
from cni_faasm.link import kernel
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError

# So many are made or taken away in one job.
AT_A_TIME = making.AT_A_TIME


class Told(NamedTuple):
    """What has happened to a member, and why."""

    event: str
    number: int | None
    reason: str


@dataclass
class Done:
    """What a job has done.

    gone: numbers that are nobody's now. failed: those of them that could not be made, and why.
    blocked: those that are in the way, and are to be looked at again later. handled: returned ones
    that need not be taken away again. drifted: a free one, and what of it is not as promised. look_s: how
    long the look at it took.
    """

    told: list[Told] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    failed: list[Told] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    drifted: tuple[int, str] | None = None
    look_s: float = 0.0


class Workshop:
    """The thread that makes, looks at and takes away the members of one pool."""

    def __init__(
        self, builder: Builder, files: SlotFiles, resting: Resting, wake: Callable[[], None]
    ) -> None:
        self._builder = builder
        self._files = files
        self._resting = resting
        self._renewal = Renewal(builder, files, resting)
        self._wake = wake
        self._thread = ThreadPoolExecutor(1)
        self._begun: set[int] = set()  # their names are free, and their namespaces being made
        self._job: Future[Done] | None = None

    def close(self) -> None:
        """Wait for the job that has been begun."""
        self._thread.shutdown()
        self._renewal.close()

    @property
    def is_busy(self) -> bool:
        """Say whether a job has been begun whose end was not taken in."""
        return self._job is not None

    def begin(
        self,
        new: Sequence[int],
        returned: Sequence[int],
        look: int | None,
        later: Sequence[int] = (),
    ) -> None:
        """Make members, take members away, look at one; `wake` is called when that is done.

        new, returned, later: at most AT_A_TIME of each. later: whose namespaces are made meanwhile.
        """
        self._job = self._thread.submit(self._work, new, returned, look, later)
        self._job.add_done_callback(lambda _: self._wake())

    def ended(self) -> Done | None:
        """Return what the job has done, once, when it is over. Raises: what went wrong."""
        if self._job is None or not self._job.done():
            return None
        job, self._job = self._job, None
        return job.result()

    def _work(
        self,
        new: Sequence[int],
        returned: Sequence[int],
        look: int | None,
        later: Sequence[int],
    ) -> Done:
        done = Done()
        with making.locked(lambda _: None):
            new = [one for one in new if one in self._begun] + self._free_of(
                [one for one in new if one not in self._begun], done
            )
            self._begun.difference_update(new)
            ahead = self._free_of([one for one in later if one not in self._begun], done)
            self._builder.make_ahead(ahead)
            self._begun.update(ahead)
            # Whoever waits for a slot comes before what is to be tidied up.
            self._make(new, done)
            self._take_away(returned, done)
            self._resting.wake()
        if look is not None:
            begin = time.monotonic()
            self._look_at(look, done)
            done.look_s = time.monotonic() - begin
        return done

    def _free_of(self, numbers: Sequence[int], done: Done) -> list[int]:
        """Return those numbers whose names nobody has."""
        try:
            self._demand_free(numbers)
        except ToolError as error:
            if len(numbers) > 1:
                return [free for one in numbers for free in self._free_of([one], done)]
            done.told.append(Told("failed", numbers[0], str(error)))
            done.blocked.extend(numbers)
            return []
        return list(numbers)

    def _make(self, numbers: Sequence[int], done: Done) -> None:
        for outcome in self._builder.up_many(numbers):
            number = outcome.number
            done.told.extend(
                Told("warning", number, one) for one in dict.fromkeys(self._builder.warnings)
            )
            self._builder.warnings.clear()
            if outcome.action == "failed":
                done.gone.append(number)
                done.failed.append(Told("failed", number, outcome.error))
            else:
                offer(self._files, self._builder, number, outcome.promised, RESERVE)

    def _take_away(self, wanted: Sequence[int], done: Done) -> None:
        # Once more: what is not there any more may be another's by now.
        states = {number: self._files.state_of(number) for number in wanted}
        numbers = [one for one in wanted if states[one] in (RETURNED, None)]
        failures = {one.number: one for one in self._renewal.take_away(numbers)}
        done.handled.extend(wanted)
        for number in numbers:
            if number in failures:
                done.told.append(Told("failed", number, failures[number].error))
                done.blocked.append(number)
            else:
                done.gone.append(number)

    def _demand_free(self, numbers: Sequence[int]) -> None:
        """Refuse names that somebody else has. Raises: ToolError."""
        names, builder = self._builder.names, self._builder
        wanted = []
        for number in numbers:
            name, inner = names.namespace(number), names.inner(number)
            if netfolder.exists(name):
                # Whatever it is, nobody knows what is in there.
                raise ToolError(f"{name} is somebody's namespace")
            one = attachments.load(builder.state_dir, builder.network, name, inner)
            own = [one] if one.fields else []
            wanted.append(taken.Wanted(name, inner, names.outer(number), own))
        if wanted:
            taken.demand_free(wanted, names.prefix)

    def _look_at(self, number: int, done: Done) -> None:
        names, builder = self._builder.names, self._builder
        identity = names.namespace(number), names.inner(number)
        one = attachments.load(builder.state_dir, builder.network, *identity)
        drifts: list[Drift] = [("attachment", "", "gone")]
        if one.fields:
            try:
                drifts = builder.drifts(one)
            except NetlinkError as error:
                drifts = [("attachment", "", kernel.refusal(error).msg)]
            except CniError as error:
                drifts = [("attachment", "", error.msg)]
        if drifts:
            what, expected, found = drifts[0]
            done.drifted = number, f"{what}: {expected} expected, {found} found"


def inhabited() -> set[tuple[int, int]]:
    """Return the network namespaces that processes are in."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        one = identity(f"/proc/{pid}/ns/net")
        if one is not None:
            found.add(one)
    return found


def identity(path: str) -> tuple[int, int] | None:
    """Return what a namespace is known by, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
