"""The head of a model: how much better or worse than estimated it is, by prompt; and weights that nobody can pile up.

Pure functions of samples, called by `service.learning.online` on a thread of its own.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.requests import Estimate, owner_of

Floats = NDArray[np.float64]
# Fewer reports say nothing.
LEAST: Final = 8
# Ridge: chosen by benchmarks/learning.py. The level of a model is learned from few samples, its slopes from many.
_SLOPES, _LEVEL = 30.0, 5.0
# Estimates vary by a tenth: times this, they are penalised as little as they should be.
_SCALE: Final = 5.0
# Regions of prompts: cells of random hyperplanes. One cell counts as this many reports at the most.
_PLANES, _REGION = 8, 200.0
# A source, or for a drift a region, may weigh as much as all the others together, but this much in any case.
_GROUP: Final = 20.0


class Sample(NamedTuple):
    """One report of quality: when, of which model and by whom, and what had been estimated.

    `others` is the mean estimate over all models: how easy the prompt seemed. `text` may be unknown.
    """

    at: float
    model: str
    source: str
    vector: NDArray[np.float32]
    expected: float
    others: float
    quality: float
    decision: str
    generation: str
    size: int
    text: str
    region: int


class Head(NamedTuple):
    """What the samples of one model say, give or take `error`.

    The shift is linear in the vector and in what was estimated, of the model and on average: models are called where
    they seem good, so what is called says how far estimates overdo it, and nothing of where they are too low.
    """

    slopes: NDArray[np.float32]
    of_expected: float
    of_others: float
    level: float
    error: float

    def at(self, linear: float, expected: float, others: float) -> float:
        """Return the shift of a prompt; `linear` is slopes @ vector."""
        return linear + self.of_expected * expected + self.of_others * others + self.level

    def each(self, samples: Sequence["Sample"]) -> Floats:
        """Return the shift of each sample."""
        estimated = np.array([(s.expected, s.others) for s in samples])
        linear = np.array([s.vector for s in samples]) @ self.slopes
        return np.asarray(linear + estimated @ (self.of_expected, self.of_others) + self.level)


def fit(samples: Sequence[Sample], now: float, half_life_s: float) -> dict[str, Head]:
    """Return a head for every model: weighted ridge regression of the error on the vector (Hoerl & Kennard 1970)."""
    by_model: dict[str, list[Sample]] = {}
    for sample in samples:
        by_model.setdefault(sample.model, []).append(sample)
    heads = {}
    for name, its in by_model.items():
        if len(its) < LEAST:
            continue
        x = np.array([(*s.vector, s.expected * _SCALE, s.others * _SCALE) for s in its], np.float32)
        y = np.array([s.quality - s.expected for s in its], np.float32)
        age = np.array([now - s.at for s in its])
        weights = bounded(0.5 ** (np.maximum(age, 0.0) / half_life_s), [s.source for s in its], [s.region for s in its])
        heads[name] = ridge(x, y, weights.astype(np.float32))
    return heads


def ridge(x: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[np.float32]) -> Head:
    """Return the head that explains errors, drawn towards no shift at all.

    Args:
        x: vectors and, times _SCALE, estimates, shape (reports, dimensions + 2).
        y: what came less what was estimated, shape (reports,).
        weights: of the reports.
    """
    total = max(float(weights.sum()), 1e-9)
    middle = weights @ x / total
    design = np.concatenate((x - middle, np.ones((len(x), 1), np.float32)), axis=1)
    weighted = design * weights[:, None]
    penalty = np.full(design.shape[1], _SLOPES, np.float32)
    penalty[-1] = _LEVEL
    seen = weighted.T @ design
    inverse = np.linalg.inv(seen + np.diag(penalty))
    solved = inverse @ (weighted.T @ y)
    # The mean over the samples of the variance of a prediction, by as many parameters as they really determine.
    spread = (float(weights @ (y - design @ solved) ** 2) + 0.5) / (total + 2)
    error = math.sqrt(spread * float((inverse * seen).sum()) / total)
    level = float(solved[-1] - solved[:-1] @ middle)
    return Head(solved[:-3], float(solved[-3]) * _SCALE, float(solved[-2]) * _SCALE, level, error)


def mean_quality(estimates: Sequence[Estimate]) -> float:
    """Return the mean over models of what is expected."""
    return sum(estimate.quality for estimate in estimates) / len(estimates)


def region_of(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cell of random hyperplanes that each vector is in (Charikar 2002): shape (reports, dimensions)."""
    return np.asarray((x @ _planes(x.shape[1]) > 0) @ (1 << np.arange(_PLANES)))


@cache
def _planes(dimensions: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((dimensions, _PLANES)).astype(np.float32)


def bounded(weights: Floats, groups: Sequence[str], regions: Sequence[int] = ()) -> Floats:
    """Return weights of which no region and no group has more than its share.

    Args:
        weights: at least 0, shape (reports,).
        groups: of each report. One may weigh as much as all others, or _GROUP, whichever is more; where there is only
            one, it is all there is to go by. Nor may all groups of one owner.
        regions: of each report; empty: not looked at. One may weigh _REGION.
    """
    weights = np.asarray(weights, np.float64).copy()
    if len(regions):
        _, place = np.unique(np.asarray(regions), return_inverse=True)
        totals = np.bincount(place, weights)
        weights *= np.minimum(1.0, _REGION / np.maximum(totals, 1e-12))[place]
    for shares in (groups, [owner_of(group) for group in groups]):
        names, place = np.unique(np.asarray(shares), return_inverse=True)
        if len(names) > 1:
            totals = np.bincount(place, weights)
            largest = int(totals.argmax())
            most = max(float(totals.sum() - totals[largest]), _GROUP)
            if totals[largest] > most:
                weights[place == largest] *= most / totals[largest]
    return weights
