"""Take links away: ours alone, and without waiting for the kernel longer than needed."""

import contextlib
import os
import time
from collections.abc import Callable

from cni_faasm.link import veth
from cni_faasm.netlink import dumps, link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import KERNEL_REFUSED, CniError

GC_GROUP = 0xFAA5  # an interface group that links are in only while they are deleted
DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.0005
# Ours are few and low. Where close_range(2) is refused, closing a million one by one takes long.
_MAX_DESCRIPTOR = 1 << 10


def delete(host: Netlink, ifindex: int) -> None:
    """Delete a pair by one end's index and wait for it; absent is success.

    Raises: NetlinkError.
    """
    try:
        host.execute([link.del_link(ifindex=ifindex)])
    except NetlinkError as error:
        if not veth.is_absent(error):
            raise


def delete_all(
    host: Netlink, doomed: list[link.Link], is_ours: Callable[[link.Link], bool]
) -> list[link.Link]:
    """Delete many links, and wait for the kernel once instead of for each.

    is_ours: whether a link bears our mark and is to go. Each is asked for once more, for what
    was found may be somebody else's by now, and found may be what nobody asked for.
    One message by interface group waits once for RCU. Absent is success.
    Returns: those that were there and are gone.
    Raises: NetlinkError.
    """
    sure = _confirmed(host, doomed, is_ours)
    if not sure:
        return []
    for answer in host.execute_tolerant(
        [link.set_link(one.ifindex, group=GC_GROUP) for one in sure]
    ):
        if isinstance(answer, NetlinkError) and not veth.is_absent(answer):
            raise answer
    indexes = {one.ifindex for one in sure}
    if all(one.ifindex in indexes for one in dumps.group_members(host, GC_GROUP)):
        messages = [link.del_link(group=GC_GROUP)]
    else:  # somebody has put another one there
        messages = [link.del_link(ifindex=one.ifindex) for one in sure]
    for answer in host.execute_tolerant(messages):
        if isinstance(answer, NetlinkError) and not veth.is_absent(answer):
            raise answer
    return sure


def _confirmed(
    host: Netlink, doomed: list[link.Link], is_ours: Callable[[link.Link], bool]
) -> list[link.Link]:
    found = []
    questions = [link.get_link(ifindex=one.ifindex) for one in doomed]
    for one, answer in zip(doomed, host.get_tolerant(questions), strict=True):
        if isinstance(answer, NetlinkError):
            if not veth.is_absent(answer):
                raise answer
            continue
        now = link.parse_link(answer)
        if now.ifindex == one.ifindex and is_ours(now):
            found.append(now)
    return found


def _nothing() -> None:
    pass


def delete_detached(
    host: Netlink,
    ifindex: int,
    before: Callable[[], None] = _nothing,
    after: Callable[[], None] = _nothing,
) -> None:
    """Delete a pair and return as soon as nothing of it can be seen any more.

    The kernel keeps the deleting process for 16 to 24 ms after that, in rcu_barrier; so a
    child waits there instead, without the runtime's pipes, whose end the runtime awaits. It keeps
    open what Netlink.kept_open has, to wait for that too.
    before, after: what the child does beside that, for it may take as long. Where before fails,
    the pair goes all the same.
    Raises: NetlinkError; CniError when the link stays.
    """
    ready, told = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no process to be had: then it takes longer
        os.close(ready)
        os.close(told)
        _tolerate(before)
        delete(host, ifindex)
        after()
        return
    if child == 0:
        _delete_and_exit(ifindex, told, before, after)
    Netlink.close_kept()
    os.close(told)
    os.read(ready, 1)  # its end, when the child closes it: from then on there is something to see
    os.close(ready)
    deadline = time.monotonic() + DELETE_TIMEOUT_S
    ended = False
    while veth.find(host, ifindex=ifindex) is not None:
        if ended:
            delete(host, ifindex)  # the child failed: do it here, where the error is told
            return
        if time.monotonic() > deadline:
            raise CniError(
                KERNEL_REFUSED,
                f"interface {ifindex} is still there {DELETE_TIMEOUT_S:.0f} s after its deletion",
                "look at the kernel log; DEL may be called again",
            )
        try:
            ended = os.waitpid(child, os.WNOHANG)[0] == child
        except ChildProcessError:  # who ignores SIGCHLD, as a runtime may, has none to wait for
            ended = True
        time.sleep(_POLL_S)


def _tolerate(act: Callable[[], None]) -> None:
    with contextlib.suppress(NetlinkError, CniError, OSError):
        act()


def _delete_and_exit(
    ifindex: int, told: int, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """Be the child: leave the session and every descriptor but kept sockets, delete, end.

    told: what the parent reads the end of when the link is about to go.
    """
    status = 1
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        kept = Netlink.kept_open or []
        first = 3
        for fd in sorted([told, *[one.fileno() for one in kept]]):
            os.closerange(first, fd)
            first = fd + 1
        os.closerange(first, _MAX_DESCRIPTOR)
        Netlink.kept_open = kept
        _tolerate(before)
        os.close(told)
        delete(Netlink(), ifindex)
        after()
        status = 0
    finally:
        os._exit(status)
