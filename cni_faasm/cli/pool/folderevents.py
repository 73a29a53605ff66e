"""Hear of the files that come to folders and leave them (inotify(7))."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# <linux/inotify.h>
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_IGNORED = 0x8000
IN_Q_OVERFLOW = 0x4000
_WANTED = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
_LOST = IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED
_EVENT = struct.Struct("=iIII")
_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """A file that is in a folder, was written there, or is there no more."""

    folder: str
    name: str
    is_there: bool


class LostError(Exception):
    """Events were lost, or a folder is another by now: what is there must be looked at."""


class FolderEvents:
    """The events of some folders."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify")
        self._folders: dict[int, str] = {}
        for folder in folders:
            watch = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _WANTED)
            self._folders[_checked(watch, folder)] = folder

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> Iterator[Event]:
        """Yield what has happened, in order; nothing when nothing has. Raises: LostError."""
        while True:
            try:
                data = os.read(self._fd, _BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                at += length
                if mask & _LOST:
                    raise LostError
                yield Event(self._folders[watch], name, bool(mask & (IN_CLOSE_WRITE | IN_MOVED_TO)))


def _checked(value: int, what: str) -> int:
    if value < 0:
        number = ctypes.get_errno()
        hint = "fs.inotify.max_user_instances" if number == errno.EMFILE else ""
        raise OSError(number, f"{os.strerror(number)} {hint}".rstrip(), what)
    return int(value)
