"""What a person asks after the figures: what does which quality cost, where is it bad, and why.

Called by `service.evaluation.figures`; shown by `report` and `html`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from service.evaluation import metrics
from service.evaluation.answers import Answered, Near
from service.evaluation.data import Rows
from service.evaluation.metrics import Floats
from service.evaluation.policies import Frame, utility_sweep

_TARGETS: Final = 9
_CATEGORIES: Final = 60
_REGRETS: Final = 12
_SHOWN: Final = 600


@dataclass(frozen=True, slots=True)
class Target:
    """A wanted quality: what the router reaches it for, and at which willingness to pay (inf: quality first).

    `zero_cost_usd` is what mixing single models costs for it; None: no mix reaches it.
    """

    wanted: float
    quality: float
    cost_usd: float
    willingness_to_pay: float
    zero_cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Category:
    """One category: the router's default decisions, the model that is best over all rows, and what could be reached."""

    name: str
    rows: int
    quality: float
    cost_usd: float
    best_quality: float
    best_cost_usd: float
    oracle_quality: float


@dataclass(frozen=True, slots=True)
class Regret:
    """A prompt whose model was worse than another one: what was expected of it, and the references it was judged by."""

    prompt: str
    category: str
    chosen: str
    expected: float
    actual: float
    better: str
    better_actual: float
    neighbours: tuple[Near, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """All of it, for the rows of one kind. `shares` are those of the default decisions."""

    shares: dict[str, float] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    sweep: list[tuple[float, float, float]] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    regrets: list[Regret] = field(default_factory=list)


def details(trials: Sequence[tuple[Rows, Answered]], shared: Frame) -> Details:
    """Return the details of the answers of every seed.

    Args:
        trials: held-out rows and their answers, one pair for each seed.
        shared: the models that stand out, and the prices that are swept.
    """
    rows = trials[0][0]
    chosen = np.concatenate([answered.chosen for _, answered in trials])
    named = chosen >= 0
    counts = np.bincount(chosen[named], minlength=len(rows.models)) / max(len(chosen), 1)
    sweep = _sweep(trials, shared)
    return Details(
        shares={m: float(share) for m, share in zip(rows.models, counts.tolist(), strict=True) if share},
        targets=_targets(rows, shared, sweep),
        sweep=sweep,
        categories=_categories(trials, shared),
        regrets=_regrets(*trials[0]),
    )


def _sweep(trials: Sequence[tuple[Rows, Answered]], shared: Frame) -> list[tuple[float, float, float]]:
    """Return (quality, cost, willingness to pay) of what the router reaches, each better than all that cost less."""
    reached = [utility_sweep(rows, answered.quality, answered.cost, shared) for rows, answered in trials]
    quality = np.mean([q.mean(axis=0) for q, _ in reached], axis=0)
    cost = np.mean([c.mean(axis=0) for _, c in reached], axis=0)
    best, found = -1.0, []
    for i in np.lexsort((-quality, cost)).tolist():
        if quality[i] > best:
            best = float(quality[i])
            found.append((best, float(cost[i]), float(shared.prices[i])))
    return found


def _targets(rows: Rows, shared: Frame, sweep: Sequence[tuple[float, float, float]]) -> list[Target]:
    """Return a ladder from the cheapest model's quality to the best reached; one step is the best model's."""
    single, paid = rows.quality.mean(axis=0), rows.cost.mean(axis=0)
    low, high = float(single[shared.cheapest]), sweep[-1][0]
    steps = {round(step, 3) for step in np.linspace(low, high, _TARGETS).tolist()} if high > low else {low}
    steps.add(float(single[shared.best]))
    costs, qualities = metrics.hull(paid, single)
    found = []
    for wanted in sorted(steps):
        point = next((one for one in sweep if one[0] >= wanted - 1e-9), None)
        if point is not None:
            mixed = float(np.interp(wanted, qualities, costs)) if wanted <= qualities[-1] + 1e-9 else None
            found.append(Target(wanted, point[0], point[1], point[2], mixed))
    return found


def _categories(trials: Sequence[tuple[Rows, Answered]], shared: Frame) -> list[Category]:
    names = np.array([reference.category for rows, _ in trials for reference in rows.references])
    quality, cost = (np.concatenate(parts) for parts in zip(*((r.quality, r.cost) for r, _ in trials), strict=True))
    chosen = np.concatenate([answered.chosen for _, answered in trials])
    at = np.maximum(chosen, 0)[:, None]
    reached, paid = (_of(values, at) * (chosen >= 0) for values in (quality, cost))
    known, counts = np.unique(names[names != ""], return_counts=True)
    if len(known) < 2:  # noqa: PLR2004 - one category is all of it
        return []
    found = []
    for name in known[np.argsort(-counts, kind="stable")][:_CATEGORIES].tolist():
        here = names == name
        found.append(
            Category(
                str(name),
                int(here.sum()) // len(trials),
                float(reached[here].mean()),
                float(paid[here].mean()),
                float(quality[here, shared.best].mean()),
                float(cost[here, shared.best].mean()),
                float(quality[here].max(axis=1).mean()),
            )
        )
    return found


def _regrets(rows: Rows, answered: Answered) -> list[Regret]:
    """Return the prompts that lost most, those first of which the router was surest."""
    at = np.maximum(answered.chosen, 0)[:, None]
    actual, expected = _of(rows.quality, at), _of(answered.quality, at)
    lost = np.where(answered.chosen >= 0, rows.quality.max(axis=1) - actual, 0.0)
    found = []
    for i in np.lexsort((-expected, -lost))[:_REGRETS].tolist():
        if lost[i] > 0:
            better = int(np.lexsort((rows.cost[i], -rows.quality[i]))[0])
            reference = rows.references[i]
            found.append(
                Regret(
                    reference.prompt[:_SHOWN],
                    reference.category,
                    rows.models[int(answered.chosen[i])],
                    float(expected[i]),
                    float(actual[i]),
                    rows.models[better],
                    float(rows.quality[i, better]),
                    tuple(answered.near[i]) if answered.near else (),
                )
            )
    return found


def _of(values: Floats, at: metrics.Ints) -> Floats:
    return np.asarray(np.take_along_axis(values, at, axis=1)[:, 0])
