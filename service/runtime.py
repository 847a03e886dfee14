"""Everything a running service is made of, put together at the start and taken apart at the end.

Loading is slow and happens on a thread while the ports are already open; until it is done the edge answers
UNAVAILABLE and health says NOT_SERVING.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from index.encoder import Encoder, OnnxEncoder, encode_tokens
from index.errors import GenerationError, InputError, StoreError, StoreFullError
from index.generation import (
    Generation,
    Manifest,
    current_generation,
    list_generations,
    load_generation,
    set_current,
)
from index.records import Answer
from index.sqlite_journal import SqliteJournal
from index.sqlite_store import SqliteStore
from index.store import Record, RecordKey, Store
from index.text import canonical
from index.vectors import Vectors
from index.view import View
from service.answers import Answers
from service.batcher import Batcher
from service.cache.flights import Flights
from service.cache.keeper import Keeper
from service.cache.semantic import load_judge
from service.decide import Decider
from service.decisions import DecisionLog
from service.errors import NotFound, PreconditionFailed, SettingsError
from service.learning.heads import Sample, mean_quality
from service.learning.journal import Journal, Rating, restored
from service.learning.online import Learner
from service.learning.replay import replan
from service.learning.tutor import Expect, Tutor
from service.lessons import KIND, Lessons
from service.lookup import NO_SEARCH, search
from service.metrics import Metrics
from service.policy.compiled import fit
from service.policy.published import publish_policy
from service.policy.state import State
from service.reports import Report, Reported, report
from service.requests import Decision, Prompt, Request, Timings
from service.routing.choose import fallback_model
from service.settings import Settings
from service.spending import Accounts, baseline_of

_AT_ONCE = 1_000
# References that decisions of a generation which is no longer served are explained by.
_EXPLAINED: Final = 10
_TURN: Final = 100  # of them are seen to at a time, in less than a millisecond
_log = structlog.get_logger("waypost")

# One short, one middling, one long: the first real prompts should not pay for the encoder's first allocations. One by
# one, as what a run takes is never given back, and all three padded to the longest are more than any later run.
_WARM_UP = (
    "warm",
    "a prompt of about twenty words " * 3,
    "a long prompt that fills most of a window " * 20,
)


@dataclass(slots=True)
class Runtime:
    """A loaded service."""

    settings: Settings
    encoder: Encoder
    decider: Decider
    lessons: Lessons
    started_at: float
    tutor: Tutor | None = None
    state: State | None = None
    _activating: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def activate(self, generation_id: str) -> tuple[str, str]:
        """Serve from another generation; return its id and that of the one before.

        Raises:
            NotFound: there is no such generation.
            PreconditionFailed: it is damaged, or does not fit encoder or settings.
        """
        root = self.settings.index.path
        async with self._activating:  # one after the other: memory and disk must name the same one in the end
            generation = await self.find(generation_id)
            await self._prepare(generation)
            try:
                await asyncio.to_thread(set_current, root, generation.id)
            except OSError as error:
                why = f"{root} cannot be written ({error}): the next start would use another generation again"
                raise PreconditionFailed("INDEX_FOLDER_READ_ONLY", generation_id, why) from error
            previous, self.decider.generation = self.decider.generation.id, generation
            if (accounts := self.decider.accounts) is not None and accounts.baseline not in generation.catalogue.ids:
                accounts.baseline = baseline_of(generation, self.settings.stats.baseline)
            await self._leave(generation)
        _log.info("generation_activated", generation=generation.id, previous=previous)
        return generation.id, previous

    async def generations(self) -> list[tuple[Path, Manifest | GenerationError]]:
        """Return what is below the index folder, as `list_generations`; PreconditionFailed where it cannot be read."""
        root = self.settings.index.path
        try:
            return await asyncio.to_thread(list_generations, root)
        except GenerationError as error:
            raise PreconditionFailed("INDEX_FOLDER_UNREADABLE", str(root), str(error)) from error

    async def find(self, generation_id: str) -> Generation:
        """Load a generation below the index folder.

        Raises:
            NotFound: there is no such generation.
            PreconditionFailed: it is damaged, or does not fit encoder or settings.
        """
        found = {path.name: (path, manifest) for path, manifest in await self.generations()}
        if generation_id not in found:
            raise NotFound(f"no generation {generation_id[:64]!r} below the index folder: see ListGenerations")
        folder, manifest = found[generation_id]
        try:
            if isinstance(manifest, GenerationError):
                raise manifest
            return await asyncio.to_thread(_load_generation, folder, self.encoder, self.settings)
        except (GenerationError, InputError) as error:
            raise PreconditionFailed("GENERATION_UNUSABLE", generation_id, str(error)) from error

    async def _leave(self, generation: Generation) -> None:
        """Let remembered decisions hold on to no other generation: there may be as many of these as decisions."""
        for number, decision in enumerate(self.decider.log.all()):
            voters = decision.voters
            if voters is not None and voters.references is not generation.references:
                decision.voters = voters.alone(_EXPLAINED) if len(voters.references) > _EXPLAINED else voters
            if number % _TURN == 0:
                await asyncio.sleep(0)

    async def _prepare(self, generation: Generation) -> None:
        """Get the policy ready for a generation."""
        try:
            await asyncio.to_thread(self.decider.policy.prepare, generation)
        except SettingsError as error:
            raise PreconditionFailed("GENERATION_UNUSABLE", generation.id, str(error)) from error

    async def report(self, decision: Decision, fill_token: str, what: Report) -> Reported:
        """Take in what happened with a decision, and tell who waits for its answer; raises as `service.reports`."""
        decider = self.decider
        settings = self.settings.cache.of(decision.request.scope)
        try:
            done = await report(decision, fill_token, what, decider.answers, self.encoder, settings, self.lessons)
        except StoreError:
            decider.flights.failed(decision.id)
            raise
        if done.entry_id:
            decider.flights.stored(decision.prompt.key, done.private_to)
        else:
            decider.flights.failed(decision.id)
        return done

    def heard(self, decision: Decision, rating: Rating) -> None:
        """Take in what a caller reports of a model."""
        decider = self.decider
        heard = decision.heard or {}
        rating = replace(rating, known=heard.get(rating.model, frozenset()))
        decision.heard = {**heard, rating.model: rating.said()}
        decider.policy.reported(decision, rating)
        if decider.learner is not None:
            decider.learner.reported(decision, rating)
        if decider.accounts is not None:
            decider.accounts.reported(decision, rating, decider.generation.catalogue)
        if decider.journal is not None:
            decider.journal.reported(decision, rating)

    async def recorded(self, decision_id: str) -> Decision | None:
        """Return a decision from the journal, without its fill token."""
        journal, generation = self.decider.journal, self.decider.generation
        row = await asyncio.to_thread(journal.file.decision, decision_id) if journal is not None else None
        return await asyncio.to_thread(restored, row, generation) if row is not None else None

    async def forget(self, scope: str, source: str) -> int:
        """Take back what a source's reports taught in a scope; return how many reports that were."""
        if self.tutor is not None:
            return await self.tutor.forget(scope, source)
        journal = self.decider.journal
        return await asyncio.to_thread(journal.forget, scope, source) if journal is not None else 0

    async def close(self) -> None:
        """Stop the encoder, finish writes and close the store."""
        await self.lessons.close()
        await asyncio.to_thread(self.decider.batcher.close)
        if self.tutor is not None:
            await self.tutor.close()
        if self.decider.journal is not None:
            await asyncio.to_thread(self.decider.journal.close)
        await self.decider.answers.close()
        if self.state is not None:
            await self.state.close()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a runtime may be given in place of its own: None is what the settings say, and chance that nobody foresees.

    `coin` returns a random number in [0, 1).
    """

    encoder: Encoder | None = None
    store: Store | None = None
    coin: Callable[[], float] | None = None


_OWN: Final = Parts()


async def load(settings: Settings, parts: Parts = _OWN) -> Runtime:
    """Load encoder, index and store, and warm up.

    Raises:
        WaypostError: something is missing, damaged or does not fit; the text says what to do.
    """
    started = time.perf_counter()
    encoder, generation, store, view = await asyncio.to_thread(_load, settings, parts)
    loaded = time.perf_counter()
    batcher = Batcher(
        encoder,
        search,
        workers=settings.encoder.workers,
        batch_tokens=settings.encoder.batch_tokens,
        max_queue=settings.encoder.max_queue,
    )
    metrics = Metrics()
    answers = Answers(store, view, settings.cache)
    log = DecisionLog(settings.decisions.keep, settings.decisions.keep_mib << 20)
    judge = load_judge(settings.cache, encoder.digest)
    keeper = Keeper(judge, parts.coin) if parts.coin is not None else Keeper(judge)
    flights = Flights(settings.decisions.keep)
    decider = Decider(settings, generation, answers, batcher, judge, keeper, log, metrics, flights)
    answers.let_go = decider.let_go
    lessons = teaching(decider)
    tutor = await learn(decider, encoder.digest)
    decider.accounts = Accounts(baseline_of(generation, settings.stats.baseline), metrics.registry)
    state = await asyncio.to_thread(State, settings.store.policy_file)
    kept = await asyncio.to_thread(state.load)
    decider.policy.load(kept)
    lessons.keep(kept.get(KIND, {}), state.put)
    decider.policy.keep = state.put
    state.start()
    _publish(metrics, decider)
    publish_policy(metrics, decider.policy, settings.policy)
    _log.info(
        "loaded",
        generation=generation.id,
        references=len(generation.references),
        answers=view.answers,
        live_references=view.live_references,
        load_s=round(loaded - started, 3),
    )
    return Runtime(settings, encoder, decider, lessons, time.time(), tutor, state)


async def learn(decider: Decider, encoder_digest: str) -> Tutor | None:
    """Give a decider its journal and what it learned before, as far as the settings want it."""
    settings = decider.settings
    if settings.journal.enabled:
        try:
            file = await asyncio.to_thread(SqliteJournal, settings.store.journal)
        except StoreFullError as error:  # what is decided matters more than that it is recorded
            _log.warning("journal_not_opened", why=f"{error}. Decisions are made, and not recorded until a restart")
        else:
            decider.journal = Journal(file, settings.journal, encoder_digest)
    if not settings.learning.enabled:
        return None
    decider.learner = Learner(settings.learning)
    return Tutor(
        decider.learner, decider.journal, _expecting(decider), lambda: decider.generation.id, settings.learning
    )


def _expecting(decider: Decider) -> Expect:
    """Return what estimates anew what reports of quality are compared with."""

    def expect(scope: str, samples: Sequence[Sample]) -> list[tuple[float, float]]:
        generation, bare = decider.generation, replace(decider, learner=None)
        decisions = []
        for sample in samples:
            prompt = Prompt(sample.text, b"", size=sample.size)
            decisions.append(Decision("", Request(scope, sample.text), prompt, generation.id, 0.0, Timings()))
            decisions[-1].vector = sample.vector.tobytes()
        replan(decisions, generation, bare.plan, decider.answers.view, decider.base(generation))
        known = [{e.model: e.quality for e in decision.expected} for decision in decisions]
        return [
            (one.get(s.model, s.expected), mean_quality(d.expected))
            for one, s, d in zip(known, samples, decisions, strict=True)
        ]

    return expect


def _load(settings: Settings, parts: Parts) -> tuple[Encoder, Generation, Store, View]:
    encoder = parts.encoder or OnnxEncoder.load(settings.encoder.path)
    generation = _load_generation(current_generation(settings.index.path), encoder, settings)
    fit(settings.policy, generation)
    store = parts.store or SqliteStore(settings.store.file)
    try:
        view = View(encoder.digest, encoder.dimensions)
        with _all_kept():
            stale = view.load(store)
        if stale:
            _embed_again(store, view, stale, encoder)
        for tokens in encoder.tokenise(_WARM_UP):
            encoder.encode([tokens])
    except BaseException:
        store.close()
        raise
    return encoder, generation, store, view


@contextlib.contextmanager
def _all_kept() -> Iterator[None]:
    """Spare the garbage collector what is made now: it is kept, and to look at a million answers stops everything."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _load_generation(folder: Path, encoder: Encoder, settings: Settings) -> Generation:
    """Load a generation and what is derived from it, and check that the settings fit it."""
    generation = load_generation(folder, encoder.digest)
    fallback_model(generation, settings.routing.fallback)
    baseline_of(generation, settings.stats.baseline)
    _ = generation.mean_costs, generation.agreement  # computed now, not by the first decision
    return generation


