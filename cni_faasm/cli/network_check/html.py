"""Write the network check as one page that needs nothing else: charts, table, rules.

The charts are inline SVG by pygal. Their colours are the page's CSS variables, so that
the page follows the reader's light or dark theme; it holds no scripts and loads nothing.
"""

import math
import os
import time
from html import escape
from typing import Any

from pygal import XY, Config  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

from cni_faasm import __version__
from cni_faasm.cli.network_check.model import HOST, INGRESS, Flow, Limit, rate_text
from cni_faasm.cli.network_check.run import Check
from cni_faasm.cli.network_check.show import COLUMNS, UNITS, explanations, table_cells
from cni_faasm.cli.network_check.targets import rules_sentence
from cni_faasm.cli.page import document

TICKS = 5

_CSS = """
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 46rem) { .charts { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; background: var(--panel); padding: .6rem; border-radius: .4rem; }
figcaption { font-weight: 600; padding: 0 .3rem; }
figcaption span { font-weight: 400; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
.key { display: inline-block; width: 1.6rem; border-top: 3px solid; vertical-align: middle; }
.key.flow { border-color: var(--flow); }
.key.limit { border-color: var(--limit); border-top-style: dashed; }
"""

_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground="var(--soft)",
    foreground_strong="var(--ink)",
    foreground_subtle="var(--line)",
    # pygal computes colours from these only when they do not suffice.
    colors=("var(--flow)", "var(--limit)"),
    value_colors=("var(--ink)", "var(--ink)"),
    opacity=".16",
    opacity_hover=".16",
    stroke_opacity="1",
    stroke_opacity_hover="1",
    stroke_width="2.5",
    stroke_width_hover="2.5",
    guide_stroke_color="var(--line)",
    guide_stroke_dasharray="none",
    major_guide_stroke_color="var(--line)",
    major_guide_stroke_dasharray="none",
    font_family="system-ui, sans-serif",
    label_font_size=13,
    major_label_font_size=13,
    title_font_size=13,
    transition="0s",
)


