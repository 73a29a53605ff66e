"""Calling CNI plugins as libcni does, and what each call costs.

The chain is executed as a runtime's libcni executes it: ADD in order, each plugin getting
the result of the one before; CHECK in order and DEL in reverse with the cached result.
What libcni itself spends in between is counted for nobody.
"""

import contextlib
import ctypes
import json
import marshal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .privatehost import PROJECT, BenchError

SPAWNER = Path(__file__).with_name("spawner.py")
BUILT_PLUGIN = PROJECT / "dist" / "faasm" / "faasm"
REFERENCE_PLUGINS = Path("/usr/lib/cni")
REFERENCE_PACKAGE = "containernetworking-plugins"
SPEC_VERSION = "1.0.0"
STATUS_VERSION = "1.1.0"  # the first that has it
PR_SET_CHILD_SUBREAPER = 36

Json = dict[str, Any]


class Cost(NamedTuple):
    """One execution: what it said, and what it took."""

    status: int
    output: bytes
    complaint: bytes
    seconds: float  # until it had exited and both pipes were at their end
    seconds_to_quiet: float  # until what it left running had ended as well
    cpu_seconds: float  # of the process and of those it waited for
    late_cpu_seconds: float  # of what it left running
    peak_kib: int


class Spawner:
    """The small process that executes plugins for us (spawner.py)."""

    def __init__(self) -> None:
        """Start it."""
        library = ctypes.CDLL(None)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(SPAWNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={},
            # Safe: there are no other threads yet.
            preexec_fn=lambda: library.prctl(PR_SET_CHILD_SUBREAPER, 1),  # noqa: PLW1509
        )

    def execute(self, path: str, environment: dict[str, str], data: bytes) -> Cost:
        """Execute a program with an environment and an input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = marshal.dumps((path, [path], environment, data))
        self._process.stdin.write(len(request).to_bytes(4, "big") + request)
        self._process.stdin.flush()
        length = int.from_bytes(self._process.stdout.read(4), "big")
        if not length:
            raise BenchError(f"the spawner ended while executing {path}")
        return Cost(*marshal.loads(self._process.stdout.read(length)))  # noqa: S302

    def floor_kib(self) -> int:
        """Return the peak memory of a program that does nothing: no figure can be lower."""
        return self.execute("/bin/true", {}, b"").peak_kib

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@dataclass(frozen=True)
class Attachment:
    """A container's interface, as a runtime names it."""

    container: str
    namespace_path: str
    interface: str = "eth0"


@dataclass
class Operation:
    """A verb carried out by all plugins of a network: the sum of their calls."""

    seconds: float = 0.0
    seconds_to_quiet: float = 0.0
    cpu_seconds: float = 0.0
    peak_kib: int = 0

    def count(self, cost: Cost) -> None:
        """Add one call."""
        self.seconds += cost.seconds
        self.seconds_to_quiet += cost.seconds_to_quiet
        self.cpu_seconds += cost.cpu_seconds + cost.late_cpu_seconds
        self.peak_kib = max(self.peak_kib, cost.peak_kib)


