"""What reports teach at once: how much better or worse than estimated a model is around a prompt, here and now.

Reports of quality are kept as samples (vector, what was estimated, what came). Two things are learned from the
difference, for each scope alone: a head, refitted in the background over all samples, that says how it depends on the
prompt; and a drift, renewed with every report, that says whether a model has lately become another. Reports of cost and
latency correct the level of those estimates. No report moves another scope, and what any one source or any one region
of prompts can move is bounded.

Everything is read and changed on the event loop but for `_fit`, which works on copies.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from service.learning.journal import Rating
from service.requests import Decision, Estimate, Outcome
from service.settings import LearningSettings

Floats = NDArray[np.float64]
_MAX_SCOPES: Final = 1_000
# Samples of all scopes together, at 1.6 kB each; beyond it, of the scope that was silent for longest.
_MAX_SAMPLES: Final = 50_000
# Drift: reports are summed up by cells, each of one source and one region, in which one counts half after so many; what
# counts must be this many standard errors away from 0, and as many reports as these are needed.
_CELL_HALF_LIFE, _CLEAR, _LEAST = 10.0, 2.0, 8
_MAX_CELLS: Final = 256
# A drift is looked at with every report at first, and then with every fourth.
_EACH, _SELDOM = 50, 4
# A drift this clear and this large, in cells that have so much of the weight, is a break: what was learned of the model
# before its latest reports no longer counts.
_BREAK_CLEAR, _BREAK_SIZE, _BREAK_SHARE, _BREAK_KEEPS = 5.0, 0.15, 0.7, 40
# With two models whose shift is known this well, or a fallback that fell by so much, reports are reason enough.
_SURE, _FELL = 0.06, 0.1
# Ridge: chosen by benchmarks/learning.py. The level of a model is learned from few samples, its slopes from many.
_SLOPES, _LEVEL = 30.0, 5.0
# Estimates vary by a tenth: times this, they are penalised as little as they should be.
_SCALE: Final = 5.0
# Regions of prompts: cells of random hyperplanes. One cell counts as this many reports at the most.
_PLANES, _COARSE, _REGION = 8, 8, 200.0
# A source, or for a drift a region, may weigh as much as all the others together, but this much in any case.
_GROUP: Final = 20.0
# Levels of cost and latency: reports until a level is half believed, after how many one counts half, and its bounds.
_LEVEL_TRUST, _LEVEL_HALF_LIFE, _LEVEL_RANGE = 5.0, 50.0, 20.0
_REFIT_GROWTH: Final = 0.02
_REFIT_EVERY_S: Final = 3_600.0


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


@dataclass(slots=True)
class _Level:
    """How what was paid or waited compares to what was expected, as a ratio of two running sums."""

    weight: float = 0.0
    seen: float = 0.0
    expected: float = 0.0

    def add(self, seen: float, expected: float) -> None:
        keep = 0.5 ** (1 / _LEVEL_HALF_LIFE)
        self.weight = self.weight * keep + 1
        self.seen, self.expected = self.seen * keep + seen, self.expected * keep + expected

    @property
    def factor(self) -> float:
        """By what to multiply an estimate: 1 where nothing is known."""
        if not self.expected > 0:
            return 1.0
        prior = _LEVEL_TRUST * self.expected / self.weight
        ratio = (self.seen + prior) / (self.expected + prior)
        return min(max(ratio, 1 / _LEVEL_RANGE), _LEVEL_RANGE)

    @property
    def mean(self) -> float | None:
        return self.seen / self.weight if self.weight else None


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


class Adjusted(NamedTuple):
    """Estimates as reports correct them, and whether these alone are reason enough to leave the fallback."""

    estimates: tuple[Estimate, ...]
    supported: bool


@dataclass(slots=True)
class _Cell:
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


_Cells = dict[tuple[str, int], _Cell]


@dataclass(slots=True)
class _Model:
    """All that a scope's reports say of one model.

    `heard` counts them, `calm` those since it last broke; `row` is that of its slopes among the scope's.
    """

    head: Head | None = None
    row: int = 0
    cells: _Cells = field(default_factory=dict)
    drift: float = 0.0
    drifts: dict[int, float] = field(default_factory=dict)
    last_at: float = 0.0
    heard: int = 0
    calm: int = 0
    cost: _Level = field(default_factory=_Level)
    latency: _Level = field(default_factory=_Level)

    @property
    def error(self) -> float:
        """The standard error of a shift; infinite where nothing was fitted."""
        return self.head.error if self.head is not None else math.inf

    def shift(self, linear: float, region: int, expected: float, others: float) -> float:
        """Return by how much quality is better than estimated in a region; `linear` as in `Head.at`."""
        drift = self.drifts.get(region % _COARSE, self.drift)
        return drift + (self.head.at(linear, expected, others) if self.head is not None else 0.0)


@dataclass(slots=True)
class _Scope:
    """All that the reports of one scope say; `added` counts the samples since heads were fitted, `late` holds them."""

    models: dict[str, _Model] = field(default_factory=dict)
    slopes: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    samples: deque[Sample] = field(default_factory=deque)
    late: list[Sample] = field(default_factory=list)
    added: int = 0
    fitted_at: float = 0.0


class Learner:
    """What every scope's reports taught.

    Args:
        settings: whether, how much, and for how long.
        clock: the time in seconds since the epoch; simulations bring their own.
    """

    def __init__(self, settings: LearningSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._scopes: LRUCache[str, _Scope] = LRUCache(_MAX_SCOPES)
        self._samples = 0

    def __len__(self) -> int:
        return self._samples

    def adjust(
        self, scope: str, vector: bytes, estimates: tuple[Estimate, ...], base: int, evidence: float
    ) -> "Adjusted":
        """Return estimates as the scope's reports correct them; the very same where none says anything.

        Args:
            scope: whose reports.
            vector: of the prompt, little-endian float32; empty without an embedding.
            estimates: one for each model.
            base: column of the fallback: what gains, and doubts of them, are about.
            evidence: how many standard errors a doubt is.
        """
        state = self._scopes.get(scope)
        if state is None or not state.models:
            return Adjusted(estimates, supported=False)
        x = np.frombuffer(vector, "<f4") if vector else None
        region = 0 if x is None else int(region_of(x[None])[0])
        linear = state.slopes @ x if x is not None and len(state.slopes) else ()
        fallback, others = state.models.get(estimates[base].model), mean_quality(estimates)
        found, known = [], 0
        for estimate in estimates:
            model = state.models.get(estimate.model)
            if model is None:
                found.append(estimate)
                continue
            shift = 0.0
            if x is not None:
                along = float(linear[model.row]) if model.head is not None else 0.0
                shift = self._bounded(model.shift(along, region, estimate.quality, others))
            latency = estimate.latency_s
            if latency is None:
                latency = model.latency.mean
            else:
                latency *= model.latency.factor
            known += model.error < _SURE
            found.append(
                estimate._replace(
                    quality=min(max(estimate.quality + shift, 0.0), 1.0),
                    quality_low=min(max(estimate.quality_low + shift, 0.0), 1.0),
                    cost_usd=estimate.cost_usd * model.cost.factor,
                    latency_s=latency,
                    doubt=_doubt(estimate.doubt, evidence, model, fallback),
                )
            )
        fell = fallback is not None and fallback.drift < -_FELL
        return Adjusted(tuple(found), supported=x is not None and (fell or known > 1))

    def _bounded(self, shift: float) -> float:
        most = self._settings.max_shift
        return max(-most, min(shift, most))

    def snapshot(self, settings: LearningSettings) -> "Learner":
        """Return what was learned so far, to adjust by on another thread, under other settings."""
        found = Learner(settings, self._clock)
        for name, state in self._scopes.items():
            models = {model: replace(one) for model, one in state.models.items()}
            found._scopes[name] = _Scope(models, state.slopes)
        return found

    def reported(self, decision: Decision, rating: Rating) -> None:
        """Learn from a report.

        Args:
            decision: with the estimates it had before anything learned, in `expected`.
            rating: what the caller says.
        """
        expected = next((e for e in decision.expected if e.model == rating.model), None)
        if not self._settings.enabled or expected is None:
            return
        scope = self._of(decision.request.scope)
        model = scope.models.setdefault(rating.model, _Model())
        if rating.cost_usd is not None and expected.cost_usd > 0:
            model.cost.add(rating.cost_usd, expected.cost_usd)
        if rating.latency_s is not None and rating.outcome in (Outcome.OK, Outcome.REFUSED):
            model.latency.add(rating.latency_s, expected.latency_s or 0.0)
        if rating.quality is not None and decision.vector:
            vector = np.frombuffer(decision.vector, "<f4")
            self._add(
                scope,
                Sample(
                    self._clock(),
                    rating.model,
                    rating.source,
                    vector,
                    expected.quality,
                    mean_quality(decision.expected),
                    rating.quality,
                    decision.id,
                    decision.generation,
                    decision.prompt.size,
                    decision.prompt.text,
                    int(region_of(vector[None])[0]),
                ),
            )

    def take(self, scope: str, samples: Iterable[Sample]) -> None:
        """Learn from samples of the past, oldest first."""
        state = self._of(scope)
        for sample in samples:
            self._add(state, sample)

    def forget(self, scope: str, source: str) -> int:
        """Forget what a source said of quality in a scope; return how many reports that were."""
        state = self._scopes.get(scope)
        if state is None:
            return 0
        kept = [sample for sample in state.samples if sample.source != source]
        gone = len(state.samples) - len(kept)
        self._replace(state, kept)
        return gone

    def samples(self) -> Iterable[tuple[str, Sequence[Sample]]]:
        """Yield every scope with its samples."""
        for name, state in list(self._scopes.items()):
            yield name, tuple(state.samples)

    def rebase(self, scope: str, samples: Sequence[Sample]) -> None:
        """Take the same samples with other expectations: those of another generation."""
        state = self._scopes.get(scope)
        if state is not None:
            known = {(sample.decision, sample.model, sample.source): sample for sample in samples}
            self._replace(state, [known.get((s.decision, s.model, s.source), s) for s in state.samples])

    def due(self) -> list[str]:
        """Return the scopes whose heads ought to be fitted anew."""
        now = self._clock()
        return [
            name
            for name, state in self._scopes.items()
            if state.added >= max(_LEAST, _REFIT_GROWTH * len(state.samples))
            or (state.samples and now - state.fitted_at > _REFIT_EVERY_S)
        ]

    def fit(self, scope: str) -> Callable[[], Callable[[], None]]:
        """Return the work of fitting a scope's heads, to be done on any thread; what that returns makes them count.

        The last step belongs to the event loop again.
        """
        state = self._of(scope)
        samples, now = list(state.samples), self._clock()
        state.added, state.fitted_at, state.late = 0, now, []
        half_life = self._settings.half_life_days * 86_400

        def work() -> Callable[[], None]:
            heads = _fit(samples, now, half_life)
            cells = {name: _cells(samples, name, heads.get(name)) for name in {s.model for s in samples}}

            def done() -> None:
                state.slopes = np.array([head.slopes for head in heads.values()], np.float32)
                rows = {name: row for row, name in enumerate(heads)}
                for name, model in state.models.items():
                    model.head, model.cells, model.row = heads.get(name), cells.get(name, {}), rows.get(name, 0)
                    for sample in state.late:
                        if sample.model == name:
                            _into(model.cells, sample, model.head)
                    self._renew_drift(state, name)

            return done

        return work

    def _of(self, scope: str) -> _Scope:
        state = self._scopes.get(scope)
        if state is None:
            state = self._scopes[scope] = _Scope()
        return state

    def _add(self, state: _Scope, sample: Sample) -> None:
        # A second word of the same source on the same answer takes the place of the first; it comes soon after it.
        same = (sample.decision, sample.model, sample.source)
        if any((s.decision, s.model, s.source) == same for s in islice(reversed(state.samples), _BREAK_KEEPS)):
            self._replace(state, [s for s in state.samples if (s.decision, s.model, s.source) != same])
        model = state.models.setdefault(sample.model, _Model())
        state.samples.append(sample)
        state.late.append(sample)
        state.added += 1
        self._samples += 1
        model.last_at = sample.at
        model.heard += 1
        model.calm += 1
        _into(model.cells, sample, model.head)
        if len(state.samples) > self._settings.keep:
            state.samples.popleft()
            self._samples -= 1
        if self._samples > _MAX_SAMPLES:
            self._shed()
        if model.heard < _EACH or not model.heard % _SELDOM:
            self._renew_drift(state, sample.model)

    def _shed(self) -> None:
        """Let go of the samples of the scopes that were silent for longest."""
        for state in sorted((s for s in self._scopes.values() if s.samples), key=lambda s: s.samples[-1].at):
            if self._samples <= _MAX_SAMPLES:
                return
            self._replace(state, list(state.samples)[len(state.samples) // 2 + 1 :])

    def _replace(self, state: _Scope, samples: Sequence[Sample]) -> None:
        """Take other samples in place of a scope's; their heads are due."""
        self._samples += len(samples) - len(state.samples)
        state.samples, state.late = deque(samples), []
        state.added = max(state.added, _LEAST, int(_REFIT_GROWTH * len(samples)) + 1)
        for name, model in state.models.items():
            if not any(s.model == name for s in samples):
                model.head = None
            model.cells = _cells(samples, name, model.head)
            self._renew_drift(state, name)

    def _renew_drift(self, state: _Scope, name: str) -> None:
        """Look at the latest reports of a model: are they off, beyond what the head explains and chance allows?

        Where all regions agree, the model has become another, and all of them have the same drift. Where they do not,
        a region that was reported on lately has its own, and what was not has the mean.
        """
        model = state.models[name]
        model.drift, model.drifts = 0.0, {}
        if model.heard < _LEAST or not model.cells:
            return
        idle = 0.5 ** ((self._clock() - model.last_at) / (self._settings.half_life_days * 86_400))
        keys, sums = list(model.cells), np.array([cell.sums for cell in model.cells.values()])
        sources, regions = [source for source, _ in keys], np.array([region for _, region in keys])
        factors = bounded(bounded(sums[:, 0], sources), regions.astype(str).tolist()) / sums[:, 0]
        mean, error = _mean_and_error(sums, factors)
        model.drift = _clear(mean, error) * idle
        agree = sums[:, 2] / sums[:, 0] * np.sign(mean) > abs(mean) / 2
        weights = factors * sums[:, 0]
        if model.drift and weights[agree].sum() >= _BREAK_SHARE * weights.sum():
            if abs(mean) > max(_BREAK_CLEAR * error, _BREAK_SIZE) and model.calm >= _BREAK_KEEPS:
                self._break(state, name, {key for key, one in zip(keys, agree.tolist(), strict=True) if one})
            return
        for region in np.unique(regions).tolist():
            here = regions == region
            if weights[here].sum() >= _LEAST / 2:
                model.drifts[region] = _clear(*_mean_and_error(sums[here], factors[here])) * idle

    def _break(self, state: _Scope, name: str, where: Collection[tuple[str, int]]) -> None:
        """Forget what a model was before its latest reports, as far as they say that it is another now."""
        state.models[name].calm = 0
        its = [sample for sample in state.samples if sample.model == name]
        old = {id(s) for s in its[:-_BREAK_KEEPS] if (s.source, s.region % _COARSE) in where}
        kept = [sample for sample in state.samples if id(sample) not in old]
        self._samples += len(kept) - len(state.samples)
        state.samples = deque(kept)
        state.added += len(old)


