"""The report as HTML: escaping, tables, pictures and the style sheet. No script, no links."""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence

from metadist_cli.core.errors import printable
from metadist_cli.report.comparison import ResultTable
from metadist_cli.report.types import Picture

_CSS = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5b5f66; --line: #d8dbe0; --page: #fff; --mark: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e8ea; --soft: #a3a8b0; --line: #3a3e45; --page: #17191c; --mark: #56b4e9 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line) }
p, li, dd { max-width: 46rem; overflow-wrap: anywhere }
.headline { font-size: 1.15rem; border-left: 4px solid var(--mark); padding-left: 1rem; margin: 1rem 0 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; max-width: 46rem }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .4rem }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line) }
thead th { font-size: .875rem; color: var(--soft); font-weight: 600 }
tbody th { font-weight: 600; overflow-wrap: break-word }
.led tbody tr:first-child { font-weight: 600 }
.scroll + .scroll { margin-top: 1.75rem }
th small, td small { display: block; color: var(--soft); font-weight: 400 }
.num { white-space: nowrap }
@media (max-width: 30rem) { table { font-size: .85rem } th, td { padding-right: .5rem } thead th { font-size: .8rem } }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.75rem }
figure { margin: 0; break-inside: avoid }
figure > div { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; overflow-x: auto }
figure img { display: block; width: 100%; height: auto; margin: 0 auto }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .5rem; overflow-wrap: anywhere }
.wide { grid-column: 1 / -1 }
.wide > div { width: fit-content; max-width: 100% }
.wide img { min-width: 30rem; margin: 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; margin: 0; font-size: .95rem }
dt { color: var(--soft) }
dd { margin: 0 }
code { font: .875em ui-monospace, monospace }
.notes { color: var(--soft); font-size: .9rem; padding-left: 1.1rem }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --page: #fff }
  main { padding: 0 } body { font-size: 10pt } h2 { break-after: avoid }
}
"""
_WIDE = 1500  # pixels; a wider picture gets a line of its own
_ZOOM = 0.42  # CSS pixels per 1/300 inch: at most 1.3 times the size in a paper
_NUMBER = re.compile(r"[-+−]?\d[\d.e+-]*( ±|$)")  # a number, not to be broken at its ±
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="headline">{headline}</p>
</header>
{sections}
</main>
</body>
</html>
"""


def page(title: str, headline: str, sections: Iterable[tuple[str, str]]) -> bytes:
    """The whole page, UTF-8. title, headline: plain text; sections: (heading in plain text, HTML)."""
    body = "\n".join(f"<section>\n<h2>{escape(head)}</h2>\n{text}\n</section>" for head, text in sections)
    return _PAGE.format(title=escape(title), css=_CSS, headline=escape(headline), sections=body).encode()


def escape(text: object) -> str:
    """Untrusted text as HTML: markup and control characters are displayed, not interpreted."""
    return html.escape(printable(str(text)).replace("\n", " ")).replace(" ± ", "&nbsp;±&nbsp;")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], led: bool = False) -> str:
    """A table whose first column names the rows. caption, heads: plain text; rows: HTML; led: bold first row."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    lines = (f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>' for first, *rest in rows)
    body = "\n".join(lines)
    kind = "scroll led" if led else "scroll"
    return (
        f'<div class="{kind}"><table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def result_table(shown: ResultTable) -> str:
    """A table of results, with the second line of a cell as small print."""
    cells = [[_cell(text) for text in row] for row in shown.rows]
    return table(f"{shown.title} {shown.note}", shown.heads, cells, shown.led)


def notes(texts: Iterable[str]) -> str:
    """A list of notes, from plain text."""
    return '<ul class="notes">\n' + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"


def pictures(shown: Iterable[Picture]) -> str:
    """Pictures, side by side where there is room."""
    return f'<div class="figures">\n{"".join(map(_picture, shown))}</div>'


def settings(items: Iterable[tuple[str, str]]) -> str:
    """A list of (name, value), both HTML."""
    return "<dl>\n" + "\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in items) + "\n</dl>"


def _cell(text: str) -> str:
    first, _, small = text.partition("\n")
    main = f'<span class="num">{escape(first)}</span>' if _NUMBER.match(first) else escape(first)
    return main + (f" <small>{escape(small)}</small>" if small else "")


def _picture(shown: Picture) -> str:
    width, height = struct.unpack(">II", shown.png[16:24])  # IHDR: reserves the space while the page loads
    wide = ' class="wide"' if width > _WIDE else ""
    data = base64.b64encode(shown.png).decode()
    return (
        f'<figure{wide}><div><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'style="max-width: {width * _ZOOM:.0f}px" alt="{escape(shown.alt)}"></div>\n'
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>\n"
    )
