"""Call plugins as a runtime does, and time them: ours, and the reference chain.

A call is timed from the spawn to the exit and the end of the pipe: a runtime waits for
both. The driver spawns with posix_spawn (vfork), so that its own size does not count.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .privatehost import BenchError

REFERENCE = Path("/usr/lib/cni")
REPO = Path(__file__).resolve().parents[2]
BUNDLE = Path(os.environ.get("FAASM_BUNDLE") or REPO / "dist/faasm")
RATE_BPS = 32 * 1024 * 1024
# The reference plugin demands a burst: ten milliseconds, enough to reach the rate.
REFERENCE_BURST_BITS = RATE_BPS // 100


@dataclass
class Call:
    """One call: how long it took, what it printed, what it used."""

    milliseconds: float
    output: bytes
    user_ms: float
    system_ms: float
    resident_kib: int


def require_plugins() -> None:
    """Raise BenchError when the built plugin or the reference ones are missing."""
    if not (BUNDLE / "faasm").exists():
        raise BenchError(f"{BUNDLE}/faasm is missing: run ./build.sh")
    for name in ("ptp", "host-local", "bandwidth"):
        if not (REFERENCE / name).exists():
            raise BenchError(f"{REFERENCE}/{name} is missing: apt-get install containernetworking-plugins")


def call(plugin: Path, verb: str, identity: tuple[str, str], document: dict[str, Any]) -> Call:
    """Execute a plugin. identity: container id and namespace path. Raises: BenchError."""
    container_id, netns = identity
    environment = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(REFERENCE),
    }
    data = json.dumps(document).encode()
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    start = time.perf_counter()
    child = os.posix_spawn(
        plugin,
        [str(plugin)],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, in_read, 0), (os.POSIX_SPAWN_DUP2, out_write, 1)],
    )
    os.close(in_read)
    os.close(out_write)
    os.write(in_write, data)
    os.close(in_write)
    parts = []
    while part := os.read(out_read, 1 << 16):
        parts.append(part)
    _, status, usage = os.wait4(child, 0)
    elapsed = time.perf_counter() - start
    os.close(out_read)
    output = b"".join(parts)
    if status != 0:
        raise BenchError(f"{plugin} {verb}: status {status}: {output.decode('utf-8', 'replace')}")
    return Call(
        elapsed * 1e3, output, usage.ru_utime * 1e3, usage.ru_stime * 1e3, usage.ru_maxrss
    )


class Ours:
    """The built plugin."""

    name = "cni-faasm"

    def __init__(self, directory: Path, *, ip_masq: bool) -> None:
        self.leases = directory / "faasm-leases"
        self.config: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "faasm",
            "ipMasq": ip_masq,
            "stateDir": str(directory / "faasm-state"),
            "bandwidth": {"ingressRate": RATE_BPS, "egressRate": RATE_BPS},
            "ipam": ipam("10.200.0.0/16", self.leases),
        }

    def run(self, verb: str, identity: tuple[str, str]) -> list[Call]:
        """Call one verb; ADD's result goes to the later ones."""
        done = call(BUNDLE / "faasm", verb, identity, self.config)
        _remember(verb, [self.config], done)
        return [done]


class Chain:
    """ptp with host-local, then bandwidth, as libcni calls them."""

    name = "ptp + host-local + bandwidth"

    def __init__(self, directory: Path, *, ip_masq: bool) -> None:
        self.leases = directory / "chain-leases"
        both = {"cniVersion": "1.0.0", "name": "bench"}
        self.ptp: dict[str, Any] = both | {
            "type": "ptp",
            "ipMasq": ip_masq,
            "ipam": ipam("10.201.0.0/16", self.leases),
        }
        self.bandwidth: dict[str, Any] = both | {
            "type": "bandwidth",
            "ingressRate": RATE_BPS,
            "ingressBurst": REFERENCE_BURST_BITS,
            "egressRate": RATE_BPS,
            "egressBurst": REFERENCE_BURST_BITS,
        }

    def run(self, verb: str, identity: tuple[str, str]) -> list[Call]:
        """Call one verb of each plugin, DEL in reverse order."""
        order = [self.ptp, self.bandwidth]
        calls = []
        for config in reversed(order) if verb == "DEL" else order:
            done = call(REFERENCE / config["type"], verb, identity, config)
            _remember(verb, order, done)
            calls.append(done)
        return calls


def ipam(subnet: str, leases: Path) -> dict[str, Any]:
    """Return the address management that both sides use."""
    return {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(leases),
    }


def _remember(verb: str, configs: list[dict[str, Any]], done: Call) -> None:
    for config in configs:
        if verb == "ADD":
            config["prevResult"] = json.loads(done.output)
        elif verb == "DEL":
            config.pop("prevResult", None)


Side = Ours | Chain
Calls = dict[tuple[str, str], list[list[Call]]]


def cycle(sides: list[Side], names: list[str], calls: Calls) -> None:
    """Attach, check and detach one container with each side in turn.

    names: of fresh namespaces, one for each side. A later ADD of ours must not find a
    prevResult, nor may DEL's background work of one side fall into the other's time: the
    kernel's workers are given a moment between.
    """
    for side, name in zip(sides, names, strict=True):
        identity = (name, f"/run/netns/{name}")
        for verb in ("ADD", "CHECK", "DEL"):
            calls.setdefault((side.name, verb), []).append(side.run(verb, identity))
        time.sleep(0.03)
