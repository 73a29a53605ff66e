"""Call the plugin as runtimes do: so that Python adapts itself, and to see what calls write to.

Run behind played.py by seed.py, while the snapshot is made, and by seed.c after that to find the order
(order.c), with FOLDER as the place for files. The kernel is played, and so is what differs from
machine to machine: times, numbers of files, who builds. So this needs no privilege, changes nothing,
and is the same everywhere.
"""

import contextlib
import os
import posix
import time

from cni_faasm import __main__ as entry
from cni_faasm import calls as counts
from cni_faasm import serve as edge
from cni_faasm.attachment import record
from cni_faasm.link import netns, removal
from cni_faasm.netlink import transport
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.spec import jsonio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from played import INNER, Namespace, Socket, inside, spaces

FOLDER: str = globals()["FOLDER"]
CONTAINER = f"{FOLDER}/container"
PORTS = [{"hostPort": 8000 + one, "containerPort": 80, "protocol": "tcp"} for one in range(9)]
TIMES: int = globals().get("TIMES", 2)  # the first call of a network makes what others find
FAILED = (
    "packaging/snapshot/calls.py: {}: this played kernel does not do what the plugin asks for: {}"
)

FILES = {
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef\n",
    "ip_forward": "1\n",
    "forwarding": "1\n",
}
_open, _mkdir, _rename = os.open, os.mkdir, os.rename


def _there(path: "Any") -> "Any":
    """Return what stands for a file of this machine's."""
    if not isinstance(path, str) or path.startswith(FOLDER) or not path.startswith("/"):
        return path
    name = path.rpartition("/")[2]
    return f"{FOLDER}/{name}" if name in FILES else "/dev/null"


def _open_there(path: "Any", flags: int, *rest: "Any", **keys: "Any") -> int:
    fd = _open(_there(path), flags, *rest, **keys)
    if flags & os.O_CREAT:
        names.setdefault(path)
    spaces[fd] = INNER if path == CONTAINER else inside[0]
    statuses[fd] = FOLDER_STATUS if flags & os.O_DIRECTORY else FILE_STATUS
    if path == CONTAINER:
        statuses[fd] = CONTAINER_STATUS
    return fd


def _mkdir_there(path: str, *rest: "Any", **keys: "Any") -> None:
    names.setdefault(path.rpartition("/")[2])
    _mkdir(path, *rest, **keys)


def _rename_there(source: str, target: str, **keys: "Any") -> None:
    names.setdefault(target)
    _rename(source, target, **keys)


def _listdir(path: "Any") -> list[str]:
    if isinstance(path, int):
        return [one for one in names if os.access(one, os.F_OK, dir_fd=path, follow_symlinks=False)]
    return [one for one in names if path.startswith(FOLDER) and os.access(f"{path}/{one}", os.F_OK)]


# All that was ever made, in that order: folders have others on other file systems.
names: dict[str, None] = {}


def _status(mode: int, inode: int) -> os.stat_result:
    return os.stat_result((mode, inode, 1, 1, 0, 0, 0, 0, 0, 0))


# What differs from machine to machine is not asked: a number that is longer takes other memory.
FILE_STATUS, CONTAINER_STATUS = _status(0o100600, 1), _status(0o100444, 2)
FOLDER_STATUS = _status(0o040700, 3)
statuses: dict[int, os.stat_result] = {}


def _stat(path: "Any", **keys: "Any") -> os.stat_result:
    if _there(path) == path:
        os.close(_open(path, os.O_PATH, dir_fd=keys.get("dir_fd")))  # raises where there is none
    return FOLDER_STATUS if path.startswith("/") else FILE_STATUS


def _setns(fd: int) -> None:
    inside[0] = spaces[fd]


def _unshare() -> None:
    inside[0] = Namespace()


streams: list[int] = []  # standard input, output and error


class EndedError(BaseException):
    """Leave what a process does before it ends."""


def _exit(status: int) -> None:
    raise EndedError(status)


def _serve(environ: dict[str, str]) -> int:
    return edge.serve(environ, *streams)


_detached = removal.delete_detached


def _delete_twice(host: "Any", ifindex: int, before: "Any", after: "Any") -> None:
    """Do what the child of a DEL does, then what its parent does."""
    ready, told = os.pipe()
    with contextlib.suppress(EndedError):
        removal._delete_and_exit(ifindex, told, before, after)
    transport.Netlink.kept_open = None
    os.close(ready)
    _detached(host, ifindex, before, after)


def _nothing(*_: object) -> None:
    pass


