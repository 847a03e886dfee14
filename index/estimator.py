"""The estimator: quality and cost of every model for one prompt, as `index.fitting` learned it from the references.

Two learners see the residuals from every model's mean: a ridge over the embedding and surface features, and a large
neighbourhood with uniform weights (sharp ones are measurably worse). They are stacked, then corrected and calibrated.
A reference that says nearly the same as the prompt speaks for it directly. What it says of itself: standard errors from
the neighbours' paired differences, wider where the prompt is unlike the references, and how like these it is.

Made at build time and kept in the generation. It searches nothing, embeds nothing and decides nothing.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from index.calibration import KNOTS, TERMS, Correction, calibration_error
from index.errors import GenerationError
from index.features import LENGTH, SURFACE, surface
from index.ridge import SMALL, Floats

Ints = NDArray[np.int64]

FORMAT: Final = 3
NEIGHBOURS: Final = 100
"""How many neighbours it was fitted for: 50 and 200 were no better where it was measured."""
_PRIOR_ROWS: Final = np.float32(5)  # as many neighbours that say "as on average"
_FAMILIAR_NEIGHBOURS: Final = 10
# Quantile of the references' likeness to each other below which a prompt's gains are the more in doubt, the less it is
# like them. 5 and 10 % fare alike among the starter prompts.
_LIKE_ENOUGH: Final = 5
_ONE_SIDED_95: Final = np.float32(1.645)
_NOTHING: Final = np.float32(1e-6)  # what rounding leaves of no quality at all
# From here on a neighbour counts as the same prompt, at 1 as much as all else together. Between prompts of MMLU this
# near, what the rest of the estimate leaves open correlates at .57, below at .28 and less.
_SAME: Final = np.float32(0.98)
REACH: Final = 4.0
"""Standard deviations that one surface feature may speak for."""
# Of length, where nothing is familiar, beside 1 for all else. With more, Winogrande fares worse when only ARC is known;
# with less, MMLU with ten subjects absent fares no better than by length alone in one of ten draws.
_BY_LENGTH: Final = np.float32(0.45)
_LEAST: Final = np.float32(0.01)  # of its mean: where many models come out at 0, who is better on average stays ahead
_REMEDY: Final = "build it anew with `waypost build-index`"


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest references of prompts, nearest first.

    `similarities` (b, k) are cosines, -inf where there is no such neighbour. Of every model `known` (b, k, m) is 1
    where it was tried, else 0, and `residuals` (b, k, m) are what it scored above its mean, 0 where not known.
    """

    similarities: Floats
    known: Floats
    residuals: Floats

    @classmethod
    def gather(cls, rows: Ints, similarities: Floats, experience: Floats) -> Self:
        """Return the neighbours that a search found.

        Args:
            rows: shape (b, k), -1 where there is none.
            similarities: shape (b, k).
            experience: of all references, as the function of this name returns it.
        """
        found, m = experience[rows], experience.shape[1] // 2
        return cls(similarities, found[:, :, :m], found[:, :, m:])


def experience(scores: Floats, mean: Floats) -> Floats:
    """Return what is `known` of references and their `residuals` side by side, with a row of nothing behind the last.

    Args:
        scores: of all references, shape (n, m), NaN where a model was not tried.
        mean: of every model's scores, shape (m,).
    """
    found = np.zeros((len(scores) + 1, 2 * len(mean)), np.float32)
    tried = ~np.isnan(scores)
    found[:-1, : len(mean)] = tried
    found[:-1, len(mean) :] = np.where(tried, scores - mean, 0)
    return found


