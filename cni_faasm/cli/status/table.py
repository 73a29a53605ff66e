"""Lay rows out as a table for people: columns, their order, their width."""

import time
from collections.abc import Iterator, Sequence

from cni_faasm.cli import attachments, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.status.rows import Row
from cni_faasm.spec import inet

# Ids are told apart by their beginning; names of pods often by their end.
ID_WIDTH = 24
NAME_WIDTH = 40
# Behind a limit that is not the file's.
DIFFERS = "*"

COLUMNS = (
    *("CONTAINER", "NETNS", "IF", "NETWORK", "ADDRESSES", "OUTSIDE"),
    *("IN", "LIMIT IN", "OUT", "LIMIT OUT", "DROPS", "OVERLIMITS", "BACKLOG", "DRIFT"),
)
# Where the terminal has no room these go, the first first; IN and OUT never do.
DISPENSABLE = (
    *("NETNS", "OVERLIMITS", "BACKLOG", "NETWORK", "OUTSIDE", "IF", "ADDRESSES", "DROPS"),
    *("DRIFT", "LIMIT OUT", "LIMIT IN"),
)
RIGHT = ("IN", "LIMIT IN", "OUT", "LIMIT OUT", "DROPS", "OVERLIMITS", "BACKLOG", "DRIFT")


def cells(row: Row) -> list[str]:
    """Return what stands in each column."""
    one, promised = row.attachment, row.attachment.promised
    sides = (row.ingress, row.egress)
    counted = [side.counters for side in sides if side.counters is not None]
    addresses = [inet.unpack(item.address) for item in promised.addresses] if promised else []
    drift = "?" if row.drifts is None else str(len(row.drifts) or "-")
    return [
        output.shortened(one.name or one.container_id, NAME_WIDTH if one.name else ID_WIDTH),
        output.shortened(_namespace(promised.netns), 20) if promised else "-",
        one.ifname,
        one.network,
        ",".join(addresses) or "-",
        promised.host_interface if promised else "-",
        output.rate(row.ingress.rate_bps),
        output.rate(row.ingress.limit_bps) + _mark(row, "ingress"),
        output.rate(row.egress.rate_bps),
        output.rate(row.egress.limit_bps) + _mark(row, "egress"),
        str(sum(each.drops for each in counted)),
        str(sum(each.overlimits for each in counted)),
        output.size(sum(each.backlog_bytes for each in counted)),
        drift,
    ]


def _mark(row: Row, direction: str) -> str:
    return DIFFERS * any(one.direction == direction for one in row.differences or ())


def _namespace(path: str) -> str:
    """Return a namespace's name, which says more than the folder it is in."""
    return path.rpartition("/netns/")[2]


def sort_rows(rows: list[Row], column: str) -> list[Row]:
    """Sort by a column: names upwards, numbers downwards. Raises: ToolError."""
    if not column:
        return rows
    wanted = column.upper().replace("-", " ").replace("_", " ")
    if wanted not in COLUMNS:
        heads = ", ".join(head.lower().replace(" ", "-") for head in COLUMNS)
        raise ToolError(f"--sort {column}: no such column", f"there are {heads}")
    place = COLUMNS.index(wanted)
    if wanted not in RIGHT:
        return sorted(rows, key=lambda row: attachments.natural(cells(row)[place]))
    return sorted(rows, key=lambda row: -_number(row, wanted))


def _number(row: Row, head: str) -> float:
    numbers: dict[str, float | None] = {
        "IN": row.ingress.rate_bps,
        "OUT": row.egress.rate_bps,
        "LIMIT IN": row.ingress.limit_bps,
        "LIMIT OUT": row.egress.limit_bps,
        "DRIFT": len(row.drifts or ()),
    }
    if head in numbers:
        return numbers[head] or 0
    key = {"DROPS": "drops", "OVERLIMITS": "overlimits", "BACKLOG": "backlog_bytes"}[head]
    sides = (row.ingress.counters, row.egress.counters)
    return float(sum(getattr(side, key) for side in sides if side is not None))


def text(rows: Sequence[Row], *, detailed: bool) -> Iterator[str]:
    """Yield the lines for people. detailed: with the drifts and the namespace of each."""
    if not rows:
        yield "no attachments"
        return
    shown = [cells(row) for row in rows]
    yield output.table(COLUMNS, shown, right=RIGHT, dispensable=DISPENSABLE)
    for row in rows:
        one, promised = row.attachment, row.attachment.promised
        if detailed and promised is not None:
            yield ""
            whose = f"container {one.container_id}, " if one.name else ""
            age = output.age(time.time() - promised.created)
            yield output.line(
                f"{one.called}: {whose}namespace {promised.netns}, MTU {promised.mtu}, up for {age}"
            )
            for word, side in (("in", row.ingress), ("out", row.egress)):
                if side.counters is not None:
                    yield (
                        f"  {word:<3} {side.counters.bytes} bytes, {side.counters.packets} packets; "
                        f"limit {output.exact_rate(side.limit_bps)}"
                        + (f", burst {side.burst_bytes} bytes" if side.burst_bytes else "")
                    )
            if promised.counted is not None:
                yield f"  at most {output.counted_text(promised.counted)}"
            if promised.shared is not None:
                yield output.line(f"  at most {output.shared_text(promised.shared)}")
            for remark in one.remarks:
                yield f"  at ADD: {remark}"
            if one.fields.get("configured"):
                yield "  limits were changed by set-rate; set-rate --reset takes that back"
            yield from dict.fromkeys(
                f"  {each.key}: {each.now}, in its network's file {each.file}"
                for each in row.differences or ()
            )
        for what, expected, found in row.drifts or ():
            yield output.line(f"{one.called}: {what}: expected {expected}, found {found}")
    if any(row.differences for row in rows):
        yield f"{DIFFERS} not as in the network's file; cni-faasm apply --dry-run says more"