# What stands for this machine, by where it is looked for.
PLAYED: "list[tuple[Any, str, object]]" = [
    (transport, "socket", Socket),
    (netns, "ioctl", lambda *_: netns.CLONE_NEWNET),
    (netns, "setns", _setns),
    (netns, "unshare", _unshare),
    (os, "open", _open_there),
    (os, "stat", _stat),
    (os, "fstat", lambda fd: statuses.get(fd, FILE_STATUS)),
    (os, "listdir", _listdir),
    (os, "mkdir", _mkdir_there),
    (os, "rename", _rename_there),
    (os, "urandom", bytes),
    (os, "uname", lambda: os.uname_result(("Linux", "host", "6.1.0-1", "#1", "any"))),
    (os, "geteuid", lambda: 0),
    (os, "getpid", lambda: 1),
    (os, "fork", lambda: 1 << 22),
    (os, "setsid", _nothing),
    (os, "dup2", _nothing),
    (os, "closerange", _nothing),
    (os, "_exit", _exit),
    (time, "time", lambda: 1.7e9),
    (time, "monotonic", lambda: 1e6),
    (time, "monotonic_ns", lambda: 10**15),
    (time, "clock_gettime", lambda _: 1e6),
    (removal, "delete_detached", _delete_twice),
    (entry, "serve", _serve),
    (counts, "FOLDER", f"{FOLDER}/counts"),
    # What the plugin remembers for as long as it runs, which no other process may find.
    (record, "_boot_id", ""),
    (Nftables, "absent_until_s", 0.0),
]


@contextlib.contextmanager
def played() -> "Iterator[None]":
    """Put the played kernel in the place of this machine's for a while."""
    for name, text in {**FILES, "container": ""}.items():
        fd = os.open(f"{FOLDER}/{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, text.encode())
        os.close(fd)
    own = [(place, name, getattr(place, name)) for place, name, _ in PLAYED]
    for place, name, other in PLAYED:
        setattr(place, name, other)
    try:
        yield
    finally:
        for place, name, other in own:
            setattr(place, name, other)


def call(verb: str, document: dict[str, object]) -> dict[str, object]:
    """Call the plugin. Returns: its answer; {} for none."""
    ends = os.pipe(), os.pipe()
    os.write(ends[0][1], jsonio.dumps(document))
    os.close(ends[0][1])
    nobody = _open("/dev/null", os.O_WRONLY)
    posix.environ.clear()
    posix.environ |= {
        b"CNI_COMMAND": verb.encode(),
        b"CNI_CONTAINERID": b"0123456789abcdef",
        b"CNI_NETNS": CONTAINER.encode(),
        b"CNI_IFNAME": b"eth0",
        b"CNI_PATH": b"/opt/cni/bin",
        b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAME=pod",
        b"PATH": b"/usr/sbin:/usr/bin",
    }
    streams[:] = ends[0][0], ends[1][1], nobody
    try:
        entry.main()
    except EndedError as end:
        (status,) = end.args
    os.close(ends[1][1])
    text = os.read(ends[1][0], 1 << 16)
    for fd in (ends[0][0], ends[1][0], nobody):
        os.close(fd)
    if status:
        raise SystemExit(FAILED.format(verb, text.decode()))
    return jsonio.loads(text) if text else {}  # type: ignore[return-value]


def main(times: int) -> None:
    with played():
        for _ in range(times):
            call_all()


def call_all() -> None:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    both = [[{"subnet": "10.200.0.0/16"}], [{"subnet": "fd00:200::/64"}]]
    limits = {"ingressRate": "10M", "egressRate": 20_000_000}
    for i, (ranges, is_masqueraded) in enumerate(
        ((both[:1], False), (both[:1], True), (both, True))
    ):
        ipam = {
            "type": "host-local",
            "ranges": ranges,
            "routes": routes[: len(ranges)],
            "dataDir": f"{FOLDER}/data",
        }
        document: dict[str, object] = {
            "cniVersion": "1.0.0",
            "name": f"net{i}",
            "type": "faasm",
            "stateDir": f"{FOLDER}/state{i}",  # with no other: who lists it gets any order
            "ipMasq": is_masqueraded,
            "bandwidth": limits,
            "ipam": ipam,
        }
        for runtime in ({}, {"portMappings": PORTS}):
            document["runtimeConfig"] = runtime
            result = call("ADD", document)
            call("CHECK", {**document, "prevResult": result})
            call("DEL", {**document, "prevResult": result})
        call("STATUS", {**document, "cniVersion": "1.1.0"})
    call("VERSION", {"cniVersion": "1.0.0"})


main(TIMES)
