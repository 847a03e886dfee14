"""Learning an estimator from labelled references, once, when an index is built.

All choices are made by what the learners say of references they have not seen. Levels (how hard a prompt is for all
models) and contrasts (how the models differ) are weighted apart: the contrasts decide, so they are what is fitted, the
gain and not each model's success. Uncertain labels, few references and holes shrink estimates towards the means.
Called by `index.build`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from index.calibration import learn_correction, reliability_table, weighted
from index.estimator import (
    NEIGHBOURS,
    REACH,
    Estimator,
    Ints,
    Neighbours,
    any_same,
    closeness,
    experience,
    familiarity_of,
    length_effect,
    neighbourhood,
    pull_of_same,
    with_length,
)
from index.features import LENGTH, SURFACE, surface
from index.rewording import steadying
from index.ridge import SMALL, Doubles, Floats, ridge
from index.stacking import length_slopes, stack, together

_RIDGE_SAMPLE: Final = 16_384
_STACK_SAMPLE: Final = 2_048
_SEARCH_CHUNK: Final = 64
_QUANTILES: Final = np.linspace(0, 1, 101)
_UNKNOWN_VARIANCE: Final = 0.25  # the most that a score of 0 to 1 can have
_SAME_PRIOR: Final = 1.0  # as much evidence (of points of quality, squared) that it is believed in full
_FOLDS: Final = 5
_LEAST_DEVIATION: Final = 1e-3


def fit(
    vectors: Floats,
    texts: Sequence[str],
    scores: Floats,
    costs: Floats,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Estimator:
    """Learn from labelled references.

    Prompts that occur more than once count once, with the mean of their labels. From many references a sample is
    drawn for the ridge (16,384) and for the stack (2,048); neighbours are searched among all of them.

    Args:
        vectors: unit vectors of the references, shape (n, d), n at least 1.
        texts: the references' prompts, canonical, n of them.
        scores: 0 to 1, shape (n, m), NaN where a model was not tried.
        costs: USD, shape (n, m), NaN where not known.
        seed: of the sampling; the same input and seed give the same estimator.
        progress: called with (done, to do) references whose neighbours are searched, nearly all of the time.

    Raises:
        ValueError: the shapes do not fit together, or a vector is not finite.
    """
    if not 0 < len(vectors) == len(texts) == len(scores) or scores.shape != costs.shape:
        raise ValueError(f"shapes differ: vectors {vectors.shape}, {len(texts)} texts, {scores.shape}, {costs.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite")
    vectors, texts, scores, costs = _merged(vectors, texts, scores, costs)
    mean = np.nan_to_num(_means(scores))
    sample = np.random.default_rng(seed).permutation(len(texts))[:_RIDGE_SAMPLE]
    shown = surface([texts[row] for row in sample])
    design = _Design.of(vectors[sample], shown, [texts[row] for row in sample])
    x = design.matrix(vectors[sample], shown)
    variance, gain_variance = _variances(scores[sample] - mean)
    expected, weights = ridge(x, scores[sample] - mean, compare=scores.shape[1] > 1)
    stacked = sample[:_STACK_SAMPLE]
    rows, similarities = _leave_one_out(vectors, stacked, progress)
    near = Neighbours.gather(rows, similarities, experience(scores, mean))
    local = neighbourhood(near, variance)
    parts = (expected[: len(stacked)], local)
    level, contrast = stack(parts, scores[stacked] - mean)
    close = closeness(similarities)
    familiar = _quantiles(close)
    within = shown[: len(stacked)].clip(*design.surface_range)
    by_length = length_effect(within, design.surface_range, familiarity_of(close, familiar))
    joined = together(parts, level, contrast)
    correction = learn_correction(joined, scores[stacked], mean)
    quality = correction.quality(joined, mean)
    length = length_slopes(shown[:, LENGTH], scores[sample] - mean, quality - quality.mean(axis=0))
    quality = with_length(quality, by_length * length, mean)
    cost_mean, cost_scale, cost_offset, cost_weights = _cost_head(x, costs, sample)
    head, offset = design.fold(np.concatenate((weighted(weights, level[0], contrast[0]), cost_weights), axis=1))
    offset[len(mean) :] += cost_offset
    return Estimator(
        mean=mean,
        variance=variance,
        gain_variance=gain_variance,
        cost_mean=cost_mean,
        cost_scale=cost_scale,
        offset=offset,
        head=head,
        surface_range=design.surface_range,
        stack=np.array((level[1], contrast[1]), np.float32),
        same=_trust_in_same(near, quality - mean, scores[stacked] - mean),
        length=length,
        familiar=familiar,
        reliability=_reliability(parts, by_length * length, scores[stacked], mean),
        correction=correction,
    )


def _merged(
    vectors: Floats, texts: Sequence[str], scores: Floats, costs: Floats
) -> tuple[Floats, Sequence[str], Floats, Floats]:
    """Return the references with equal texts as one, with the means of what is known of them."""
    place: dict[str, int] = {}
    group = np.array([place.setdefault(text, len(place)) for text in texts])
    if len(place) == len(texts):
        return vectors, texts, scores, costs
    _, first = np.unique(group, return_index=True)
    merged = []
    for labels in (scores, costs):
        known = ~np.isnan(labels)
        total, seen = np.zeros((2, len(place), labels.shape[1]), np.float32)
        np.add.at(total, group, np.where(known, labels, 0))
        np.add.at(seen, group, known)
        merged.append(np.where(seen > 0, total / np.maximum(seen, 1), np.float32(np.nan)))
    return vectors[first], list(place), merged[0], merged[1]


@dataclass(frozen=True, eq=False)
class _Design:
    """How vectors and surface features become the columns of a ridge: centred and scaled.

    The mean squared length of a row is 1 for the embedding and 1 for the surface, so that neither is believed more.
    What a mere wording moves counts less in the latter.
    """

    centre: Floats  # (d,)
    length: np.float32
    surface_mean: Floats  # (SURFACE,)
    surface_scale: Floats  # (SURFACE,)
    surface_range: Floats  # (2, SURFACE)
    steadying: Floats  # (SURFACE, SURFACE)

    @classmethod
    def of(cls, vectors: Floats, shown: Floats, texts: Sequence[str]) -> "_Design":
        """Return the design for references of shape (n, d) and (n, SURFACE)."""
        centre = vectors.mean(axis=0)
        length = np.sqrt(((vectors - centre) ** 2).sum(axis=1).mean())
        mean, deviation = shown.mean(axis=0), shown.std(axis=0) + np.float32(_LEAST_DEVIATION)
        within = np.stack((mean - REACH * deviation, mean + REACH * deviation)).astype(np.float32)
        return cls(
            centre=centre,
            length=np.float32(max(length, _LEAST_DEVIATION)),
            surface_mean=mean,
            surface_scale=deviation * np.float32(np.sqrt(SURFACE)),
            surface_range=within,
            steadying=steadying(texts, lambda some: (np.clip(surface(some), *within) - mean) / deviation),
        )

    def matrix(self, vectors: Floats, shown: Floats) -> Floats:
        """Return the rows, shape (n, d + SURFACE)."""
        inner = (np.clip(shown, *self.surface_range) - self.surface_mean) / self.surface_scale @ self.steadying
        return np.concatenate(((vectors - self.centre) / self.length, inner), axis=1)

    def fold(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return weights (features, outputs) for raw vectors and features, and the offset (outputs,) that remains."""
        d = len(self.centre)
        inner = self.steadying @ weights[d:] / self.surface_scale[:, None]
        folded = np.concatenate((weights[:d] / self.length, inner))
        return folded, -(np.concatenate((self.centre, self.surface_mean)) @ folded)


