"""The router and what it is measured against, all in one form: choices, a sweep, a ranking.

A policy never sees the outcome of the row it decides on, except the oracle and the hull of single models, which say
what could be reached. Called by `service.evaluation.figures`.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.evaluation.answers import Answered
from service.evaluation.data import Rows
from service.evaluation.metrics import Floats, Ints, utility_choices

PRICES: Final = 161
_SHARES: Final = np.linspace(0.0, 1.0, 101)

ROUTER: Final = "router"
RANDOM: Final = "random"
CHEAPEST: Final = "cheapest model"
BEST: Final = "best single model"
MAJORITY: Final = "majority"
ZERO: Final = "zero router"
LENGTH: Final = "prompt length"
CATEGORY: Final = "category prior"
ORACLE: Final = "oracle"


@dataclass(frozen=True, eq=False)
class Frame:
    """What the policies of one evaluation share: the models that stand out, and the swept willingness to pay.

    `strong` and `weak` are set where there are two models: the better and the other.
    """

    cheapest: int
    dearest: int
    best: int
    prices: Floats
    strong: int = -1
    weak: int = -1


@dataclass(frozen=True, eq=False)
class Policy:
    """One way to route.

    `choices` (rows, models) is the probability of each model without further wishes; `sweep` is what a range of
    trade-offs reaches, (quality, cost) of shape (rows, points); `gain` (rows,) ranks the rows for the strong model;
    `ranks` (rows, models) orders the models, best first. What a policy has not, is None.
    """

    name: str
    choices: Floats | None = None
    sweep: tuple[Floats, Floats] | None = None
    gain: Floats | None = None
    ranks: Floats | None = None


def frame(rows: Rows) -> Frame:
    """Return what stands out among the models of held-out rows."""
    quality, cost = rows.quality.mean(axis=0), rows.cost.mean(axis=0)
    useful = np.flatnonzero(known(rows))
    order = useful[np.argsort(cost[useful], kind="stable")]
    best = int(np.lexsort((cost, -quality))[0])
    two = len(rows.models) == 2  # noqa: PLR2004 - RouteLLM's figures are about two
    gaps = np.diff(cost[order])
    spread = cost[order[-1]] - cost[order[0]]
    prices = np.array([np.inf])
    if spread > 0:
        # From far below the smallest difference in cost, where the cheapest wins, to where only quality counts.
        low = max(gaps[gaps > 0].min() / 10, spread / 1e6)
        prices = np.concatenate((np.geomspace(low, spread * 1e4, PRICES - 1), [np.inf]))
    return Frame(int(order[0]), int(order[-1]), best, prices, best if two else -1, 1 - best if two else -1)


def known(rows: Rows) -> NDArray[np.bool_]:
    """Return which models the rows speak of: of a catalogue's, labels may name only some."""
    return np.asarray(rows.quality.any(axis=0)) if rows.kind == "labels" else np.ones(len(rows.models), np.bool_)


def policies(rows: Rows, answered: Answered, shared: Frame) -> list[Policy]:
    """Return the router and all it is compared with, in the order they are shown."""
    quality, cost = rows.quality, rows.cost
    even = np.tile(known(rows) / known(rows).sum(), (len(rows), 1))
    mix = _mix(rows, shared) if rows.kind == "scores" else None
    router = _estimating(ROUTER, rows, answered.quality, answered.cost, shared, answered.chosen)
    found = [
        _ranked(router, answered.fold),
        Policy(RANDOM, even, mix, np.zeros(len(rows))),
        Policy(CHEAPEST, _always(rows, shared.cheapest)),
        Policy(BEST, _always(rows, shared.best)),
    ]
    if answered.prior is not None and rows.kind == "labels":
        found.append(Policy(MAJORITY, _one_hot(answered.prior.majority, len(rows.models))))
    if rows.kind == "scores":
        found += [Policy(ZERO, sweep=(quality, cost)), _by_length(rows, shared)]
    if answered.prior is not None and answered.prior.categories > 1:
        category = _estimating(CATEGORY, rows, answered.prior.quality, answered.prior.cost, shared)
        found.append(_ranked(category, answered.fold))
    found.append(_estimating(ORACLE, rows, quality, cost, shared))
    return found


def singles(rows: Rows) -> list[Policy]:
    """Return always taking each model."""
    return [Policy(model, _always(rows, i)) for i, model in enumerate(rows.models)]


def _estimating(
    name: str, rows: Rows, quality: Floats, cost: Floats, shared: Frame, chosen: Ints | None = None
) -> Policy:
    """Return the policy that follows estimates of quality and cost, shape (rows, models)."""
    picked = utility_choices(quality, cost, shared.prices)
    if chosen is None:
        chosen = picked[:, -1]
    gain = quality[:, shared.strong] - quality[:, shared.weak] if shared.strong >= 0 else None
    return Policy(name, _one_hot(chosen, len(rows.models)), _reached(rows, picked), gain, quality)


def utility_sweep(rows: Rows, quality: Floats, cost: Floats, shared: Frame) -> tuple[Floats, Floats]:
    """Return true quality and cost of what estimates choose at every price, shape (rows, points) each."""
    return _reached(rows, utility_choices(quality, cost, shared.prices))


def _ranked(policy: Policy, fold: Ints) -> Policy:
    """Return a policy that ranks rows within the fold they belong to, from 0 to 1; equals share the middle rank.

    A fold whose held-out rows gain much leaves references that gain little: ranked together, its rows would come
    last just because of that (Forman & Scholz 2010, on pooling scores over folds).
    """
    if policy.gain is None:
        return policy
    ranks = np.empty(len(fold))
    for one in np.unique(fold):
        here = np.flatnonzero(fold == one)
        _, place, count = np.unique(policy.gain[here], return_inverse=True, return_counts=True)
        ranks[here] = (np.cumsum(count) - count / 2)[place] / len(here)
    return replace(policy, gain=ranks)


def _by_length(rows: Rows, shared: Frame) -> Policy:
    """Return the untrained policy: the longest prompts to the best model, the rest to the cheapest."""
    size = np.array([len(r.prompt) for r in rows.references], np.float64)
    rank = np.empty(len(rows))
    rank[np.argsort(-size, kind="stable")] = (np.arange(len(rows)) + 0.5) / len(rows)
    picked = np.where(rank[:, None] < _SHARES, shared.best, shared.cheapest)
    return Policy(LENGTH, sweep=_reached(rows, picked), gain=size)


def _mix(rows: Rows, shared: Frame) -> tuple[Floats, Floats]:
    """Return quality and cost of random mixes of the cheapest and the best model."""
    ends = [shared.cheapest, shared.best]
    mixing = np.stack((1 - _SHARES, _SHARES))
    return rows.quality[:, ends] @ mixing, rows.cost[:, ends] @ mixing


def _reached(rows: Rows, picked: Ints) -> tuple[Floats, Floats]:
    return np.take_along_axis(rows.quality, picked, axis=1), np.take_along_axis(rows.cost, picked, axis=1)


def _always(rows: Rows, model: int) -> Floats:
    return _one_hot(np.full(len(rows), model), len(rows.models))


def _one_hot(chosen: NDArray[np.int64], models: int) -> Floats:
    """Return choices as probabilities; -1, no plan, is no model at all."""
    return np.asarray(chosen[:, None] == np.arange(models), np.float64)
