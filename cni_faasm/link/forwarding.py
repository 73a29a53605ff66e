"""Switch on, and check, the forwarding of packets between interfaces, and settings beside it."""

import os
from collections.abc import Mapping

from cni_faasm.spec.errors import IO_FAILURE, CniError

_IPV4 = "/proc/sys/net/ipv4/ip_forward"
_IPV6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_IPV6_SETTINGS = "/proc/sys/net/ipv6"
_IPV6_CONF = "/proc/sys/net/ipv6/conf"
_BY_LENGTH = {4: _IPV4, 16: _IPV6}


def _path(length: int) -> str:
    return _BY_LENGTH[length]


def read(path: str) -> str:
    """Return a sysctl's value, "" when this kernel has none. Source: proc(5).

    Raises: CniError 5 when that cannot be found out.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 64).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unreadable(path, error) from None


def has_ipv6() -> bool:
    """Say whether this kernel has IPv6 at all.

    Raises: CniError 5 when that cannot be found out.
    """
    try:
        os.stat(_IPV6_SETTINGS)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(_IPV6_SETTINGS, error) from None
    return True


def _unreadable(path: str, error: OSError) -> CniError:
    return CniError(
        IO_FAILURE,
        f"cannot read {path}: {error.strerror}",
        "the plugin needs /proc/sys mounted and the right to read it",
    )


def write(path: str, value: str) -> None:
    """Set a sysctl of the namespace this thread is in.

    Raises: CniError 5.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise CniError(
            IO_FAILURE,
            f"cannot write {value} to {path}: {error.strerror}",
            "switch it on in /etc/sysctl.d, or let the plugin run with /proc/sys writable",
        ) from None


def apply(wanted: Mapping[str, int], told: Mapping[str, int] | None = None) -> None:
    """Set what differs of an end's settings; called inside its namespace. Raises: CniError 5.

    told: what the kernel has said of them a moment ago; the rest is read.
    addr_gen_mode is left to veth.configure: it must be set before an end goes up, at no cost.
    """
    told = told or {}
    for path, value in wanted.items():
        if path.endswith("/addr_gen_mode"):
            continue
        actual = str(told[path]) if path in told else read(path)
        if actual not in ("", str(value)):
            write(path, str(value))


def is_on(length: int) -> bool:
    """Say whether the host forwards packets of a family. length: 4 or 16."""
    return read(_path(length)) not in ("", "0")


def demand(length: int) -> None:
    """Make sure that forwarding is on or can be switched on, as STATUS must know.

    Raises: CniError 5.
    """
    path = _path(length)
    if not is_on(length) and not os.access(path, os.W_OK):
        raise CniError(
            IO_FAILURE,
            f"{path} is off and cannot be written",
            "switch it on in /etc/sysctl.d, or let the plugin run with /proc/sys writable",
        )


def switch_on(lengths: set[int]) -> None:
    """Switch forwarding on for the families used, where it is off.

    Raises: CniError 5.
    """
    for length in sorted(lengths):
        if not is_on(length):
            if length == 16:
                _keep_listening()
            write(_path(length), "1")


def _keep_listening() -> None:
    """Let the host believe its routers as before: who forwards is deaf to them by default.

    accept_ra=1 listens only while forwarding is off; 2 also then (ip-sysctl, accept_ra). All
    interfaces that listen go on, for any of them may have addresses or routes of a router, and
    so do those that come later. Outer ends of ours listen to nobody.
    """
    try:
        names = os.listdir(_IPV6_CONF)
    except FileNotFoundError:
        return
    for name in names:
        accept_ra = f"{_IPV6_CONF}/{name}/accept_ra"
        if read(accept_ra) == "1":
            write(accept_ra, "2")
