"""Make, name and remove network namespaces as `ip netns` does (ip-netns(8)).

A name is a file in /run/netns on which the namespace is mounted; /etc/netns/NAME holds
files that commands run inside see in place of those in /etc.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cni_faasm.link import netns
from cni_faasm.netlink.transport import Netlink
from cni_faasm.verbs.add_many import End

FOLDER = "/run/netns"
ETC = "/etc/netns"

# <linux/mount.h>, <linux/sched.h>
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
CLONE_NEWNS = 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    return f"{FOLDER}/{name}"


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    texts = (os.fsencode(source), os.fsencode(target), os.fsencode(kind))
    if _libc.mount(*texts, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def prepare() -> None:
    """Make the folder, shared: what is mounted there is unmounted everywhere at once."""
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    try:
        _mount("", FOLDER, "none", MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # An ordinary folder cannot be shared, a mount can.
        _mount(FOLDER, FOLDER, "none", MS_BIND | MS_REC)
        _mount("", FOLDER, "none", MS_SHARED | MS_REC)


def exists(name: str) -> bool:
    """Say whether a namespace is mounted under a name."""
    try:
        fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return netns.is_network_namespace(fd)
    finally:
        os.close(fd)


def add(name: str, own_fd: int) -> None:
    """Make a namespace; a file that an interrupted call left without one is used.

    own_fd: the namespace to come back to. Raises: OSError.
    """
    add_open(name, own_fd).close()


def add_open(name: str, own_fd: int) -> End:
    """Do as `add`, and open a socket there: to enter it once more takes 0.3 ms. Raises: OSError."""
    path = path_of(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0))
    netns.unshare()
    try:
        try:
            _mount(netns.OWN_PATH, path, "none", MS_BIND)
        except OSError:
            os.unlink(path)
            raise
        netns_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return End(netns_fd, Netlink())
        except BaseException:
            os.close(netns_fd)
            raise
    finally:
        netns.setns(own_fd)


def remove(name: str) -> None:
    """Take a name away; the namespace goes when nothing runs in it. Absent is success."""
    path = path_of(name)
    if _libc.umount2(os.fsencode(path), MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):  # not mounted, not there
            raise OSError(number, os.strerror(number), path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def execute(name: str, command: Sequence[str]) -> NoReturn:
    """Become a command inside a namespace, as `ip netns exec` does. Raises: OSError."""
    fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    netns.setns(fd)
    if _libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    # What is mounted from here on is seen by the command alone.
    _mount("", "/", "none", MS_SLAVE | MS_REC)
    if _libc.umount2(b"/sys", MNT_DETACH) == 0:
        _mount(name, "/sys", "sysfs", 0)  # /sys/class/net of this namespace
    folder = f"{ETC}/{name}"
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        target = f"/etc/{entry}"
        if os.path.exists(target):
            _mount(f"{folder}/{entry}", target, "none", MS_BIND)
    environment = dict(os.environ)
    if getattr(sys, "frozen", False):
        # Ours would make the command load the libraries of the bundle.
        before = environment.pop("LD_LIBRARY_PATH_ORIG", None)
        environment.pop("LD_LIBRARY_PATH", None)
        if before is not None:
            environment["LD_LIBRARY_PATH"] = before
    os.execvpe(command[0], list(command), environment)  # noqa: S606 -- that is its purpose
