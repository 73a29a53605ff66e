"""Measure what a container's link carries, with iperf3, and say what it should carry.

Used by the tests of runtimes and by the demo; standard library only.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from tests.host import Host, Namespace

FIRST_PORT = 5201
# Of every full Ethernet frame (1514 bytes, which is what HTB counts) TCP with timestamps
# carries 1448 bytes of payload.
PAYLOAD_SHARE = 1448 / 1514
ATTEMPTS = 3


class Flow:
    """Hold one TCP flow to be measured: who sends to whom, and what came of it."""

    def __init__(
        self,
        client: Namespace,
        address: str,
        *,
        port: int = FIRST_PORT,
        download: bool = False,
        congestion: str = "",
    ) -> None:
        self.client = client
        self.address = address
        self.port = port
        self.download = download
        self.congestion = congestion
        self.bits_per_second = 0.0


def serve(host: Host, namespace: Namespace, number: int = 1) -> None:
    """Start iperf3 servers on ports 5201, 5202...: each serves one test at a time."""
    for port in range(FIRST_PORT, FIRST_PORT + number):
        host.serve(namespace, ["iperf3", "-s", "-p", str(port)], port=port)


def client_command(
    address: str,
    *,
    port: int = FIRST_PORT,
    download: bool = False,
    congestion: str = "",
    seconds: float = 4,
) -> list[str]:
    """Return iperf3's command line; the first second does not count: the bucket is full."""
    how = ["--reverse"] if download else []
    if congestion:
        how += ["--congestion", congestion]
    times = ["--time", f"{seconds:g}", "--omit", "1"]
    return ["iperf3", "--json", "-c", address, "-p", str(port), *times, *how]


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
                flow.address,
                port=flow.port,
                download=flow.download,
                congestion=flow.congestion,
                seconds=seconds,
            )
            running.append(flow.client.start(command))
        for flow, process in zip(flows, running, strict=True):
            output, _ = process.communicate(timeout=seconds + 30)
            flow.bits_per_second = goodput(output)
    finally:
        for process in running:
            process.kill()
            process.wait()


def assert_near(
    limit: float,
    measure_once: Callable[[], Sequence[float]],
    *,
    low: float = 0.95,
    high: float = 1.05,
    share: float = PAYLOAD_SHARE,
) -> None:
    """Measure TCP's goodput in bit/s until it comes near what a limit leaves for payload.

    A machine that withholds its processors for a moment takes from a goodput; nothing but a
    fault adds to it. share: of a frame that is payload. So no measurement may be above, and one of a few has to come near.
    """
    expected = limit * share
    seen: list[list[float]] = []
    for _ in range(ATTEMPTS):
        seen.append([rate / expected for rate in measure_once()])
        assert max(seen[-1]) <= high, f"a limit of {limit / 1e6:g} Mbit/s does not hold: {seen}"
        if min(seen[-1]) >= low:
            return
    raise AssertionError(f"a limit of {limit / 1e6:g} Mbit/s is not reached: {seen}")


def assert_flows(
    flows: Sequence[Flow],
    limit: float,
    *,
    seconds: float = 4,
    low: float = 0.92,
    high: float = 1.05,
) -> None:
    """Measure flows, all at the same time, until each comes near its limit; see assert_near.

    A loss while TCP is still starting costs a flow of 4 s up to a twentieth.
    """

    def measure_once() -> list[float]:
        measure(flows, seconds=seconds)
        return [flow.bits_per_second for flow in flows]

    assert_near(limit, measure_once, low=low, high=high)
