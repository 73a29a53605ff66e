"""Wait for a file lock that somebody else holds, but not for ever."""

import fcntl
import sys
import time
from types import FrameType


class _WaitedEnoughError(Exception):
    """Interrupts flock(2), which would otherwise be restarted after the signal."""


def wait_for_lock(descriptor: int, timeout_ms: int) -> bool:
    """Take LOCK_EX within timeout_ms; say whether it was got.

    The kernel queues those who wait in flock(2), so a timer that interrupts the call is
    fairer and quicker than polling. Outside of the main thread, where Python allows no
    signal handlers, and in the snapshot, whose interpreter has none, it polls. Raises: OSError.
    """
    if timeout_ms <= 0:
        return _try_lock(descriptor)
    if hasattr(sys, "_is_snapshot"):
        return _poll(descriptor, timeout_ms)
    import signal  # which the snapshot has not

    waiting = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal waiting
        if waiting:  # once only: a second one would escape from the handling of the first
            waiting = False
            raise _WaitedEnoughError

    try:
        before = signal.signal(signal.SIGALRM, interrupt)
    except ValueError:
        return _poll(descriptor, timeout_ms)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    timer = (0.0, 0.0)
    try:
        waiting = True
        # Again every 10 ms: the first alarm may come just before flock(2) is entered.
        timer = signal.setitimer(signal.ITIMER_REAL, timeout_ms / 1000, 0.01)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except _WaitedEnoughError:
        # It may have come just after the lock was got: the lock is ours then.
        return _try_lock(descriptor)
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
    return True


def _poll(descriptor: int, timeout_ms: int) -> bool:
    end = time.monotonic() + timeout_ms / 1000
    pause = 0.0005
    while not _try_lock(descriptor):
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.004)
    return True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
