"""Two virtual machines, restored from one snapshot in two slots, talk to the world at once."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm import slots
from tests.host import Host, wait_until
from tests.kernel.test_slots_machines import ADDRESS, MAC, RATE_BPS, network
from tests.rates import PAYLOAD_SHARE
from tests.tool import Tool
from tests.vm.boot import CACHE, X86_64, archive_of
from tests.vm.selection import OF_SLOTS

KERNEL = CACHE / "kernels" / OF_SLOTS
MODULES = ("failover", "net_failover", "virtio_net")
PORT = 7000
SECONDS = 6.0
# An emulated machine on a busy one. It gives whoever listens at PORT a shell.
BOOT_S = 240
INIT = f"""#!/busybox sh
b=/busybox
for folder in proc sys dev; do $b mkdir -p /$folder; done
$b mount -t proc proc /proc
$b mount -t devtmpfs devtmpfs /dev
for module in /modules/10[1-5]-virtio*.ko /modules/net*.ko; do $b insmod $module; done
$b ip link set lo up
$b ip link set eth0 up
$b ip addr add {ADDRESS}/30 dev eth0
$b ip route add default via 169.254.100.1
echo networked
while :; do $b nc 198.51.100.1 {PORT} -e /busybox sh; $b sleep 0.2; done
"""


class Machine:
    """A qemu in a slot. state: the snapshot that it goes on from; None boots."""

    def __init__(self, folder: Path, slot: slots.Slot, state: Path | None = None) -> None:
        self.slot = slot
        self.console = folder / f"console{slot.number}"
        self._qmp_path = folder / f"qmp{slot.number}"
        command, console = X86_64
        # fmt: off
        words = [
            "nsenter", f"--net={slot.netns}", "setpriv", "--pdeathsig", "KILL", "--",
            *command, "-accel", "tcg", "-m", "160M", "-nodefaults", "-no-reboot",
            "-display", "none", "-serial", f"file:{self.console}",
            "-qmp", f"unix:{self._qmp_path},server=on,wait=off",
            "-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=",
            "-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(folder / "initrd"),
            "-append", f"console={console} panic=-1 loglevel=4 mitigations=off",
        ]
        # fmt: on
        if state is not None:
            words += ["-incoming", f"exec:cat {state}"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        wait_until(self._qmp_path.exists, "the machine's monitor", timeout=60)
        self._qmp = socket.socket(socket.AF_UNIX)
        self._qmp.connect(str(self._qmp_path))
        self._lines = self._qmp.makefile("r")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the monitor do something; return what it says."""
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self._lines:
            told = json.loads(line)
            assert "error" not in told, told
            if "return" in told:
                return told["return"]
        raise AssertionError(f"qemu has ended: {self.console.read_text()[-2000:]}")

    def save(self, path: Path) -> None:
        self.ask("migrate", uri=f"exec:cat >{path}")
        wait_until(
            lambda: self.ask("query-migrate")["status"] == "completed", "the snapshot", timeout=120
        )

    def end(self) -> None:
        self._lines.close()
        self._qmp.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    yield tool
    tool("pool", "down", "--force").ok()


def initrd(folder: Path) -> None:
    """Add to the kernel's own initrd, which has busybox, what makes a network."""
    [modules] = (KERNEL / "lib/modules").iterdir()
    files = {"init": INIT.encode()}
    for number, name in enumerate(MODULES):
        [path] = modules.rglob(f"{name}.ko")
        files[f"modules/net{number}-{name}.ko"] = path.read_bytes()
    given = (KERNEL / "initrd").read_bytes()
    text = archive_of(files)
    (folder / "initrd").write_bytes(given + text)


def received(connection: socket.socket, seconds: float) -> float:
    """Return the bit/s that come in some seconds, after the first one."""
    count, begin = 0, time.monotonic() + 1
    while (now := time.monotonic()) < begin + seconds:
        got = len(connection.recv(1 << 16))
        count += got if now > begin else 0
    return count * 8 / seconds


def sent(connection: socket.socket, seconds: float) -> float:
    """Return the bit/s that are taken in some seconds, after the first ones fill the buffers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    count, begin = 0, time.monotonic() + 2
    while (now := time.monotonic()) < begin + seconds:
        got = connection.send(bytes(1 << 14))
        count += got if now > begin else 0
    return count * 8 / seconds


def test_two_of_one_snapshot_talk_at_once(tool: Tool, tmp_path: Path) -> None:
    remote = network(tool)
    tool("pool", "up", "3").ok()
    initrd(tmp_path)
    with contextlib.ExitStack() as stack:
        first = Machine(tmp_path, slots.claim(tool.prefix))
        stack.callback(first.end)
        wait_until(
            lambda: first.console.exists() and "networked" in first.console.read_text(),
            "the machine to boot",
            timeout=BOOT_S,
        )
        first.save(tmp_path / "state")
        first.end()
        with remote.entered():
            listener = stack.enter_context(socket.create_server(("", PORT)))
        listener.settimeout(BOOT_S)
        restored = [Machine(tmp_path, slots.claim(tool.prefix), tmp_path / "state") for _ in "12"]
        for one in restored:
            stack.callback(one.end)
        connections: dict[str, socket.socket] = {}
        while len(connections) < len(restored):
            connection, (peer, _) = listener.accept()
            stack.enter_context(connection)
            connection.settimeout(60)
            connections[peer] = connection
        addresses = {one.slot.document["addresses"][0].partition("/")[0] for one in restored}
        assert connections.keys() == addresses
        for peer, connection in connections.items():
            connection.sendall(b"/busybox ip -o -4 addr show dev eth0; echo done\n")
            said = b""
            while b"done" not in said:
                said += connection.recv(4096)
            assert f"{ADDRESS}/30".encode() in said, peer
        out, into = connections.values()
        out.sendall(b"exec /busybox cat /dev/zero\n")
        into.sendall(b"exec /busybox cat >/dev/null\n")
        most = 1.05 * RATE_BPS * PAYLOAD_SHARE
        for measure, connection in ((received, out), (sent, into)):
            bps = measure(connection, SECONDS)
            assert 0.6 * RATE_BPS < bps < most, measure.__name__
