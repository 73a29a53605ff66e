"""Show every attachment: who, where, its limits, what passes now, and whether it drifted."""

import time
from typing import Annotated, Any

import typer

from cni_faasm.cli import attachments, filed, networks, output
from cni_faasm.cli.attachments import Attachment, Counters
from cni_faasm.cli.containers import Container
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import Files, UnfiledError
from cni_faasm.cli.status.rows import Direction, Row, Watcher
from cni_faasm.cli.status.table import sort_rows, text
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError

# A status is asked for by people who wait: this long a look at the counters is enough.
GLANCE_S = 0.5
LOOK_S = 2.0  # for a page, which is read later


def status(
    container: Container = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live, like top; q ends it.")
    ] = False,
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help="Sort by this column.")
    ] = "",
    html: Annotated[
        str,
        typer.Option("--html", metavar="FILE", help="Write a page that needs nothing else."),
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

        cni-faasm status --html status.html

        cni-faasm status --json
    """
    if html and watch:
        raise ToolError("--html and --watch exclude each other", "give one")
    files = Files(conf_dir)
    folders = networks.state_dirs(files.known, state_dir)

    def known() -> list[Attachment]:
        return attachments.matching(attachments.every(folders), container)

    watcher = Watcher()
    try:
        if watch:
            from cni_faasm.cli.status import top

            top.run(watcher, known, sort)
            return
        watcher.read(known(), drifts=False)
        seconds = LOOK_S if html else GLANCE_S
        time.sleep(seconds)
        rows = sort_rows(watcher.read(known(), drifts=True), sort)
    finally:
        watcher.close()
    rows = compare(rows, files)
    if html:
        from cni_faasm.cli.status.page import page

        output.write_whole(html, page(rows, seconds).encode())
        output.note(f"wrote {html}")
    if as_json:
        output.print_json({"attachments": [document(row) for row in rows]})
        return
    if not html:
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
        "counted": output.counted(promised.counted if promised else None),
        "shared": output.shared(promised.shared if promised else None),
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
