"""From answers to figures: every policy measured alike, averaged over seeds, with bootstrap intervals.

Called by `service.evaluation.evaluate`; what comes out is plain numbers, for `report` and `plots` to show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from index.calibration import reliability_table
from service.evaluation import metrics
from service.evaluation.answers import Answered
from service.evaluation.data import Rows
from service.evaluation.details import Details, details
from service.evaluation.metrics import Floats
from service.evaluation.policies import BEST, ROUTER, ZERO, Frame, Policy, frame, policies, singles

Figures = dict[str, float]
_CURVE_POINTS: Final = 201


@dataclass(frozen=True, eq=False)
class Trial:
    """The answers of one seed: held-out rows, and their places among the rows that the bootstrap draws from."""

    rows: Rows
    answered: Answered
    places: metrics.Ints


@dataclass(frozen=True, slots=True)
class Part:
    """The figures of the rows of one kind.

    `policies` and `models` hold figures by name; `seeds` the router's own for every seed; `intervals` their 95 %
    bounds. `curves` are (cost USD, quality) points, `share_curves` (share of strong calls, gap recovered).
    `confusion` counts [label][chosen], averaged over seeds. `reliability` holds, for each bin of the chosen model's
    expected quality, (expected, actual, share of the rows).
    """

    kind: str
    rows: int
    models: tuple[str, ...]
    policies: dict[str, Figures]
    single_models: dict[str, Figures]
    intervals: dict[str, tuple[float, float]]
    seeds: list[Figures]
    cheapest: str
    best: str
    strong: str = ""
    weak: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    share_curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    confusion: dict[str, dict[str, float]] = field(default_factory=dict)
    reliability: list[tuple[float, float, float]] = field(default_factory=list)
    details: Details = field(default_factory=Details)


@dataclass(frozen=True, eq=False)
class _Measured:
    """One seed, ready to be measured again and again under other weights."""

    trial: Trial
    shared: Frame
    policies: list[Policy]


def measure(trials: Sequence[Trial], seed: int, times: int) -> Part:
    """Return all figures of the rows of one kind.

    Args:
        trials: one for each seed; all of the same kind and models.
        seed: of the bootstrap.
        times: resamples of the bootstrap.
    """
    rows = trials[0].rows
    # One frame for all seeds: the same models stand out, the same prices are swept, so curves can be averaged.
    shared = frame(rows)
    seen = [_Measured(trial, shared, policies(trial.rows, trial.answered, shared)) for trial in trials]
    drawn = 1 + max(int(trial.places.max()) for trial in trials)
    tables = [{p.name: _figures(p, one) for p in one.policies} for one in seen]
    for table, one in zip(tables, seen, strict=True):
        table[ROUTER] |= _own(one, np.ones(len(one.trial.rows)))
        _at_routers_cost(table, one)
    two = shared.strong >= 0 and rows.kind == "scores"
    return Part(
        kind=rows.kind,
        rows=len(rows),
        models=rows.models,
        policies=_averaged(tables),
        single_models=_averaged([{p.name: _figures(p, one) for p in singles(one.trial.rows)} for one in seen]),
        intervals=metrics.bootstrap(lambda weights: _main(seen, weights), drawn, seed, times),
        seeds=[table[ROUTER] for table in tables],
        cheapest=rows.models[shared.cheapest],
        best=rows.models[shared.best],
        strong=rows.models[shared.strong] if two else "",
        weak=rows.models[shared.weak] if two else "",
        curves=_curves(seen),
        share_curves=_share_curves(seen) if two else {},
        confusion=_confusion(trials) if rows.kind == "labels" else {},
        reliability=_reliability(trials),
        details=details([(trial.rows, trial.answered) for trial in trials], shared),
    )


def _main(seen: Sequence[_Measured], weights: Floats) -> Figures:
    """Return the router's figures under weights of the rows, averaged over seeds, and its lead over the best model."""
    tables = []
    for one in seen:
        drawn = weights[one.trial.places]
        named = {policy.name: policy for policy in one.policies}
        figures = _figures(named[ROUTER], one, drawn) | _own(one, drawn)
        best = _figures(named[BEST], one, drawn)["quality"]
        tables.append({ROUTER: figures | {"over_best": figures["quality"] - best}})
    return _averaged(tables)[ROUTER]


def _figures(policy: Policy, one: _Measured, weights: Floats | None = None) -> Figures:
    """Return what there is to say of one policy: quality and cost, AIQ, and with two models APGR and CPT."""
    rows, shared = one.trial.rows, one.shared
    weights = np.ones(len(rows)) if weights is None else weights
    found: Figures = {}
    if policy.choices is not None:
        found["quality"] = float(metrics.mean((policy.choices * rows.quality).sum(axis=1), weights))
        found["cost_usd"] = float(metrics.mean((policy.choices * rows.cost).sum(axis=1), weights))
    if rows.kind == "labels":
        return found | _label_figures(policy, rows, weights)
    cost = metrics.mean(rows.cost, weights)
    if policy.sweep is not None:
        quality, paid = _points(policy, one, weights)
        found["aiq"] = metrics.aiq(paid, quality, float(cost.min()), float(cost.max()))
    if policy.gain is not None:
        gains = rows.quality[:, shared.strong] - rows.quality[:, shared.weak]
        if shared.strong >= 0:
            shares, recovered = metrics.share_curve(policy.gain, gains, weights)
            found["apgr"] = metrics.apgr(shares, recovered)
            found["cpt50"] = metrics.cpt(shares, recovered, 0.5)
            found["cpt80"] = metrics.cpt(shares, recovered, 0.8)
    if shared.strong >= 0 and policy.choices is not None:
        found["strong_share"] = float(metrics.mean(policy.choices[:, shared.strong], weights))
    return found


