"""Measure what a container's link carries, with iperf3, and say what it should carry.

Used by the tests of runtimes and by the demo; standard library only.
"""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.host import Host, Namespace

FIRST_PORT = 5201
# Of every full Ethernet frame (1514 bytes, which is what HTB counts) TCP with timestamps
# carries 1448 bytes of payload.
PAYLOAD_SHARE = 1448 / 1514


class Flow:
    """Hold one TCP flow to be measured: who sends to whom, and what came of it."""

    def __init__(
        self, client: Namespace, address: str, *, port: int = FIRST_PORT, download: bool = False
    ) -> None:
        self.client = client
        self.address = address
        self.port = port
        self.download = download
        self.bits_per_second = 0.0


def serve(host: Host, namespace: Namespace, number: int = 1) -> None:
    """Start iperf3 servers on ports 5201, 5202...: each serves one test at a time."""
    for port in range(FIRST_PORT, FIRST_PORT + number):
        host.serve(namespace, ["iperf3", "-s", "-p", str(port)], port=port)


def client_command(
    address: str, *, port: int = FIRST_PORT, download: bool = False, seconds: float = 4
) -> list[str]:
    """Return iperf3's command line; the first second does not count: the bucket is full."""
    direction = ["--reverse"] if download else []
    times = ["--time", f"{seconds:g}", "--omit", "1"]
    return ["iperf3", "--json", "-c", address, "-p", str(port), *times, *direction]


def goodput(output: bytes | str) -> float:
    """Return the bit/s that arrived, from iperf3's JSON."""
    document: dict[str, Any] = json.loads(output)
    if "error" in document:
        raise RuntimeError(f"iperf3: {document['error']}")
    return float(document["end"]["sum_received"]["bits_per_second"])


def measure(flows: Sequence[Flow], *, seconds: float = 4) -> None:
    """Run all flows at the same time and note each one's goodput."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for flow in flows:
            command = client_command(
                flow.address, port=flow.port, download=flow.download, seconds=seconds
            )
            running.append(flow.client.start(command))
        for flow, process in zip(flows, running, strict=True):
            output, _ = process.communicate(timeout=seconds + 30)
            flow.bits_per_second = goodput(output)
    finally:
        for process in running:
            process.kill()
            process.wait()


def assert_rate(measured: float, limit: float, *, tolerance: float = 0.05) -> None:
    """Compare a TCP goodput with what a limit in bit/s leaves for payload."""
    expected = limit * PAYLOAD_SHARE
    assert abs(measured / expected - 1) <= tolerance, (
        f"{measured / 1e6:.2f} Mbit/s of payload arrived; "
        f"{expected / 1e6:.2f} expected under a limit of {limit / 1e6:g} Mbit/s"
    )
