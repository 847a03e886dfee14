"""The report of an evaluation of the cache, and what it says in words. Shown by `shown` and `page`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from index.guard import CHECKS
from service.evaluation.caching.figures import Figures, Shares, bound
from service.evaluation.caching.player import CONFIDENCE, Passed
from service.evaluation.output import finite

_DAY_S: Final = 86_400
OURS: Final = "Waypost"


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    `truth` says what tells right from wrong, `learned_from` what the service was told of candidates: "labels" or
    "answers". `budget` is that of the settings; scopes may have others. `prices` says in words where they are from.
    """

    files: tuple[str, ...]
    rows: int
    truth: str
    learned_from: str
    timed: bool
    shuffled: bool
    seed: int
    scopes: int
    budget: float
    prices: str
    unused: tuple[str, ...]
    skipped: tuple[str, ...]
    figures: Figures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it; figures that do not exist are null."""
        return dict(finite(asdict(self)))


def heading(report: Report) -> list[str]:
    """Return lines about what was evaluated and how."""
    order = f"in a random order (seed {report.seed})" if report.shuffled else "in order"
    lapse = "by their times" if report.timed else "no times: nothing lapses"
    learned = {
        "labels": "labels; callers say of each candidate whether it has the right one",
        "answers": "answers, compared as the service does",
    }
    lines = [
        f"log          {', '.join(report.files)}: {report.rows:,} calls, {order}, {lapse}",
        "right is     what has the same label"
        if report.truth == "labels"
        else "right is     an answer that is equal, or as near as the service asks for; between near and far: unknown",
        f"learns from  {learned[report.learned_from]}",
        f"budget       {percent(report.budget)} % of all calls may get a wrong cached answer",
        f"prices       {report.prices}",
    ]
    if report.skipped:
        lines.append(f"left out     {len(report.skipped):,} rows that are wrong")
    return lines


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what there is to say besides the tables: bound, audits, savings."""
    found, main = report.figures, report.figures.main
    lines = []
    if found.accounts:
        said = f"at most {percent(bound(found.accounts))} % of the calls wrong, at {CONFIDENCE:.0%} confidence"
        lines.append(("bound of the account at the end", said + (": BROKEN" * any(a.broken for a in found.accounts))))
    audits = f"{percent(found.audits)} % of the calls went to a model though they could be served"
    lines.append(("audits", audits + (f", for {usd(found.audits_usd)}" if found.priced else "")))
    if found.priced:
        per = 1e3 * main.saved_usd / main.calls
        part = "" if found.priced == report.rows else f", over the {found.priced:,} calls whose price is known"
        lines.append(("money saved", f"{usd(main.saved_usd)}, {usd(per)} per 1,000 calls{part}"))
    else:
        lines.append(("money saved", "not known: give a column cost, or --models"))
    if found.timed:
        part = "" if found.timed == report.rows else f", over the {found.timed:,} calls whose time is known"
        lines.append(("time saved", f"{_duration(main.saved_seconds)}{part}; a hit took {found.decide_ms:.2f} ms here"))
    else:
        lines.append(("time saved", "not known: give a column seconds, or latencies in the catalogue"))
    lines += [(f"not stored: {why[:60]}", f"{count:,}") for why, count in found.not_stored.items()]
    return lines


def rivals(budget: float, found: Figures) -> list[tuple[str, Shares]]:
    """Return what the cache did and what simpler ones would have done, by name."""
    named = [(OURS, found.main), ("exact only", found.exact_only)]
    point = next((one for one in found.points if one.budget == budget), None)
    if point is not None and point.fixed is not None:
        named.append((f"best fixed cosine in hindsight ({point.threshold:.2f})", point.fixed))
    return named


def explained(passed: Passed | None, budget: float) -> list[tuple[str, str]]:
    """Return why a wrong hit passed, part by part."""
    if passed is None:
        return [("exact", "the same words in the same scope and context: no check is made")]
    none = f"no check found a difference: {', '.join(CHECKS)}"
    said = [
        ("guard", f"{passed.outweighed} is outweighed by this scope's verdicts" if passed.outweighed else none),
        ("verifier", _numbers(passed.aligned) or "not asked"),
        ("rivals", f"margin {passed.margin:.3f}, agreement {passed.agreement:.2f}"),
    ]
    if passed.learned:
        said.append(("learned", _numbers(passed.learned)))
    if passed.bearable is not None:
        said.append(("budget", f"bore an error of up to {100 * passed.bearable:.2g} % then, at {percent(budget)} %"))
    return said


def usd(value: float) -> str:
    """Return an amount of money."""
    return f"${value:,.2f}" if value >= 1 else f"${value:.3g}"


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value and name != "bias")


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.2f}"


def _duration(seconds: float) -> str:
    if seconds < _DAY_S:
        return f"{seconds:,.0f} s" if seconds < 7_200 else f"{seconds / 3_600:,.1f} hours"  # noqa: PLR2004 - two hours
    return f"{seconds / _DAY_S:,.1f} days"
