"""Help the tests of the lease store: ranges from text, planted files, injected faults."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni_faasm.attachment import files, record
from cni_faasm.config.ranges import Range, make
from cni_faasm.ipam import leases as leases_module
from cni_faasm.ipam import store as store_module
from cni_faasm.ipam.store import Store
from cni_faasm.spec import inet


def make_range(
    subnet: str, start: str | None = None, end: str | None = None, gateway: str | None = None
) -> Range:
    """Return a range with host-local's defaults; the subnet's gateway is its first host."""
    return make(
        *inet.parse_cidr(subnet),
        first=inet.pack(start) if start else None,
        last=inet.pack(end) if end else None,
        gateway=inet.pack(gateway) if gateway else None,
    )


def addresses(*texts: str) -> list[bytes]:
    """Pack several addresses."""
    return [inet.pack(text) for text in texts]


def plant(folder: Path, address: str, content: bytes) -> Path:
    """Write a lease file as somebody else would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / address
    path.write_bytes(content)
    return path


def fill(folder: Path, source: Range, count: int, owner: str = "filler") -> None:
    """Lease the first `count` addresses of a range to others."""
    folder.mkdir(parents=True, exist_ok=True)
    first, width = inet.to_int(source.first), len(source.first)
    for number in range(count):
        name = inet.unpack(inet.from_int(first + number, width))
        (folder / name).write_bytes(f"{owner}{number}\r\neth0".encode())


def lease(
    store: Store, *sets: list[Range], container_id: str = "abc", ifname: str = "eth0"
) -> list[str]:
    chosen = store.choose(sets)
    store.commit(chosen, container_id, ifname)
    return [inet.unpack(item.address) for item in chosen]


class Calls:
    """Stand between our modules and `os`: count calls, and do something at the Nth."""

    # Constants and types are passed through; these are the system calls.
    WATCHED = frozenset(
        ("open", "read", "write", "close", "rename", "unlink", "mkdir", "stat", "fstat", "listdir")
    )

    def __init__(self, at: int | None, act: Callable[[str], None]) -> None:
        self.count = 0
        self.names: list[str] = []
        self._at = at
        self._act = act

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.WATCHED:
            return real

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self.count == self._at:
                if name == "close":
                    real(*arguments, **keywords)  # a failing close(2) closes all the same
                self._act(name)
                if name == "close":
                    return None
            return real(*arguments, **keywords)

        return watched


@contextmanager
def intercepted(at: int | None, act: Callable[[str], None]) -> Iterator[Calls]:
    """Let the store and the records call `os` through `Calls`."""
    calls = Calls(at, act)
    modules = (files, leases_module, store_module, record)
    try:
        for module in modules:
            setattr(module, "os", calls)  # noqa: B010 - not a name they export
        yield calls
    finally:
        for module in modules:
            setattr(module, "os", os)  # noqa: B010


def kill_myself(_name: str) -> None:
    """End this process as a crash would: at once, with nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked child; return its wait status. 0 when it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]
