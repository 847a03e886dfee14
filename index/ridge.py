"""Ridge regressions that know what they would have said of a row without having seen it.

Leaving one out is exact and takes one decomposition for all penalties (Allen 1974, PRESS). Called by `index.fitting`
and `index.calibration`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

_PENALTIES: Final = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# As good as any for 300 to 2,900 prompts with right-or-wrong scores; costs, which are not noisy, take a smaller one.
_USUAL_PENALTY: Final = 300.0
_FILL_ROUNDS: Final = 20
_LEAST_ROWS: Final = 5  # a model tried less often has its mean
_RELATIVE_ZERO: Final = 1e-6
SMALL: Final = 1e-12


def ridge(x: Floats, targets: Floats, *, compare: bool) -> tuple[Floats, Floats]:
    """Return what a ridge says of every row without having seen it, (n, c), and its weights, (p, c).

    The penalty is the usual one, unless the error of another, after scaling by the factor that is best for each, is
    lower by more than a standard error (Breiman et al. 1984): noisy labels are a poor judge of penalties.

    Args:
        x: the rows, shape (n, p).
        targets: shape (n, c), NaN where not known.
        compare: choose the penalty by the differences between columns alone.
    """
    held_out, weights = ridge_path(x, targets, _PENALTIES)
    best = _best_penalty(held_out, targets, compare=compare)
    return held_out[best], weights[best]


def ridge_path(x: Floats, targets: Floats, penalties: Sequence[float]) -> tuple[Floats, Floats]:
    """Return, for every penalty, what a ridge says of rows it has not seen, (l, n, c), and its weights, (l, p, c)."""
    left, values = _decomposed(x)
    y = _filled(left, values, targets)
    held_out, weights = [], []
    seen = left.T @ y
    for penalty in np.asarray(penalties, np.float32):
        kept = values / (values + penalty)
        missed = (y - left @ (kept[:, None] * seen)) / (1 - (left * left) @ kept)[:, None]
        held_out.append(y - missed)
        weights.append(x.T @ (left @ (seen / (values + penalty)[:, None])))
    return np.stack(held_out), np.stack(weights)


def factor(part: Floats, truth: Floats) -> float:
    """Return the factor, 0 or more, by which a prediction comes closest to the truth."""
    return max(float((part * truth).sum()), 0.0) / max(float((part * part).sum()), SMALL)


def levels(values: Floats, known: Bools) -> Floats:
    """Return the mean over what is known of every row, shape (n, 1)."""
    total = np.where(known, values, 0).sum(axis=1, keepdims=True)
    return np.asarray(total / np.maximum(known.sum(axis=1, keepdims=True), 1), np.float32)


def contrasts(values: Floats, known: Bools) -> Floats:
    """Return how every model differs from the mean of those known in its row; 0 where not known."""
    return np.where(known, values - levels(values, known), np.float32(0))


def _decomposed(x: Floats) -> tuple[Floats, Floats]:
    """Return the left singular vectors of a matrix, and the squares of its singular values."""
    if len(x) <= x.shape[1]:
        values, left = np.linalg.eigh((x @ x.T).astype(np.float64))
        return left.astype(np.float32), np.maximum(values, 0).astype(np.float32)
    values, right = np.linalg.eigh((x.T @ x).astype(np.float64))
    kept = values > _RELATIVE_ZERO * values[-1]
    return x @ (right[:, kept] / np.sqrt(values[kept])).astype(np.float32), values[kept].astype(np.float32)


def _filled(left: Floats, values: Floats, targets: Floats) -> Floats:
    """Return the targets with what a ridge on them says where they are not known, found by iteration.

    A ridge for every model on its own rows was no better, and needs a decomposition for each.

    Args:
        left: left singular vectors of the rows.
        values: squares of their singular values.
        targets: shape (n, c), NaN where not known.
    """
    known = ~np.isnan(targets)
    known &= known.sum(axis=0) >= _LEAST_ROWS
    y = np.where(known, targets, np.float32(0))
    if known.all():
        return y
    kept = (values / (values + np.float32(_USUAL_PENALTY)))[:, None]
    for _ in range(_FILL_ROUNDS):
        y = np.where(known, targets, left @ (kept * (left.T @ y)))
    return y


def _best_penalty(held_out: Floats, targets: Floats, *, compare: bool) -> int:
    """Return which penalty's predictions (l, n, c) are best for the targets (n, c)."""
    known = ~np.isnan(targets)

    def judged(values: Floats) -> Floats:
        return contrasts(values, known) if compare else np.where(known, values, np.float32(0))

    truth = judged(np.where(known, targets, np.float32(0)))
    losses = []
    for predicted in held_out:
        part = judged(predicted)
        losses.append(((truth - np.float32(factor(part, truth)) * part) ** 2).sum(axis=1, dtype=np.float64))
    best = int(np.argmin([loss.sum() for loss in losses]))
    usual = _PENALTIES.index(_USUAL_PENALTY)
    worse = losses[usual] - losses[best]
    return usual if worse.mean() <= worse.std() / np.sqrt(len(worse)) else best
