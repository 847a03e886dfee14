"""From what the learners expect to a quality that is right on average, and how right it is.

A linear estimate is bent where the references say so, then shifted until, among prompts of which it expects about .7,
about 70 % succeed. `Correction` is part of an estimator; `learn_correction` and `reliability_table` are for
`index.fitting`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from index.ridge import SMALL, Doubles, Floats, contrasts, factor, levels, ridge_path

_BEND_PENALTY: Final = 30.0
_BEND_REACH: Final = np.float32(3.0)  # standard deviations
_LEAST_DIRECTION: Final = 1e-4  # of quality: less is no direction
_LEAST_SCALE: Final = np.float32(1e-3)
TERMS: Final = 6
KNOTS: Final = 10
# With 200 and 60 the 690 starter prompts were off by .057 in place of .031; MMLU and GSM8K fared alike.
_KNOT_ROWS: Final = 60
_CALIBRATION_ROWS: Final = 30.0  # as many rows of a bin that say "right already"
_BINS: Final = 10


@dataclass(frozen=True, eq=False)
class Correction:
    """What is made of expected residuals, for m models.

    `basis` (m, 2) finds the two main directions of the residuals; `bend` (TERMS, m) is a quadratic correction in
    them; `shifts` (m, KNOTS) calibrate what comes out near each of the `knots` (m, KNOTS), qualities that rise.
    """

    basis: Floats
    bend: Floats
    knots: Floats
    shifts: Floats

    def quality(self, residuals: Floats, mean: Floats) -> Floats:
        """Return the quality, 0 to 1, for residuals (n, m) from the models' means (m,)."""
        quality = mean + residuals + _quadratic(residuals @ self.basis) @ self.bend
        return np.asarray(np.minimum(np.maximum(quality + self._shift(quality), 0), 1))

    def _shift(self, quality: Floats) -> Floats:
        """Return the shift of every quality (n, m), straight between the knots and level beyond them."""
        left, widths, steps = self._steps
        passed = np.minimum(np.maximum((quality[:, :, None] - left) / widths, 0), 1)
        return np.asarray(self.shifts[:, 0] + (passed * steps).sum(axis=2))

    @cached_property
    def _steps(self) -> tuple[Floats, Floats, Floats]:
        """Between every two knots: where it begins, how far it is, and by how much the shift changes."""
        widths = np.maximum(self.knots[:, 1:] - self.knots[:, :-1], np.float32(SMALL))
        return self.knots[:, :-1], widths, self.shifts[:, 1:] - self.shifts[:, :-1]


def learn_correction(residuals: Floats, scores: Floats, mean: Floats) -> Correction:
    """Learn from what was expected of rows that were not seen.

    Args:
        residuals: expected, shape (n, m).
        scores: shape (n, m), NaN where not known.
        mean: of every model's scores, shape (m,).
    """
    basis, bend, bent = _bend(residuals, scores - mean - residuals)
    knots, shifts = _calibration(mean + residuals + bent, scores, mean)
    return Correction(basis, bend, knots, shifts)


def reliability_table(expected: Floats, scores: Floats) -> Floats:
    """Return a row (expected, actual, rows) for each of ten bins of expected quality, empty ones left out.

    Args:
        expected: quality of the model that is expected to be best, shape (n,).
        scores: what it was, NaN where not known, shape (n,).
    """
    known = ~np.isnan(scores)
    at = np.clip((expected[known] * _BINS).astype(np.int64), 0, _BINS - 1)
    sums = [np.bincount(at, values, _BINS) for values in (expected[known], scores[known], np.ones(len(at)))]
    rows = np.maximum(sums[2], 1)
    return np.stack((sums[0] / rows, sums[1] / rows, sums[2]), axis=1)[sums[2] > 0].astype(np.float32)


def calibration_error(table: Floats) -> float:
    """Return the expected calibration error of a reliability table (Guo et al. 2017, arXiv 1706.04599)."""
    expected, actual, rows = table.astype(np.float64).T
    return float((rows * np.abs(expected - actual)).sum() / max(rows.sum(), 1.0))