def page(check: Check) -> str:
    """Return the page."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(check.started))
    about = (
        f"Against {escape(check.server)}, {check.seconds} s each, begun {when}. "
        f"{escape(check.mode())}."
    )
    key = (
        '<p><span class="key flow"></span> frames on the wire (for the host: payload) &nbsp; '
        '<span class="key limit"></span> limit configured</p>'
    )
    sections = (
        f"<h1>Network check of {escape(os.uname().nodename)}</h1>",
        f'<p class="soft">{about}</p>',
        _verdict(check),
        "<h2>Figures</h2>",
        _figures(check),
        "".join(f'<p class="soft">{escape(line)}</p>' for line in explanations(check)),
        "<h2>Throughput over time</h2>",
        key,
        _charts(check),
        "<h2>Rules on both ends</h2>",
        f"<p>{escape(rules_sentence(check.targets))}</p>",
        _rules(check),
        f'<p class="soft">cni-faasm {__version__}</p>',
    )
    return document(f"Network check of {os.uname().nodename}", sections, _CSS)


def _verdict(check: Check) -> str:
    problems = check.problems()
    remedies = {one.text: one.remedy for one in check.findings}
    texts = dict.fromkeys([*problems, *remedies])
    items = "".join(
        f"<li>{escape(text)}"
        + (f'<br><span class="soft">{escape(remedies[text])}</span>' if remedies.get(text) else "")
        for text in texts
    )
    items = f"<ul>{items}</ul>" if items else ""
    if problems:
        return f'<div class="verdict bad" id="verdict">Not as it should be{items}</div>'
    return f'<div class="verdict" id="verdict">Every limit is kept{items}</div>'


def _figures(check: Check) -> str:
    head = "".join(
        f'<th class="{"number" if unit or name in {"of allowed", "retr."} else ""}">'
        f"{escape(name)}<br>{escape(unit)}</th>"
        for name, unit in zip(COLUMNS, UNITS, strict=True)
    )
    lines = []
    for row, cells in zip(check.rows, table_cells(check), strict=True):
        texts = [f"<td>{escape(text)}</td>" for text in cells[:2]]
        texts += [f'<td class="number">{escape(text)}</td>' for text in cells[2:-1]]
        mark = "good" if row.verdict == "ok" else ""
        texts.append(f'<td class="{mark}">{escape(cells[-1])}</td>')
        lines.append(f'<tr class="{"bad" if row.broken else ""}">{"".join(texts)}</tr>')
    body = "".join(lines)
    return (
        f'<div class="wide"><table id="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _rules(check: Check) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("namespace", "device", "limits", "qdisc", "class", "leaf", "as configured")
    )
    lines = []
    for target in check.targets:
        for end in target.ends:
            texts = (end.device, end.direction, end.qdisc, end.shape, end.leaf)
            cells = "".join(f"<td><code>{escape(text)}</code></td>" for text in texts)
            right = "no" if end.differences else "yes"
            mark = "bad" if end.differences else ""
            lines.append(
                f'<tr class="{mark}"><td>{escape(target.name)}</td>{cells}<td>{right}</td></tr>'
            )
    return (
        f'<div class="wide"><table id="rules"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _charts(check: Check) -> str:
    targets = {target.name: target for target in check.targets}
    figures = []
    # Namespace by namespace, egress beside ingress, the host last.
    order = {target.name: number for number, target in enumerate(check.targets)}
    for flow in sorted(
        check.flows, key=lambda f: (order.get(f.where, len(order)), f.direction == INGRESS)
    ):
        target = targets.get(flow.where)
        limit = target.limit(flow.direction, len(check.address)) if target else None
        figures.append(_figure(flow, limit, check.seconds))
    return f'<div class="charts">{"".join(figures)}</div>'


def _figure(flow: Flow, limit: Limit | None, seconds: int) -> str:
    caption = f"{escape(flow.where)} {flow.direction}"
    about = rate_text(flow.bps if flow.wire_bps is None else flow.wire_bps)
    if flow.error:
        about = f"failed: {flow.error}"
    elif limit and limit.rate_bps:
        about += f", limit {rate_text(limit.rate_bps)}"
    elif flow.where == HOST:
        about += ", unshaped"
    return (
        f"<figure><figcaption>{caption} <span>{escape(about)}</span></figcaption>"
        f"{_svg(flow, limit.rate_bps if limit else None, seconds)}</figure>"
    )


def _svg(flow: Flow, limit: int | None, seconds: int) -> str:
    top = max([bps for _, bps in flow.samples] + [limit or 0.0, 1.0]) * 1.1
    unit, scale = next(
        (unit, size)
        for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
        if top >= size
    )
    end = max([at for at, _ in flow.samples] + [float(seconds)])
    config = Config()
    config.width, config.height = 560, 260
    config.style = _STYLE
    config.js = ()  # pygal's tooltips are a script loaded from its site
    config.disable_xml_declaration = True
    config.show_legend = False
    config.show_dots = False
    config.fill = False
    config.include_x_axis = True
    config.margin = 4
    config.x_title = "seconds"
    config.y_title = unit
    config.range = (0, top / scale)
    config.x_labels = _ticks(float(seconds))
    config.y_labels = _ticks(top / scale)
    config.xrange = (0, end)
    config.value_formatter = lambda value: f"{value:.4g}"
    config.x_value_formatter = lambda value: f"{value:g}"
    chart = XY(config)
    chart.add_xml_filter(_without_scripts)
    points = [(at, bps / scale) for at, bps in flow.samples]
    chart.add(
        "measured",
        points[:1] and [(0, points[0][1]), *points],
        fill=True,
        stroke_style={"width": 2.5},
    )
    if limit:
        line = [(0, limit / scale), (end, limit / scale)]
        chart.add("limit", line, stroke_style={"width": 2, "dasharray": "8,5"})
    return str(chart.render(is_unicode=True))


def _ticks(top: float) -> list[float]:
    """Return some five round values from 0 to at most top."""
    step = 10.0 ** math.floor(math.log10(top / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if top / TICKS <= step * factor)
    return [round(step * n, 9) for n in range(int(top / step) + 1)]


def _without_scripts(svg: Any) -> Any:
    """Drop what pygal writes for its tooltips, which are a script of their own."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag == "script":
                parent.remove(child)
    return svg
