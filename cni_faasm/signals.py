"""Let nobody who ends a call end it in the middle."""

import sys

_SIGNALS = (15, 2)  # SIGTERM, SIGINT


def catch() -> None:
    """Have what a verb has done undone when somebody wants it to end."""
    if not _has_signals():
        return
    import signal  # which the snapshot has not

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminated)


def ignore() -> None:
    """Let no signal come between the result and the end, nor into the undoing."""
    if not _has_signals():
        return
    import signal  # which the snapshot has not

    for number in _SIGNALS:
        if signal.getsignal(number) is _terminated:
            signal.signal(number, signal.SIG_IGN)


def _terminated(*_: object) -> None:
    """Stop the work; once, for what follows is the undoing."""
    ignore()
    raise KeyboardInterrupt


def _has_signals() -> bool:
    """Say whether this interpreter has signal handlers.

    The one of the snapshot has not: SIGTERM and SIGINT are blocked there until the verb has
    ended (packaging/snapshot/adopt.c).
    """
    return not hasattr(sys, "_is_snapshot")