def _embed_again(store: Store, view: View, stale: Sequence[RecordKey], encoder: Encoder) -> None:
    """Embed what another encoder had embedded, so that it takes part again."""
    _log.warning("embedding_again", records=len(stale), why="they were embedded by another encoder")
    for first in range(0, len(stale), _AT_ONCE):
        records: list[Record] = []
        for key in stale[first : first + _AT_ONCE]:
            records += store.get(key.kind, key.scope, (key.id,)).values()
        tokens = encoder.tokenise(
            [r.prompt if isinstance(r, Answer) else canonical(r.reference.prompt) for r in records]
        )
        vectors = encode_tokens(encoder, tokens)
        renewed: list[Record] = []
        for record, vector, text in zip(records, vectors, tokens, strict=True):
            raw = vector.astype("<f4").tobytes()
            if not isinstance(record, Answer):
                renewed.append(replace(record, encoder=encoder.digest, vector=raw))
            else:
                kept = raw if record.vector else b""
                renewed.append(replace(record, encoder=encoder.digest, vector=kept, truncated=text.truncated))
        since = store.write([])
        store.write(renewed)
        view.apply(store.changes(since, len(renewed) + 1, contents=False))


def teaching(decider: Decider) -> Lessons:
    """Return what lets a decider's cache learn from reports."""

    async def embed(text: str) -> Vectors:
        return (await decider.batcher.submit(text, NO_SEARCH)).vector

    return Lessons(decider.keeper, decider.answers, embed, decider.settings.cache)


