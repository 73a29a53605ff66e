"""Serve calls from one process that stays, so that none has to start an interpreter.

An option: `faasm --agent`, as a service. The executable asks it before it does anything else
(packaging/agent_client.c), and does the call itself when there is no agent, or it declines. A
call is done by one of the agent's workers, each a process that does one at a time, by the same
code and in the caller's surroundings: its environment, descriptors, folder and umask. So an
agent changes how long a call takes, and nothing else.

What is said, over a SOCK_SEQPACKET socket that only root may connect to:

    agent    "y": go on;  or "n": do it yourself
    caller   "faasm-agent 1", umask, environment, NUL after each; descriptors 0, 1, 2, folder
    agent    "d" and a part of what goes to stdout, as often as it takes;
             "s" and the exit status;  or "n", when nothing was begun
    caller   "k", when it is written

Who it serves is root, of the same executable file and in the same user, network and mount
namespaces: another's call would find other files, other links, or other rights than its own. A
caller that goes away before it has told its result has its attachment undone, as when its
result could not be written.
"""

import _socket
import errno
import fcntl
import gc
import posix
import select
from _struct import Struct

from cni_faasm.attachment import files
from cni_faasm.spec.errors import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

RUN = "/run"
NAME = "cni-faasm"
SOCKET = RUN + "/" + NAME + "/agent"
GREETING = b"faasm-agent 1"
MAX_REQUEST = 128 << 10
_PART = 32 << 10
_BACKLOG = 1024
# How many workers there may be, how many of them are kept when there is nothing to do, and
# after how long. A caller that finds nobody for a second does its call itself.
_MOST = 64
_KEPT = 2
_SURPLUS_MS = 5000
# Calls after which a worker ends, so that nothing can grow in it; and after which it looks for
# garbage, which a process that does one call need not.
_CALLS = 500
_COLLECTED_AFTER = 32
# Idle workers look after this time whether children of theirs have ended.
_BURIAL = Struct("@ll").pack(10, 0)
# What a worker tells: its process, and whether it is at work.
_NEWS = Struct("=i?")
_SIGTERM = 15
_NEEDED = (
    *("attachment.accepted", "config.loading", "link.egress", "link.kernel"),
    *("rules.backstop", "rules.guard", "rules.nat", "rules.seal"),
    *("verbs.add", "verbs.chained", "verbs.check", "verbs.delete", "verbs.gc", "verbs.status"),
)
_MOST_DESCRIPTORS = 512
# A caller says everything at once.
_SAYING_S = 5
# What else another caller's files, links and rights hang on.
_SURROUNDINGS = ("exe", "root", "ns/user", "ns/mnt", "ns/net")
_INT_BYTES = 4

# <asm-generic/socket.h>, <linux/socket.h>
SO_PEERCRED = 17
SO_RCVTIMEO = 20
SCM_RIGHTS = 1
MSG_CMSG_CLOEXEC = 0x40000000
MSG_DONTWAIT = 0x40
MSG_CTRUNC = 0x08
MSG_TRUNC = 0x20
MSG_NOSIGNAL = 0x4000


def run(
    serve: "Callable[[Callable[[int, bytes], None]], None]", hold_ending: "Callable[[int], None]"
) -> "NoReturn":
    """Keep workers that take calls, until somebody ends this process.

    serve: does one call, whose surroundings this process has, and tells its exit status and
        what goes to stdout by the function it is given, which raises OSError when nobody listens.
    hold_ending: holds SIGTERM and SIGINT back (1) or lets them come (0).
    Raises: CniError when there is an agent, or can be none; OSError.
    """
    executable = posix.readlink("/proc/self/exe")
    own = _surroundings("self")
    lock = _claim()
    _preload()
    gc.freeze()
    listener = _listen()
    workers = Workers()
    while True:
        while workers.lacking():
            try:
                pid = posix.fork()
            except OSError:
                if workers:
                    break  # no more processes to be had: those that are there will be idle again
                raise
            if not pid:
                _work(listener, workers, own, serve, hold_ending)
            workers.add(pid)
        workers.wait()
        if _identity(executable) != own[0]:
            # Another version is installed, or none any more. Its calls are declined. The workers
            # end with this process; whoever started it starts the new one.
            posix.close(lock)
            posix._exit(0)