def _bend(residuals: Floats, missing: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the directions (m, 2), the quadratic correction in them (TERMS, m), and what it adds to rows not seen.

    How much a stronger model gains is no straight line in how hard a prompt is: nothing where all succeed, nothing
    where all fail. The correction counts as much as it helps on rows it has not seen.

    Args:
        residuals: expected of rows not seen, shape (n, m).
        missing: what is missing from these to the truth, shape (n, m), NaN where not known.
    """
    basis = np.zeros((residuals.shape[1], 2), np.float32)
    _, values, directions = np.linalg.svd(residuals.astype(np.float64), full_matrices=False)
    for i in range(min(2, len(values))):
        if values[i] > _LEAST_DIRECTION * np.sqrt(len(residuals)):
            sign = 1.0 if directions[i].sum() >= 0 else -1.0
            basis[:, i] = sign * directions[i] / values[i] * np.sqrt(len(residuals))
    terms = _quadratic(residuals @ basis)[:, 1:]
    centre, scale = terms.mean(axis=0), np.maximum(terms.std(axis=0), _LEAST_SCALE)
    held_out, weights = ridge_path((terms - centre) / scale, missing, (_BEND_PENALTY,))
    known = ~np.isnan(missing)
    truth = np.where(known, missing, np.float32(0))
    helps = [factor(part_of(held_out[0], known) * known, part_of(truth, known)) for part_of in (levels, contrasts)]
    level, contrast = np.minimum(helps, 1).tolist()
    inner = weighted(weights[0], level, contrast) / scale[:, None]
    return basis, np.concatenate((-(centre @ inner)[None], inner)), weighted(held_out[0], level, contrast)


def weighted(values: Floats, level: float, contrast: float) -> Floats:
    """Return values (n, m) with their mean over models and the differences from it weighted apart."""
    shared = values.mean(axis=1, keepdims=True)
    return np.asarray(level * shared + contrast * (values - shared), np.float32)


def _quadratic(u: Floats) -> Floats:
    """Return 1, both columns, their squares and their product for (n, 2), each limited to a normal range: (n, 6)."""
    u = np.minimum(np.maximum(u, -_BEND_REACH), _BEND_REACH)
    return np.concatenate((np.ones_like(u[:, :1]), u, u * u, u[:, :1] * u[:, 1:]), axis=1)


def _calibration(expected: Floats, scores: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Return knots and what to add to a quality there, both (m, KNOTS), so that models are right on average.

    Isotonic regression (Zadrozny & Elkan 2002) on bins of equal size, shrunk to no change, straight between them: a
    step function would make ties.
    """
    models = scores.shape[1]
    knots, shifts = np.zeros((2, models, KNOTS), np.float32)
    for model in range(models):
        known = np.flatnonzero(~np.isnan(scores[:, model]))
        if len(known) < _KNOT_ROWS or mean[model] == 0:
            shifts[model] = 0 if mean[model] else -2  # a model that was never tried, or never right, comes out at 0
            continue
        order = known[np.argsort(expected[known, model], kind="stable")]
        bins = np.array_split(order, min(KNOTS, len(order) // _KNOT_ROWS))
        centres = np.array([expected[rows, model].mean() for rows in bins])
        sizes = np.array([len(rows) for rows in bins], np.float64)
        errors = np.array([(scores[rows, model] - expected[rows, model]).sum() for rows in bins])
        rising = _isotonic(centres + errors / (sizes + _CALIBRATION_ROWS), sizes)
        spare = KNOTS - len(bins)
        knots[model] = np.pad(centres, (0, spare), "edge")
        shifts[model] = np.pad(rising - centres, (0, spare), "edge")
    return knots, shifts


def _isotonic(values: Doubles, sizes: Doubles) -> Doubles:
    """Return the nearest values that never fall: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, size in zip(values.tolist(), sizes.tolist(), strict=True):
        mean, weight, count = value, size, 1
        while blocks and blocks[-1][0] > mean:
            left, left_weight, left_count = blocks.pop()
            mean = (left * left_weight + mean * weight) / (left_weight + weight)
            weight, count = weight + left_weight, count + left_count
        blocks.append((mean, weight, count))
    return np.repeat([mean for mean, _, _ in blocks], [count for _, _, count in blocks])
