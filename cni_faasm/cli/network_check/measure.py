"""Run iperf3: find the ports that answer, and measure one flow or many at the same time.

iperf3 is started inside a namespace by a thread that is in it for that moment. Its results
come by a pipe, so there are no files; whatever ends the block, no iperf3 is left running.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.network_check.meter import MAX_SAMPLES, Meter, Metering
from cni_faasm.cli.network_check.model import EGRESS, Flow
from cni_faasm.cli.network_check.ping import Pinger, Pinging
from cni_faasm.limits.shaping import Shape
from cni_faasm.link import netns
from cni_faasm.spec import inet

FIRST_PORT = 5201
OMIT_S = 1  # the first second does not count: TCP is still finding its rate, buckets are full
CONNECT_TIMEOUT_MS = 3000
GRACE_S = 15  # for connecting, and for slow lines to drain their queues at the end
BUSY_RETRIES = 3

BUSY = "the server is busy"
REFUSED = "Connection refused"


@dataclass(slots=True)
class Job:
    """One flow to be measured. netns_fd: None for the host. allowed_bps: a guess is enough.

    limiter: the end whose limit is tested, as Meter takes it.
    """

    where: str
    netns_fd: int | None
    port: int
    direction: str
    allowed_bps: float | None = None
    limiter: tuple[int | None, int, Shape | None] | None = None


def find_iperf3() -> str:
    """Return the path of iperf3. Raises: ToolError saying how to get it."""
    found = shutil.which("iperf3")
    if found:
        return found
    other = " (iperf, which is here, is another program)" if shutil.which("iperf") else ""
    raise ToolError(
        f"iperf3 is missing on this host{other}",
        "install it: apt-get install iperf3, dnf install iperf3 or apk add iperf3",
    )


def child_environment() -> dict[str, str]:
    """Return our variables without the library path of the bundle."""
    variables = dict(os.environ)
    original = variables.pop("LD_LIBRARY_PATH_ORIG", None)
    variables.pop("LD_LIBRARY_PATH", None)
    if original:
        variables["LD_LIBRARY_PATH"] = original
    return variables | {"LC_ALL": "C"}


class Iperf3:
    """Measure against one server.

    tick: called about ten times a second while waiting.
    """

    def __init__(self, server: bytes, tick: Callable[[], None] = lambda: None) -> None:
        self.command = find_iperf3()
        self.server = server
        self.tick = tick

    def answering(self, ports: Iterable[int], netns_fds: Iterable[int | None]) -> list[str]:
        """Ask the server's ports, each from one namespace, for a test of one byte.

        A bare connection would tell less, and makes iperf3's server count an error.
        Returns: for each port "" when it answered, else what iperf3 said.
        """
        arguments = ["--bytes", "1", "--length", "1"]
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(self._running([*self._client(port), *arguments], fd))
                for port, fd in zip(ports, netns_fds, strict=True)
            ]
            deadline = time.monotonic() + CONNECT_TIMEOUT_MS / 1000 + 5
            return [str(self._result(process, deadline).get("error", "")) for process in running]

    def measure(self, jobs: list[Job], seconds: float) -> list[Flow]:
        """Measure all jobs at the same time."""
        for _ in range(BUSY_RETRIES):
            flows = self._measure(jobs, seconds)
            if not any(BUSY in flow.error for flow in flows):
                break
            # A server was still closing the test before this one, or serves somebody else.
            # All are repeated: what matters is that they run at the same time.
            self._wait(0.5)
        return flows

    def _measure(self, jobs: list[Job], seconds: float) -> list[Flow]:
        flows = [Flow(job.where, job.direction) for job in jobs]
        deadline = time.monotonic() + OMIT_S + seconds + GRACE_S
        pingers = self._pingers(jobs)
        meters = [Meter(*job.limiter) if job.limiter else None for job in jobs]
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(self._running(self._test(job, seconds), job.netns_fd))
                for job in jobs
            ]
            stack.enter_context(Pinging([p for p in pingers if p], OMIT_S))
            stack.enter_context(Metering([m for m in meters if m], OMIT_S, seconds))
            for flow, process in zip(flows, running, strict=True):
                self._read_result(flow, self._result(process, deadline))
        for flow, meter in zip(flows, meters, strict=True):
            if meter and meter.bps() is not None:
                flow.wire_bps, flow.samples = meter.bps(), meter.samples()
        for flow, pinger in zip(flows, pingers, strict=True):
            median = pinger.median_ms() if pinger else None
            if pinger and median is not None:
                flow.rtt_ms, flow.rtt_source = median, "ping"
                flow.rtt_max_ms = max(pinger.round_trips_ms)
                flow.pings_lost = pinger.sent - len(pinger.round_trips_ms)
        return flows

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            self.tick()

    def _client(self, port: int) -> list[str]:
        timeout = ["--connect-timeout", str(CONNECT_TIMEOUT_MS)]
        address = ["--client", inet.unpack(self.server), "--port", str(port)]
        return [self.command, "--json", *address, *timeout]

    def _test(self, job: Job, seconds: float) -> list[str]:
        interval = max(0.25, round(seconds / MAX_SAMPLES, 2))
        arguments = ["--time", f"{seconds:g}", "--omit", str(OMIT_S), "--interval", f"{interval:g}"]
        if job.allowed_bps:
            # Blocks that take 5 ms: with iperf3's own of 128 KiB the curve of a slow line
            # would be steps.
            length = min(max(int(job.allowed_bps / 8 / 200), 1448), 131_072)
            arguments += ["--length", str(length)]
        if job.direction != EGRESS:
            arguments.append("--reverse")
        return [*self._client(job.port), *arguments]

    def _pingers(self, jobs: list[Job]) -> list[Pinger | None]:
        pingers: list[Pinger | None] = []
        for job in jobs:
            try:
                with _inside(job.netns_fd):
                    pingers.append(Pinger(self.server))
            except OSError:  # no right to: iperf3's own figure is used
                pingers.append(None)
        return pingers

    @contextlib.contextmanager
    def _running(
        self, command: list[str], netns_fd: int | None
    ) -> "Iterator[subprocess.Popen[bytes]]":
        with _inside(netns_fd):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def _result(self, process: "subprocess.Popen[bytes]", deadline: float) -> dict[str, Any]:
        """Wait for one iperf3 and return its document, with "error" in it when it failed."""
        while True:
            try:
                output, _ = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                self.tick()
                if time.monotonic() > deadline:
                    process.kill()
                    process.communicate()
                    return {"error": "iperf3 did not come to an end"}
        try:
            document = json.loads(output)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            return {"error": f"iperf3 ended with status {process.returncode} and no result"}
        return document

    @staticmethod
    def _read_result(flow: Flow, document: dict[str, Any]) -> None:
        """Fill a flow from iperf3's document."""
        if document.get("error"):
            flow.error = str(document["error"])
            return
        try:
            end = document["end"]
            flow.bps = float(end["sum_received"]["bits_per_second"])
            flow.retransmits = int(end["sum_sent"].get("retransmits", 0))
            flow.mss = int(document["start"].get("tcp_mss_default", 0))
            mean_us = end["streams"][0]["sender"].get("mean_rtt", 0)
            flow.samples = _samples(document["intervals"])
        except (KeyError, IndexError, TypeError, ValueError):
            flow.error = "this iperf3 reports in a form that is not understood"
            return
        if mean_us:  # only of what this end sends
            flow.rtt_ms, flow.rtt_source = mean_us / 1000, "TCP"


def _samples(intervals: list[Any]) -> list[tuple[float, float]]:
    """Return (end in seconds, bit/s) of the intervals that count.

    iperf3 itself halves the rate of the first one: it divides by the omitted time as well.
    """
    found = []
    before = 0.0
    for interval in intervals:
        total = interval["sum"]
        end = float(total["end"])
        if not total["omitted"] and end > before:
            found.append((end, float(total["bytes"]) * 8 / (end - before)))
            before = end
    return found


@contextlib.contextmanager
def _inside(netns_fd: int | None) -> Iterator[None]:
    if netns_fd is None:
        yield
        return
    own_fd = netns.open_own()
    try:
        with netns.Inside(netns_fd, own_fd):
            yield
    finally:
        os.close(own_fd)


def old_iperf_listens(server: bytes) -> bool:
    """Say whether something listens where iperf (version 2) does."""
    try:
        with socket.create_connection((inet.unpack(server), 5001), timeout=1):
            return True
    except OSError:
        return False
