"""Whether a model has lately become another: what its head leaves over of the latest reports, by source and region.

Sums of errors, renewed with every report; called by `service.learning.online`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from service.learning.heads import LEAST, Floats, Head, Sample, bounded

# Reports are summed up by cells, each of one source and one region, in which one counts half after so many; what counts
# must be this many standard errors away from 0.
_CELL_HALF_LIFE, _CLEAR = 10.0, 2.0
_MAX_CELLS: Final = 256
# Regions are coarser here than for heads: few reports have to tell.
COARSE: Final = 8
# A drift this clear and this large, in cells that have so much of the weight, is a break.
_BREAK_CLEAR, _BREAK_SIZE, _BREAK_SHARE = 5.0, 0.15, 0.7


@dataclass(slots=True)
class Cell:
    """The errors of one source in one region, as running sums: of weights, their squares, errors, squared errors."""

    sums: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def add(self, error: float) -> None:
        """Add an error."""
        keep = 0.5 ** (1 / _CELL_HALF_LIFE)
        weight, squares, errors, errors2 = self.sums
        self.sums = (
            weight * keep + 1,
            squares * keep * keep + 1,
            errors * keep + error,
            errors2 * keep + error * error,
        )


Cells = dict[tuple[str, int], Cell]
"""By (source, region)."""


class Drift(NamedTuple):
    """By how much a model is off: where it was reported on lately, and everywhere else.

    `broken` are the cells that show it to be another model than before: older reports there no longer count.
    """

    everywhere: float
    by_region: dict[int, float]
    broken: frozenset[tuple[str, int]]


def drift_of(cells: Cells) -> Drift:
    """Return what is off, beyond what the head explains and chance allows.

    Where all regions agree, the model has become another, and all of them have the same drift. Where they do not, a
    region that was reported on lately has its own, and what was not has the mean.
    """
    keys, sums = list(cells), np.array([cell.sums for cell in cells.values()])
    sources, regions = [source for source, _ in keys], np.array([region for _, region in keys])
    factors = bounded(bounded(sums[:, 0], sources), regions.astype(str).tolist()) / sums[:, 0]
    weights = factors * sums[:, 0]
    mean, error = _mean_and_error(sums, factors)
    everywhere = _clear(mean, error)
    agree = sums[:, 2] / sums[:, 0] * np.sign(mean) > abs(mean) / 2
    if everywhere and weights[agree].sum() >= _BREAK_SHARE * weights.sum():
        large = abs(mean) > max(_BREAK_CLEAR * error, _BREAK_SIZE)
        there = (key for key, one in zip(keys, agree.tolist(), strict=True) if one)
        return Drift(everywhere, {}, frozenset(there) if large else frozenset())
    by_region = {}
    for region in np.unique(regions).tolist():
        here = regions == region
        if weights[here].sum() >= LEAST / 2:
            by_region[region] = _clear(*_mean_and_error(sums[here], factors[here]))
    return Drift(everywhere, by_region, frozenset())


def add(cells: Cells, sample: Sample, head: Head | None) -> None:
    """Add what a head does not explain of a sample to its cell."""
    explained = 0.0
    if head is not None:
        explained = head.at(float(head.slopes @ sample.vector), sample.expected, sample.others)
    _add_error(cells, sample, sample.quality - sample.expected - explained)


def _add_error(cells: Cells, sample: Sample, error: float) -> None:
    key = (sample.source, sample.region % COARSE)
    cell = cells.pop(key, None) or Cell()
    cell.add(error)
    cells[key] = cell  # the one used last is last
    if len(cells) > _MAX_CELLS:
        del cells[next(iter(cells))]


def cells_of(samples: Iterable[Sample], name: str, head: Head | None) -> Cells:
    """Return the cells of a model's samples."""
    its = [sample for sample in samples if sample.model == name]
    cells: Cells = {}
    if its:
        errors = np.array([s.quality - s.expected for s in its])
        if head is not None:
            errors -= head.each(its)
        for sample, error in zip(its, errors.tolist(), strict=True):
            _add_error(cells, sample, error)
    return cells


def _mean_and_error(sums: Floats, factors: Floats) -> tuple[float, float]:
    """Return the mean error over cells and its standard error.

    Args:
        sums: those of the cells, shape (cells, 4).
        factors: by which each cell counts, shape (cells,).
    """
    weight, _, error, error2 = (factors @ sums).tolist()
    squares = float(factors**2 @ sums[:, 1])
    mean = error / weight
    # As if two more reports had been off by a half: eight that happen to agree prove little.
    spread = (max(error2 - weight * mean**2, 0.0) + 0.5) / (weight + 2)
    return mean, math.sqrt(spread * squares) / weight


def _clear(mean: float, error: float) -> float:
    """Return the part of a mean that chance does not explain."""
    return math.copysign(max(abs(mean) - _CLEAR * error, 0.0), mean)
