"""From plays to figures: hits against errors, overall, by budget and by category, and what was saved.

Plain numbers, for `report`, `page` and `plots` to show. Shares are of all calls, 0 to 1.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from service.cache.keeper import AUDITED
from service.evaluation.caching.fixed import Calls, Played, best_within
from service.evaluation.caching.log import Logged
from service.evaluation.caching.player import Account, Event, Passed, Play, Stage

_WORST: Final = 12
_CATEGORIES: Final = 60
_SHOWN: Final = 600
_POINTS: Final = 120  # of the curve over the log


@dataclass(frozen=True, slots=True)
class Prices:
    """What each call costs in USD and takes in seconds (None: not known), and in words where that is from."""

    usd: Sequence[float | None]
    seconds: Sequence[float | None]
    source: str


@dataclass(frozen=True, slots=True)
class Shares:
    """What a cache did: shares of all calls, and what it saved, summed over the calls whose price is known.

    `wrong` are hits that are known to be wrong, `unknown` those of which nobody can tell. `late`: hits among the second
    half of the calls.
    """

    calls: int
    hits: float
    exact: float
    wrong: float
    unknown: float
    late: float
    saved_usd: float
    saved_seconds: float

    @property
    def doubtful(self) -> float:
        """Hits that are not known to be right: what a budget is compared with."""
        return self.wrong + self.unknown


@dataclass(frozen=True, slots=True)
class Point:
    """What one budget does. `bound` is on the errors of what was served semantically, by the account at the end.

    `fixed` is the best fixed cosine in hindsight that keeps the budget, `threshold` that cosine; None: none does.
    """

    budget: float
    service: Shares
    audits: float
    audits_usd: float
    bound: float
    broken: bool
    fixed: Shares | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Category:
    """One category's calls; or, where there are none, one label's."""

    name: str
    shares: Shares


@dataclass(frozen=True, slots=True)
class Refusal:
    """What kept candidates from being served: how many, and how many of them would have been right after all."""

    why: str
    candidates: int
    right: int
    unknown: int


@dataclass(frozen=True, slots=True)
class WrongHit:
    """A hit that was wrong: what was asked and what was served, side by side, and why it passed.

    `place` and `from_place` are file and line of the call and of that whose answer it got. `wanted` and `got` are
    labels where there are any, else answers. `passed` is None for an exact hit: the words are the same.
    """

    place: str
    prompt: str
    wanted: str
    from_place: str
    matched: str
    got: str
    category: str
    exact: bool
    cosine: float
    probability: float | None
    passed: Passed | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a log.

    `fixed` has (cosine, hits, hits not known to be right) of every threshold, `over_time` (calls so far, hits, exact
    hits, hits not known to be right) as shares of the calls around.
    """

    main: Shares
    exact_only: Shares
    answerable: float | None
    points: list[Point]
    fixed: list[tuple[float, float, float]]
    audits: float
    audits_usd: float
    priced: int
    timed: int
    decide_ms: float
    accounts: list[Account]
    categories: list[Category]
    refusals: list[Refusal]
    not_stored: dict[str, int]
    worst: list[WrongHit]
    over_time: list[tuple[int, float, float, float]] = field(default_factory=list)


def figures(
    stage: Stage,
    played: Play,
    by_budget: Mapping[float, Play],
    calls: Calls,
    exact: Played,
    tried: Sequence[tuple[float, Played]],
    prices: Prices,
) -> Figures:
    """Return all there is to say.

    Args:
        stage: what was played.
        played: with the settings' own budget.
        by_budget: with others.
        calls: the same calls as the baselines see them.
        exact: what a cache of exact hits does.
        tried: what fixed thresholds do.
        prices: of every call.
    """
    rows, events = stage.log.rows, played.events
    audits = [place for place, event in enumerate(events) if event.why == AUDITED]
    return Figures(
        main=shares(events, prices),
        exact_only=_of_played(exact, prices),
        answerable=_answerable(stage, calls) if stage.log.labelled else None,
        points=[_point(budget, one, tried, prices) for budget, one in sorted(by_budget.items())],
        fixed=[(threshold, float(one.hits.mean()), float(one.doubtful.mean())) for threshold, one in tried],
        audits=len(audits) / len(events),
        audits_usd=_sum(prices.usd, audits),
        priced=sum(one is not None for one in prices.usd),
        timed=sum(one is not None for one in prices.seconds),
        decide_ms=1e3 * float(np.median([event.seconds for event in events if event.kind != "plan"] or [0.0])),
        accounts=played.accounts,
        categories=_categories(rows, events, prices),
        refusals=_refusals(events),
        not_stored=dict(Counter(event.not_stored for event in events if event.not_stored).most_common()),
        worst=_worst(rows, events),
        over_time=_over_time(events),
    )