class Expected(NamedTuple):
    """A prediction for one prompt in plain numbers, a list with one for every model but for `familiarity`.

    As in `Prediction`; `quality_low` is what the quality is above with a probability of 95 %.
    """

    quality: list[float]
    quality_low: list[float]
    gain_error: list[float]
    cost: list[float]
    familiarity: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is expected of every model for some prompts.

    `quality` (b, m) is 0 to 1, `error` (b, m) its standard error. `gain_error` (b, m) is the standard error of the
    gain over one model, from the neighbours' own differences: what makes a prompt hard for all models does not blur
    it; a prompt that is hardly like the references may be as far from the mean as any. `cost` (b, m) is in USD, NaN
    for a model whose costs no reference knows. `familiarity` (b,) is the share of references that are less like the
    others than the prompt is like them.
    """

    quality: Floats
    error: Floats
    gain_error: Floats
    cost: Floats
    familiarity: Floats

    def each(self) -> Iterator[Expected]:
        """Yield what is expected for each of the prompts."""
        low = np.maximum(self.quality - _ONE_SIDED_95 * self.error, 0)
        columns = self.quality, low, self.gain_error, self.cost, self.familiarity
        return map(Expected._make, zip(*(column.tolist() for column in columns), strict=True))


@dataclass(frozen=True, eq=False)
class Estimator:
    """What was learned: float32 arrays, for d dimensions and m models.

    An output is a model's quality or, after all of these, its cost; where no reference knows a cost there are only m.
    `head` holds a weight for every feature (embedding, surface) and output, with the stack's weights already in it.
    `stack` is what remains of the stack: the weights of the neighbourhood's mean over the models, and of the
    differences of the models from it. `same` says how much a reference that is nearly the prompt itself is believed.
    `length` is what prompts longer by one standard deviation are worth for each model, as strong as all else together.
    `reliability` has a row (expected, actual, rows) for each bin of qualities.
    """

    mean: Floats  # (m,) of quality
    variance: Floats  # (m,) of quality
    gain_variance: Floats  # (m, m) of the difference between two models' quality
    cost_mean: Floats  # (m,) USD, NaN where not known
    cost_scale: Floats  # (outputs - m,) USD
    offset: Floats  # (outputs,)
    head: Floats  # (d + SURFACE, outputs)
    surface_range: Floats  # (2, SURFACE)
    stack: Floats  # (2,)
    same: Floats  # () from 0 to 1
    length: Floats  # (m,)
    familiar: Floats  # (quantiles,) similarity of references to their nearest, rising; none where there are too few
    reliability: Floats  # (bins, 3)
    correction: Correction

    @cached_property
    def _spread(self) -> Floats:
        """How far the difference between two models is from its mean, over all references, (m, m)."""
        return np.sqrt(self.gain_variance)

    @cached_property
    def _least(self) -> Floats:
        """The least quality (m,): more than 0 for models that some reference speaks for."""
        return np.where(self.mean > 0, _NOTHING, np.float32(0))

    @property
    def calibration_error(self) -> float:
        """How far expected qualities are off on average, on references that were not seen."""
        return calibration_error(self.reliability)

    def predict(self, vectors: Floats, texts: Sequence[str], near: Neighbours, base: int = 0) -> Prediction:
        """Return what is expected of every model for each prompt.

        Args:
            vectors: unit vectors of the prompts, shape (b, d).
            texts: the prompts, b of them, canonical as the references' were; "" for one that is not known.
            near: of each prompt among the references; `NEIGHBOURS` of them, or all there are.
            base: column of the model that gains are compared with, such as the fallback.
        """
        m = len(self.mean)
        shown = np.minimum(np.maximum(surface(texts), self.surface_range[0]), self.surface_range[1])
        if not all(texts):
            shown[[not text for text in texts]] = self.surface_range.mean(axis=0)
        raw = np.concatenate((vectors, shown), axis=1) @ self.head + self.offset
        # Residuals and their differences to the base are looked at together: small arrays cost by the call.
        means, errors = _mean_and_error(
            np.concatenate((near.residuals, near.residuals - near.residuals[:, :, base, None]), axis=2),
            np.concatenate((near.known, near.known * near.known[:, :, base, None]), axis=2),
            np.concatenate((self.variance, self.gain_variance[base])),
        )
        local, error, gain_error = means[:, :m], errors[:, :m], errors[:, m:]
        close = closeness(near.similarities)
        familiarity = familiarity_of(close, self.familiar)
        gain_error = np.hypot(gain_error, strangeness(close, self.familiar)[:, None] * self._spread[base])
        expected = self.correction.quality(raw[:, :m] + stacked_neighbours(local, self.stack), self.mean)
        quality = with_length(expected, length_effect(shown, self.surface_range, familiarity) * self.length, self.mean)
        if any_same(near):
            pull, doubt = pull_of_same(near, quality - self.mean)
            quality = quality + self.same * pull
            error, gain_error = (one * (1 - self.same + self.same * doubt) for one in (error, gain_error))
        # A plan goes on only to models that some reference speaks for, and rounding leaves others anywhere near 0.
        quality = np.where(quality > _NOTHING, quality, self._least)
        cost = np.full_like(quality, np.nan)
        if len(self.cost_scale):
            cost = np.expm1(np.maximum(raw[:, m:], 0)) * self.cost_scale
        return Prediction(quality, error, gain_error, cost, familiarity)

    def save(self, path: Path) -> None:
        """Write it to one .npz file; equal estimators give equal bytes."""
        arrays = {"format": np.int64(FORMAT), **{name: getattr(self, name) for name in _OWN}}
        arrays |= {name: getattr(self.correction, name) for name in _CORRECTION}
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
                # With a fixed date, where numpy.savez would write the time.
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, or raise GenerationError where it is missing, damaged or of another version."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if (found := int(stored["format"])) != FORMAT:
                    raise GenerationError(
                        f"{path}: format {found} is not the one this version reads ({FORMAT}); {_REMEDY}"
                    )
                correction = Correction(**{name: stored[name] for name in _CORRECTION})
                estimator = cls(**{name: stored[name] for name in _OWN}, correction=correction)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise GenerationError(f"{path}: cannot be read as an estimator ({error!r}); {_REMEDY}") from error
        if not estimator._fits_together():
            raise GenerationError(f"{path}: its parts do not fit together; {_REMEDY}")
        return estimator

    def fits(self, dimensions: int, models: int) -> bool:
        """Return whether it is for vectors of these dimensions and so many models."""
        return len(self.head) == dimensions + SURFACE and len(self.mean) == models

    def _fits_together(self) -> bool:
        m, outputs, correction = len(self.mean), len(self.mean) + len(self.cost_scale), self.correction
        shapes = (
            (self.variance, (m,)),
            (self.gain_variance, (m, m)),
            (self.cost_mean, (m,)),
            (self.offset, (outputs,)),
            (self.head, (len(self.head), outputs)),
            (self.surface_range, (2, SURFACE)),
            (self.stack, (2,)),
            (self.same, ()),
            (self.length, (m,)),
            (self.reliability, (len(self.reliability), 3)),
            (correction.basis, (m, 2)),
            (correction.bend, (TERMS, m)),
            (correction.knots, (m, KNOTS)),
            (correction.shifts, (m, KNOTS)),
        )
        return all(array.shape == shape for array, shape in shapes) and len(self.cost_scale) in (0, m)


_CORRECTION: Final = tuple(f.name for f in fields(Correction))
_OWN: Final = tuple(f.name for f in fields(Estimator) if f.name != "correction")


def neighbourhood(near: Neighbours, variance: Floats) -> Floats:
    """Return the neighbourhood's mean residual for every model, shrunk towards none, shape (b, m)."""
    return _mean_and_error(near.residuals, near.known, variance)[0]


