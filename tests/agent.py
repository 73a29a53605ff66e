"""Run an agent of the built plugin on a host of the tests, and look at its workers."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.host import BUNDLE, Host, wait_until

SOCKET = Path("/run/cni-faasm/agent")


class Agent:
    """One agent; its calls go to whoever calls the plugin on its host."""

    def __init__(self, host: Host, bundle: Path = BUNDLE) -> None:
        self.process = host.start([str(bundle / "faasm"), "--agent"])
        wait_until(self.is_listening, "the agent to listen")

    def is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            if caller.connect_ex(str(SOCKET)):
                return False
            # Its answer says that it knows who we are: not its own executable.
            try:
                return caller.recv(1) == b"n"
            except ConnectionResetError:  # an earlier one's last moment
                return False

    def workers(self) -> list[int]:
        """Return the processes that do calls, or are about to."""
        return children(self.process.pid)

    def stop(self) -> list[int]:
        """Let it hang. Returns: the processes that SIGCONT lets go on."""
        stopped: set[int] = set()
        while not stopped or not stopped >= {self.process.pid, *self.workers()}:
            for pid in {self.process.pid, *self.workers()} - stopped:
                if send(pid, signal.SIGSTOP):
                    wait_until(lambda pid=pid: state_of(pid)[0] in ("T", ""), f"{pid} to stop")
                stopped.add(pid)
        return sorted(stopped)

    def end(self) -> int:
        """End it as a service manager does. Returns: its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a worker; an idle one may just have ended. Returns: whether it was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def state_of(pid: int) -> tuple[str, int]:
    """Return a process's state, as ps shows it, and its parent; "" and 0 for none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def children(pid: int) -> list[int]:
    """Return the processes that a process has begun and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        state, parent = state_of(int(path.name))
        if parent == pid and state != "Z":
            found.append(int(path.name))
    return found


def descriptors(pid: int) -> list[str]:
    """Return what a process has open; nothing when it has ended."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found.append(os.readlink(path))
    return sorted(found)


@contextmanager
def agent(host: Host, bundle: Path = BUNDLE) -> Iterator[Agent]:
    """Run an agent for a while."""
    running = Agent(host, bundle)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()
        assert running.process.stdout is not None
        running.process.stdout.close()
