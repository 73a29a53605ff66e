"""Count the calls of container runtimes: how many, how long, and what went wrong.

    /run/cni-faasm/calls/        0700
    ├── recent                   a record per call, appended by one write
    ├── earlier                  what `recent` was before it grew too long
    └── totals                   JSON: all that had been in the `earlier` files before that one

A call appends its record and waits for nobody: nothing is synced, and where it cannot be written,
nothing is said. The one that finds `recent` too long counts `earlier` into the totals and
puts `recent` into its place, while it holds the folder's lock; when somebody else does so, a
later call will. A reader adds all three up and writes nothing.

Who opened `recent` just before it was renamed writes to what is `earlier` then. So that is not
counted before it has been `earlier` for some seconds: there is nothing between the two that waits.
"""

import contextlib
import errno
import fcntl
import os
import time
from struct import Struct

from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError

FOLDER = "/run/cni-faasm/calls"
RECENT, EARLIER, TOTALS = "recent", "earlier", "totals"
# Of CNI, then of netavark. A record has the place in here: add at the end, and take none out.
VERBS = (
    *("ADD", "DEL", "CHECK", "GC", "STATUS", "create", "setup", "teardown"),
    *("VERSION", "info"),
)
# Which only tell versions, whoever asks and wherever: they leave a host as it is, and are counted
# where another call has been.
LEAVE_NO_TRACE = ("VERSION", "info")
OTHER = "other"
_NUMBERS = {verb: number for number, verb in enumerate(VERBS, 1)}
# Upper bounds of the histogram, microseconds; what took longer comes behind the last.
BOUNDS_US = (
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000),
    *(500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
# When it ended (nanoseconds of the monotonic clock), how long it took (microseconds), the code of
# its error or 0, its verb. The first record also tells one file from another.
_RECORD = Struct("=QIHH")
LONG = 1024 * _RECORD.size  # of `recent`: then a call counts
_TOO_LONG = 64 * LONG  # then nobody can count, and the records go rather than memory
LATE_NS = 5_000_000_000  # a call may come so much too late with its record

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def add(verb: str, code: int, began_ns: int) -> None:
    """Add a call to those that were. It fails in silence: a call is no worse for not being counted.

    code: of the error that the runtime was told, or 0. began_ns: of the monotonic clock.
    """
    now_ns = time.monotonic_ns()
    took_us = (now_ns - began_ns) // 1000
    record = _RECORD.pack(
        now_ns,
        min(took_us, 4294967295),
        code if 0 <= code <= 0xFFFF else 0xFFFF,
        _NUMBERS.get(verb, 0),
    )
    path = FOLDER + "/" + RECENT
    try:
        try:
            recent = os.open(path, _APPEND, 0o600)
        except FileNotFoundError:
            if verb in LEAVE_NO_TRACE:
                return
            recent = _first(path)
        os.write(recent, record)
        length = os.lseek(recent, 0, os.SEEK_CUR)
        os.close(recent)
        if length >= LONG:
            _count_or_drop(path, length)
    except OSError:
        return


class Count:
    """The calls of one verb."""

    def __init__(self) -> None:
        self.took_us = 0
        self.within = [0] * (len(BOUNDS_US) + 1)  # by place in BOUNDS_US, not cumulative
        self.errors: dict[int, int] = {}  # by code


Counts = dict[str, Count]


def read() -> Counts:
    """Return the calls of this boot by verb. Raises: OSError other than that there are none."""
    try:
        holder = os.open(FOLDER, _FOLDER)
    except FileNotFoundError:
        return {}
    try:
        fcntl.flock(holder, fcntl.LOCK_SH)  # held for a millisecond by who counts
        counts, counted = _totals(holder)
        for name in (EARLIER, RECENT):
            _add(counts, _contents(holder, name), unless=counted if name == EARLIER else b"")
    finally:
        os.close(holder)
    return counts


def _first(path: str) -> int:
    """Open what is not there yet. Raises: OSError."""
    os.makedirs(os.path.dirname(FOLDER), 0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(FOLDER, 0o700)
    return os.open(path, _APPEND, 0o600)


def _count_or_drop(path: str, length: int) -> None:
    try:
        _count()
    except OSError:
        if length > _TOO_LONG:
            os.truncate(path, 0)


def _count() -> None:
    """Count `earlier` into the totals and begin a new `recent`.

    Each step is whole by itself: who is killed between the two leaves an `earlier` of which the
    totals say that it is in them.
    Raises: OSError when somebody else does it or reads, or it cannot be done.
    """
    holder = os.open(FOLDER, _FOLDER)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        recent = _contents(holder, RECENT)
        if len(recent) < LONG:
            return  # somebody else has just done it
        began_ns = _RECORD.unpack_from(recent)[0]
        if 0 <= time.monotonic_ns() - began_ns < LATE_NS:
            return  # who has opened `earlier` under its first name may still write
        counts, counted = _totals(holder)
        earlier = _contents(holder, EARLIER)
        _add(counts, earlier, unless=counted)
        _keep(holder, counts, earlier[: _RECORD.size])
        os.rename(RECENT, EARLIER, src_dir_fd=holder, dst_dir_fd=holder)
    finally:
        os.close(holder)


def _keep(holder: int, counts: Counts, counted: bytes) -> None:
    """Write the totals, whole or not at all. Raises: OSError."""
    document = {
        "counted": counted.hex(),
        "verbs": {
            verb: [one.took_us, one.within, [[*each] for each in one.errors.items()]]
            for verb, one in counts.items()
        },
    }
    text = jsonio.dumps(document)
    new = os.open(f"{TOTALS}.new", _NEW, 0o600, dir_fd=holder)
    try:
        if os.write(new, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(new)
    os.rename(f"{TOTALS}.new", TOTALS, src_dir_fd=holder, dst_dir_fd=holder)


def _contents(holder: int, name: str) -> bytes:
    """Return what a file of the folder holds, and nothing where there is none."""
    try:
        file = os.open(name, _READ, dir_fd=holder)
    except FileNotFoundError:
        return b""
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)


def _totals(holder: int) -> tuple[Counts, bytes]:
    """Return the totals, and the first record of the `earlier` that they have last.

    They begin anew when nobody can read them: after another version, or somebody's hands.
    """
    text = _contents(holder, TOTALS)
    if not text:
        return {}, b""
    try:
        return _parsed(jsonio.load_object(text, TOTALS))
    except (CniError, KeyError, TypeError, ValueError):
        return {}, b""


def _parsed(document: dict[str, object]) -> tuple[Counts, bytes]:
    """Read what `_keep` wrote. Raises: KeyError, TypeError, ValueError."""
    verbs, counted = document["verbs"], document["counted"]
    if not isinstance(verbs, dict) or not isinstance(counted, str):
        raise TypeError(TOTALS)
    counts: Counts = {}
    for verb, (took_us, within, errors) in verbs.items():
        one = counts[verb] = Count()
        one.took_us = int(took_us)
        one.within = [int(number) for number in within]
        one.errors = {int(code): int(number) for code, number in errors}
        if len(one.within) != len(BOUNDS_US) + 1:
            raise ValueError(verb)
    return counts, bytes.fromhex(counted)


def _add(counts: Counts, records: bytes, *, unless: bytes) -> None:
    """Add records to the counts, but those of a file that begins with `unless`."""
    if unless and records.startswith(unless):
        return
    whole = len(records) - len(records) % _RECORD.size
    for _, took_us, code, number in _RECORD.iter_unpack(records[:whole]):
        verb = VERBS[number - 1] if 0 < number <= len(VERBS) else OTHER
        one = counts.get(verb)
        if one is None:
            one = counts[verb] = Count()
        one.took_us += took_us
        one.within[_place(took_us)] += 1
        if code:
            one.errors[code] = one.errors.get(code, 0) + 1


def _place(took_us: int) -> int:
    """Return the place of a duration in the histogram."""
    for place, bound in enumerate(BOUNDS_US):
        if took_us <= bound:
            return place
    return len(BOUNDS_US)