def _doubt(doubt: float, evidence: float, model: _Model, fallback: _Model | None) -> float:
    """Return how much a gain over the fallback must be, when reports speak of both: as two measurements combine.

    Without a doubt the references said nothing of this prompt, and reports alone speak.
    """
    if fallback is None or model is fallback or math.isinf(error := math.hypot(model.error, fallback.error)):
        return doubt
    reports = evidence * error
    return doubt * reports / max(math.hypot(doubt, reports), 1e-12) if doubt else reports


def _into(cells: _Cells, sample: Sample, head: Head | None) -> None:
    """Add what a head does not explain of a sample to its cell."""
    explained = 0.0
    if head is not None:
        explained = head.at(float(head.slopes @ sample.vector), sample.expected, sample.others)
    _error_into(cells, sample, sample.quality - sample.expected - explained)


def _error_into(cells: _Cells, sample: Sample, error: float) -> None:
    key = (sample.source, sample.region % _COARSE)
    cell = cells.pop(key, None) or _Cell()
    cell.add(error)
    cells[key] = cell  # the one used last is last
    if len(cells) > _MAX_CELLS:
        del cells[next(iter(cells))]


def _cells(samples: Iterable[Sample], name: str, head: Head | None) -> _Cells:
    """Return the cells of a model's samples."""
    its = [sample for sample in samples if sample.model == name]
    cells: _Cells = {}
    if its:
        errors = np.array([s.quality - s.expected for s in its])
        if head is not None:
            errors -= head.each(its)
        for sample, error in zip(its, errors.tolist(), strict=True):
            _error_into(cells, sample, error)
    return cells