def _trust_in_same(near: Neighbours, expected: Floats, targets: Floats) -> Floats:
    """Return how much a reference that is nearly the prompt itself is believed, 0 to 1: by what it would have helped.

    Where prompts that look the same do not fare the same, as in pairs that differ by the one word that matters, not at
    all; without such pairs, in full.
    """
    if not any_same(near):
        return np.ones((), np.float32)
    pull = pull_of_same(near, expected)[0]
    missing = np.where(np.isnan(targets), 0, targets - expected)
    pull = np.where(np.isnan(targets), 0, pull)
    trust = (float((missing * pull).sum()) + _SAME_PRIOR) / (float((pull * pull).sum()) + _SAME_PRIOR)
    return np.asarray(np.clip(trust, 0, 1), np.float32)


def _reliability(parts: Sequence[Floats], by_length: Floats, scores: Floats, mean: Floats) -> Floats:
    """Return the reliability table of the model expected to be best, by cross-validation.

    The learners have not seen the rows; how they are stacked and corrected is learned without them, fold by fold.
    """
    quality = np.tile(mean, (len(scores), 1))
    fold = np.arange(len(scores)) % _FOLDS  # the rows are a random sample
    for one in range(min(_FOLDS, len(scores)) if len(scores) > 1 else 0):
        seen, held_out = fold != one, fold == one
        weights = stack([part[seen] for part in parts], scores[seen] - mean)
        joined = together(parts, *weights)
        quality[held_out] = learn_correction(joined[seen], scores[seen], mean).quality(joined[held_out], mean)
    quality = with_length(quality, by_length, mean)
    best = quality.argmax(axis=1)[:, None]
    taken = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (quality, scores))
    return reliability_table(*taken)


