"""Pages that need nothing else: one HTML file, the plots are in it, and it loads nothing.

Owns how reports look, and knows nothing of what they say. What is handed in is HTML but for titles and headings.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

_STYLE: Final = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#e3e7ec;--blue:#0072b2;--good:#00795a;--bad:#b5420c;--back:#f6f7f9}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}
h2{font-size:19px;margin:40px 0 10px}p,li{max-width:75ch}.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:20px 0}
.card,section{background:#fff;border:1px solid var(--line);border-radius:10px}.card{padding:14px 16px}
.card b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}.card span{color:var(--soft)}
section{padding:4px 20px 20px;margin:18px 0;overflow-x:auto}section h2{margin-top:16px}
img{max-width:100%;height:auto;display:block;margin:8px 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}th:first-child,td:first-child{text-align:left}
tr.router td{font-weight:600;background:#eef5fa}.good,.card .good{color:var(--good)}.bad,.card .bad{color:var(--bad)}
.bar{display:inline-block;height:10px;border-radius:3px;background:var(--blue);vertical-align:middle;margin-left:8px}
details{border-top:1px solid var(--line);padding:8px 0}summary{cursor:pointer}
blockquote{margin:8px 0;padding:8px 12px;background:var(--back);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere}
.sides th,.sides td{text-align:left}.sides td:first-child{width:9em;color:var(--soft)}
input[type=range]{width:100%;accent-color:var(--blue)}
output{display:block;font-size:17px;margin-top:4px;font-variant-numeric:tabular-nums}
"""


def document(title: str, heading: Sequence[str], body: str, script: str = "") -> str:
    """Return a page.

    Args:
        title: of the page.
        heading: lines about what was evaluated and how.
        body: HTML.
        script: run once it is there.
    """
    lines = "<br>".join(escape(line) for line in heading)
    run = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
        f'<main><h1>{escape(title)}</h1><p class="soft">{lines}</p>{body}</main>{run}</html>\n'
    )


def at_a_glance(cards: Iterable[tuple[str, str]]) -> str:
    """Return cards, each with a figure and what it says."""
    shown = "".join(f'<div class="card"><b>{figure}</b><span>{what}</span></div>' for figure, what in cards)
    return f'<div class="cards">{shown}</div>'


def section(title: str, note: str, inner: str) -> str:
    """Return a part of the page."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{inner}</section>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: str = "") -> str:
    """Return a table; the row whose first cell is `marked` stands out."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        f"<tr{' class=router' if marked and cells[0] == marked else ''}>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
        for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def image(path: Path) -> str:
    """Return a picture that is part of the page."""
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def bar(share: float) -> str:
    """Return a bar as long as a share, to stand behind it."""
    return f'<span class="bar" style="width:{max(share, 0.002) * 160:.0f}px"></span>'
