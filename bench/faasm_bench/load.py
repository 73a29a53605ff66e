"""TCP load by iperf3, and the round-trip time somebody else sees under it."""

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .privatehost import BenchError, in_namespace, inside
from .stats import median, percentile

ICMP_ECHO_REQUEST = 8
ICMP_ECHO_REPLY = 0
ETHERNET_IP_ICMP = 14 + 20 + 8
PROBE_PAYLOAD = 22
PROBE_FRAME = ETHERNET_IP_ICMP + PROBE_PAYLOAD
SO_TIMESTAMPNS = 35
LINGER = 3.0  # seconds for late answers
MIN_PROBE_INTERVAL = 0.01
PROBE_SHARE = 0.003
PORT = 5201
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
PATIENCE = 30.0


@dataclass
class Probe:
    """Round-trip times of echo requests, in seconds, while something else went on."""

    sent: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Share of the requests without an answer."""
        return 1 - len(self.times) / self.sent if self.sent else 0.0

    def median_ms(self) -> float:
        return 1000 * median(self.times)

    def p95_ms(self) -> float:
        return 1000 * percentile(self.times, 0.95)


class Prober(threading.Thread):
    """Send echo requests at a fixed pace and note when the kernel saw the answers.

    The receive time is the kernel's own, so that a busy processor does not count as
    a busy link. One socket, opened in the namespace from which the load is sent.
    """

    def __init__(self, namespace: str | None, target: str, interval: float) -> None:
        """Open the socket; `start()` begins, `finish()` ends and returns the Probe."""
        super().__init__(daemon=True)
        with inside(namespace):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.connect((target, 0))
        self._interval = interval
        self._identifier = threading.get_native_id() & 0xFFFF
        self._ending = threading.Event()
        self._sent_at: list[float] = []
        self._answers: dict[int, float] = {}

    def run(self) -> None:
        """Pace the requests until told to end, then wait for late answers."""
        due = time.monotonic()
        while not self._ending.is_set():
            self._receive_until(due)
            self._send()
            due = max(due + self._interval, time.monotonic())
        end = time.monotonic() + LINGER
        while len(self._answers) < len(self._sent_at) and time.monotonic() < end:
            self._receive_until(min(end, time.monotonic() + 0.05))

    def finish(self) -> Probe:
        """Stop sending, wait for late answers, and return what was seen."""
        self._ending.set()
        self.join()
        self._socket.close()
        return Probe(len(self._sent_at), list(self._answers.values()))

    def _send(self) -> None:
        number = len(self._sent_at)
        payload = b"faasm-bench".ljust(PROBE_PAYLOAD, b"\0")
        rest = struct.pack("!HH", self._identifier, number & 0xFFFF) + payload
        unsummed = struct.pack("!BBH", ICMP_ECHO_REQUEST, 0, 0) + rest
        packet = struct.pack("!BBH", ICMP_ECHO_REQUEST, 0, checksum(unsummed)) + rest
        self._sent_at.append(time.time())
        # A full queue on the way out (ENOBUFS) is a lost probe like any other.
        with contextlib.suppress(OSError):
            self._socket.send(packet)

    def _receive_until(self, due: float) -> None:
        while True:
            left = due - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                return
            data, ancillary, _, _ = self._socket.recvmsg(2048, 256)
            self._note(data, ancillary)

    def _note(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        start = (data[0] & 15) * 4
        kind, _, _, identifier, number = struct.unpack_from("!BBHHH", data, start)
        if kind != ICMP_ECHO_REPLY or identifier != self._identifier:
            return
        # The sequence field has 16 bits; the latest request with that value is meant.
        while number + 0x10000 < len(self._sent_at):
            number += 0x10000
        seconds, nanoseconds = struct.unpack_from("@qq", ancillary[0][2])
        if number < len(self._sent_at):
            self._answers.setdefault(number, seconds + nanoseconds / 1e9 - self._sent_at[number])


def checksum(data: bytes) -> int:
    """Return the Internet checksum of data of an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total + (total >> 16)) & 0xFFFF)


