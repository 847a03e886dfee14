"""What the page of a report on the cache says. Called by `service.evaluation.caching.shown`."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from service.evaluation.caching.figures import Figures, Shares, WrongHit
from service.evaluation.caching.report import OURS, explained, percent, rivals, usd
from service.evaluation.page import at_a_glance, bar, document, image, section, table

_TITLE: Final = "What the cache would have answered"
_NONE: Final = "-"


def page(
    heading: Sequence[str], facts: Sequence[tuple[str, str]], found: Figures, budget: float, plots: Sequence[Path]
) -> str:
    """Return the report.

    Args:
        heading: lines about what was evaluated and how.
        facts: what there is to say besides the tables, by name.
        found: the figures.
        budget: the settings' own.
        plots: of them.
    """
    body = (
        _cards(found, budget),
        section("Hits and errors", "", "".join(map(image, plots))),
        _rivals(found, budget),
        _budgets(found, budget),
        section("Besides", "", table(["", ""], [[escape(name), escape(value)] for name, value in facts])),
        _accounts(found),
        _categories(found),
        _refusals(found),
        _worst(found, budget),
    )
    return document(_TITLE, heading, "".join(body))


def _cards(found: Figures, budget: float) -> str:
    """Return what there is to say at a glance."""
    main = found.main
    held = main.doubtful <= budget
    unknown = f", {percent(main.unknown)} % unknown" if main.unknown else ""
    cards = [
        (f"{100 * main.hits:.1f} %", f"hits; {100 * main.exact:.1f} % by the same words"),
        (
            f'<span class="{"good" if held else "bad"}">{percent(main.wrong)} %</span>',
            f"wrong{unknown}; {percent(budget)} % allowed",
        ),
        (f"{100 * main.late:.1f} %", "hits in the second half, when more was known"),
    ]
    if found.priced:
        cards.append((usd(main.saved_usd), f"saved; audits cost {usd(found.audits_usd)} of what could have been saved"))
    return at_a_glance(cards)


def _row(name: str, shares: Shares) -> list[str]:
    return [escape(name), *map(percent, (shares.hits, shares.late, shares.exact, shares.wrong, shares.unknown))]


def _rivals(found: Figures, budget: float) -> str:
    rows = [_row(name, shares) for name, shares in rivals(budget, found)]
    if found.answerable is not None:
        rows.append(["all that was asked before", percent(found.answerable), _NONE, _NONE, "0.00", "0.00"])
    note = "Percent of all calls. The best fixed cosine is chosen in hindsight, among those that keep the budget."
    heads = ["", "hits", "second half", "exact", "wrong", "unknown"]
    return section("Against simpler caches", note, table(heads, rows, marked=OURS))


def _budgets(found: Figures, budget: float) -> str:
    if not found.points:
        return ""
    rows = []
    for one in found.points:
        kind = "bad" if one.service.doubtful > one.budget else "good"
        wrong = f'<span class="{kind}">{percent(one.service.wrong)}</span>'
        fixed = [_NONE, _NONE] if one.fixed is None else [percent(one.fixed.hits), f"{one.threshold:.2f}"]
        money = [usd(one.service.saved_usd), usd(one.audits_usd)] if found.priced else []
        own = [percent(one.service.hits), wrong, percent(one.service.unknown), percent(one.bound), percent(one.audits)]
        rows.append([f"{percent(one.budget)} %", *own, *fixed, *money])
    heads = ["budget", "hits", "wrong", "unknown", "bound", "audits", "fixed cosine: hits", "cosine"]
    note = (
        "Percent of all calls. Wrong and unknown together are held against the budget. The bound is what the service "
        "itself can vouch for; it moves what is served."
    )
    marked = f"{percent(budget)} %"
    shown = table([*heads, *(["saved", "audits cost"] if found.priced else [])], rows, marked=marked)
    return section("By error budget", note, shown)


def _accounts(found: Figures) -> str:
    rows = [
        [
            escape(one.scope),
            f"{one.requests:,}",
            f"{percent(one.budget)} %",
            f'<span class="bad">{percent(one.bound)} %</span>' if one.broken else f"{percent(one.bound)} %",
            f"{one.audits:,}",
            f"{one.verdicts:,}",
            f"{one.wrong:,}",
            f"{one.factor:.2f}",
        ]
        for one in sorted(found.accounts, key=lambda one: -one.requests)
    ]
    heads = ["scope", "calls", "budget", "bound", "audits", "verdicts", "wrong", "off by at most"]
    note = "The accounts at the end. A broken bound is red: only what is near-certain is served until it holds again."
    return section("Accounts", note, table(heads, rows)) if rows else ""


def _categories(found: Figures) -> str:
    rows = [
        [
            escape(one.name),
            f"{one.shares.calls:,}",
            f"{percent(one.shares.hits)}{bar(one.shares.hits)}",
            percent(one.shares.wrong),
            percent(one.shares.unknown),
            *([usd(one.shares.saved_usd)] if found.priced else []),
        ]
        for one in found.categories
    ]
    heads = ["category", "calls", "hits %", "wrong %", "unknown %", *(["saved"] if found.priced else [])]
    return section("By category", "Most errors first.", table(heads, rows)) if rows else ""


def _refusals(found: Figures) -> str:
    rows = [[escape(r.why), f"{r.candidates:,}", f"{r.right:,}", f"{r.unknown:,}"] for r in found.refusals]
    note = "What kept the likeliest answer from being served, and how often it would have been right."
    heads = ["check", "candidates", "right after all", "unknown"]
    return section("Near misses", note, table(heads, rows)) if rows else ""


def _worst(found: Figures, budget: float) -> str:
    note = "Those first of which the service was surest. A label, or an answer, may be wrong as well: look."
    lines = "".join(_wrong_hit(one, budget) for one in found.worst)
    return section("The worst wrong hits, and why they passed", note, lines) if lines else ""


def _wrong_hit(one: WrongHit, budget: float) -> str:
    sure = f", probability {one.probability:.4f}" if one.probability is not None else ""
    what = f"{escape(_brief(one.wanted))} was answered with {escape(_brief(one.got))}"
    category = f" <span class='soft'>{escape(one.category)}</span>" if one.category else ""
    asked, served = (f"<blockquote>{escape(text)}</blockquote>" for text in (one.prompt, one.matched))
    wanted, got = (escape(text) for text in (one.wanted, one.got))
    sides = table(
        ["", "asked", "served the answer to"],
        [
            ["prompt", asked, served],
            ["answer", wanted, got],
            ["row", escape(one.place), escape(one.from_place)],
        ],
    )
    reasons = table(
        ["why it passed", ""], [[escape(name), escape(text)] for name, text in explained(one.passed, budget)]
    )
    return (
        f"<details><summary>cosine {one.cosine:.3f}{sure}: {what}{category}</summary>"
        f'<div class="sides">{sides}{reasons}</div></details>'
    )


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a summary's line
