"""Take members away whose tenants have gone, so that nothing of them reaches the next.

A namespace in which somebody was root cannot be proven clean at any price: beside interfaces,
addresses, routes, rules, queues and sysctls it has sockets, which live as long as anybody on the
host has a descriptor of one. A new namespace is clean by nature and costs 0.1 ms. So nothing is
cleaned. The pair goes, from the host's side, and with it all that leads from the old namespace to
anywhere; its name goes; the number, sooner or later, is that of a namespace made anew.

What is left is on the host: its element of the guard and what that has learned, its bucket of
the backstop, and its file for ip netns, which go here; and its address, which rests (resting.py).
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from cni_faasm.attachment.plan import Plan
from cni_faasm.cli import attachments, networks
from cni_faasm.cli.pool import netfolder, resolvers, traces
from cni_faasm.cli.pool.making import Builder
from cni_faasm.cli.pool.resting import Resting
from cni_faasm.cli.pool.slotfiles import RETURNED, SlotFiles
from cni_faasm.config import loading as configuration
from cni_faasm.link import egress, kernel, removal, several, veth
from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError
from cni_faasm.verbs.delete import delete, release

# So many at a time have a thread each; more are deleted in one message.
_THREADS = 8
_POLL_S = 0.0002


class Failure(NamedTuple):
    """A member that could not be taken away, and why."""

    number: int
    error: str
    remedy: str


class Renewal:
    """Take members of one pool away. Call it under the pool's lock."""

    def __init__(self, builder: Builder, files: SlotFiles, resting: Resting) -> None:
        self._builder = builder
        self._files = files
        self._resting = resting
        self._host = Netlink()
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS)

    def close(self) -> None:
        self._threads.shutdown()
        self._host.close()

    def take_away(self, numbers: Sequence[int]) -> list[Failure]:
        """Take members away, with all that was theirs. What has gone already is success."""
        names, builder = self._builder.names, self._builder
        plans: dict[int, Plan] = {}
        for number in numbers:
            name, ifname = names.namespace(number), names.inner(number)
            one = attachments.load(builder.state_dir, builder.network, name, ifname)
            if one.promised is not None:
                plans[number] = one.promised
        try:
            self._resting.lay_down(list(plans.values()))
            traces.forget(self._host, list(plans.values()))
            self._unlink(list(plans.values()))
            traces.sweep(self._host, list(plans.values()))
        except NetlinkError as error:
            refused = kernel.refusal(error)
            return [Failure(number, refused.msg, refused.details) for number in numbers]
        except CniError as error:
            return [Failure(number, error.msg, error.details) for number in numbers]
        except OSError as error:
            text = f"{error.filename}: {error.strerror}"
            return [Failure(number, text, "") for number in numbers]
        return [one for number in numbers for one in self._finish(number, plans.get(number))]

    def _finish(self, number: int, promised: Plan | None) -> list[Failure]:
        name = self._builder.names.namespace(number)
        try:
            self._detach(number, promised)
            resolvers.remove(name)
            netfolder.remove(name)
            self._files.drop(number)
        except NetlinkError as error:
            refused = kernel.refusal(error)
            return [Failure(number, refused.msg, refused.details)]
        except CniError as error:
            return [Failure(number, error.msg, error.details)]
        except OSError as error:
            return [Failure(number, f"{error.filename}: {error.strerror}", "")]
        return []

    def _detach(self, number: int, promised: Plan | None) -> None:
        """Do the rest of a DEL: the ifb, lease and record. Raises: CniError, NetlinkError."""
        names, builder = self._builder.names, self._builder
        name, ifname = names.namespace(number), names.inner(number)
        document: dict[str, object] = {"name": builder.network, "stateDir": builder.state_dir}
        # By its record the pair has gone; without one, the namespace leads to it.
        netns = netfolder.path_of(name) if promised is None else ""
        request = networks.request("DEL", document, name, ifname, netns)
        if promised is not None:
            if promised.host_egress is not None:
                egress.remove(self._host, promised, detach=False)
            config = configuration.load_tolerant(document)
            if release(request, config, builder.network, (name, ifname), promised):
                return
        delete(request, builder.warnings, detach=False)

    def _unlink(self, plans: Sequence[Plan]) -> None:
        """Delete pairs, and return when nobody sees them any more. Raises: NetlinkError."""
        found = several.find_outer(self._host, plans)
        if len(found) > _THREADS:
            macs = {one.address for one in found}
            removal.delete_all(
                self._host, found, lambda one: one.kind == "veth" and one.address in macs
            )
            return
        waiting = [(one, self._threads.submit(self._delete, one.ifindex)) for one in found]
        for one, done in waiting:
            self._wait(one, done)

    def _delete(self, ifindex: int) -> None:
        """Delete in a thread: the kernel keeps it for 20 ms after the pair has gone."""
        socket = getattr(self._local, "socket", None)
        if socket is None:
            socket = self._local.socket = Netlink()
        removal.delete(socket, ifindex)

    def _wait(self, one: link.Link, done: "Future[None]") -> None:
        while not done.done() and veth.find(self._host, ifindex=one.ifindex) is not None:
            time.sleep(_POLL_S)
        if done.done():
            done.result()


def renew_returned(builder: Builder, files: SlotFiles) -> list[Failure]:
    """Take away what was returned, where no server does it; without rest, since nobody ends it."""
    numbers = sorted(files.numbers(RETURNED))
    if not numbers or files.is_served():
        return []
    resting = Resting(files, 0)
    renewal = Renewal(builder, files, resting)
    try:
        failures = renewal.take_away(numbers)
        resting.load()
        resting.wake(every=True)
        resting.wait()
    finally:
        renewal.close()
        resting.close()
    return failures
