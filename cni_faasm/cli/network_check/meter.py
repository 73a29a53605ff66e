"""Read what a limit lets through while it is measured: the counters of its own class.

iperf3 tells what a program wrote or read. On a slow line that comes in steps, and a queue
that was full before the measurement began is read within it. The class counts frames as
they leave, which is what its limit is about.
"""

import os
import time

from cni_faasm.cli import attachments
from cni_faasm.cli.network_check.background import Background
from cni_faasm.limits.shaping import Shape
from cni_faasm.link import netns
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

MAX_SAMPLES = 240
MIN_INTERVAL_S = 0.25


class Meter:
    """Count what leaves one end of a pair, by its class or, where none is, by its link.

    netns_fd: of the end's namespace, None for the host's. counts: (time, bytes) read.
    Raises: OSError when the kernel gives no socket.
    """

    def __init__(self, netns_fd: int | None, ifindex: int, shape: Shape | None) -> None:
        self.ifindex = ifindex
        self.shape = shape
        self.counts: list[tuple[float, int]] = []
        if netns_fd is None:
            self.netlink = Netlink()
            return
        own_fd = netns.open_own()
        try:
            with netns.Inside(netns_fd, own_fd):
                self.netlink = Netlink()
        finally:
            os.close(own_fd)

    def read(self) -> None:
        """Note what has been counted until now."""
        try:
            found = attachments.counters(self.netlink, self.ifindex, self.shape)
        except NetlinkError:
            return
        if found is not None:
            self.counts.append((time.monotonic(), found.bytes))

    def samples(self) -> list[tuple[float, float]]:
        """Return (end in seconds, bit/s) of each interval."""
        begin = self.counts[0][0] if self.counts else 0.0
        return [
            (now - begin, max(count - count_before, 0) * 8 / (now - before))
            for (before, count_before), (now, count) in zip(
                self.counts, self.counts[1:], strict=False
            )
        ]

    def bps(self) -> float | None:
        """Return the rate over all; None when nothing could be read."""
        if len(self.counts) < 2:
            return None
        (begin, first), (end, last) = self.counts[0], self.counts[-1]
        return max(last - first, 0) * 8 / (end - begin)


class Metering(Background):
    """Read several meters for some seconds, beginning after a delay; at most for a block."""

    def __init__(self, meters: list[Meter], delay_s: float, seconds: float) -> None:
        super().__init__(delay_s)
        self.meters = meters
        self.seconds = seconds

    def close(self) -> None:
        for meter in self.meters:
            meter.netlink.close()

    def work(self) -> None:
        steps = min(MAX_SAMPLES, max(int(self.seconds / MIN_INTERVAL_S), 1))
        begin = time.monotonic() + self.delay_s
        for step in range(steps + 1):
            due = begin + self.seconds * step / steps
            if self.over.wait(max(due - time.monotonic(), 0)):
                return
            for meter in self.meters:
                meter.read()
