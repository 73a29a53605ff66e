"""Switch on, and check, the forwarding of packets between the host's interfaces."""

import posix

from cni_faasm.errors import IO_FAILURE, CniError

_IPV4 = "/proc/sys/net/ipv4/ip_forward"
_IPV6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_IPV6_ACCEPT_RA = "/proc/sys/net/ipv6/conf/{}/accept_ra"
_BY_LENGTH = {4: _IPV4, 16: _IPV6}


def _path(length: int) -> str:
    return _BY_LENGTH[length]


def read(path: str) -> str:
    """Return a sysctl's value, "" when this kernel has none. Source: proc(5).

    Raises: CniError 5 when that cannot be found out.
    """
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.read(fd, 64).decode("ascii", "replace").strip()
        finally:
            posix.close(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CniError(
            IO_FAILURE,
            f"cannot read {path}: {error.strerror}",
            "the plugin needs /proc/sys mounted and the right to read it",
        ) from None


def write(path: str, value: str) -> None:
    """Set a sysctl of the namespace this thread is in.

    Raises: CniError 5.
    """
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, value.encode())
        finally:
            posix.close(fd)
    except OSError as error:
        raise CniError(
            IO_FAILURE,
            f"cannot write {value} to {path}: {error.strerror}",
            "switch it on in /etc/sysctl.d, or let the plugin run with /proc/sys writable",
        ) from None


def is_on(length: int) -> bool:
    """Say whether the host forwards packets of a family. length: 4 or 16."""
    return read(_path(length)) not in ("", "0")


def demand(length: int) -> None:
    """Make sure that forwarding is on or can be switched on, as STATUS must know.

    Raises: CniError 5.
    """
    path = _path(length)
    if not is_on(length) and not posix.access(path, posix.W_OK):
        raise CniError(
            IO_FAILURE,
            f"{path} is off and cannot be written",
            "switch it on in /etc/sysctl.d, or let the plugin run with /proc/sys writable",
        )


def switch_on(lengths: "set[int]", uplink: str) -> None:
    """Switch forwarding on for the families used, where it is off.

    uplink: the interface of the default IPv6 route, "" when there is none. A host that
    forwards IPv6 ignores router advertisements, and would lose the default route it
    learnt from one; accept_ra=2 keeps it (ip-sysctl, accept_ra).
    Raises: CniError 5.
    """
    for length in sorted(lengths):
        if is_on(length):
            continue
        if length == 16 and uplink:
            accept_ra = _IPV6_ACCEPT_RA.format(uplink)
            if read(accept_ra) == "1":
                write(accept_ra, "2")
        write(_path(length), "1")
