"""What the page of a report on routing says. Called by `service.evaluation.report`."""

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from service.evaluation.details import Details
from service.evaluation.figures import Part
from service.evaluation.page import at_a_glance, bar, document, image, section, table
from service.evaluation.policies import BEST, ORACLE, ROUTER, ZERO

_MODELS: Final = 30
_NONE: Final = "-"
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
    return document(title, heading, body, _SCRIPT)


def _part(part: Part, plots: Sequence[Path]) -> str:
    named = {path.stem.removeprefix(f"{part.kind}_"): path for path in plots}
    first = [named.pop(name) for name in ("quality_cost", "share_quality") if name in named]
    shown = "".join(map(image, first)) + "".join(map(image, named.values()))
    return (
        f"<h2>{part.rows:,} prompts with {_KINDS[part.kind]}</h2>{_cards(part)}"
        f"{section('Quality and cost', '', shown)}{_targets(part)}{_policies(part)}{_shares(part)}"
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
    return at_a_glance(cards)


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
    return section("From wanted quality to expected cost", note, slider + table(heads, rows))


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
    return section("Against simpler rules", note, table(["", *(head for _, head, _ in used)], rows, marked=ROUTER))


def _shares(part: Part) -> str:
    rows = [
        [escape(model), f"{_percent(share)} %{bar(share)}"]
        for model, share in sorted(part.details.shares.items(), key=lambda one: -one[1])
    ]
    router, best = part.policies[ROUTER]["cost_usd"], part.policies[BEST]["cost_usd"]
    note = f"Who is called by default. Cost against always {part.best}: {_saved(router, best)}."
    return section("Share of calls", note, table(["model", "calls"], rows)) if rows else ""


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
    return section("By category", "", table(heads, rows)) if rows else ""


def _regrets(found: Details) -> str:
    lines = []
    for one in found.regrets:
        near = table(
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
    return section("Worst regrets, and the references they were judged by", note, "".join(lines)) if lines else ""


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
