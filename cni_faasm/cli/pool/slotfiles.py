"""Keep the files by which a pool's members are claimed and returned (docs/slots.md).

    /run/cni-faasm/pools/<prefix>/          0755
    ├── free/ claimed/ returned/            0755, each with a file K, 0644
    ├── reserve/                            0755, the server's reserve, which nobody claims
    ├── resting/<address>                   0600  see resting.py
    └── serve.lock                          0600  flock: the server of the pool

A member is in one of these folders, or in none while it is being made or taken away. Who
may claim may write whatever it likes into the files of claimed members. So nothing here is
believed of what stands in them but the line about the owner; a member's names follow from its
number.
"""

import contextlib
import fcntl
import json
import os
from typing import Any, NamedTuple

from cni_faasm import slots
from cni_faasm.attachment import files
from cni_faasm.slots import CLAIMED, FREE, RETURNED, STATES

_FILE_LIMIT = 1 << 16
RESERVE = "reserve"
RESTING = "resting"
# Where a member can be.
PLACES = (*STATES, RESERVE)
_LOCK = "serve.lock"


class Owner(NamedTuple):
    """Who claimed a member. start_ticks, namespace: 0 where it was not said."""

    pid: int
    start_ticks: int
    namespace: int


class SlotFiles:
    """The files of one pool. Absent folders are empty ones."""

    def __init__(self, pool: str, root: str = slots.ROOT) -> None:
        self.pool = pool
        self.path = f"{root}/{pool}"

    def make(self) -> None:
        """Make the folders. Raises: OSError."""
        for state in (*PLACES, RESTING):
            os.makedirs(f"{self.path}/{state}", mode=0o755, exist_ok=True)

    def numbers(self, state: str) -> set[int]:
        """Return the numbers of the members in a state."""
        try:
            names = os.listdir(f"{self.path}/{state}")
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if is_number(name)}

    def states(self) -> dict[int, str]:
        """Return the state of each member that has one."""
        return {number: state for state in PLACES for number in self.numbers(state)}

    def state_of(self, number: int) -> str | None:
        """Return the state of one member."""
        found = [s for s in PLACES if os.path.lexists(f"{self.path}/{s}/{number}")]
        return found[0] if found else None

    def put(self, number: int, document: dict[str, Any], state: str = FREE) -> None:
        """Put a new member into a state; in FREE anybody may claim it. Raises: OSError."""
        folder = os.open(f"{self.path}/{state}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            text = json.dumps(document).encode() + b"\n"
            files.replace_at(folder, str(number), f".{number}", text, 0o644)
        finally:
            os.close(folder)

    def move(self, number: int, source: str, target: str) -> bool:
        """Change a member's state; False when it was not in that state any more."""
        try:
            os.rename(f"{self.path}/{source}/{number}", f"{self.path}/{target}/{number}")
        except FileNotFoundError:
            return False
        return True

    def withdraw(self, number: int) -> bool:
        """Take a member that nobody has away from who would claim it; False when somebody has."""
        return self.move(number, FREE, RETURNED) or self.move(number, RESERVE, RETURNED)

    def offer_reserve(self) -> None:
        """Let anybody claim what a server that has ended kept in reserve."""
        for number in self.numbers(RESERVE):
            self.move(number, RESERVE, FREE)

    def drop(self, number: int) -> None:
        """Forget a member that has been taken away, in whatever state it was."""
        for state in PLACES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{state}/{number}")

    def owner(self, number: int) -> Owner | None:
        """Return who has a claimed member; None when that is not said."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(f"{self.path}/{CLAIMED}/{number}", flags)
        except OSError:
            return None
        try:
            lines = os.read(descriptor, _FILE_LIMIT).splitlines()[1:]
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return next(filter(None, map(_owner_in, reversed(lines))), None)

    def machine(self) -> tuple[str, int] | None:
        """Return the TAP that the members have, and whose it is; None when they have none.

        Any member's file says it; those that nobody has claimed are believed first.
        """
        for state in (FREE, RESERVE, CLAIMED):
            for number in sorted(self.numbers(state)):
                try:
                    with open(f"{self.path}/{state}/{number}", "rb") as file:
                        told = json.loads(file.readline(_FILE_LIMIT))["machine"]
                    return None if told is None else (str(told["tap"]), int(told["user"]))
                except (OSError, ValueError, KeyError, TypeError, RecursionError):
                    continue
        return None

    def lock(self) -> int:
        """Become the pool's server. Returns: a descriptor to keep, -1 when there is one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{self.path}/{_LOCK}", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return -1
        return descriptor

    def is_served(self) -> bool:
        """Say whether a server keeps this pool."""
        if not os.path.exists(f"{self.path}/{_LOCK}"):
            return False
        descriptor = self.lock()
        if descriptor >= 0:
            os.close(descriptor)
        return descriptor < 0

    def remove(self) -> None:
        """Take the folders away, if nothing is in them."""
        if any(self._listed(state) for state in (*PLACES, RESTING)):
            return
        for state in (*PLACES, RESTING):
            with contextlib.suppress(OSError):
                os.rmdir(f"{self.path}/{state}")
        with contextlib.suppress(OSError):
            os.unlink(f"{self.path}/{_LOCK}")
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def _listed(self, state: str) -> list[str]:
        try:
            return os.listdir(f"{self.path}/{state}")
        except FileNotFoundError:
            return []


def is_number(name: str) -> bool:
    """Say whether a file's name is a member's number."""
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 6


def _owner_in(line: bytes) -> Owner | None:
    try:
        document = json.loads(line)
        pid = document["pid"]
        others = [document.get(key, 0) for key in ("startTicks", "pidNamespace")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not all(type(one) is int and 0 <= one < 1 << 63 for one in (pid, *others)) or not pid:
        return None
    return Owner(pid, *others)


def is_alive(owner: Owner) -> bool:
    """Say whether an owner lives, or whether nobody here can know.

    A pid of another PID namespace is a number without meaning to us.
    """
    if owner.namespace and owner.namespace != os.stat("/proc/self/ns/pid").st_ino:
        return True
    try:
        with open(f"/proc/{owner.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    # A zombie has ended, and only its parent does not know yet.
    return fields[0] not in (b"Z", b"X") and owner.start_ticks in (0, int(fields[19]))


__all__ = [
    "CLAIMED",
    "FREE",
    "PLACES",
    "RESERVE",
    "RESTING",
    "RETURNED",
    "Owner",
    "SlotFiles",
    "is_alive",
]
