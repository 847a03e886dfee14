"""How the learners are put together: the weights that each deserves, and what length alone says.

All are learned from what was said of rows that were not seen. Called by `index.fitting`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from index.calibration import weighted
from index.ridge import SMALL, Doubles, Floats, contrasts, levels

# As many references that say "all learners are equally good". Few, noisy labels are a poor judge of learners: without
# this, one of them is often left out, and on GSM8K's 560 labels .004 of APGR with it. 100 to 1,000 fare alike.
_EQUAL_ROWS: Final = 300.0
_SWEEPS: Final = 200


def stack(parts: Sequence[Floats], targets: Floats) -> tuple[Doubles, Doubles]:
    """Return non-negative weights of the learners: for the mean over models, and for the differences from it.

    Stacked regressions (Breiman 1996): least squares on predictions for rows that were not seen, drawn towards the
    learners' equal sum.

    Args:
        parts: of each learner its held-out predictions, shape (n, m).
        targets: shape (n, m), NaN where not known.
    """
    known = ~np.isnan(targets)
    y = np.where(known, targets, np.float32(0))
    found = []
    for part_of in (levels, contrasts):
        columns = [np.where(known, part_of(part, known), 0).ravel() for part in (*parts, y)]
        products = np.array([[np.dot(a, b) for b in columns] for a in columns], np.float64)
        found.append(_stacked(products[:-1, :-1], products[:-1, -1], _EQUAL_ROWS / len(targets)))
    return found[0], found[1]


def together(parts: Sequence[Floats], level: Doubles, contrast: Doubles) -> Floats:
    """Return the learners' predictions (n, m) under their weights as one."""
    both = [weighted(part, a, b) for part, a, b in zip(parts, level, contrast, strict=True)]
    return np.asarray(np.sum(both, axis=0), np.float32)


def _stacked(products: Doubles, towards: Doubles, shrink: float) -> Doubles:
    """Return non-negative least squares by coordinate descent, with learners of equal size drawn to equal weights.

    Args:
        products: of the learners' predictions with each other.
        towards: their products with the truth.
        shrink: how much equal weights count, 1 as much as the products.
    """
    size = np.sqrt(np.diagonal(products)) + SMALL
    alike, along = products / np.outer(size, size), towards / size
    equal = max(float(along.sum()), 0.0) / max(float(alike.sum()), SMALL)
    weights = np.full(len(size), equal)
    for _ in range(_SWEEPS):
        for i in range(len(weights)):
            others = alike[i] @ weights - alike[i, i] * weights[i]
            weights[i] = max((along[i] - others + shrink * equal) / (alike[i, i] + shrink), 0.0)
    return weights / size


def length_slopes(sizes: Floats, targets: Floats, expected: Floats) -> Floats:
    """Return what prompts longer by one standard deviation are worth for each model, shape (m,).

    Its direction is that of the regressions on length alone; differences between models are made as large as those of
    what is expected, and drawn to none by as much as the regressions are in doubt.

    Args:
        sizes: logarithms of lengths, shape (n,).
        targets: shape (n, m), NaN where not known.
        expected: by all learners, shape (s, m).
    """
    known = ~np.isnan(targets)
    z = ((sizes - sizes.mean()) / max(float(sizes.std()), SMALL))[:, None]
    seen = np.maximum(known.sum(axis=0), 1)
    alone = (np.where(known, targets, 0) * z).sum(axis=0)[None] / seen
    slope = contrasts(alone, alone != 0)[0]  # a model whose scores are all the same keeps its own
    rest = contrasts(np.where(known, targets - slope * z, np.float32(0)), known)
    noise, size = float(((rest**2).sum(axis=0) / seen**2).sum()), float((slope**2).sum())
    spread = float((contrasts(expected, np.ones_like(expected, np.bool_)) ** 2).sum(axis=1).mean())
    return np.asarray(slope * max(1 - noise / max(size, SMALL), 0) * np.sqrt(spread / max(size, SMALL)), np.float32)
