"""Measure round trips while a link is loaded: pings from inside several namespaces at once.

A socket belongs to the namespace of its birth, so one thread pings from all of them. When
an answer came is told by the kernel: this process may be kept waiting on a busy machine.
"""

import os
import select
import socket
import statistics
import struct
import time

from cni_faasm.cli.network_check.background import Background

INTERVAL_S = 0.2  # 62 bytes each: one percent of a line of 256 kbit/s
SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>, the socket module has it not
_TIMESPEC = struct.Struct("@ll")
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_PAYLOAD = b"cni-faasm network-check"[:20]
# Request and answer, by the length of the address (RFC 792, RFC 4443).
_TYPES = {4: (8, 0), 16: (128, 129)}


class Pinger:
    """One ping socket in the namespace that the calling thread is in.

    round_trips_ms: of those answered. sent: how many were asked.
    Raises: OSError when the kernel gives no raw socket.
    """

    def __init__(self, address: bytes) -> None:
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP)
            if len(address) == 4
            else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        self.request, self.answer = _TYPES[len(address)]
        self.to = socket.inet_ntop(family, address)
        self.identifier = int.from_bytes(os.urandom(2), "big")
        self.asked: dict[int, int] = {}
        self.sent = 0
        self.round_trips_ms: list[float] = []
        self.socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def ask(self) -> None:
        """Send one request; a full queue counts as a lost one."""
        sequence = self.sent & 0xFFFF
        self.sent += 1
        packet = _HEADER.pack(self.request, 0, 0, self.identifier, sequence) + _PAYLOAD
        if self.request == 8:  # of ICMPv6 the kernel computes it
            checksum = _checksum(packet)
            packet = _HEADER.pack(self.request, 0, checksum, self.identifier, sequence) + _PAYLOAD
        self.asked[sequence] = time.time_ns()
        try:
            self.socket.sendto(packet, (self.to, 0))
        except OSError:
            del self.asked[sequence]

    def hear(self) -> None:
        """Read all answers that have come."""
        while True:
            try:
                packet, ancillary, _, _ = self.socket.recvmsg(512, 64)
            except OSError:  # nothing more, or "unreachable" from a router
                return
            if self.request == 8:
                packet = packet[(packet[0] & 15) * 4 :] if packet else packet
            if len(packet) < _HEADER.size:
                continue
            kind, _, _, identifier, sequence = _HEADER.unpack_from(packet)
            if kind != self.answer or identifier != self.identifier:
                continue
            asked = self.asked.pop(sequence, None)
            if asked is not None:
                self.round_trips_ms.append((_arrival_ns(ancillary) - asked) / 1e6)

    def median_ms(self) -> float | None:
        """Return the median round trip; None when no ping was answered."""
        return statistics.median(self.round_trips_ms) if self.round_trips_ms else None


class Pinging(Background):
    """Ping with several pingers, beginning after a delay, for the length of a block."""

    def __init__(self, pingers: list[Pinger], delay_s: float) -> None:
        super().__init__(delay_s)
        self.pingers = pingers

    def close(self) -> None:
        for pinger in self.pingers:
            pinger.socket.close()

    def work(self) -> None:
        if self.over.wait(self.delay_s):
            return
        by_fd = {pinger.socket.fileno(): pinger for pinger in self.pingers}
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        following = time.monotonic()
        while not self.over.is_set():
            now = time.monotonic()
            if now >= following:
                for pinger in self.pingers:
                    pinger.ask()
                following = max(following + INTERVAL_S, now)
            wait_ms = min(max(following - time.monotonic(), 0), 0.05) * 1000
            for fd, _ in poll.poll(wait_ms):
                by_fd[fd].hear()


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) >= _TIMESPEC.size:
            arrived: tuple[int, int] = _TIMESPEC.unpack_from(data)
            return arrived[0] * 1_000_000_000 + arrived[1]
    return time.time_ns()


def _checksum(packet: bytes) -> int:
    """Return the Internet checksum of a packet of even length (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