class Workers:
    """Know what each worker does, and how many there should be."""

    __slots__ = ("_idle", "_poll", "_processes", "_told", "manager", "telling")

    def __init__(self) -> None:
        self.manager = posix.getpid()
        self._told, self.telling = posix.pipe2(posix.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._told, select.POLLIN)
        self._processes: dict[int, int] = {}  # pidfd → pid
        self._idle: set[int] = set()  # pids

    def __len__(self) -> int:
        return len(self._processes)

    def add(self, pid: int) -> None:
        """Watch over a new one, which is idle."""
        process = posix.pidfd_open(pid)
        self._processes[process] = pid
        self._idle.add(pid)
        self._poll.register(process, select.POLLIN)

    def lacking(self) -> bool:
        """Say whether the next call would find nobody."""
        return not self._idle and len(self._processes) < _MOST

    def wait(self) -> None:
        """Wait for news; when there are none, end those that are too many."""
        too_many = len(self._idle) > _KEPT
        events = self._poll.poll(_SURPLUS_MS if too_many else None)
        if not events:
            # One that has just taken a call has not begun it: its caller does it itself.
            for pid in sorted(self._idle)[_KEPT:]:
                posix.kill(pid, _SIGTERM)
        for descriptor, _ in events:
            if descriptor == self._told:
                text = posix.read(self._told, _NEWS.size * 256)
                for pid, is_busy in _NEWS.iter_unpack(text):
                    if is_busy:
                        self._idle.discard(pid)
                    elif pid in self._processes.values():
                        self._idle.add(pid)
            else:
                self._poll.unregister(descriptor)
                pid = self._processes.pop(descriptor)
                self._idle.discard(pid)
                posix.waitpid(pid, 0)
                posix.close(descriptor)


def _work(
    listener: "_socket.socket",
    workers: Workers,
    own: "tuple[tuple[int, int] | None, ...]",
    serve: "Callable[[Callable[[int, bytes], None]], None]",
    hold_ending: "Callable[[int], None]",
) -> "NoReturn":
    """Do calls one after the other, in this child, and end it after some hundreds.

    The end of its parent, the manager, is a SIGTERM, which comes between two calls.
    """
    pid, telling = posix.getpid(), workers.telling
    posix.closerange(telling + 1, _MOST_DESCRIPTORS)  # those of the other workers
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    calls = 0
    try:
        hold_ending(0)
        while calls < _CALLS and posix.getppid() == workers.manager:
            try:
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                _bury()
                continue
            hold_ending(1)
            posix.write(telling, _NEWS.pack(pid, True))
            caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
            if _surroundings(_peer(caller)) == own:
                _serve_one(caller, serve, null)
            else:
                _say(caller, b"n")
            caller.close()
            _bury()
            # Nothing of a call is left for the next one, whatever has happened in it.
            posix.closerange(null + 1, _MOST_DESCRIPTORS)
            if _surroundings("self") != own:
                break
            posix.write(telling, _NEWS.pack(pid, False))
            hold_ending(0)
            calls += 1
            if calls % _COLLECTED_AFTER == 0:
                gc.collect()
    finally:
        posix._exit(0)


