"""What a container gets that sends past its own queue, and what one that obeys pays for that."""

import argparse
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import cli
from .calls import Attachment, Network, Settings, Spawner, faasm_network
from .load import Endpoint, LoadResult, checksum, measure
from .privatehost import add_namespace, delete_namespace, enter, inside, run
from .report import Report
from .shaping import (
    CONTAINER,
    ETHERNET_HEADER,
    REMOTE,
    REMOTE_ADDRESS,
    add_rates_and_scale,
    connect_remote,
    duration,
    ideal_bps,
    rate_text,
)
from .stats import median

RATES_BPS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
MOST = 1.15  # of the limit, for who cheats
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
PACKET_VNET_HDR = 15
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_GSO_TCPV4 = 1
SEGMENT = 1448
BATCH = 200  # frames between two looks at the clock
COST_RATE_BPS = 100_000_000_000  # never met, so that each packet only pays for the look
COST_BATCHES = 200

DESCRIPTION = """\
Send from a container past the queue of its own end (PACKET_QDISC_BYPASS, which takes
CAP_NET_RAW) as fast as it can, and measure what reaches a machine behind the host. Then
measure one that obeys with the host's backstop and without: TCP goodput, round-trip time
under load, and what a packet costs."""

EPILOG = """\
Run as root after ./build.sh. Everything happens in a private host; nothing is left.
Each cheat sends for ten seconds, --scale makes that shorter; a second of the rate passes
at once, so in shorter times it has more. The cost of a packet is the least of many batches,
from the sender's call to the end of what the kernel does with it on the same processor."""


class Cheat(NamedTuple):
    """What a container sends past its queue. size: of the payload, or of the whole question."""

    title: str
    kind: str
    size: int


CHEATS = (
    Cheat("UDP, 1400 bytes", "udp", 1400),
    Cheat("UDP, 1 byte", "udp", 1),
    Cheat("TCP, 64 kB at once", "tcp", 44 * SEGMENT),
    Cheat("ARP, 1014 bytes", "arp", 1014),
)


class Place(NamedTuple):
    """Where a container is attached. macs: its own and the host's."""

    address: str
    gateway: str
    interface: str
    macs: tuple[bytes, bytes]


def main() -> None:
    """Run the benchmark."""
    parser = cli.parser("bench/backstop", DESCRIPTION, EPILOG)
    add_rates_and_scale(parser, RATES_BPS)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="of what obeys")
    given = parser.parse_args()
    cli.main(lambda: run_all(given), lambda: str(given.form))


def run_all(given: argparse.Namespace) -> Report:
    """Take all measurements."""
    scratch = enter(given.scratch, {"iperf3": "iperf3", "nft": "nftables"})
    spawner = Spawner()
    connect_remote(1500)
    report = Report(
        "Who sends past his own queue, and who obeys, with the backstop and without it",
        ["", "sent", "goodput", "without", "RTT ms", "without", "target"],
    )
    progress = cli.Progress(len(given.rates) * (len(CHEATS) + 2 * given.repeat) + 2)
    for rate_bps in given.rates:
        settings = Settings(rate_bps=rate_bps)
        for one in CHEATS:
            progress.step(f"{rate_text(rate_bps)}, {one.title}")
            network = faasm_network(spawner, given.plugin, settings, scratch)
            _report_cheat(report, rate_bps, one, *_cheated(network, one, 10 * given.scale))
        cells: dict[bool, list[LoadResult]] = {True: [], False: []}
        for _, has_backstop in itertools.product(range(given.repeat), cells):
            progress.step(f"{rate_text(rate_bps)}, who obeys")
            network = faasm_network(spawner, given.plugin, settings, scratch)
            cells[has_backstop].append(
                _obeying(network, rate_bps, given.scale, has_backstop=has_backstop)
            )
        _report_obeying(report, rate_bps, cells)
    costs = []
    for has_backstop in (True, False):
        progress.step("the cost of a packet")
        settings = Settings(rate_bps=COST_RATE_BPS)
        network = faasm_network(spawner, given.plugin, settings, scratch)
        costs.append(_packet_ns(network, has_backstop=has_backstop))
    progress.end()
    spawner.close()
    report.figures["packetNs"] = dict(zip(("with", "without"), costs, strict=True))
    cheats = (
        f"Cheats send for {10 * given.scale:g} s; goodput: of the limit, from the IP header on, with the"
        " second that passes at once."
    )
    obeying = (
        f"Who obeys: one flow of TCP to a remote machine, the median of {given.repeat} runs; goodput as a"
        " share of rate x 1448/1514."
    )
    cost = (
        f"A packet of 1428 bytes takes the processor {costs[0]:.0f} ns, without the backstop"
        f" {costs[1]:.0f} ns."
    )
    report.notes += [cheats, obeying, cost]
    return report


def _report_cheat(
    report: Report, rate_bps: int, one: Cheat, tried_bps: float, passed_bps: float
) -> None:
    share, tried = passed_bps / rate_bps, tried_bps / rate_bps
    is_met = share <= MOST
    report.rows.append(
        [
            f"{rate_text(rate_bps)}, {one.title}",
            f"{tried:.3g} x",
            f"{100 * share:.1f} %",
            *[""] * 3,
            f"≤ {100 * MOST:.0f} % {'met' if is_met else 'MISSED'}",
        ]
    )
    report.figures[f"{rate_bps} {one.title}"] = {"tried": tried, "share": share, "met": is_met}


