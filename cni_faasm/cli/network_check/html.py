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

TICKS = 5

_CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --ink: #1c2430; --soft: #5b6675; --line: #d4d9e0;
  --good: #1a7f37; --bad: #c4231c; --flow: #1f6fd6; --limit: #c4231c; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --panel: #1b212a; --ink: #e7ebf0; --soft: #a3adba; --line: #39434f;
  --good: #4cc26b; --bad: #ff7b72; --flow: #6cb0ff; --limit: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); }
.verdict { border-left: .4rem solid var(--good); background: var(--panel);
  padding: .7rem 1rem; margin: 1.2rem 0; font-weight: 600; }
.verdict.bad { border-color: var(--bad); }
.verdict ul { font-weight: 400; margin: .3rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: bottom; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; }
.good { color: var(--good); }
.bad td, td.bad { color: var(--bad); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 46rem) { .charts { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; background: var(--panel); padding: .6rem; border-radius: .4rem; }
figcaption { font-weight: 600; padding: 0 .3rem; }
figcaption span { font-weight: 400; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
.key { display: inline-block; width: 1.6rem; border-top: 3px solid; vertical-align: middle; }
.key.flow { border-color: var(--flow); }
.key.limit { border-color: var(--limit); border-top-style: dashed; }
code { font: 13px ui-monospace, monospace; }
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
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Network check of {escape(os.uname().nodename)}</title>"
        f"<style>{_CSS}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


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