def _bury() -> None:
    """Let children that have ended go: those that a DEL has left waiting for the kernel."""
    try:
        while posix.waitpid(-1, posix.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _identity(path: str) -> "tuple[int, int] | None":
    try:
        status = posix.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _surroundings(process: "int | str") -> "tuple[tuple[int, int] | None, ...]":
    return tuple(_identity(f"/proc/{process}/{name}") for name in _SURROUNDINGS)


def _peer(caller: "_socket.socket") -> int:
    """Return the process that has connected; 0, which is none, when it is not root's."""
    try:
        credentials = caller.getsockopt(_socket.SOL_SOCKET, SO_PEERCRED, 3 * _INT_BYTES)
    except OSError:
        return 0
    pid, user, _ = memoryview(credentials).cast("i")
    return 0 if user else pid


def _claim() -> int:
    """Make sure that there is no other agent. Returns: the descriptor that keeps it so.

    By a lock of the process, not of the descriptor: a child does not inherit it, and so holds
    nobody up when it outlives the agent.
    """
    folder = files.open_folder(RUN, NAME, create=True, mode=0o700)
    if posix.fstat(folder).st_mode & 0o077:
        raise CniError(IO_FAILURE, f"others may enter {RUN}/{NAME}", f"chmod 0700 {RUN}/{NAME}")
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC
    lock = posix.open("lock", flags, 0o600, dir_fd=folder)
    posix.close(folder)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise CniError(
            IO_FAILURE, "there is an agent already", "end it first: systemctl stop cni-faasm"
        ) from None
    return lock


def _listen() -> "_socket.socket":
    """Listen, and only then take the socket's name, which an earlier agent may have left."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    new = SOCKET + ".new"
    if _identity(new) is not None:
        posix.unlink(new)
    listener.setsockopt(_socket.SOL_SOCKET, SO_RCVTIMEO, _BURIAL)
    listener.bind(new)
    listener.listen(_BACKLOG)
    posix.rename(new, SOCKET)
    return listener


def _preload() -> None:
    """Import what calls need, once for all of them."""
    for name in _NEEDED:
        __import__(f"cni_faasm.{name}")


def _say(caller: "_socket.socket", word: bytes) -> None:
    try:
        caller.send(word, MSG_NOSIGNAL | MSG_DONTWAIT)
    except OSError:
        return  # it has gone


def _serve_one(
    caller: "_socket.socket", serve: "Callable[[Callable[[int, bytes], None]], None]", null: int
) -> None:
    def tell(status: int, document: bytes) -> None:
        _let_go(null)
        for begin in range(0, len(document), _PART):
            caller.send(b"d" + document[begin : begin + _PART], MSG_NOSIGNAL)
        caller.send(b"s" + bytes((status,)), MSG_NOSIGNAL)
        if caller.recv(1) != b"k":
            raise BrokenPipeError

    if _take(caller):
        serve(tell)
    else:
        _say(caller, b"n")
    _let_go(null)
    posix.chdir("/")


def _let_go(null: int) -> None:
    """Close the caller's descriptors: who waits for the end of its output waits for us, too."""
    for number in (0, 1, 2):
        posix.dup2(null, number)


def _take(caller: "_socket.socket") -> bool:
    """Receive a call and enter its surroundings. Returns: False when that cannot be."""
    try:
        caller.send(b"y", MSG_NOSIGNAL)
        caller.settimeout(_SAYING_S)
        data, ancillary, flags, _ = caller.recvmsg(
            MAX_REQUEST, _socket.CMSG_SPACE(4 * _INT_BYTES), MSG_CMSG_CLOEXEC
        )
        caller.settimeout(None)
        greeting, mask, *variables = data.split(b"\0")[:-1]
        ((level, kind, descriptors),) = ancillary
        if (greeting, level, kind) != (GREETING, _socket.SOL_SOCKET, SCM_RIGHTS) or (
            flags & (MSG_TRUNC | MSG_CTRUNC)
        ):
            return False
        *standard, folder = memoryview(descriptors).cast("i")
        for number, descriptor in enumerate(standard):
            posix.dup2(descriptor, number)
            posix.close(descriptor)
        posix.fchdir(folder)
        posix.close(folder)
        posix.umask(int(mask, 8))
        posix.environ.clear()
        for variable in variables:
            name, sign, value = variable.partition(b"=")
            if sign:
                posix.environ[name] = value
    except (OSError, ValueError):
        return False
    return True