def bounded(weights: Floats, groups: Sequence[str], regions: Sequence[int] = ()) -> Floats:
    """Return weights of which no region and no group has more than its share.

    Args:
        weights: at least 0, shape (reports,).
        groups: of each report. One may weigh as much as all others, or _GROUP, whichever is more; where there is only
            one, it is all there is to go by.
        regions: of each report; empty: not looked at. One may weigh _REGION.
    """
    weights = np.asarray(weights, np.float64).copy()
    if len(regions):
        _, place = np.unique(np.asarray(regions), return_inverse=True)
        totals = np.bincount(place, weights)
        weights *= np.minimum(1.0, _REGION / np.maximum(totals, 1e-12))[place]
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) > 1:
        totals = np.bincount(place, weights)
        largest = int(totals.argmax())
        most = max(float(totals.sum() - totals[largest]), _GROUP)
        if totals[largest] > most:
            weights[place == largest] *= most / totals[largest]
    return weights


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


def _fit(samples: Sequence[Sample], now: float, half_life_s: float) -> dict[str, Head]:
    """Return a head for every model: weighted ridge regression of the error on the vector (Hoerl & Kennard 1970)."""
    by_model: dict[str, list[Sample]] = {}
    for sample in samples:
        by_model.setdefault(sample.model, []).append(sample)
    heads = {}
    for name, its in by_model.items():
        if len(its) < _LEAST:
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
