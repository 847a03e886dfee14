"""The figures themselves: pure functions of arrays, each as its source defines it.

Every figure takes weights of the rows, so that the bootstrap draws weights and not copies. Nothing here knows of
prompts, generations or files. Called by `service.evaluation.figures`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean over the first axis, NaN where nothing has a weight: a resample may draw none of few."""
    return np.asarray(weights @ values / (weights.sum() or np.nan))


def share_curve(estimated: Floats, gains: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the share of calls to the strong model, and the performance gap recovered at it.

    PGR = (r - r_weak) / (r_strong - r_weak), RouteLLM (arXiv 2406.18665), section 3. Rows are given to the strong
    model in the order of their estimated gain; rows of equal estimates in random order, which here is exact: the
    curve is straight over them.

    Args:
        estimated: the gain of the strong over the weak model that a router expects, shape (rows,).
        gains: the true gain, shape (rows,).
        weights: of the rows.

    Returns:
        Two arrays of the same length, both from 0 to 1; the second is NaN where the strong model gains nothing.
    """
    order = np.argsort(-estimated, kind="stable")
    ranked = estimated[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    sizes = np.add.reduceat(weights[order], starts)
    gained = np.add.reduceat((weights * gains)[order], starts)
    total = gained.sum()
    shares = np.concatenate(([0.0], np.cumsum(sizes) / sizes.sum()))
    recovered = np.cumsum(gained) / total if total > 0 else np.full(len(gained), np.nan)
    return shares, np.concatenate(([0.0 if total > 0 else np.nan], recovered))


def apgr(shares: Floats, recovered: Floats) -> float:
    """Return the average performance gap recovered: the area under the curve (RouteLLM, arXiv 2406.18665)."""
    return float(np.trapezoid(recovered, shares))


def cpt(shares: Floats, recovered: Floats, wanted: float) -> float:
    """Return the smallest share of strong calls at which so much of the gap is recovered (RouteLLM's CPT).

    Args:
        shares: from `share_curve`.
        recovered: from `share_curve`.
        wanted: 0 to 1, for example 0.5 for CPT(50).
    """
    if np.isnan(recovered).any():
        return float("nan")
    first = int(np.argmax(recovered >= wanted - 1e-12))
    if first == 0:
        return 0.0
    below, above = recovered[first - 1], recovered[first]
    part = (wanted - below) / (above - below)
    return float(shares[first - 1] + part * (shares[first] - shares[first - 1]))


def hull(costs: Floats, qualities: Floats) -> tuple[Floats, Floats]:
    """Return the non-decreasing convex hull of points: what mixing them at random can reach (RouterBench, 2403.12031).

    Args:
        costs: of the points, in any order.
        qualities: of the points.

    Returns:
        Costs and qualities of the hull's corners, both rising; to the right of the last it stays level.
    """
    corners: list[tuple[float, float]] = []
    order = np.lexsort((-qualities, costs))
    for cost, quality in zip(costs[order].tolist(), qualities[order].tolist(), strict=True):
        if corners and quality <= corners[-1][1]:
            continue
        if corners and cost == corners[-1][0]:  # only by rounding: the order puts the better first
            continue
        while len(corners) > 1 and _below(corners[-2], corners[-1], (cost, quality)):
            corners.pop()
        corners.append((cost, quality))
    return np.array([c for c, _ in corners]), np.array([q for _, q in corners])


def _below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Return whether the middle corner lies on or below the line between its neighbours."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def hull_at(costs: Floats, qualities: Floats, cost: float) -> float:
    """Return the hull's quality at a cost; left of its first corner that corner's."""
    return float(np.interp(cost, *hull(costs, qualities)))


def aiq(costs: Floats, qualities: Floats, low: float, high: float) -> float:
    """Return the average improvement in quality: the mean of the hull over a range of cost.

    RouterBench (arXiv 2403.12031), section 3. NaN where the range is empty.

    Args:
        costs: of the points a router reaches.
        qualities: of these points.
        low: the cheapest model's cost.
        high: the dearest model's cost.
    """
    if not high > low:
        return float("nan")
    x, y = hull(costs, qualities)
    inner = x[(x > low) & (x < high)]
    knots = np.concatenate(([low], inner, [high]))
    return float(np.trapezoid(np.interp(knots, x, y), knots) / (high - low))


def calibration_error(expected: Floats, actual: Floats, weights: Floats, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017, arXiv 1706.04599).

    Args:
        expected: 0 to 1, shape (rows,).
        actual: 0 to 1, shape (rows,).
        weights: of the rows.
        bins: how many.
    """
    at = np.clip((expected * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(at, weights * (expected - actual), minlength=bins)
    return float(np.abs(gaps).sum() / (weights.sum() or np.nan))


def utility_choices(qualities: Floats, costs: Floats, prices: Floats) -> Ints:
    """Return the column chosen in every row at every willingness to pay: the best quality - cost / price.

    Args:
        qualities: shape (rows, models).
        costs: USD, shape (rows, models).
        prices: USD per point of quality, above 0, shape (points,); inf puts quality first, then cost.

    Returns:
        Columns, shape (rows, points).
    """
    chosen = np.empty((len(qualities), len(prices)), np.int64)
    # The cheaper of equals comes first: quality is compared as the service compares it.
    for i, price in enumerate(prices.tolist()):
        if np.isinf(price):
            rounded = np.round(qualities, 6)
            best = rounded == rounded.max(axis=1, keepdims=True)
            chosen[:, i] = np.where(best, costs, np.inf).argmin(axis=1)
        else:
            chosen[:, i] = (qualities - costs / price).argmax(axis=1)
    return chosen


def bootstrap(
    figures: Callable[[Floats], dict[str, float]], rows: int, seed: int, times: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of every figure: percentiles over resampled rows (Efron 1979).

    Args:
        figures: weights of shape (rows,) → figures by name.
        rows: how many there are.
        seed: of the resampling.
        times: how many resamples.
    """
    random = np.random.default_rng(seed)
    drawn = [
        figures(np.bincount(random.integers(0, rows, rows), minlength=rows).astype(np.float64)) for _ in range(times)
    ]
    intervals = {}
    for name in drawn[0] if drawn else ():
        values = np.array([one[name] for one in drawn])
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.percentile(values, (_LOW, _HIGH))
            intervals[name] = (float(low), float(high))
    return intervals
