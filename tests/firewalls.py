"""Run the firewalls that distributions bring, firewalld and ufw, on a test's own host.

Debian's own packages, unpacked by tests/fetch_firewalls.sh where every checkout finds them: each
command sees them in /usr by an overlay in a mount namespace of its own. Their configuration in /etc, their sockets in /run
and their rules are the private host's and the test's.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.host import Host, require_private_host, wait_until
from tests.vm.boot import CACHE

FOLDER = CACHE / "firewalls"
BUS_SOCKET = Path("/run/dbus/system_bus_socket")
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_type="method_return"/> <allow send_type="error"/> <allow send_type="signal"/>
    <allow receive_type="method_call"/> <allow receive_type="method_return"/>
    <allow receive_type="error"/> <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <includedir>/usr/share/dbus-1/system.d</includedir>
</busconfig>
"""
_SEEING_THEM = f'mount -t overlay overlay -o "lowerdir={FOLDER}/usr:/usr" /usr && exec "$@"'


def seeing_them(*command: str) -> list[str]:
    """Return a command that finds the firewalls where their packages would put them."""
    return ["unshare", "--mount", "sh", "-c", _SEEING_THEM, "sh", *command]


def _install_configuration(name: str) -> None:
    require_private_host()
    assert (FOLDER / "usr").is_dir(), f"no {FOLDER}: run tests/fetch_firewalls.sh first"
    shutil.rmtree(f"/etc/{name}", ignore_errors=True)
    shutil.copytree(FOLDER / "etc" / name, f"/etc/{name}")


class Firewalld:
    """firewalld with its defaults, and a system bus for it; not started yet.

    The bus is of the private host, as the operator's tool finds it on any machine: one at a time.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._daemon: subprocess.Popen[bytes] | None = None
        _install_configuration("firewalld")

    def set_option(self, name: str, value: str) -> None:
        """Change a line of firewalld.conf; it counts from the next start on."""
        path = Path("/etc/firewalld/firewalld.conf")
        lines = [
            f"{name}={value}" if line.startswith(f"{name}=") else line
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        assert f"{name}={value}" in lines
        path.write_text("\n".join((*lines, "")), encoding="utf-8")

    @contextlib.contextmanager
    def bus(self) -> Iterator[None]:
        BUS_SOCKET.parent.mkdir(exist_ok=True)
        self.host.directory.mkdir(exist_ok=True)
        config = self.host.directory / "bus.conf"
        config.write_text(_BUS, encoding="utf-8")
        command = ("dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile")
        with self.host.start(seeing_them(*command)) as bus:
            try:
                wait_until(BUS_SOCKET.exists, "the system bus")
                yield
            finally:
                self.stop()
                bus.terminate()
                BUS_SOCKET.unlink(missing_ok=True)

    def start(self) -> None:
        """Start the daemon, as systemd does, and wait until its rules are there."""
        log = self.host.directory / "firewalld.log"
        command = ("firewalld", "--nofork", "--nopid", f"--log-file={log}")
        self._daemon = self.host.start(seeing_them(*command), stdout=subprocess.DEVNULL)
        wait_until(lambda: self.command("--state", check=False) == "running", "firewalld", 30)

    def stop(self) -> None:
        """Let the daemon take its rules away and end."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.terminate()
            daemon.wait(30)

    def command(self, *words: str, check: bool = True) -> str:
        """Call firewall-cmd; return what it printed."""
        return self.host.run(seeing_them("firewall-cmd", *words), check=check).stdout.strip()


class Ufw:
    """ufw with its defaults, not enabled yet."""

    def __init__(self, host: Host) -> None:
        self.host = host
        _install_configuration("ufw")
        shutil.copy(FOLDER / "etc" / "default" / "ufw", "/etc/default/ufw")
        # What the package's postinst does.
        delivered = FOLDER / "usr" / "share" / "ufw"
        for source in (*(delivered / "iptables").iterdir(), *delivered.glob("*.[ci][on]*")):
            shutil.copy(source, "/etc/ufw")

    def __call__(self, *words: str) -> str:
        return self.host.run(seeing_them("ufw", *words)).stdout.strip()
