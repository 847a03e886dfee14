"""Plays a log through the service: every call is a decision, every plan is followed by a report, as callers would.

It is the service itself but for its sockets (`service.runtime`): guard, verifier, error budget, exact keys, lifetimes.
In its place are only a store in memory, an encoder that remembers, coins from a seed, and, where the log has times,
a clock that shows them. One call comes after the other: what came later finds the answer stored.
"""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

from index.build import build_index
from index.catalogue import Catalogue
from index.encoder import Encoder
from index.records import Reference
from index.store import MemoryStore
from index.verifier import FEATURES as ALIGNED
from service.cache.budget import CONFIDENCE
from service.cache.learner import FEATURES as LEARNED
from service.cache.semantic import likelihood
from service.clock import Clock
from service.evaluation.caching.log import Log, Logged
from service.evaluation.caching.truth import Truth
from service.policy_settings import PolicySettings
from service.reports import Report
from service.requests import CacheOptions, Decision, Outcome
from service.runtime import Parts, Runtime, load
from service.settings import IndexSettings, JournalSettings, LearningSettings, Settings, StoreSettings

__all__ = ["CONFIDENCE", "Account", "Event", "Play", "Stage", "play"]

_SWEEP_EVERY: Final = 100  # calls; the service looks every few seconds what has lapsed
_STEP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What every play has in common: the log, what is right, and how the service is set up.

    `index` is the folder of a generation (None: there is none, and no policy), `catalogue` names models and prices.
    """

    log: Log
    truth: Truth
    settings: Settings
    encoder: Encoder
    catalogue: Catalogue
    fallback: str
    index: Path | None
    seed: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Why a semantic hit passed: what verifier and learner looked at, and how much error its budget bore then.

    `outweighed` names the check that refused it but that the scope's verdicts outweighed, "" where none did.
    """

    matched: str
    margin: float
    agreement: float
    aligned: Mapping[str, float]
    learned: Mapping[str, float]
    bearable: float | None
    outweighed: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """What became of one call.

    `kind` is "exact", "semantic" or "plan"; `by` is the place of the call whose answer was served, or was the
    candidate (-1: none was), `right` whether that answer is right for this call (None: nobody can tell). `why` names
    what kept a candidate from being served, or an answer from being stored.
    """

    kind: str
    by: int = -1
    right: bool | None = None
    cosine: float = 0.0
    probability: float | None = None
    why: str = ""
    not_stored: str = ""
    seconds: float = 0.0
    passed: Passed | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A scope's account of its error budget at the end, over the window it looks back on."""

    scope: str
    budget: float
    requests: int
    served: int
    audits: int
    verdicts: int
    wrong: int
    bound: float
    factor: float
    broken: bool


@dataclass(frozen=True, slots=True)
class Play:
    """All of one play."""

    events: list[Event]
    accounts: list[Account]


@dataclass(slots=True)
class _Service:
    """The service, and what its callers know: `filled` tells by an entry's id whose answer it has."""

    runtime: Runtime
    stage: Stage
    budget: float | None
    filled: dict[str, int] = field(default_factory=dict)


async def play(stage: Stage, budget: float | None, progress: Callable[[int], None] = lambda _: None) -> Play:
    """Play the log once, through a service that has seen nothing yet.

    Args:
        stage: what to play.
        budget: of every call; None: as the settings say, scope by scope.
        progress: called with the number of calls just played.
    """
    random.seed(stage.seed)  # lifetimes have a jitter
    with tempfile.TemporaryDirectory(prefix="waypost-evaluate-") as folder:
        settings = _settings(stage, Path(folder))
        coin = random.Random(stage.seed).random  # noqa: S311 - nobody plays against us here
        runtime = await load(settings, Parts(stage.encoder, MemoryStore(), coin))
        try:
            return await _play(_Service(runtime, stage, budget), progress)
        finally:
            await runtime.close()


async def _play(service: _Service, progress: Callable[[int], None]) -> Play:
    rows, answers = service.stage.log.rows, service.runtime.decider.answers
    now = [rows[0].at or 0.0]
    answers.clock = Clock(wall=lambda: now[0], steady=lambda: 0.0)
    swept, events = now[0], []
    for place, row in enumerate(rows):
        now[0] = row.at or 0.0
        if not place % _SWEEP_EVERY and now[0] > swept + _STEP_S:
            await answers.sweep()
            swept = now[0]
        events.append(await _one(service, place, row))
        progress(1)
    return Play(events, list(_accounts(service)))