@dataclass(frozen=True)
class Endpoint:
    """Where one end of a load lives: a named namespace, or None for the host itself."""

    namespace: str | None
    address: str


@dataclass(frozen=True)
class LoadResult:
    """What one run of load and probes gave."""

    bits_per_second: float
    retransmits: int
    probe: Probe


@dataclass(frozen=True)
class Duration:
    """How long a load runs before it counts, and how long it counts, in seconds."""

    warm_up: float
    counted: float

    @property
    def total(self) -> int:
        """Whole seconds, as iperf3 wants them: 0 would be for ever."""
        return max(1, round(self.warm_up + self.counted))


def measure(
    sender: Endpoint,
    receiver: Endpoint,
    rate_bps: float,
    duration: Duration,
    *,
    flows: int = 1,
    congestion: str = "cubic",
) -> LoadResult:
    """Send TCP from one end to the other and probe the same way meanwhile.

    The goodput is what the receiving application got after the warm-up. The probes take
    PROBE_SHARE of the rate at most: ten a second would be 3 % of 256 kbit/s.
    """
    # Small writes at low rates: iperf3 counts a block only when it is complete.
    block = int(min(131072, max(1448, rate_bps / 8 * 0.05)))
    serve = (
        f"iperf3 --server --one-off --json --interval 0.5 --bind {receiver.address} --port {PORT}"
    )
    send = (
        f"iperf3 --client {receiver.address} --port {PORT} --json --time {duration.total}"
        f" --congestion {congestion} --parallel {flows} --length {block}"
    )
    with _started(receiver.namespace, serve) as server:
        _await_listener(receiver.namespace)
        with _started(sender.namespace, send) as client:
            time.sleep(duration.warm_up)
            interval = max(MIN_PROBE_INTERVAL, PROBE_FRAME * 8 / (rate_bps * PROBE_SHARE))
            prober = Prober(sender.namespace, receiver.address, interval)
            prober.start()
            time.sleep(max(0.0, duration.counted - 0.3))
            probe = prober.finish()
            sent = _finish(client)
        got = _finish(server)
    retransmits = int(sent["end"]["sum_sent"].get("retransmits", 0))
    return LoadResult(_steady_rate(got, duration), retransmits, probe)


@contextlib.contextmanager
def others(number: int) -> Iterator[None]:
    """Keep the processors busy by so many processes."""
    running = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _started(namespace: str | None, command: str) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [*in_namespace(namespace), *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    try:
        output, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise BenchError("iperf3 does not come to an end") from error
    try:
        document = json.loads(output)
    except ValueError as error:
        raise BenchError(f"iperf3 gave no result: {output.strip()} {complaint.strip()}") from error
    assert isinstance(document, dict)
    if "error" in document:
        raise BenchError(f"iperf3: {document['error']}")
    return document


def _await_listener(namespace: str | None) -> None:
    # A connection would use up the one test that the server is there for.
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with inside(namespace):
            table = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii")
        rows = [line.split() for line in table.splitlines()]
        if any(row[1].endswith(f":{PORT:04X}") and row[3] == LISTENING for row in rows):
            return
        time.sleep(0.01)
    raise BenchError("the iperf3 server does not listen")


def _steady_rate(document: dict[str, Any], duration: Duration) -> float:
    parts = [
        interval["sum"]
        for interval in document["intervals"]
        if interval["sum"]["start"] >= duration.warm_up - 0.01
        and interval["sum"]["end"] <= duration.total + 0.1
    ]
    seconds = sum(float(part["seconds"]) for part in parts)
    if not seconds:
        raise BenchError("the receiver of the load saw nothing after the warm-up")
    return sum(int(part["bytes"]) for part in parts) * 8 / seconds
