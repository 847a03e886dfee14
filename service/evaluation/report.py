"""The report of an evaluation: what it says in text and in JSON, and where it is written."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from service.evaluation import plots
from service.evaluation.figures import Figures, Part
from service.evaluation.html import page
from service.evaluation.output import drawn, finite, write_report
from service.evaluation.policies import BEST, CHEAPEST, LENGTH, RANDOM, ROUTER, ZERO

_SHOWN_GENERATIONS: Final = 3
_SHOWN_MODELS: Final = 16
# Figure → (heading, how it is written).
_USD, _SHARE, _POINTS = "usd", "share", "points"
_COLUMNS: Final = {
    "scores": (
        ("quality", "quality", _POINTS),
        ("cost_usd", "USD / 1,000", _USD),
        ("strong_share", "strong %", _SHARE),
        ("aiq", "AIQ", _POINTS),
        ("apgr", "APGR", _POINTS),
        ("cpt50", "CPT(50) %", _SHARE),
        ("cpt80", "CPT(80) %", _SHARE),
    ),
    "labels": (
        ("quality", "accuracy %", _SHARE),
        ("top2", "top 2 %", _SHARE),
        ("cost_usd", "USD / 1,000", _USD),
        ("cheaper_share", "too cheap %", _SHARE),
        ("dearer_share", "too dear %", _SHARE),
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    `asked` is "index", "service" or "cross-validation". `known` counts held-out prompts that are references as well;
    None: not looked at. `holes` says what was left out for want of scores.
    """

    asked: str
    address: str
    rows: int
    seeds: tuple[int, ...]
    folds: int | None
    labels: int | None
    generations: tuple[str, ...]
    known: int | None
    resamples: int
    parts: tuple[Part, ...]
    holes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it; figures that do not exist are null."""
        return dict(finite(asdict(self)))


def to_text(report: Report) -> str:
    """Return the report for a person to read."""
    return "\n".join([*_heading(report), *(_part(part, len(report.seeds)) for part in report.parts)]).rstrip()


def write(report: Report, output: Path) -> list[Path]:
    """Write report.json, report.html and the plots into a folder, made if it is not there, and return the files.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be written.
    """

    def draw(folder: Path) -> tuple[list[Path], str]:
        figures = [(part, plots.draw(part, folder, several=len(report.parts) > 1)) for part in report.parts]
        lines = [" ".join(line.split()) for line in _heading(report)]
        return [path for _, paths in figures for path in paths], page("How well prompts are routed", lines, figures)

    return write_report(report.to_dict(), output, draw)


def _heading(report: Report) -> list[str]:
    how = {
        "index": "answered in this process by the index",
        "service": f"answered by the service at {report.address}",
        "cross-validation": f"{report.folds} folds"
        if report.folds
        else f"{report.labels:,} of them as references, the rest answered"
        if report.labels
        else "",
    }[report.asked]
    shown = " ".join(report.generations[:_SHOWN_GENERATIONS])
    more = len(report.generations) - _SHOWN_GENERATIONS
    lines = [
        f"rows         {report.rows:,} labelled prompts, {how}",
        f"seed         {', '.join(map(str, report.seeds))}; intervals are 95 %, from {report.resamples:,} resamples",
        f"generation   {shown}" + (f" and {more} more" if more > 0 else ""),
    ]
    lines += [f"left out     {one}" for one in report.holes]
    if report.known:
        lines.append(
            f"warning      {report.known:,} of these prompts are references of the index: the figures flatter it"
        )
    return lines


def _part(part: Part, seeds: int) -> str:
    columns = [c for c in _COLUMNS[part.kind] if any(c[0] in f for f in part.policies.values())]
    notes = {CHEAPEST: _brief(part.cheapest), BEST: _brief(part.best), ZERO: "at the router's cost"}
    if part.kind == "scores":
        notes[LENGTH] = "untrained"
        notes[RANDOM] = "uniform; AIQ of mixes"
    names = {name: f"{name} ({notes[name]})" if name in notes else name for name in part.policies}
    lines = ["", f"{part.rows:,} rows with {_KINDS[part.kind]}"]
    if part.strong:
        lines[-1] += f": strong {part.strong}, weak {part.weak}"
    lines.append(_table(columns, {names[name]: figures for name, figures in part.policies.items()}))
    lines += ["", "The router"]
    lines += [f"  {label:<28} {value}" for label, value in _router_lines(part, columns, seeds)]
    lines += ["", "Always the same model", _table(_short(columns), _some(part.single_models))]
    if part.reliability:
        lines += ["", "Expected and actual quality of the chosen model", _reliability(part.reliability)]
    if part.details.targets:
        lines += ["", "From wanted quality to expected cost", _targets(part)]
    if part.confusion:
        lines += ["", "Labelled (rows) and chosen (columns)", _confusion(part.confusion)]
    return "\n".join(lines)


_KINDS: Final = {"scores": "a score for each model", "labels": "a best model"}


def _router_lines(part: Part, columns: Sequence[tuple[str, str, str]], seeds: int) -> list[tuple[str, str]]:
    """Return the router's figures with their intervals, and over several seeds their spread."""
    extra = (
        ("over_best", "better than the best model by", _SHARE if part.kind == "labels" else _POINTS),
        ("calibration_error", "calibration error", _POINTS),
        ("fallback_share", "fallbacks %", _SHARE),
        ("no_plan_share", "without a plan %", _SHARE),
    )
    router, lines = part.policies[ROUTER], []
    figures = router | {"over_best": router["quality"] - part.policies[BEST]["quality"]}
    for name, label, how in (*columns, *extra):
        value = figures.get(name)
        if value is None or (name == "no_plan_share" and not value):
            continue
        text = _written(value, how)
        if name in part.intervals and name != "no_plan_share":
            low, high = part.intervals[name]
            text += f"   [{_written(low, how)}, {_written(high, how)}]"
        if seeds > 1 and name in part.seeds[0]:
            text += "   seeds " + " ".join(_written(one[name], how) for one in part.seeds)
        lines.append((label, text))
    return lines


