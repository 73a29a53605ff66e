"""Write the status as one page: what passes against each limit, and what has drifted."""

import os
import time
from collections.abc import Iterator, Sequence
from html import escape

from cni_faasm import __version__
from cni_faasm.cli import output
from cni_faasm.cli.page import document
from cni_faasm.cli.status.rows import Direction, Row
from cni_faasm.cli.status.table import DIFFERS
from cni_faasm.spec import inet

FULL = 0.95  # of a limit, from which on it is what holds the container back

_CSS = """
.use { display: block; min-width: 6rem; height: .45rem; margin: .2rem 0;
  background: var(--line); border-radius: .2rem; overflow: hidden; }
.use span { display: block; height: 100%; background: var(--flow); }
.use.full span { background: var(--limit); }
"""
_HEADS = (
    *("container", "interface", "network", "addresses", "on the host"),
    *("receives", "sends", "drops", "waiting", "drift"),
)
_NUMBERS = ("drops", "waiting", "drift")


def page(rows: Sequence[Row], seconds: float) -> str:
    """Return the page. seconds: how long the look at the counters was."""
    title = f"Containers of {os.uname().nodename}"
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    about = (
        f"{when}, over {seconds:g} s. A bar is how much of its limit a container uses; rates are in "
        "bits per second, with Ethernet headers."
    )
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{about}</p>',
        _verdict(rows),
        "<h2>Attachments</h2>",
        _attachments(rows),
        *_drifts(rows),
        *_differences(rows),
        f'<p class="soft">cni-faasm {__version__}</p>',
    ]
    return document(title, sections, _CSS)


def _verdict(rows: Sequence[Row]) -> str:
    drifted = sum(bool(row.drifts) for row in rows)
    full = sum(_share(side) >= FULL for row in rows for side in (row.ingress, row.egress))
    texts = [
        f"{output.count(drifted, 'attachment')} of {len(rows)} not as promised"
        if drifted
        else f"{output.count(len(rows), 'attachment')}, as promised"
    ]
    if full:
        texts.append(f"{output.count(full, 'limit')} reached")
    mark = " bad" if drifted else ""
    return f'<div class="verdict{mark}" id="verdict">{"; ".join(texts)}</div>'


def _attachments(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>There are none.</p>"
    lines = []
    for row in rows:
        one, promised = row.attachment, row.attachment.promised
        addresses = [inet.unpack(each.address) for each in promised.addresses] if promised else []
        counted = [side.counters for side in (row.ingress, row.egress) if side.counters]
        drift = "?" if row.drifts is None else str(len(row.drifts))
        cells = [
            *(f"<td>{escape(text)}</td>" for text in (one.name or one.container_id, one.ifname)),
            f"<td>{escape(one.network)}</td>",
            f"<td>{escape(', '.join(addresses) or '-')}</td>",
            f"<td>{escape(promised.host_interface if promised else '-')}</td>",
            _use(row, "ingress", row.ingress),
            _use(row, "egress", row.egress),
            f'<td class="number">{sum(each.drops for each in counted)}</td>',
            f'<td class="number">{output.size(sum(each.backlog_bytes for each in counted))}</td>',
            f'<td class="number">{drift}</td>',
        ]
        lines.append(f'<tr class="{"bad" if row.drifts else ""}">{"".join(cells)}</tr>')
    heads = "".join(
        f'<th class="{"number" if head in _NUMBERS else ""}">{head}</th>' for head in _HEADS
    )
    return _table("attachments", heads, lines)


def _use(row: Row, direction: str, side: Direction) -> str:
    """Return a cell with what passed, the limit, and a bar of the one within the other."""
    differs = any(each.direction == direction for each in row.differences or ())
    limit = output.rate(side.limit_bps) if side.limit_bps else "no limit"
    text = f"{output.rate(side.rate_bps)} of {limit}{DIFFERS * differs}"
    share = _share(side)
    bar = ""
    if side.limit_bps:
        full = " full" if share >= FULL else ""
        bar = (
            f'<span class="use{full}" role="img" aria-label="{share:.0%}">'
            f'<span style="width: {min(share, 1):.1%}"></span></span>'
        )
    return f"<td>{text}{bar}</td>"


def _share(side: Direction) -> float:
    return (side.rate_bps or 0) / side.limit_bps if side.limit_bps else 0.0


def _drifts(rows: Sequence[Row]) -> Iterator[str]:
    lines = [
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in (row.attachment.called, *drift))
        for row in rows
        for drift in row.drifts or ()
    ]
    if lines:
        yield "<h2>What has drifted</h2>"
        yield "<p><code>cni-faasm repair</code> puts back what can be.</p>"
        heads = "".join(f"<th>{head}</th>" for head in ("attachment", "what", "expected", "found"))
        yield _table("drifts", heads, lines)


def _differences(rows: Sequence[Row]) -> Iterator[str]:
    texts = [
        (row.attachment.called, each.key, str(each.now), str(each.file))
        for row in rows
        for each in row.differences or ()
    ]
    if texts:
        yield f"<h2>{DIFFERS} Not as in the network's file</h2>"
        yield "<p><code>cni-faasm apply --dry-run</code> says more.</p>"
        heads = "".join(f"<th>{head}</th>" for head in ("attachment", "key", "now", "in the file"))
        lines = [
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
            for row in dict.fromkeys(texts)
        ]
        yield _table("differences", heads, lines)


def _table(name: str, heads: str, lines: Sequence[str]) -> str:
    return (
        f'<div class="wide"><table id="{name}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