@dataclass
class Network:
    """A network's plugins, and the results that a runtime would cache for it."""

    title: str
    name: str
    plugins: Sequence[Json]
    directory: Path
    spawner: Spawner
    results: dict[str, Json] = field(default_factory=dict)

    def add(self, attachment: Attachment) -> Operation:
        """Carry out ADD."""
        operation = Operation()
        result: Json | None = None
        for plugin in self.plugins:
            output = self._call("ADD", plugin, attachment, result, operation)
            result = json.loads(output)
        assert result is not None
        self.results[attachment.container] = result
        return operation

    def check(self, attachment: Attachment) -> Operation:
        """Carry out CHECK."""
        return self._each("CHECK", self.plugins, attachment)

    def delete(self, attachment: Attachment) -> Operation:
        """Carry out DEL."""
        operation = self._each("DEL", reversed(self.plugins), attachment)
        del self.results[attachment.container]
        return operation

    def status(self) -> Operation:
        """Carry out STATUS, which is of no attachment."""
        operation = Operation()
        for plugin in self.plugins:
            told = {**plugin, "cniVersion": STATUS_VERSION}
            self._call("STATUS", told, Attachment("", "", ""), None, operation)
        return operation

    def _each(self, verb: str, plugins: Iterable[Json], attachment: Attachment) -> Operation:
        operation = Operation()
        result = self.results[attachment.container]
        for plugin in plugins:
            self._call(verb, plugin, attachment, result, operation)
        return operation

    def _call(
        self,
        verb: str,
        plugin: Json,
        attachment: Attachment,
        result: Json | None,
        operation: Operation,
    ) -> bytes:
        document = {"cniVersion": SPEC_VERSION, "name": self.name, **plugin}
        if result is not None:
            document["prevResult"] = result
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.namespace_path,
            "CNI_IFNAME": attachment.interface,
            "CNI_PATH": str(self.directory),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        path = str(self.directory / str(plugin["type"]))
        cost = self.spawner.execute(path, environment, json.dumps(document).encode())
        if cost.status != 0:
            said = (cost.output + cost.complaint).decode(errors="replace").strip()
            raise BenchError(f"{path} {verb}: exit status {cost.status}: {said}")
        operation.count(cost)
        return cost.output

    def delete_all(self) -> None:
        """Delete what is still attached, as far as that is possible."""
        for container in list(self.results):
            with contextlib.suppress(BenchError):
                self.delete(Attachment(container, ""))


@dataclass(frozen=True)
class Settings:
    """What both networks of a comparison have in common."""

    subnet: str = "10.200.0.0/16"
    mtu: int = 1500
    rate_bps: int = 100_000_000
    burst_bytes: int = 15140  # for the reference: it must be given
    masquerade: bool = False
    keys: Json = field(default_factory=dict)  # of ours alone
    bandwidth: Json = field(default_factory=dict)  # beside the rates, of ours alone


def faasm_network(
    spawner: Spawner, plugin: Path, settings: Settings, scratch: Path, name: str = "bench-faasm"
) -> Network:
    """Return a network of our plugin."""
    if not plugin.is_file():
        raise BenchError(f"{plugin} is missing: make it with {PROJECT / 'build.sh'}")
    document = {
        "type": plugin.name,
        "mtu": settings.mtu,
        "ipMasq": settings.masquerade,
        "stateDir": str(scratch / "faasm"),
        "bandwidth": {
            "ingressRate": settings.rate_bps,
            "egressRate": settings.rate_bps,
            **settings.bandwidth,
        },
        "ipam": _ipam(settings, scratch),
        **settings.keys,
    }
    return Network("faasm", name, [document], plugin.parent, spawner)


def reference_network(
    spawner: Spawner, directory: Path, settings: Settings, scratch: Path, name: str = "bench-ref"
) -> Network:
    """Return a network of the chain ptp (with host-local), bandwidth."""
    missing = [
        plugin
        for plugin in ("ptp", "host-local", "bandwidth")
        if not (directory / plugin).is_file()
    ]
    if missing:
        raise BenchError(
            f"missing in {directory}: {', '.join(missing)}; apt-get install {REFERENCE_PACKAGE}"
        )
    link = {
        "type": "ptp",
        "mtu": settings.mtu,
        "ipMasq": settings.masquerade,
        "ipam": _ipam(settings, scratch),
    }
    shaping = {
        "type": "bandwidth",
        "ingressRate": settings.rate_bps,
        "ingressBurst": settings.burst_bytes * 8,
        "egressRate": settings.rate_bps,
        "egressBurst": settings.burst_bytes * 8,
    }
    return Network("reference", name, [link, shaping], directory, spawner)


def _ipam(settings: Settings, scratch: Path) -> Json:
    return {
        "type": "host-local",
        "ranges": [[{"subnet": settings.subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(scratch / "networks"),
    }
