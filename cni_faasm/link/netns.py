"""Open, compare and enter network namespaces: the only caller of setns(2).

Python gained posix.setns in 3.12; the built plugin adds it to an older one
(packaging/snapshot/namespaces.c). From source the C library's function is called through the C
half of ctypes.
"""

import errno
import os
import posix
from collections.abc import Callable
from fcntl import ioctl

from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec.errors import (
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    UNKNOWN_CONTAINER,
    CniError,
)

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
NS_GET_NSTYPE = 0xB703  # <linux/nsfs.h>
OWN_PATH = "/proc/thread-self/ns/net"
# What open(2) says of a path that nobody can have mounted a namespace on.
_NO_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV)
# What files of other kinds say to an ioctl that they do not know.
_NO_SUCH_IOCTL = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP)


class NoNamespaceError(CniError):
    """Say that no container's namespace is at a path: never was, or is gone.

    Any other CniError leaves that open: the namespace could not be asked or entered.
    """

    __slots__ = ()


def open_own() -> int:
    """Open the namespace this process is in. Returns: a descriptor, close-on-exec."""
    try:
        return os.open(OWN_PATH, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CniError(
            IO_FAILURE,
            f"cannot open the host's network namespace {OWN_PATH}: {error.strerror}",
            "the plugin needs /proc mounted and the right to read it",
        ) from None


def open_container(path: str, own_fd: int) -> int:
    """Open a container's namespace and make sure that it is one, and not the host's.

    path: what CNI_NETNS holds.
    Returns: a descriptor, close-on-exec.
    Raises: NoNamespaceError 3 when nothing is there, 4 when it is something else; CniError 4
    when that cannot be found out.
    """
    try:
        # O_NONBLOCK: a FIFO planted at the path must not hang the runtime.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH):
            raise NoNamespaceError(
                UNKNOWN_CONTAINER,
                f"CNI_NETNS: there is no network namespace at {_shown(path)}",
                "the container may have ended; the runtime must create the namespace before ADD",
            ) from None
        kind = NoNamespaceError if error.errno in _NO_FILE else CniError
        raise kind(
            INVALID_ENVIRONMENT,
            f"CNI_NETNS: cannot open {_shown(path)}: {error.strerror}",
            "the plugin must run as root on the host that holds the namespace",
        ) from None
    except ValueError:  # a NUL inside
        raise NoNamespaceError(
            INVALID_ENVIRONMENT,
            f"CNI_NETNS: {_shown(path)} is not a path",
            "give a path without NUL",
        ) from None
    try:
        _verify(fd, path, own_fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _verify(fd: int, path: str, own_fd: int) -> None:
    """Make sure that a descriptor is a container's namespace. Raises: as open_container."""
    try:
        is_one = ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError as error:
        if error.errno not in _NO_SUCH_IOCTL:
            raise CniError(
                INVALID_ENVIRONMENT,
                f"CNI_NETNS: cannot ask what {_shown(path)} is: {error.strerror}",
                "call again",
            ) from None
        is_one = False
    if not is_one:
        raise NoNamespaceError(
            INVALID_ENVIRONMENT,
            f"CNI_NETNS: {_shown(path)} is not a network namespace",
            "give a path such as /run/netns/NAME or /proc/PID/ns/net",
        )
    if is_same(fd, own_fd):
        raise NoNamespaceError(
            INVALID_ENVIRONMENT,
            f"CNI_NETNS: {_shown(path)} is the host's own network namespace",
            "a container that shares the host's network needs no attachment, and a pair needs two "
            "namespaces whatever CNI_NETNS_OVERRIDE says",
        )


def _shown(path: str) -> str:
    text = repr(path)
    return text if len(text) <= 300 else text[:297] + "..."


def close(*descriptors: int) -> None:
    """Close descriptors; negative ones were never opened."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


def is_network_namespace(fd: int) -> bool:
    """Ask the kernel what kind of namespace the descriptor refers to, if any (ioctl_ns(2))."""
    try:
        return ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def is_same(fd: int, other_fd: int) -> bool:
    """Say whether two descriptors refer to the same namespace (ioctl_ns(2), fstat)."""
    one, other = os.fstat(fd), os.fstat(other_fd)
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def _call(name: str, *arguments: int) -> None:
    """Call a C library function of int arguments that returns 0 or sets errno."""
    # getattr: typeshed and Python 3.11 know neither posix.setns nor posix.unshare.
    native: Callable[..., None] | None = getattr(posix, name, None)
    if native is not None:
        native(*arguments)
    else:
        from _ctypes import (
            FUNCFLAG_CDECL,
            FUNCFLAG_USE_ERRNO,
            CFuncPtr,
            _SimpleCData,
            dlopen,
            dlsym,
            get_errno,
        )

        int_type = type("c_int", (_SimpleCData,), {"_type_": "i"})
        prototype = type(
            "prototype",
            (CFuncPtr,),
            {"_flags_": FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO, "_restype_": int_type},
        )
        # mypy does not know that None stands for the process itself.
        function = prototype(dlsym(dlopen(None, 0), name))  # type: ignore[arg-type]
        if function(*arguments) != 0:
            number = get_errno()
            raise OSError(number, os.strerror(number))


def setns(fd: int) -> None:
    """Move this thread into the network namespace of a descriptor (setns(2)).

    Raises: OSError.
    """
    _call("setns", fd, CLONE_NEWNET)


def come_back(own_fd: int) -> None:
    """Make sure that this thread is in its own namespace, whatever it was interrupted in."""
    try:
        setns(own_fd)
    except OSError:
        return  # who may not enter a namespace has never left


def unshare() -> None:
    """Move this thread into a new, empty network namespace (unshare(2)).

    Raises: OSError.
    """
    _call("unshare", CLONE_NEWNET)


def connect(path: str) -> Netlink:
    """Open a socket in a container's namespace, in which it stays.

    path: what CNI_NETNS holds. Raises: as open_container.
    """
    own_fd = open_own()
    netns_fd = -1
    try:
        netns_fd = open_container(path, own_fd)
        with Inside(netns_fd, own_fd):
            return Netlink()
    finally:
        close(netns_fd, own_fd)


class Empty:
    """Run a block in a new, empty namespace, and come back whatever happens.

    The namespace goes when nothing refers to it any more.
    Raises: CniError 5 when none can be made.
    """

    __slots__ = ("_own_fd",)

    def __enter__(self) -> None:
        self._own_fd = open_own()
        try:
            unshare()
        except OSError as error:
            os.close(self._own_fd)
            raise CniError(
                IO_FAILURE,
                f"cannot make a network namespace: {error.strerror}",
                "the plugin must run as root with CAP_SYS_ADMIN; user.max_net_namespaces "
                "limits how many there may be",
            ) from None

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._own_fd)
        finally:
            os.close(self._own_fd)


class Inside:
    """Run a block inside a container's namespace, and come back whatever happens."""

    __slots__ = ("_fd", "_own_fd")

    def __init__(self, fd: int, own_fd: int) -> None:
        self._fd = fd
        self._own_fd = own_fd

    def __enter__(self) -> None:
        try:
            setns(self._fd)
        except OSError as error:
            raise CniError(
                INVALID_ENVIRONMENT,
                f"cannot enter the container's network namespace: {error.strerror}",
                "the plugin needs CAP_SYS_ADMIN on the host and over the namespace",
            ) from None
        except BaseException:  # a signal, which comes when the call has succeeded
            setns(self._own_fd)
            raise

    def __exit__(self, *_: object) -> None:
        setns(self._own_fd)
