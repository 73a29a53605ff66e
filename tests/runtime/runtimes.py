"""Drive real container runtimes inside a Host: containerd by ctr, podman, libcni.

Each keeps its state under one directory of the test and reads the private host's
/etc/cni/net.d and /opt/cni/bin. A container's file system is one made from busybox and
iperf3 (root_filesystem), so that rates are measured by a process inside the container.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.host import (
    BUNDLE,
    PRIVATE_MARKER,
    REFERENCE_PLUGINS,
    REPO,
    SYSTEM_PATH,
    Host,
    Namespace,
    in_private_host,
    wait_until,
)

CONFIG_DIR = Path("/etc/cni/net.d")
PLUGIN_DIR = Path("/opt/cni/bin")
CONFIG_FILE = CONFIG_DIR / "10-faasm.conflist"
# Every cgroup of the tests' containers is below this one, which bin/private_host.sh removes.
CGROUP = PRIVATE_MARKER.read_text().strip() if in_private_host() else "faasm-private-host"


class Runtime(ABC):
    """Start and stop containers on the network `faasm`, as one runtime does."""

    def __init__(self, host: Host, root_filesystem: Path, directory: Path) -> None:
        self.host = host
        self.root_filesystem = root_filesystem
        self.directory = directory
        self.running: list[str] = []

    @abstractmethod
    def run(self, name: str) -> Namespace:
        """Start a container that sleeps; return its network namespace."""

    @abstractmethod
    def execute(self, name: str, argv: Sequence[str]) -> str:
        """Run a command in a container; return its stdout."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Stop a container and remove it."""

    def close(self) -> None:
        """Remove what the test has left running, and the runtime's daemons."""
        for name in list(self.running):
            with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
                self.remove(name)


class Containerd(Runtime):
    """`ctr run --cni` under a containerd of the test's own.

    within: what runs a command in another root.
    """

    def __init__(
        self, host: Host, root_filesystem: Path, directory: Path, within: Sequence[str] = ()
    ) -> None:
        super().__init__(host, root_filesystem, directory)
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        socket = directory / "containerd.sock"
        self._ctr = [*within, "ctr", "--address", str(socket), "--namespace", CGROUP]
        places = ["--root", str(directory / "root"), "--state", str(directory / "state")]
        with (directory / "containerd.log").open("wb") as log:
            self._daemon = host.start(
                [*within, "containerd", "--address", str(socket), *places],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._is_up, "containerd to answer", timeout=30)

    def _is_up(self) -> bool:
        assert self._daemon.poll() is None, (self.directory / "containerd.log").read_text()
        return self.host.run([*self._ctr, "version"], check=False).returncode == 0

    def run(self, name: str) -> Namespace:
        # Not --detach: it is the client that runs CNI, and only one that stays calls DEL.
        command = [*self._ctr, "run", "--rm", "--cni", "--rootfs", str(self.root_filesystem)]
        client = self.host.start([*command, name, "/bin/busybox", "sleep", "1000"])
        self._clients[name] = client
        self.running.append(name)
        pid = 0

        def has_started() -> bool:
            nonlocal pid
            assert client.poll() is None, client.communicate()[0].decode()
            for line in self.host.run([*self._ctr, "task", "ls"]).stdout.splitlines():
                words = line.split()
                if words[0] == name and words[2] == "RUNNING":
                    pid = int(words[1])
            return pid > 0

        wait_until(has_started, f"container {name} to run", timeout=30)
        return Namespace(name, path=f"/proc/{pid}/ns/net")

    def execute(self, name: str, argv: Sequence[str]) -> str:
        command = [*self._ctr, "task", "exec", "--exec-id", f"exec{os.urandom(4).hex()}", name]
        return self.host.run([*command, *argv]).stdout

    def remove(self, name: str) -> None:
        client = self._clients.pop(name)
        self.running.remove(name)
        self.host.run([*self._ctr, "task", "kill", "--signal", "KILL", name], check=False)
        output, _ = client.communicate(timeout=30)
        assert client.returncode == 128 + signal.SIGKILL, output.decode()
        assert b"level=error" not in output, output.decode()

    def close(self) -> None:
        super().close()
        end(self._daemon)


