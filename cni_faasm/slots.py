"""Claim a ready network for a function, and give it back: no process, no dependency.

    /run/cni-faasm/pools/<pool>/
    ├── free/<K>         a file per slot that anybody may claim
    ├── claimed/<K>      one that somebody has
    └── returned/<K>     one that waits for being made as new

rename(2) does it all: free/K to claimed/K is a claim, and one of many that try wins;
claimed/K to returned/K gives back. The first line of the file is a JSON object with all that
a runtime needs. Who claims adds a line about itself, so that `cni-faasm pool serve` can let go
of what a dead owner has left. docs/slots.md tells the whole protocol.

    with slots.claim() as slot:
        subprocess.run(["nsenter", f"--net={slot.netns}", "my-function"])

Standard library only; `pool up` or `pool serve` of cni-faasm makes the slots.
"""

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

ROOT = "/run/cni-faasm/pools"
POOL = "faasm"
FREE, CLAIMED, RETURNED = STATES = ("free", "claimed", "returned")

_LOOKED_AT = 64  # names of one look; with four times as many a first claim takes a third longer
_MISSES = 4  # in a row: what was seen is old by now, and to look again is cheaper than to go on
_LOOKS = 1024
_FILE_LIMIT = 1 << 16
# Names that were in a folder when it was looked at: a thousand take 0.2 ms to read, and what is
# somebody else's by now, rename(2) says. By folder.
_seen: dict[str, list[str]] = {}
# What a process says of itself, by its pid: it does not change, and a fork has another pid.
_own: dict[int, bytes] = {}
# What json.loads does besides is a sixth of a claim, where a process has slept since the last.
_first_of = json.JSONDecoder().raw_decode
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class NoSlotError(Exception):
    """No slot of the pool is free, or there is no such pool."""


class Slot:
    """A slot that this process has claimed. Leaving a `with` block gives it back.

    document: what the slot's file says; see docs/slots.md.
    """

    __slots__ = ("document", "number", "pool", "root")

    def __init__(self, number: int, document: dict[str, Any], pool: str, root: str) -> None:
        self.number = number
        self.document = document
        self.pool = pool
        self.root = root

    @property
    def netns(self) -> str:
        """Return the path of the network namespace."""
        return str(self.document["netns"])

    @property
    def ifname(self) -> str:
        """Return the name of the interface inside."""
        return str(self.document["ifname"])

    @property
    def addresses(self) -> list[str]:
        """Return the addresses inside, with their prefix lengths."""
        return list(self.document["addresses"])

    def give_back(self) -> None:
        """Return the slot. Raises: FileNotFoundError when it is not claimed any more."""
        give_back(self.number, self.pool, self.root)

    def hand_over(self, pid: int) -> None:
        """Name another process as the owner. Raises: OSError."""
        descriptor = os.open(_path(self.root, self.pool, CLAIMED, str(self.number)), _FLAGS)
        try:
            os.write(descriptor, owner_line(pid))
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back()

    def __repr__(self) -> str:
        return f"<slot {self.number} of {self.pool}: {self.netns}>"


def claim(pool: str = POOL, *, pid: int = 0, root: str = ROOT) -> Slot:
    """Claim a free slot.

    pid: of the process at whose end the slot may be taken back; 0 for this one, -1 for none.
    Raises: NoSlotError; OSError.
    """
    free, claimed = _path(root, pool, FREE, ""), _path(root, pool, CLAIMED, "")
    owner = _line_of(pid)
    names = _seen.setdefault(free, [])
    for _ in range(_LOOKS):
        for name in reversed(names[-_MISSES:]):
            names.pop()
            try:
                os.rename(free + name, claimed + name)
            except FileNotFoundError:
                continue  # somebody else's by now
            return _taken(int(name), claimed + name, owner, pool, root)
        found = list(_some(free, pool))
        if not found:
            break
        # Many that claim at once begin at different places.
        start = time.monotonic_ns() // 64 % (len(found) or 1)
        names[:] = found[start:] + found[:start]
    raise NoSlotError(f"no slot of the pool {pool!r} is free")


def give_back(number: int, pool: str = POOL, root: str = ROOT) -> None:
    """Return a claimed slot. Raises: FileNotFoundError when it is not claimed."""
    name = str(number)
    os.rename(_path(root, pool, CLAIMED, name), _path(root, pool, RETURNED, name))


def _line_of(pid: int) -> bytes:
    if pid:
        return b"" if pid < 0 else owner_line(pid)
    own = os.getpid()
    if own not in _own:
        _own.clear()
        _own[own] = owner_line(own)
    return _own[own]


def owner_line(pid: int) -> bytes:
    """Return the line that names the owner of a claimed slot.

    A pid is given again, so its start time goes with it; and it means something in one PID
    namespace only.
    """
    text = b'{"pid": %d' % pid
    try:
        text += b', "startTicks": %d' % start_ticks(pid)
        text += b', "pidNamespace": %d' % os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        pass  # without /proc, or another user's: the pid alone has to do
    return text + b"}\n"


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: field 22 of proc_pid_stat(5).

    Raises: OSError when there is no such process.
    """
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    # The second field is the name, in which anything may stand, even ")".
    return int(text.rpartition(b")")[2].split()[19])


def _taken(number: int, path: str, owner: bytes, pool: str, root: str) -> Slot:
    """Read the file of a slot that is ours now, and put our line there."""
    descriptor = os.open(path, _FLAGS)
    try:
        text = os.read(descriptor, _FILE_LIMIT)
        if owner:
            os.write(descriptor, owner)
    finally:
        os.close(descriptor)
    return Slot(number, _first_of(text.decode())[0], pool, root)


def _some(folder: str, pool: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # What is being written has a name that begins with a dot.
            yield from islice((one.name for one in entries if one.name.isdigit()), _LOOKED_AT)
    except FileNotFoundError:
        raise NoSlotError(
            f"there is no pool {pool!r}: cni-faasm pool up or pool serve makes one"
        ) from None


def _path(root: str, pool: str, state: str, name: str) -> str:
    if not pool or "/" in pool or pool.startswith("."):
        msg = f"{pool!r} is no pool's name"
        raise ValueError(msg)
    return f"{root}/{pool}/{state}/{name}"