def stacked_neighbours(local: Floats, stack: Floats) -> Floats:
    """Return what neighbourhoods' means (b, m) add to the expected residuals."""
    level = local.sum(axis=1, keepdims=True) / np.float32(local.shape[1])
    return np.asarray(stack[0] * level + stack[1] * (local - level))


def any_same(near: Neighbours) -> bool:
    """Return whether a neighbour of any prompt counts as the same prompt."""
    return bool((near.similarities[:, :1] > _SAME).any())


def pull_of_same(near: Neighbours, expected: Floats) -> tuple[Floats, Floats]:
    """Return what references to the same prompt add to expected residuals (b, m), and how much of the error they leave.

    Both have the shape (b, m).
    """
    same = near.known * np.maximum((near.similarities - _SAME) / (1 - _SAME), 0)[:, :, None]
    count = same.sum(axis=1)
    return ((same * near.residuals).sum(axis=1) - count * expected) / (1 + count), 1 / (1 + count)


def closeness(similarities: Floats) -> Floats:
    """Return the mean cosine to the nearest few, shape (b,); -1 where there are none."""
    near = np.maximum(similarities[:, :_FAMILIAR_NEIGHBOURS], -1)
    return near.sum(axis=1) / np.float32(near.shape[1]) if near.shape[1] else np.full(len(near), -1, np.float32)


def familiarity_of(close: Floats, familiar: Floats) -> Floats:
    """Return the share of references whose neighbours are further away, shape (b,); 1 where too few are known."""
    if not len(familiar):
        return np.ones(len(close), np.float32)
    return (np.searchsorted(familiar, close) / len(familiar)).astype(np.float32)


def strangeness(close: Floats, familiar: Floats) -> Floats:
    """Return how little is known of prompts by their `closeness` (b,).

    It rises from 0, for one like enough to the references, to 1 for one less like them than each is like the others: a
    ramp, so that another wording does not tip a prompt over an edge.
    """
    if not len(familiar):
        return np.zeros(len(close), np.float32)
    return np.interp(close, familiar[[0, _LIKE_ENOUGH]], (1, 0)).astype(np.float32)


def length_effect(shown: Floats, surface_range: Floats, familiarity: Floats) -> Floats:
    """Return how much the effect of length counts for each prompt, shape (b, 1): as much as it is unfamiliar.

    What was learned of words and topics does not hold for others, while longer prompts of any topic tend to need the
    same models.

    Args:
        shown: surface features, within their range, shape (b, SURFACE).
        surface_range: shape (2, SURFACE).
        familiarity: shape (b,).
    """
    low, high = surface_range[:, LENGTH].tolist()
    deviations = (shown[:, LENGTH] - np.float32((low + high) / 2)) * np.float32(2 * REACH / max(high - low, SMALL))
    return np.asarray((_BY_LENGTH * (1 - familiarity) * deviations)[:, None])


def with_length(quality: Floats, effect: Floats, mean: Floats) -> Floats:
    """Return qualities with the effect of length, both (b, m), up to 1; what was ever right is never quite hopeless."""
    return np.asarray(np.minimum(np.maximum(quality + effect, _LEAST * mean), 1))


def _mean_and_error(values: Floats, known: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Return the mean of neighbours' values (b, k, m), shrunk towards 0, and its standard error, (b, m) each.

    Args:
        values: 0 where nothing is known.
        known: how much each counts, 0 to 1.
        variance: over all references, shape (m,).
    """
    counted = values * known
    rows = known.sum(axis=1) + _PRIOR_ROWS
    mean = counted.sum(axis=1) / rows
    squares = ((counted * values).sum(axis=1) + _PRIOR_ROWS * variance) / rows
    return mean, np.sqrt(np.maximum(squares - mean * mean, 0) / rows)