class Podman(Runtime):
    """`podman run --network faasm` with its CNI backend, on storage of the test's own."""

    def __init__(self, host: Host, root_filesystem: Path, directory: Path) -> None:
        super().__init__(host, root_filesystem, directory)
        self._podman = [
            "podman",
            *("--root", str(directory / "root")),
            *("--runroot", str(directory / "run")),
            *("--tmpdir", str(directory / "tmp")),
            *("--storage-driver", "vfs"),
            *("--runtime", "runc"),
            *("--network-backend", "cni"),
            *("--cgroup-manager", "cgroupfs"),
            *("--events-backend", "file"),
        ]

    def run(self, name: str, *extra: str) -> Namespace:
        """Start a container; extra: options instead of `--network faasm`."""
        options = ["--detach", "--name", name, "--cgroup-parent", f"/{CGROUP}"]
        options += extra or ("--network", "faasm")
        options += ["--cap-add", "NET_RAW"]  # ping
        # raising these takes CAP_SYS_RESOURCE, which not every root has
        options += ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
        sleep = ["/bin/busybox", "sleep", "1000"]
        rootfs = ["--rootfs", str(self.root_filesystem)]
        self.host.run([*self._podman, "run", *options, *rootfs, *sleep])
        self.running.append(name)
        return self.namespace(name)

    def namespace(self, name: str) -> Namespace:
        """Return the network namespace that a container runs in now."""
        (found,) = json.loads(self.host.run([*self._podman, "inspect", name]).stdout)
        return Namespace(name, path=f"/proc/{found['State']['Pid']}/ns/net")

    def command(self, *words: str) -> None:
        """Run any other command of podman's."""
        self.host.run([*self._podman, *words])

    def execute(self, name: str, argv: Sequence[str]) -> str:
        return self.host.run([*self._podman, "exec", name, *argv]).stdout

    def remove(self, name: str) -> None:
        self.host.run([*self._podman, "rm", "--force", "--time", "0", name])
        self.running.remove(name)


class Libcni(Runtime):
    """Our client on libcni, which does as cnitool does."""

    def __init__(self, host: Host, root_filesystem: Path, directory: Path) -> None:
        super().__init__(host, root_filesystem, directory)
        self.client = directory / "libcni-client"
        source = REPO / "tests" / "runtime" / "libcni-client" / "main.go"
        environment = {
            "PATH": SYSTEM_PATH,
            "HOME": str(directory),
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
            "GOCACHE": str(REPO / ".cache" / "go-build"),
            "GOFLAGS": "",
        }
        subprocess.run(
            ["go", "build", "-o", str(self.client), str(source)], env=environment, check=True
        )

    def call(
        self, verb: str, namespace: Namespace, capabilities: Mapping[str, Any] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Call the client on a container; the caller looks at what came of it."""
        variables = {
            "PATH": SYSTEM_PATH,
            "CNI_PATH": str(PLUGIN_DIR),
            "CACHE_DIR": str(self.directory / "cache"),
            "CAP_ARGS": json.dumps(capabilities or {}),
        }
        assignments = [f"{name}={value}" for name, value in variables.items()]
        arguments = [str(CONFIG_FILE), namespace.name, namespace.path, "eth0"]
        return self.host.run(
            ["env", "-i", *assignments, str(self.client), verb, *arguments], check=False
        )

    def run(self, name: str) -> Namespace:
        namespace = self.host.add_container(name)
        self.running.append(name)
        done = self.call("add", namespace)
        assert done.returncode == 0, done.stderr
        return namespace

    def execute(self, name: str, argv: Sequence[str]) -> str:
        return self._namespace(name).run(argv).stdout

    def remove(self, name: str) -> None:
        namespace = self._namespace(name)
        done = self.call("del", namespace)
        assert done.returncode == 0, done.stderr
        assert namespace.links() == []
        namespace.delete()
        self.host.containers.remove(namespace)
        self.running.remove(name)

    def _namespace(self, name: str) -> Namespace:
        return next(c for c in self.host.containers if c.name == name)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a daemon to end, and make it end."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_root_filesystem(directory: Path) -> None:
    """Make a container's file system from busybox and iperf3 with its libraries."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "run"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", directory / "bin")
    for applet in ("sh", "sleep", "ip", "ping"):
        (directory / "bin" / applet).symlink_to("busybox")
    shutil.copy("/usr/bin/iperf3", directory / "bin")
    listed = subprocess.run(["ldd", "/usr/bin/iperf3"], capture_output=True, text=True, check=True)
    for word in listed.stdout.split():
        if word.startswith("/"):
            target = directory / word[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)


def install_plugins() -> None:
    """Put the built plugin where runtimes look, as a link, and the reference ones beside it."""
    PLUGIN_DIR.mkdir(parents=True, exist_ok=True)
    wanted = [*REFERENCE_PLUGINS.iterdir(), BUNDLE / "faasm"]
    for plugin in wanted:
        link = PLUGIN_DIR / plugin.name
        link.unlink(missing_ok=True)
        link.symlink_to(plugin)


def remove_plugins() -> None:
    """Take away what install_plugins put there."""
    for link in PLUGIN_DIR.iterdir():
        link.unlink()


def remove_cgroups() -> None:
    """Remove the cgroups that runtimes leave behind; those with processes stay."""
    for top in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}"):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