def _publish(metrics: Metrics, decider: Decider) -> None:
    """Publish sizes and the queue."""
    batcher, answers = decider.batcher, decider.answers
    view = answers.view
    metrics.gauge("waypost_queue_length", "Prompts waiting for an encoder.", lambda: len(batcher))
    metrics.counter(
        "waypost_queue_refused",
        "Prompts refused because the queue was full.",
        lambda: batcher.refused,
    )
    metrics.counter(
        "waypost_answers_unreadable",
        "Cached answers that were found and could not be read.",
        lambda: answers.unreadable,
    )
    keeper = decider.keeper
    metrics.labelled("waypost_trials", "Likely hits by what was done.", "action", lambda: keeper.actions)
    metrics.labelled("waypost_verdicts", "What was learned of candidates.", "verdict", lambda: keeper.verdicts)
    metrics.gauge("waypost_budgets_broken", "Error budgets whose bound is above them.", lambda: keeper.broken)
    metrics.counter("waypost_answers_changed", "Times a scope's answers had changed.", lambda: keeper.changes)
    metrics.gauge("waypost_answers", "Cached answers.", lambda: view.answers)
    if (journal := decider.journal) is not None:
        metrics.counter("waypost_journal_written", "Rows the journal took.", lambda: journal.written)
        metrics.counter("waypost_journal_dropped", "Rows it could not take.", lambda: journal.dropped)
    if (learner := decider.learner) is not None:
        metrics.gauge("waypost_rated_reports", "Reports of quality that move estimates.", lambda: len(learner))
    flights = decider.flights
    metrics.gauge("waypost_waiting", "Callers that wait for another's answer.", lambda: flights.waiting)
    metrics.counter("waypost_waits_answered", "Waits that ended with the answer.", lambda: flights.answered)
    metrics.gauge("waypost_answer_bytes", "Texts of the cached answers.", lambda: view.size)
    metrics.gauge(
        "waypost_memory_per_answer_bytes", "Memory an answer takes on average.", lambda: answers.memory_per_answer
    )
    metrics.counter("waypost_evicted", "Answers that went to make room.", lambda: answers.capacity.evicted)
    metrics.gauge("waypost_live_references", "Live references.", lambda: view.live_references)
    metrics.gauge(
        "waypost_references",
        "References of the generation in use.",
        lambda: len(decider.generation.references),
    )
