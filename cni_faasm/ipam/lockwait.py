"""Wait for a file lock that somebody else holds, but not for ever."""

import fcntl
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import FrameType
elif "_signal" in sys.modules:
    import _signal


class _WaitedEnoughError(Exception):
    """Interrupts flock(2), which would otherwise be restarted after the signal."""


def wait_for_lock(descriptor: int, timeout_ms: int) -> bool:
    """Take LOCK_EX within timeout_ms; say whether it was got.

    The kernel queues those who wait in flock(2), so a timer that interrupts the call is
    fairer and quicker than polling. Outside of the main thread, where Python allows no
    signal handlers, and in the bundle, whose interpreter has none, it polls. Raises: OSError.
    """
    if timeout_ms <= 0:
        return _try_lock(descriptor)
    if "_signal" not in sys.modules:
        return _poll(descriptor, timeout_ms)
    waiting = False

    def interrupt(_number: int, _frame: "FrameType | None") -> None:
        nonlocal waiting
        if waiting:  # once only: a second one would escape from the handling of the first
            waiting = False
            raise _WaitedEnoughError

    try:
        before = _signal.signal(_signal.SIGALRM, interrupt)
    except ValueError:
        return _poll(descriptor, timeout_ms)
    mask = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    timer = (0.0, 0.0)
    try:
        waiting = True
        # Again every 10 ms: the first alarm may come just before flock(2) is entered.
        timer = _signal.setitimer(_signal.ITIMER_REAL, timeout_ms / 1000, 0.01)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except _WaitedEnoughError:
        # It may have come just after the lock was got: the lock is ours then.
        return _try_lock(descriptor)
    finally:
        waiting = False
        _signal.setitimer(_signal.ITIMER_REAL, *timer)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL if before is None else before)
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