async def _one(service: _Service, place: int, row: Logged) -> Event:
    """Ask, and where the answer is to call a model, report what the log says it answered."""
    runtime, truth = service.runtime, service.stage.truth
    request = row.request._replace(cache=CacheOptions(error_budget=service.budget))
    decision = await runtime.decider.decide(request, perf_counter())
    runtime.decider.record(decision)
    seconds = decision.timings.total
    if (hit := decision.hit) is not None:
        by = service.filled[hit.answer.id]
        right = truth.same(place, by)
        kind = "exact" if hit.exact else "semantic"
        passed = None if hit.exact or right else _passed(decision)
        return Event(kind, by, right, hit.similarity, hit.p_correct, seconds=seconds, passed=passed)
    by, right, why = -1, None, ""
    candidate, trial = decision.candidate, decision.trial
    if candidate is not None:
        by = service.filled.get(candidate.entry.answer_id, -1)
        right = truth.same(place, by) if by >= 0 else None
        why = candidate.refused_by
    equivalent = right if trial is not None and not row.answer else None
    not_stored = await _report(service, decision, place, row, equivalent)
    cosine, p = (candidate.similarity, candidate.probability) if candidate is not None else (0.0, None)
    return Event("plan", by, right, cosine, p, why, not_stored, seconds)


async def _report(
    service: _Service,
    decision: Decision,
    place: int,
    row: Logged,
    equivalent: bool | None,  # noqa: FBT001 - as it is reported
) -> str:
    """Report what the model answered; return why that was not stored, "" where it was."""
    runtime = service.runtime
    if not decision.fill_token or decision.plan is None:
        return "no model is left by the limits"
    model = service.stage.catalogue.resolve(row.model) or decision.plan.steps[0].model
    what = Report(
        model, Outcome.OK, row.said, (), "stop", "", (), None, answer_wrong=False, cost_usd=row.cost or 0.0,
        equivalent=equivalent,
    )  # fmt: skip
    done = await runtime.report(decision, decision.fill_token, what)
    await runtime.lessons.settle()
    entry = runtime.decider.answers.view.by_id(row.request.scope, done.entry_id)
    # Where it became another wording, the entry still has the answer of whom it was made for.
    if entry is not None and entry.key == decision.prompt.key:
        service.filled[done.entry_id] = place
    return done.not_stored_because


def _passed(decision: Decision) -> Passed:
    trial = decision.trial
    may = [one for one in decision.judged if not one.refused_by and (trial is None or one.entry is trial.entry)]
    served = max(may, key=likelihood)
    return Passed(
        served.entry.prompt,
        served.margin,
        served.agreement,
        dict(zip(ALIGNED, served.features, strict=False)),
        dict(zip(LEARNED, trial.evidence if trial is not None else (), strict=False)),
        trial.bearable if trial is not None else None,
        trial.check if trial is not None else "",
    )


def _accounts(service: _Service) -> Sequence[Account]:
    found = []
    for scope in dict.fromkeys(row.request.scope for row in service.stage.log.rows):
        for ledger in service.runtime.decider.keeper.ledgers(scope):
            seen = ledger.window
            found.append(
                Account(
                    scope, ledger.budget, seen.requests, seen.served, seen.audits, seen.verdicts, round(seen.wrong),
                    min(ledger.bound / max(seen.requests, 1), 1.0), ledger.factor, ledger.broken,
                )
            )  # fmt: skip
    return found


def _settings(stage: Stage, folder: Path) -> Settings:
    """Return the settings of the play: what has nothing to do with caching is left out."""
    index = stage.index
    changed: dict[str, object] = {
        "store": StoreSettings(data_dir=folder / "data"),
        "journal": JournalSettings(enabled=False),
        "learning": LearningSettings(enabled=False),
    }
    if index is None:
        index = folder / "index"
        build_index([Reference("any", "any", stage.fallback)], stage.catalogue, stage.encoder, index)
        settings = stage.settings
        changed["policy"] = PolicySettings()
        changed["routing"] = settings.routing.model_copy(update={"fallback": ""})
        changed["stats"] = settings.stats.model_copy(update={"baseline": ""})
    return stage.settings.model_copy(update={**changed, "index": IndexSettings(path=index)})
