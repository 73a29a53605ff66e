"""Let addresses rest after a member has gone, before another gets them.

What the last tenant's peers still send would reach the next one; and the host would take it for
what it knows: its connections of that address. So the lease is handed over to nobody's name, a file
says until when, and then the host forgets the connections and the lease goes.

    /run/cni-faasm/pools/<pool>/resting/<address>     0600, JSON

The file comes first and goes last: whatever moment the process is killed in, the next one goes on.
Who holds the lease by then is looked at, so a file too many does no harm.
"""

import contextlib
import heapq
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from cni_faasm.attachment import files as trusted
from cni_faasm.attachment.plan import Plan
from cni_faasm.cli.pool.slotfiles import RESTING, SlotFiles
from cni_faasm.ipam.store import Store
from cni_faasm.link import connections
from cni_faasm.spec import inet

_LIMIT = 4096
_HOLDER = "resting-"


class Lease(NamedTuple):
    """An address that rests. due: seconds since boot, suspended time included."""

    due: float
    address: str
    network: str
    data_dir: str
    container_id: str
    ifname: str


def now() -> float:
    """Return the seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Resting:
    """The addresses of one pool that rest.

    seconds: for how long. A thread of its own makes the host forget them, for that takes long.
    """

    def __init__(self, files: SlotFiles, seconds: float) -> None:
        self._folder = f"{files.path}/{RESTING}"
        self._seconds = seconds
        self._heap: list[Lease] = []
        self._busy: list[Future[None]] = []
        self._netfilter = connections.open_socket()
        self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Wait for what has been begun."""
        self._thread.shutdown()
        self._netfilter.close()

    def load(self) -> None:
        """Find what an earlier process has left to rest."""
        self._heap = []
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError, ValueError, TypeError):
                    told = json.loads(trusted.read_at(folder, name, _LIMIT))
                    self._heap.append(Lease(float(told["due"]), **{k: str(told[k]) for k in _KEYS}))
        finally:
            os.close(folder)
        heapq.heapify(self._heap)

    def lay_down(self, promised: Sequence[Plan]) -> None:
        """Keep the addresses of members that go from being leased again. Raises: CniError, OSError.

        What another plugin has leased is that plugin's: its connections are forgotten at once.
        """
        due = now() + self._seconds
        theirs = [one.address for plan in promised if plan.ipam_plugin for one in plan.addresses]
        if theirs and connections.are_tracked():
            self._thread.submit(connections.forget, self._netfilter, theirs).result()
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for plan in promised:
                if not plan.ipam_plugin:
                    self._lay_down(folder, plan, due)
        finally:
            os.close(folder)

    def _lay_down(self, folder: int, plan: Plan, due: float) -> None:
        holder = (plan.container_id, plan.ifname)
        leases = [
            Lease(due, inet.unpack(one.address), plan.network, plan.data_dir, *holder)
            for one in plan.addresses
        ]
        for one in leases:
            text = json.dumps(one._asdict()).encode()
            trusted.replace_at(folder, one.address, f".{one.address}", text, 0o600)
        with Store(plan.data_dir, plan.network, create=False) as store:
            for one in leases:
                store.hand_over(inet.pack(one.address), holder, (_HOLDER + holder[0], holder[1]))
        for one in leases:
            heapq.heappush(self._heap, one)

    def next_due(self) -> float | None:
        """Return when the next address has rested, None when none rests."""
        return self._heap[0].due if self._heap else None

    def wake(self, *, every: bool = False) -> None:
        """Let go of what has rested long enough, in the background; of all if so wanted."""
        self._busy = [one for one in self._busy if not one.done() or _raise(one)]
        moment = now()
        due = []
        while self._heap and (every or self._heap[0].due <= moment):
            due.append(heapq.heappop(self._heap))
        if due:
            self._busy.append(self._thread.submit(self._release, due))

    def wait(self) -> None:
        """Wait until all that was begun is done. Raises: what went wrong."""
        for one in self._busy:
            one.result()
        self._busy = []

    def _release(self, leases: Iterable[Lease]) -> None:
        """Have the host forget addresses, then free them."""
        by_network: dict[tuple[str, str], list[Lease]] = {}
        for one in leases:
            by_network.setdefault((one.data_dir, one.network), []).append(one)
        addresses = [inet.pack(one.address) for some in by_network.values() for one in some]
        if connections.are_tracked():
            connections.forget(self._netfilter, addresses)
        for (data_dir, network), some in by_network.items():
            with Store(data_dir, network, create=False) as store:
                for one in some:
                    holder = _HOLDER + one.container_id
                    store.release([inet.pack(one.address)], holder, one.ifname)
            for one in some:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._folder}/{one.address}")


_KEYS = Lease._fields[1:]


def _raise(one: Future[None]) -> bool:
    one.result()
    return False


def wake_all(files: SlotFiles) -> None:
    """Free all addresses that rest, for their pool goes. Raises: CniError, NetlinkError, OSError."""
    resting = Resting(files, 0)
    try:
        resting.load()
        resting.wake(every=True)
        resting.wait()
    finally:
        resting.close()
