"""What reports teach at once: how much better or worse than estimated a model is around a prompt, here and now.

Reports of quality are kept as samples (vector, what was estimated, what came). Two things are learned from the
difference, for each scope alone: a head, refitted in the background over all samples, that says how it depends on the
prompt; and a drift, renewed with every report, that says whether a model has lately become another. Reports of cost and
latency correct the level of those estimates. No report moves another scope, and what any one source or any one region
of prompts can move is bounded.

Everything is read and changed on the event loop but for fitting, which works on copies.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from service.learning.drift import COARSE, Cells, add, cells_of, drift_of
from service.learning.heads import LEAST, Head, Sample, fit, mean_quality, region_of
from service.learning.journal import Rating
from service.requests import Decision, Estimate, Outcome
from service.settings import LearningSettings

_MAX_SCOPES: Final = 1_000
# Samples of all scopes together, at 1.6 kB each; beyond it, of the scope that was silent for longest.
_MAX_SAMPLES: Final = 50_000
# Of longer prompts the text is not kept: they are not estimated again when another generation is activated.
_LONGEST_TEXT: Final = 8_192
# A drift is looked at with every report at first, and then with every fourth.
_EACH, _SELDOM = 50, 4
# Of a model that became another, so many of the latest reports are kept.
_BREAK_KEEPS: Final = 40
# With two models whose shift is known this well, or a fallback that fell by so much, reports are reason enough.
_SURE, _FELL = 0.06, 0.1
# Levels of cost and latency: reports until a level is half believed, after how many one counts half, and its bounds.
_LEVEL_TRUST, _LEVEL_HALF_LIFE, _LEVEL_RANGE = 5.0, 50.0, 20.0
_REFIT_GROWTH: Final = 0.02
_REFIT_EVERY_S: Final = 3_600.0


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


class Adjusted(NamedTuple):
    """Estimates as reports correct them, and whether these alone are reason enough to leave the fallback."""

    estimates: tuple[Estimate, ...]
    supported: bool


@dataclass(slots=True)
class _Model:
    """All that a scope's reports say of one model.

    `heard` counts them, `calm` those since it last broke; `row` is that of its slopes among the scope's.
    """

    head: Head | None = None
    row: int = 0
    cells: Cells = field(default_factory=dict)
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
        drift = self.drifts.get(region % COARSE, self.drift)
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
        cost = rating.cost_usd if expected.cost_usd > 0 and rating.new("cost_usd") else None
        answered = rating.outcome in (Outcome.OK, Outcome.REFUSED)
        latency = rating.latency_s if answered and rating.new("latency_s") else None
        quality = rating.quality if decision.vector else None
        if cost is latency is quality is None:  # nothing to learn, so nothing to correct by
            return
        scope = self._of(decision.request.scope)
        model = scope.models.setdefault(rating.model, _Model())
        if cost is not None:
            model.cost.add(cost, expected.cost_usd)
        if latency is not None:
            model.latency.add(latency, expected.latency_s or 0.0)
        if quality is not None:
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
                    quality,
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
            if state.added >= max(LEAST, _REFIT_GROWTH * len(state.samples))
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
            heads = fit(samples, now, half_life)
            cells = {name: cells_of(samples, name, heads.get(name)) for name in {s.model for s in samples}}

            def done() -> None:
                state.slopes = np.array([head.slopes for head in heads.values()], np.float32)
                rows = {name: row for row, name in enumerate(heads)}
                for name, model in state.models.items():
                    model.head, model.cells, model.row = heads.get(name), cells.get(name, {}), rows.get(name, 0)
                    for sample in state.late:
                        if sample.model == name:
                            add(model.cells, sample, model.head)
                    self._renew_drift(state, name)

            return done

        return work

    def _of(self, scope: str) -> _Scope:
        state = self._scopes.get(scope)
        if state is None:
            if len(self._scopes) >= _MAX_SCOPES:
                self._samples -= len(self._scopes.popitem()[1].samples)
            state = self._scopes[scope] = _Scope()
        return state

    def _add(self, state: _Scope, sample: Sample) -> None:
        if len(sample.text) > _LONGEST_TEXT:
            sample = sample._replace(text="")
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
        add(model.cells, sample, model.head)
        if len(state.samples) > self._settings.keep:
            state.samples.popleft()
            self._samples -= 1
        del state.late[: -self._settings.keep]  # none, unless no fit ever ends
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
        state.added = max(state.added, LEAST, int(_REFIT_GROWTH * len(samples)) + 1)
        for name, model in state.models.items():
            if not any(s.model == name for s in samples):
                model.head = None
            model.cells = cells_of(samples, name, model.head)
            self._renew_drift(state, name)

    def _renew_drift(self, state: _Scope, name: str) -> None:
        """Look at the latest reports of a model."""
        model = state.models[name]
        model.drift, model.drifts = 0.0, {}
        if model.heard >= LEAST and model.cells:
            found = drift_of(model.cells)
            idle = 0.5 ** ((self._clock() - model.last_at) / (self._settings.half_life_days * 86_400))
            model.drift = found.everywhere * idle
            model.drifts = {region: drift * idle for region, drift in found.by_region.items()}
            if found.broken and model.calm >= _BREAK_KEEPS:
                self._break(state, name, found.broken)

    def _break(self, state: _Scope, name: str, where: Collection[tuple[str, int]]) -> None:
        """Forget what a model was before its latest reports, as far as they say that it is another now."""
        state.models[name].calm = 0
        its = [sample for sample in state.samples if sample.model == name]
        old = {id(s) for s in its[:-_BREAK_KEEPS] if (s.source, s.region % COARSE) in where}
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