def _brief(model: str) -> str:
    """Return a model's name without who made it."""
    return model.rsplit("/", 1)[-1]


def _short(columns: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [column for column in columns if column[0] in ("quality", "cost_usd")]


def _some(models: dict[str, Figures]) -> dict[str, Figures]:
    """Return the models from cheap to dear, without those that are never right; so many as can be read."""
    useful = {name: figures for name, figures in models.items() if figures["quality"] > 0}
    return dict(sorted(useful.items(), key=lambda one: one[1]["cost_usd"])[:_SHOWN_MODELS])


def _table(columns: Sequence[tuple[str, str, str]], rows: dict[str, Figures]) -> str:
    cells = [
        [name, *("-" if key not in figures else _written(figures[key], how) for key, _, how in columns)]
        for name, figures in rows.items()
    ]
    return drawn(["", *(heading for _, heading, _ in columns)], cells)


def _reliability(table: Sequence[tuple[float, float, float]]) -> str:
    cells = [[_written(e, _POINTS), _written(a, _POINTS), _written(share, _SHARE)] for e, a, share in table]
    return drawn(["expected", "actual", "prompts %"], cells)


def _targets(part: Part) -> str:
    best = part.policies[BEST]["cost_usd"]
    cells = [
        [
            f"{one.wanted:.3f}",
            _written(one.cost_usd, _USD),
            "-" if one.zero_cost_usd is None else _written(one.zero_cost_usd, _USD),
            f"{(one.cost_usd / best - 1) * 100:+.0f} %" if best > 0 else "-",
            "quality first" if math.isinf(one.willingness_to_pay) else f"{one.willingness_to_pay:.3g}",
        ]
        for one in part.details.targets
    ]
    heads = ["wanted", "USD / 1,000", "zero router", f"against {_brief(part.best)}", "willingness_to_pay"]
    return drawn(heads, cells)


def _confusion(counts: dict[str, dict[str, float]]) -> str:
    chosen = list(next(iter(counts.values())))
    cells = [[label, *(f"{row[name]:,.0f}" for name in chosen)] for label, row in counts.items()]
    return drawn(["", *chosen], cells)


def _written(value: float, how: str) -> str:
    if math.isnan(value):
        return "-"
    if how == _USD:
        return f"{value * 1e3:,.4g}"
    return f"{value * 100:.1f}" if how == _SHARE else f"{value:.3f}"