def shares(events: Sequence[Event], prices: Prices, among: Sequence[int] | None = None) -> Shares:
    """Return what was done with calls, or with those among them that are given by their places."""
    places = range(len(events)) if among is None else among
    hits = [place for place in places if events[place].kind != "plan"]
    half = len(places) // 2
    later = set(places[half:])

    def share(of: Callable[[Event], bool]) -> float:
        return sum(of(events[place]) for place in hits) / len(places)

    return Shares(
        len(places),
        share(lambda _: True),
        share(lambda event: event.kind == "exact"),
        share(lambda event: event.right is False),
        share(lambda event: event.right is None),
        sum(place in later for place in hits) / max(len(later), 1),
        _sum(prices.usd, hits),
        _sum(prices.seconds, hits),
    )


def _of_played(played: Played, prices: Prices) -> Shares:
    """Return the same of a simpler cache."""
    flags = (values.tolist() for values in (played.hits, played.exact, played.wrong, played.unknown))
    events = [
        Event("exact" if same else "semantic" if hit else "plan", right=None if unknown else not wrong)
        for hit, same, wrong, unknown in zip(*flags, strict=True)
    ]
    return shares(events, prices)


def _sum(values: Sequence[float | None], places: Sequence[int]) -> float:
    return sum(value for place in places if (value := values[place]) is not None)


def _point(budget: float, played: Play, tried: Sequence[tuple[float, Played]], prices: Prices) -> Point:
    audits = [place for place, event in enumerate(played.events) if event.why == AUDITED]
    best = best_within(tried, budget)
    return Point(
        budget,
        shares(played.events, prices),
        len(audits) / len(played.events),
        _sum(prices.usd, audits),
        bound(played.accounts),
        any(account.broken for account in played.accounts),
        _of_played(best[1], prices) if best is not None else None,
        best[0] if best is not None else None,
    )


def bound(accounts: Sequence[Account]) -> float:
    """Return the bounds of all scopes as one share of their requests."""
    return sum(one.bound * one.requests for one in accounts) / max(sum(one.requests for one in accounts), 1)


def _answerable(stage: Stage, calls: Calls) -> float:
    """Return the share of calls for which a right answer was given before, in their scope and context."""
    given: set[tuple[int, int]] = set()
    found = 0
    for call in range(len(calls)):
        one = (calls.places[call], stage.truth.kind(call))
        found += one in given
        given.add(one)
    return found / len(calls)


def _categories(rows: Sequence[Logged], events: Sequence[Event], prices: Prices) -> list[Category]:
    """Return the largest categories, or labels where no row has a category, those with most errors first."""
    names = [row.category for row in rows] if any(row.category for row in rows) else [row.label for row in rows]
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        members.setdefault(name, []).append(place)
    members.pop("", None)
    if len(members) < 2:  # noqa: PLR2004 - one category is all of it
        return []
    largest = sorted(members.items(), key=lambda one: -len(one[1]))[:_CATEGORIES]
    found = [Category(name, shares(events, prices, places)) for name, places in largest]
    return sorted(found, key=lambda one: (-one.shares.doubtful * one.shares.calls, -one.shares.calls))


def _refusals(events: Sequence[Event]) -> list[Refusal]:
    counts = Counter((event.why, event.right) for event in events if event.why)
    names = Counter(event.why for event in events if event.why)
    return [Refusal(why, count, counts[why, True], counts[why, None]) for why, count in names.most_common()]


def _worst(rows: Sequence[Logged], events: Sequence[Event]) -> list[WrongHit]:
    """Return the wrong hits of which the service was surest; those with the very same words last."""
    wrong = [(place, event) for place, event in enumerate(events) if event.kind != "plan" and event.right is False]
    wrong.sort(key=lambda one: (one[1].kind == "exact", -(one[1].probability or 0.0), -one[1].cosine))
    found = []
    for place, event in wrong[:_WORST]:
        row, source = rows[place], rows[event.by]
        matched = event.passed.matched if event.passed is not None else source.request.text
        found.append(
            WrongHit(
                row.place, row.request.text[:_SHOWN], (row.label or row.answer)[:_SHOWN], source.place,
                matched[:_SHOWN], (source.label or source.answer)[:_SHOWN], row.category, event.kind == "exact",
                event.cosine, event.probability, event.passed,
            )
        )  # fmt: skip
    return found


def _over_time(events: Sequence[Event]) -> list[tuple[int, float, float, float]]:
    """Return shares in stretches of the log, each a twentieth of it around its point."""
    n = len(events)
    flags = np.array(
        [
            (event.kind != "plan", event.kind == "exact", event.kind != "plan" and event.right is not True)
            for event in events
        ],
        np.float64,
    )
    sums = np.concatenate((np.zeros((1, 3)), flags.cumsum(axis=0)))
    width = max(n // 20, 1)
    found = []
    for end in np.unique(np.linspace(width, n, min(_POINTS, n), dtype=np.int64)).tolist():
        first = max(end - width, 0)
        hits, exact, doubtful = ((sums[end] - sums[first]) / (end - first)).tolist()
        found.append((end, hits, exact, doubtful))
    return found
