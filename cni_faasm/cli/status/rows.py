"""Read what each attachment may pass and what passes, again and again."""

import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

from cni_faasm.cli import attachments, looks
from cni_faasm.cli.attachments import Attachment, Counters, Drift
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import Difference
from cni_faasm.limits import shaping
from cni_faasm.netlink.transport import Netlink


class Direction(NamedTuple):
    """One direction of an attachment, at two moments. rate_bps: what passed between them."""

    limit_bps: int | None
    burst_bytes: int | None
    rate_bps: float | None
    counters: Counters | None


class Row(NamedTuple):
    """One attachment as status shows it. drifts, differences: None when nobody looked.

    differences: from what its network's file says now.
    """

    attachment: Attachment
    ingress: Direction
    egress: Direction
    drifts: list[Drift] | None
    differences: list[Difference] | None = None


class Watcher:
    """Keep sockets into the namespaces, and read the counters again and again."""

    def __init__(self) -> None:
        # A socket for each attachment: more than the 1,024 files that a shell allows.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._host = Netlink()
        self._inner: dict[str, tuple[int, Netlink]] = {}
        self._before: dict[str, tuple[float, Counters | None, Counters | None]] = {}

    def close(self) -> None:
        self._host.close()
        for _, inner in self._inner.values():
            inner.close()

    def read(self, known: Sequence[Attachment], *, drifts: bool) -> list[Row]:
        """Return a row for each attachment; rates are since it was read last."""
        rows = [self._row(one, drifts) for one in known]
        gone = self._inner.keys() - {one.title for one in known}
        for title in gone:
            self._inner.pop(title)[1].close()
            self._before.pop(title, None)
        return rows

    def _socket(self, one: Attachment) -> Netlink | None:
        """Return a socket in the attachment's namespace, kept for the next time."""
        promised = one.promised
        if promised is None:
            return None
        kept = self._inner.get(one.title)
        if kept is not None and kept[0] == promised.host_ifindex:
            return kept[1]
        try:
            with attachments.opened(one, keep=True) as inner:
                self._inner[one.title] = (promised.host_ifindex, inner)
        except ToolError:
            return None
        return inner

    def _row(self, one: Attachment, with_drifts: bool) -> Row:
        promised = one.promised
        inner = self._socket(one)
        ingress = egress = None
        found: list[Drift] | None = None
        now = time.monotonic()
        if promised is not None and one.is_of_this_boot:
            ingress = attachments.counters(self._host, promised.host_ifindex, promised.ingress)
            if inner is not None:
                egress = attachments.counters(inner, promised.ifindex, promised.egress)
        if with_drifts:
            found = looks.look(one, self._host, inner)
        then, *before = self._before.get(one.title, (now, None, None))
        self._before[one.title] = (now, ingress, egress)
        elapsed = now - then
        return Row(
            one,
            _direction(promised.ingress if promised else None, before[0], ingress, elapsed),
            _direction(promised.egress if promised else None, before[1], egress, elapsed),
            found,
        )


def _direction(
    shape: shaping.Shape | None, before: Counters | None, after: Counters | None, elapsed: float
) -> Direction:
    rate_bps = None
    # A class that was made anew counts from zero.
    if before is not None and after is not None and elapsed > 0 and after.bytes >= before.bytes:
        rate_bps = (after.bytes - before.bytes) * 8 / elapsed
    return Direction(
        shape.rate_bps if shape else None, shape.burst_bytes if shape else None, rate_bps, after
    )
