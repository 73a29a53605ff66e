"""Hold what our HTML pages have in common: their look, light or dark as the reader has it.

A page needs nothing else: it holds no scripts and loads nothing.
"""

from collections.abc import Iterable
from html import escape

CSS = """
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
code { font: 13px ui-monospace, monospace; }
"""


def document(title: str, sections: Iterable[str], css: str = "") -> str:
    """Return a whole page. sections: HTML. css: what it has beside that of all pages."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>{CSS}{css}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
