"""How a report on the cache is shown: as text, and as files."""

from pathlib import Path
from typing import Final

from service.evaluation.caching import plots
from service.evaluation.caching.figures import Figures
from service.evaluation.caching.page import page
from service.evaluation.caching.report import Report, explained, facts, heading, percent, rivals, usd
from service.evaluation.output import drawn, write_report

_CATEGORIES: Final = 12
_SCOPES: Final = 12
_WORST: Final = 5
_LINE: Final = 96


def to_text(report: Report) -> str:
    """Return the report for a person to read."""
    found = report.figures
    parts = [
        heading(report),
        ["", "What the cache would have done", _rivals(report)],
        ["", *(f"  {name:<30} {value}" for name, value in facts(report))],
        ["", "By error budget", _budgets(found)],
        _scopes(found),
        _categories(found),
        _refusals(found),
        _worst(found, report.budget),
    ]
    return "\n".join(line for part in parts for line in part).rstrip()


def write(report: Report, output: Path) -> list[Path]:
    """Write report.json, report.html and the plots into a folder, made if it is not there, and return the files.

    Raises:
        InputError: matplotlib is not installed, or the folder cannot be written.
    """

    def draw(folder: Path) -> tuple[list[Path], str]:
        images = plots.draw(report.figures, report.budget, folder)
        lines = [" ".join(line.split()) for line in heading(report)]
        return images, page(lines, facts(report), report.figures, report.budget, images)

    return write_report(report.to_dict(), output, draw)


def _rivals(report: Report) -> str:
    rows = [
        [name, *map(percent, (s.hits, s.late, s.exact, s.wrong, s.unknown))]
        for name, s in rivals(report.budget, report.figures)
    ]
    if report.figures.answerable is not None:
        rows.append(["all that was asked before", percent(report.figures.answerable), "-", "-", "0.00", "0.00"])
    return drawn(["% of all calls", "hits", "second half", "exact", "wrong", "unknown"], rows)


def _budgets(found: Figures) -> str:
    rows = []
    for one in found.points:
        fixed = ["-", "-"] if one.fixed is None else [percent(one.fixed.hits), f"{one.threshold:.2f}"]
        own = (one.service.hits, one.service.wrong, one.service.unknown, one.bound, one.audits)
        money = [usd(one.service.saved_usd), usd(one.audits_usd)] if found.priced else []
        rows.append([percent(one.budget), *map(percent, own), *fixed, *money])
    heads = ["budget %", "hits", "wrong", "unknown", "bound", "audits", "fixed: hits", "cosine"]
    return drawn([*heads, *(["saved", "audits cost"] if found.priced else [])], rows)


def _scopes(found: Figures) -> list[str]:
    if len(found.accounts) < 2:  # noqa: PLR2004 - one is all of it
        return []
    rows = [
        [a.scope, percent(a.budget), f"{a.requests:,}", percent(a.bound), f"{a.verdicts:,}", f"{a.wrong:,}"]
        for a in sorted(found.accounts, key=lambda one: -one.requests)[:_SCOPES]
    ]
    return ["", "By scope", drawn(["", "budget %", "calls", "bound", "verdicts", "wrong"], rows)]


def _categories(found: Figures) -> list[str]:
    if not found.categories:
        return []
    rows = [
        [c.name, f"{c.shares.calls:,}", *map(percent, (c.shares.hits, c.shares.wrong, c.shares.unknown))]
        for c in found.categories[:_CATEGORIES]
    ]
    left = len(found.categories) - _CATEGORIES
    more = [f"and {left} more, in the report that --output writes"] if left > 0 else []
    return ["", "By category, most errors first", drawn(["", "calls", "hits", "wrong", "unknown"], rows), *more]


def _refusals(found: Figures) -> list[str]:
    if not found.refusals:
        return []
    rows = [[r.why, f"{r.candidates:,}", f"{r.right:,}", f"{r.unknown:,}"] for r in found.refusals]
    heads = ["", "candidates", "right after all", "unknown"]
    return ["", "Near misses: what kept the likeliest answer from being served", drawn(heads, rows)]


def _worst(found: Figures, budget: float) -> list[str]:
    if not found.worst:
        return []
    lines = ["", "The worst wrong hits, those first of which the service was surest"]
    for one in found.worst[:_WORST]:
        sure = f", probability {one.probability:.4f}" if one.probability is not None else ""
        lines += [
            f"  cosine {one.cosine:.3f}{sure}",
            f"    asked     {_cut(one.prompt)}",
            f"    served    {_cut(one.matched)}",
            f"    right     {_cut(one.wanted)}",
            f"    got       {_cut(one.got)}",
        ]
        lines += [f"    {name:<9} {_cut(text)}" for name, text in explained(one.passed, budget)]
    return lines


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LINE else f"{text[: _LINE - 3]}..."
