"""Tell each step of a call with its time, for who looks into a problem. Off by default.

CNI_FAASM_LOG in the plugin's environment names the file, or "logFile" in the configuration.
What is told: verbs, requests to the kernel in words, files; never a configuration's text. The
lines of a call are written at its end, at once, so that those of several do not mix; the
file is put aside as FILE.1 when it has 4 MiB.
"""

import os
from collections.abc import Callable

MAX_BYTES = 4 << 20
MAX_STEPS = 2000
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO that nobody reads must not hang the runtime, nor a terminal become ours.
_FLAGS |= os.O_NONBLOCK | os.O_NOCTTY


class Log:
    """What one call has done so far, with the time of each step."""

    __slots__ = ("_clock", "_steps")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._steps: list[tuple[float, str]] = []

    def step(self, text: str) -> None:
        """Note that something has just been done."""
        if len(self._steps) < MAX_STEPS:
            self._steps.append((self._clock(), text))

    def write(self, path: str, head: str) -> None:
        """Append a line for each step to a file; a log that cannot be written is none."""
        begin = self._steps[0][0] if self._steps else 0.0
        lines = [
            f"{head} +{(moment - begin) * 1000:.2f} ms {_on_one_line(text)}\n"
            for moment, text in self._steps
        ]
        data = "".join(lines).encode("utf-8", "replace")
        try:
            descriptor = os.open(path, _FLAGS, 0o600)
            try:
                status = os.fstat(descriptor)
                if not _is_ours(status):
                    return
                os.write(descriptor, data)
                if status.st_size + len(data) > MAX_BYTES:
                    os.rename(path, path + ".1")
            finally:
                os.close(descriptor)
        except OSError:
            return


def _is_ours(status: os.stat_result) -> bool:
    """Say whether a file is a log that this tool made.

    Not a device or FIFO, which cannot be kept bounded; not what somebody else planted, who
    would read it, nor another name of a file that is none.
    """
    is_regular = status.st_mode & 0o170000 == 0o100000
    is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return is_regular and is_own and status.st_nlink == 1


def _on_one_line(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:300]


def wanted(environ: dict[str, str], document: dict[str, object]) -> str:
    """Return the file that a log is wanted in, "" for none."""
    path = environ.get("CNI_FAASM_LOG", "")
    if not path:
        for key, value in document.items():
            if key.lower() == "logfile" and isinstance(value, str):
                path = value
    is_plain = path.startswith("/") and "\0" not in path and ".." not in path.split("/")
    return path if is_plain else ""