def _report_obeying(report: Report, rate_bps: int, cells: dict[bool, list[LoadResult]]) -> None:
    shares = [
        median([run.bits_per_second for run in runs]) / ideal_bps(rate_bps, 1500)
        for runs in cells.values()
    ]
    times = [median([run.probe.median_ms() for run in runs]) for runs in cells.values()]
    report.rows.append(
        [
            f"{rate_text(rate_bps)}, who obeys",
            "",
            *[f"{100 * share:.1f} %" for share in shares],
            *[f"{each:.2f}" for each in times],
            "",
        ]
    )
    report.figures[f"{rate_bps} obeys"] = {"shares": shares, "rttMs": times}


@contextmanager
def _attached(network: Network, *, has_backstop: bool = True) -> Iterator[Place]:
    attachment = Attachment(CONTAINER, add_namespace(CONTAINER))
    try:
        network.add(attachment)
        result = network.results[CONTAINER]
        [assigned] = result["ips"]
        outer, inner = result["interfaces"][:2]
        macs = [bytes.fromhex(each["mac"].replace(":", "")) for each in (inner, outer)]
        if not has_backstop:
            for family in ("inet", "arp"):
                run(["nft", "delete", "table", family, f"limit_{network.name}"])
        address = str(assigned["address"]).partition("/")[0]
        yield Place(address, str(assigned["gateway"]), outer["name"], (macs[0], macs[1]))
        network.delete(attachment)
    finally:
        network.delete_all()
        delete_namespace(CONTAINER)


def _obeying(network: Network, rate_bps: int, scale: float, *, has_backstop: bool) -> LoadResult:
    with _attached(network, has_backstop=has_backstop) as place:
        ends = Endpoint(CONTAINER, place.address), Endpoint(REMOTE, REMOTE_ADDRESS)
        return measure(*ends, rate_bps, duration(rate_bps, scale))


def _cheated(network: Network, one: Cheat, seconds: float) -> tuple[float, float]:
    """Return what was tried and what passed, in bits/s from the IP header on."""
    with _attached(network) as place:
        frame = _frame(one, place)
        before = _arrived(one, place)
        began = time.monotonic()
        tried = _send(frame, seconds, in_segments=one.kind == "tcp")
        passed = _arrived(one, place) - before
        elapsed = time.monotonic() - began
    return 8 * tried * (len(frame) - ETHERNET_HEADER) / elapsed, 8 * passed / elapsed


def _arrived(one: Cheat, place: Place) -> int:
    """Return how many bytes have passed so far, from the IP header on."""
    if one.kind == "arp":  # the host answers: as many questions have passed as it answers
        return _counters(None, place.interface, "tx")[1] * (one.size - ETHERNET_HEADER)
    size, number = _counters(REMOTE, "eth0", "rx")
    return size - number * ETHERNET_HEADER


def _send(frame: bytes, seconds: float, *, in_segments: bool) -> int:
    """Send a frame as often as two processes can; return how often."""
    pipes = []
    for _ in range(2):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, b"%d" % _send_alone(frame, seconds, in_segments=in_segments))
            os._exit(0)
        os.close(write)
        pipes.append((child, read))
    sent = 0
    for child, read in pipes:
        sent += int(os.read(read, 32))
        os.close(read)
        os.waitpid(child, 0)
    return sent


def _send_alone(frame: bytes, seconds: float, *, in_segments: bool) -> int:
    sent = 0
    with _bypassing() as raw:
        if in_segments:
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            headers = ETHERNET_HEADER + 40
            cut = VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, headers, SEGMENT
            frame = struct.pack("=BBHHHH", *cut, headers - 20, 16) + frame
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(BATCH):
                try:
                    raw.send(frame)
                    sent += 1
                except OSError:  # the host's backlog is full
                    time.sleep(0.0005)
    return sent


@contextmanager
def _bypassing() -> Iterator[socket.socket]:
    with inside(CONTAINER):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        raw.bind(("eth0", 0))
        yield raw


def _packet_ns(network: Network, *, has_backstop: bool) -> float:
    """Return the least that a packet took, of many batches, in nanoseconds."""
    with _attached(network, has_backstop=has_backstop) as place, _bypassing() as raw:
        frame = _frame(CHEATS[0], place)
        best = float("inf")
        for _ in range(COST_BATCHES):
            began = time.perf_counter_ns()
            for _ in range(BATCH):
                raw.send(frame)
            best = min(best, (time.perf_counter_ns() - began) / BATCH)
        return best


def _counters(namespace: str | None, device: str, direction: str) -> tuple[int, int]:
    """Return the bytes and the packets of a device."""
    with inside(namespace):
        text = Path("/proc/thread-self/net/dev").read_text(encoding="ascii")
    for line in text.splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            first = 0 if direction == "rx" else 8
            size, packets = numbers.split()[first : first + 2]
            return int(size), int(packets)
    raise LookupError(device)


def _frame(one: Cheat, place: Place) -> bytes:
    own, host = place.macs
    address = socket.inet_aton(place.address)
    if one.kind == "arp":
        header = host + own + struct.pack("!H", ETH_P_ARP)
        question = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 1) + own + address
        return (header + question + bytes(6) + socket.inet_aton(place.gateway)).ljust(
            one.size, b"\0"
        )
    ends = address + socket.inet_aton(REMOTE_ADDRESS)
    protocol = socket.IPPROTO_TCP if one.kind == "tcp" else socket.IPPROTO_UDP
    if one.kind == "tcp":
        # The kernel adds up the rest when it makes segments.
        pseudo = checksum(ends + struct.pack("!HH", protocol, 20 + one.size)) ^ 0xFFFF
        body = struct.pack("!HHIIBBHHH", 9, 9, 1, 1, 0x50, 0x10, 1000, pseudo, 0)
    else:
        body = struct.pack("!HHHH", 9, 9, 8 + one.size, 0)
    body += bytes(one.size)
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol)
    summed = start + struct.pack("!H", checksum(start + bytes(2) + ends)) + ends
    return host + own + struct.pack("!H", ETH_P_IP) + summed + body