def _label_figures(policy: Policy, rows: Rows, weights: Floats) -> Figures:
    """Return top-2 accuracy, and how often a model cheaper or dearer than the labelled one was taken."""
    found: Figures = {}
    if policy.choices is None:
        return found
    label = rows.quality.argmax(axis=1)[:, None]
    price = rows.cost - np.take_along_axis(rows.cost, label, axis=1)
    found["cheaper_share"] = float(metrics.mean((policy.choices * (price < 0)).sum(axis=1), weights))
    found["dearer_share"] = float(metrics.mean((policy.choices * (price > 0)).sum(axis=1), weights))
    if policy.ranks is not None:
        better = (policy.ranks > np.take_along_axis(policy.ranks, label, axis=1)).sum(axis=1)
        found["top2"] = float(metrics.mean((better < 2).astype(np.float64), weights))  # noqa: PLR2004 - top 2
    return found


def _own(one: _Measured, weights: Floats) -> Figures:
    """Return what only the router has: calibration of the chosen model's estimate, and the share of fallbacks."""
    answered = one.trial.answered
    named = answered.chosen >= 0
    expected, actual = _of_chosen(one.trial)
    error = metrics.calibration_error(expected, actual, weights * named) if named.any() else float("nan")
    return {
        "calibration_error": error,
        "fallback_share": float(metrics.mean(answered.fallback.astype(np.float64), weights)),
        "no_plan_share": float(metrics.mean((~named).astype(np.float64), weights)),
    }


def _of_chosen(trial: Trial) -> tuple[Floats, Floats]:
    """Return expected and actual quality of the chosen model; where none was, of the first."""
    at = np.maximum(trial.answered.chosen, 0)[:, None]
    both = (np.take_along_axis(quality, at, axis=1)[:, 0] for quality in (trial.answered.quality, trial.rows.quality))
    expected, actual = both
    return expected, actual


def _reliability(trials: Sequence[Trial]) -> list[tuple[float, float, float]]:
    """Return (expected, actual, share of the rows) for each bin of the chosen model's expected quality."""
    named = np.concatenate([trial.answered.chosen >= 0 for trial in trials])
    expected, actual = (np.concatenate(parts)[named] for parts in zip(*map(_of_chosen, trials), strict=True))
    table = reliability_table(expected.astype(np.float32), actual.astype(np.float32))
    return [(e, a, n / max(named.sum(), 1)) for e, a, n in table.tolist()]


def _at_routers_cost(table: dict[str, Figures], one: _Measured) -> None:
    """Give the zero router the quality it reaches for what the router costs: the fair comparison of the default."""
    if ZERO in table:
        rows, cost = one.trial.rows, table[ROUTER]["cost_usd"]
        quality = metrics.hull_at(rows.cost.mean(axis=0), rows.quality.mean(axis=0), cost)
        table[ZERO] |= {"quality": quality, "cost_usd": cost}


def _points(policy: Policy, one: _Measured, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Return mean quality and cost at every point of a sweep, begun with the cheapest model, which anyone can take."""
    rows, at = one.trial.rows, one.shared.cheapest
    weights = np.ones(len(rows)) if weights is None else weights
    if policy.sweep is None:
        return np.empty(0), np.empty(0)
    quality, cost = (metrics.mean(values, weights) for values in policy.sweep)
    first = metrics.mean(rows.quality[:, at], weights), metrics.mean(rows.cost[:, at], weights)
    return np.concatenate(([first[0]], quality)), np.concatenate(([first[1]], cost))


def _averaged(tables: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    return {
        policy: {name: float(np.mean([table[policy][name] for table in tables])) for name in figures}
        for policy, figures in tables[0].items()
    }


def _curves(seen: Sequence[_Measured]) -> dict[str, list[tuple[float, float]]]:
    """Return (cost, quality) of every sweep, averaged over seeds; for the zero router its hull."""
    found = {}
    for at, policy in enumerate(seen[0].policies):
        if policy.sweep is None:
            continue
        both = np.mean([_points(one.policies[at], one) for one in seen], axis=0)
        quality, cost = metrics.hull(both[1], both[0])[::-1] if policy.name == ZERO else both
        found[policy.name] = list(dict.fromkeys(zip(cost.tolist(), quality.tolist(), strict=True)))
    return found


def _share_curves(seen: Sequence[_Measured]) -> dict[str, list[tuple[float, float]]]:
    """Return (share of strong calls, gap recovered) of every ranking, averaged over seeds."""
    found, shares = {}, np.linspace(0.0, 1.0, _CURVE_POINTS)
    for at, policy in enumerate(seen[0].policies):
        if policy.gain is None:
            continue
        curves = []
        for one in seen:
            rows, gain = one.trial.rows, one.policies[at].gain
            gains = rows.quality[:, one.shared.strong] - rows.quality[:, one.shared.weak]
            if gain is not None:
                curves.append(np.interp(shares, *metrics.share_curve(gain, gains, np.ones(len(rows)))))
        found[policy.name] = list(zip(shares.tolist(), np.mean(curves, axis=0).tolist(), strict=True))
    return found


def _confusion(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Return how often each model was chosen for each label, averaged over seeds, without models that have neither."""
    models = trials[0].rows.models
    counts = np.zeros((len(models), len(models) + 1))
    for trial in trials:
        np.add.at(counts, (trial.rows.quality.argmax(axis=1), trial.answered.chosen), 1 / len(trials))
    names = [*models, "no plan"]
    shown = [i for i, name in enumerate(names) if counts[:, i].any() or (i < len(models) and counts[i].any())]
    return {
        names[i]: {names[j]: float(counts[i, j]) for j in shown} for i in shown if i < len(models) and counts[i].any()
    }
