"""Build Ethernet frames by hand, as a container with CAP_NET_RAW can, and see which arrive."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tests.host import Namespace

BROADCAST = b"\xff" * 6
ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", kind) + payload


def ip(source: str, target: str, protocol: int, payload: bytes, *, hops: int = 64) -> bytes:
    """Return an IPv4 or IPv6 packet."""
    one, other = packed(source), packed(target)
    if len(one) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + one + other + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, hops, protocol, 0)
    head += one + other
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + payload


def pseudo(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    one, other = packed(source), packed(target)
    if len(one) == 16:
        return one + other + struct.pack("!II", len(payload), protocol)
    return one + other + struct.pack("!BBH", 0, protocol, len(payload))


def udp(source: str, target: str, payload: bytes, *, port: int = 9999) -> bytes:
    """Return a whole IP packet with a UDP datagram."""
    data = struct.pack("!HHHH", 9998, port, 8 + len(payload), 0) + payload
    value = checksum(pseudo(source, target, 17, data) + data) or 0xFFFF
    data = data[:6] + struct.pack("!H", value) + data[8:]
    return ip(source, target, 17, data)


def icmpv6(source: str, target: str, data: bytes) -> bytes:
    """Return a whole IPv6 packet; data begins with type and code, its checksum is filled in."""
    value = checksum(pseudo(source, target, 58, data) + data)
    return ip(source, target, 58, data[:2] + struct.pack("!H", value) + data[4:], hops=255)


def arp(operation: int, sender: tuple[bytes, str], target: tuple[bytes, str]) -> bytes:
    """Return an ARP message; 1 asks, 2 answers. sender, target: MAC and IPv4 address."""
    head = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, operation)
    return head + sender[0] + packed(sender[1]) + target[0] + packed(target[1])


def send(namespace: Namespace, device: str, frame: bytes) -> None:
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        raw.send(frame)


class Arrived(Protocol):
    """Say whether a packet with these bytes has come, within a patience in seconds."""

    def __call__(self, mark: bytes, patience: float = 0.3) -> bool:
        """Wait no longer than it takes to come."""


@contextmanager
def listening(namespace: Namespace, device: str) -> Iterator[Arrived]:
    """Yield a function that says whether a frame with some bytes in it arrived in here."""
    with (
        namespace.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw,
    ):
        raw.bind((device, ETH_P_ALL))
        raw.settimeout(0.02)

        def arrived(mark: bytes, patience: float = 0.3) -> bool:
            end = time.monotonic() + patience
            while True:
                # Looked at before each wait: on a busy machine the time may be over, and what
                # came in it lies here unread.
                is_over = time.monotonic() > end
                try:
                    if mark in raw.recv(65536):
                        return True
                except TimeoutError:
                    if is_over:
                        return False

        yield arrived
