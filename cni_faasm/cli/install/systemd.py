"""Tell a running system's daemons of files that were installed for them, or taken away.

Nothing here is done below a --destdir, nor where systemd does not run. What cannot be told is
no fault of the installation: the daemons read their files when they start, and the operator is
told.
"""

import os
import subprocess
import time
from collections.abc import Iterator

from cni_faasm.config.policy import GROUP_BASE, GROUP_MASK

NETWORKD = "systemd-networkd"
MANAGED_BY = "ID_NET_MANAGED_BY=cni-faasm"
# Where networkd looks, in the order of precedence (systemd.network(5)).
NETWORK_FOLDERS = (
    "etc/systemd/network",
    "run/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
    "lib/systemd/network",
)
_INTERFACES = "/sys/class/net"
_UDEV_DATA = "/run/udev/data"


def runs() -> bool:
    """Say whether systemd is this system's process 1, as sd_booted(3) does."""
    return os.path.isdir("/run/systemd/system")


def is_active(unit: str) -> bool:
    """Say whether a unit runs."""
    return runs() and _call("systemctl", "is-active", "--quiet", unit)


def version() -> int:
    """Return systemd's version, 0 when it does not tell."""
    words = _output("systemctl", "--version").split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def disable(unit: str) -> None:
    """Have a service end, and be forgotten."""
    if runs():
        command = ["systemctl", "disable", "--quiet", "--now", unit]
        subprocess.run(command, check=False)


def read_rules() -> None:
    """Have udev read its rules again, and apply them to the ends that are there already."""
    if not os.path.exists("/run/udev/control"):
        return
    _call("udevadm", "control", "--reload")
    unmarked = [f"{_INTERFACES}/{name}" for name in ends() if not _is_marked(name)]
    for start in range(0, len(unmarked), 100):  # a command line has an end
        some = unmarked[start : start + 100]
        _call("udevadm", "trigger", "--action=change", "--settle", *some)


def read_networks(path: str) -> str:
    """Have networkd read its files again, where it runs. Returns: what to tell of the file.

    Not while other files have changed as well since it started: it would do what they say, too,
    and they may be half written.
    """
    if not is_active(NETWORKD):
        return ""
    changed = list(_changed_networks(os.path.basename(path)))
    if changed:
        return (
            f"systemd-networkd has not read it yet, since it would read {', '.join(changed)} as well:"
            " networkctl reload"
        )
    if not _call("networkctl", "reload"):
        return "systemd-networkd could not be told to read it: networkctl reload"
    return "systemd-networkd has read it"


def ends() -> list[str]:
    """Return the names of the host's ends of this host's containers, ifbs included."""
    found = []
    try:
        names = sorted(os.listdir(_INTERFACES))
    except OSError:
        return []
    for name in names:
        group = _text(f"{_INTERFACES}/{name}/netdev_group")
        if group.isdigit() and int(group) & GROUP_MASK == GROUP_BASE:
            found.append(name)
    return found


def ifindex_of(name: str) -> str:
    """Return an interface's index in digits, "" when it has gone."""
    return _text(f"{_INTERFACES}/{name}/ifindex")


def _is_marked(name: str) -> bool:
    lines = _text(f"{_UDEV_DATA}/n{ifindex_of(name)}").split("\n")
    return f"E:{MANAGED_BY}" in lines


def _changed_networks(but: str) -> Iterator[str]:
    """Yield networkd's files that are newer than its process, but for those of that name."""
    show = ("systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic")
    started = _output(*show, f"{NETWORKD}.service")
    if not started.isdigit():
        return
    since = time.time() - (time.monotonic() - int(started) / 1e6)
    for folder in dict.fromkeys(os.path.realpath(f"/{one}") for one in NETWORK_FOLDERS):
        for parent, _, names in os.walk(folder):
            for name in sorted(names):
                path = os.path.join(parent, name)
                if name != but and os.lstat(path).st_ctime > since:
                    yield path


def _call(*command: str) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
