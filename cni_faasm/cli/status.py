"""Show every attachment: who, where, its limits, what passes now, and whether it drifted."""

import resource
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from cni_faasm import inet, shaping
from cni_faasm.cli import attachments, filed, networks, output
from cni_faasm.cli.attachments import Attachment, Counters, Drift
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import Difference, Files, UnfiledError
from cni_faasm.errors import CniError
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError

INTERVAL_S = 1.0
# Ids are told apart by their beginning; names of pods often by their end.
ID_WIDTH = 24
NAME_WIDTH = 40
# A status is asked for by people who wait: this long a look at the counters is enough.
GLANCE_S = 0.5
# Behind a limit that is not the file's.
DIFFERS = "*"


def complete_containers(incomplete: str) -> list[str]:
    """Return the container ids that begin so, for the shell."""
    try:
        folders = networks.state_dirs(networks.installed(networks.CONF_DIR, quiet=True), "")
        known = {
            text
            for one in attachments.every(folders)
            for text in (one.container_id, one.name)
            if text
        }
    except Exception:
        return []  # a shell that completes has no place for errors
    return sorted(name for name in known if name.startswith(incomplete))


Container = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONTAINER]",
        help="Id of a container, its beginning, its runtime's name, or its interface on the host.",
        autocompletion=complete_containers,
    ),
]


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
            found = (
                attachments.look(one, self._host)
                if inner is None
                else attachments.drifts_of(one, self._host, inner)
            )
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


def status(
    container: Container = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live, like top; q ends it.")
    ] = False,
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help="Sort by this column.")
    ] = "",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Show every attachment: addresses, limits, the rate now, drops, backlog, drift.

    IN is what the container receives, OUT what it sends; rates and limits are bits/s.

    Examples:

        cni-faasm status

        cni-faasm status faasm3

        cni-faasm status --watch --sort out

        cni-faasm status --json
    """
    files = Files(conf_dir)
    folders = networks.state_dirs(files.known, state_dir)

    def known() -> list[Attachment]:
        return attachments.matching(attachments.every(folders), container)

    watcher = Watcher()
    try:
        if watch:
            from cni_faasm.cli import top

            top.run(watcher, known, sort)
            return
        watcher.read(known(), drifts=False)
        time.sleep(GLANCE_S)
        rows = sort_rows(watcher.read(known(), drifts=True), sort)
    finally:
        watcher.close()
    rows = compare(rows, files)
    if as_json:
        output.print_json({"attachments": [document(row) for row in rows]})
        return
    typer.echo("\n".join(text(rows, detailed=bool(container))))


def compare(rows: list[Row], files: Files) -> list[Row]:
    """Return the rows with what each has otherwise than its file says; say which files fail."""
    compared, faults = [], []
    for row in rows:
        try:
            found = filed.differences_of(row.attachment, files)
        except UnfiledError:
            found = None
        except (ToolError, CniError, NetlinkError) as error:
            faults.append(getattr(error, "msg", str(error)))
            found = None
        compared.append(row._replace(differences=found))
    for fault in dict.fromkeys(faults):
        output.note(f"warning: {fault}")
    return compared


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


def document(row: Row) -> dict[str, Any]:
    """Return the attachment for machines: rates in bits/s, the rest in bytes."""
    one, promised = row.attachment, row.attachment.promised
    return {
        **one.identity(),
        "netns": promised.netns if promised else None,
        "addresses": [inet.unpack(item.address) for item in promised.addresses] if promised else [],
        "hostInterface": promised.host_interface if promised else None,
        "mtu": promised.mtu if promised else None,
        "createdUnixSeconds": promised.created if promised else None,
        "setByHand": bool(one.fields.get("configured")),
        "ingress": _side(row.ingress),
        "egress": _side(row.egress),
        "differsFromFile": None
        if row.differences is None
        else [one._asdict() for one in row.differences],
        "remarks": one.remarks,
        "drifts": [
            {"what": what, "expected": expected, "found": found}
            for what, expected, found in row.drifts or ()
        ],
    }


def _side(side: Direction) -> dict[str, Any]:
    return {
        **output.limit(side.limit_bps, side.burst_bytes),
        "rateBitsPerSecond": None if side.rate_bps is None else round(side.rate_bps),
        **{
            output.camel(key): None if side.counters is None else getattr(side.counters, key)
            for key in Counters._fields
        },
    }