def _leave_one_out(vectors: Floats, queries: Ints, progress: Callable[[int, int], None]) -> tuple[Ints, Floats]:
    """Return rows and cosines of the nearest other references of some, shape (len(queries), k)."""
    k = min(NEIGHBOURS, len(vectors) - 1)
    rows, similarities = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), _SEARCH_CHUNK):
        chunk = queries[start : start + _SEARCH_CHUNK]
        cosines = vectors[chunk] @ vectors.T
        cosines[np.arange(len(chunk)), chunk] = -np.inf
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k] if k else np.empty((len(chunk), 0), np.int64)
        found = np.take_along_axis(cosines, near, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[start : start + len(chunk)] = np.take_along_axis(near, order, axis=1)
        similarities[start : start + len(chunk)] = np.take_along_axis(found, order, axis=1)
        progress(min(start + _SEARCH_CHUNK, len(queries)), len(queries))
    return rows, similarities


def _quantiles(near: Floats) -> Floats:
    """Return quantiles of what is usual, or none where there are too few to call anything unusual."""
    return np.quantile(near, _QUANTILES).astype(np.float32) if len(near) >= len(_QUANTILES) else near[:0]


def _cost_head(x: Floats, costs: Floats, sample: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Return mean costs (m,), and the scale (c,), offset (c,) and weights (p, c) of a ridge, with c = m or 0.

    It learns log(1 + cost / mean): ratios count, and 0 has its place. The scale undoes that, and makes the mean of
    what is predicted the mean of what was paid (Duan 1983, smearing).
    """
    mean = _means(costs)
    if np.isnan(mean).all():
        return mean, np.empty(0, np.float32), np.empty(0, np.float32), np.empty((x.shape[1], 0), np.float32)
    unit = np.where(mean > 0, mean, np.float32(1))
    logs: Floats = np.log1p(costs[sample] / unit)
    offset = np.nan_to_num(_means(logs))
    expected, weights = ridge(x, logs - offset, compare=False)
    predicted = np.where(np.isnan(logs), np.float32(np.nan), np.expm1(np.maximum(expected + offset, 0)))
    smear = np.nan_to_num(_means(costs[sample] / unit) / np.maximum(_means(predicted), SMALL))
    return mean, np.where(np.isnan(mean), mean, unit * smear).astype(np.float32), offset, weights


def _means(values: Floats | Doubles) -> Floats:
    """Return the mean of every column over what is known, NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
    seen = known.sum(axis=0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan).astype(np.float32)


def _variances(residuals: Floats) -> tuple[Floats, Floats]:
    """Return the variance of every column, (m,), and of the difference of every two, (m, m): both 1/4 if not known."""
    filled = np.nan_to_num(_means(residuals**2), nan=_UNKNOWN_VARIANCE)
    pairs = np.stack([_means((residuals - residuals[:, i : i + 1]) ** 2) for i in range(residuals.shape[1])])
    return filled, np.nan_to_num(pairs, nan=_UNKNOWN_VARIANCE)
