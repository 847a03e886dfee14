"""The report as one HTML file that needs nothing else: plots are in it, and it loads nothing.

Called by `service.evaluation.report`.
"""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from service.evaluation.details import Details
from service.evaluation.figures import Part
from service.evaluation.policies import BEST, ORACLE, ROUTER, ZERO

_MODELS: Final = 30
_NONE: Final = "-"
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
tr.router td{font-weight:600;background:#eef5fa}.good{color:var(--good)}.bad{color:var(--bad)}
.bar{display:inline-block;height:10px;border-radius:3px;background:var(--blue);vertical-align:middle;margin-left:8px}
details{border-top:1px solid var(--line);padding:8px 0}summary{cursor:pointer}
blockquote{margin:8px 0;padding:8px 12px;background:var(--back);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere}input[type=range]{width:100%;accent-color:var(--blue)}
output{display:block;font-size:17px;margin-top:4px;font-variant-numeric:tabular-nums}
"""
_SCRIPT: Final = """
for(const box of document.querySelectorAll('[data-sweep]')){const points=JSON.parse(box.dataset.sweep);
const range=box.querySelector('input'),out=box.querySelector('output');
const show=()=>{const want=+range.value,p=points.find(p=>p[0]>=want-1e-9)||points[points.length-1];
out.textContent=`quality ${p[0].toFixed(3)} for $${(1e3*p[1]).toPrecision(3)} per 1,000 requests`
+(p[2]===null?', without willingness_to_pay':`, with willingness_to_pay ${p[2].toPrecision(3)}`)};
range.addEventListener('input',show);show()}
"""


def page(title: str, heading: Sequence[str], parts: Sequence[tuple[Part, Sequence[Path]]]) -> str:
    """Return the report.

    Args:
        title: of the page.
        heading: lines about what was evaluated and how.
        parts: the figures of each kind of rows, with the plots of them.
    """
    body = "".join(_part(part, plots) for part, plots in parts)
    lines = "<br>".join(escape(line) for line in heading)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
        f'<main><h1>{escape(title)}</h1><p class="soft">{lines}</p>{body}</main><script>{_SCRIPT}</script></html>\n'
    )


def _part(part: Part, plots: Sequence[Path]) -> str:
    named = {path.stem.removeprefix(f"{part.kind}_"): path for path in plots}
    first = [named.pop(name) for name in ("quality_cost", "share_quality") if name in named]
    shown = "".join(map(_image, first)) + "".join(map(_image, named.values()))
    return (
        f"<h2>{part.rows:,} prompts with {_KINDS[part.kind]}</h2>{_cards(part)}"
        f"{_section('Quality and cost', '', shown)}{_targets(part)}{_policies(part)}{_shares(part)}"
        f"{_categories(part.details)}{_regrets(part.details)}"
    )


_KINDS: Final = {"scores": "a score for each model", "labels": "a best model"}


def _cards(part: Part) -> str:
    """Return what there is to say at a glance."""
    router, best = part.policies[ROUTER], part.policies[BEST]
    cards = [(_q(router["quality"]), _interval(part, "quality", f"mean {_what(part)} of the default decision"))]
    cards.append((_usd(router["cost_usd"]), "per 1,000 requests"))
    gain, saved = router["quality"] - best["quality"], _saved(router["cost_usd"], best["cost_usd"])
    cards.append((f"{gain:+.3f}", f"against always {_brief(part.best)}, at {saved}"))
    as_good = next((t for t in part.details.targets if t.wanted >= best["quality"] - 1e-9), None)
    if as_good is not None:
        cards.append((_saved(as_good.cost_usd, best["cost_usd"]), f"for the {_what(part)} of {_brief(part.best)}"))
    if not math.isnan(error := router.get("calibration_error", float("nan"))):
        cards.append((f"{error:.3f}", "calibration error of the chosen model"))
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{a}</b><span>{b}</span></div>' for a, b in cards)
        + "</div>"
    )


def _targets(part: Part) -> str:
    """Return what each quality costs: a slider, and the same as a table."""
    found, best = part.details, part.policies[BEST]["cost_usd"]
    if not found.targets:
        return ""
    points = [[q, c, None if math.isinf(p) else p] for q, c, p in found.sweep]
    low, high = found.sweep[0][0], found.sweep[-1][0]
    slider = (
        f'<div data-sweep="{escape(json.dumps(points))}"><input type="range" aria-label="wanted quality" '
        f'min="{low}" max="{high}" step="any" value="{(low + high) / 2}"><output></output></div>'
    )
    rows = [
        [
            f"{target.wanted:.3f}",
            _usd(target.cost_usd),
            _NONE if target.zero_cost_usd is None else _usd(target.zero_cost_usd),
            _saved(target.cost_usd, best),
            "quality first" if math.isinf(target.willingness_to_pay) else f"{target.willingness_to_pay:.3g}",
        ]
        for target in found.targets
    ]
    heads = [
        "wanted quality",
        "router, USD / 1,000",
        "zero router",
        f"against always {part.best}",
        "willingness_to_pay",
    ]
    note = "What a wanted quality is expected to cost, and what to set for it. - : no mix of single models reaches it."
    return _section("From wanted quality to expected cost", note, slider + _table(heads, rows))


def _policies(part: Part) -> str:
    keys = [("quality", _what(part), _q), ("cost_usd", "USD / 1,000", _usd)]
    shares = (("top2", "top 2 %"), ("strong_share", "strong %"), ("cpt50", "CPT(50) %"), ("cpt80", "CPT(80) %"))
    keys += [(k, h, _q) for k, h in (("aiq", "AIQ"), ("apgr", "APGR"))] + [(k, h, _percent) for k, h in shares]
    used = [one for one in keys if any(one[0] in figures for figures in part.policies.values())]
    rows = [
        [escape(name), *(_NONE if k not in figures else how(figures[k]) for k, _, how in used)]
        for name, figures in part.policies.items()
    ]
    single = sorted(part.single_models.items(), key=lambda one: one[1]["cost_usd"])[:_MODELS]
    rows += [
        [
            f'<span class="soft">always</span> {escape(name)}',
            *(_NONE if k not in f else how(f[k]) for k, _, how in used),
        ]
        for name, f in single
    ]
    note = f"The {ZERO} mixes single models at random, as well as can be; the {ORACLE} knows every outcome."
    return _section("Against simpler rules", note, _table(["", *(head for _, head, _ in used)], rows, marked=ROUTER))


def _shares(part: Part) -> str:
    rows = [
        [escape(model), f'{_percent(share)} %<span class="bar" style="width:{max(share, 0.002) * 240:.0f}px"></span>']
        for model, share in sorted(part.details.shares.items(), key=lambda one: -one[1])
    ]
    router, best = part.policies[ROUTER]["cost_usd"], part.policies[BEST]["cost_usd"]
    note = f"Who is called by default. Cost against always {part.best}: {_saved(router, best)}."
    return _section("Share of calls", note, _table(["model", "calls"], rows)) if rows else ""


def _categories(found: Details) -> str:
    rows = []
    for one in found.categories:
        gain = one.quality - one.best_quality
        kind = "good" if gain > 0 else "bad" if gain < 0 else ""
        against = f'<span class="{kind}">{gain:+.3f}</span>'
        cells = [
            _q(one.quality),
            against,
            _q(one.oracle_quality),
            _usd(one.cost_usd),
            _saved(one.cost_usd, one.best_cost_usd),
        ]
        rows.append([escape(one.name), f"{one.rows:,}", *cells])
    heads = ["category", "prompts", "quality", "against best model", "oracle", "USD / 1,000", "cost against it"]
    return _section("By category", "", _table(heads, rows)) if rows else ""


def _regrets(found: Details) -> str:
    lines = []
    for one in found.regrets:
        near = _table(
            ["reference", "best model there", "cosine"],
            [[escape(n.prompt), escape(n.best_model), f"{n.similarity:.3f}"] for n in one.neighbours],
        )
        what = (
            f"{escape(_brief(one.chosen))} was called, expected {one.expected:.2f}, was {one.actual:.2f}; "
            f"{escape(_brief(one.better))} was {one.better_actual:.2f}"
        )
        category = f" <span class='soft'>{escape(one.category)}</span>" if one.category else ""
        lines.append(
            f"<details><summary>{what}{category}</summary><blockquote>{escape(one.prompt)}</blockquote>"
            f"{near if one.neighbours else ''}</details>"
        )
    note = "Prompts where another model would have been better, those first of which the router was surest."
    return _section("Worst regrets, and the references they were judged by", note, "".join(lines)) if lines else ""


def _section(title: str, note: str, inner: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{inner}</section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: str = "") -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        f"<tr{' class=router' if marked and cells[0] == marked else ''}>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
        for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _image(path: Path) -> str:
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _interval(part: Part, name: str, text: str) -> str:
    if name not in part.intervals:
        return text
    low, high = part.intervals[name]
    return f"{text}, 95 % {low:.3f} to {high:.3f}"


def _what(part: Part) -> str:
    return "accuracy" if part.kind == "labels" else "quality"


def _brief(model: str) -> str:
    return model.rsplit("/", 1)[-1]


def _q(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _usd(value: float) -> str:
    return f"${value * 1e3:,.4g}"


def _percent(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value * 100:.1f}"


def _saved(cost: float, baseline: float) -> str:
    if not baseline > 0:
        return _NONE
    return f"{(cost / baseline - 1) * 100:+.0f} % cost"
