"""Everything a running service is made of, put together at the start and taken apart at the end.

Loading is slow and happens on a thread while the ports are already open; until it is done the edge answers
UNAVAILABLE and health says NOT_SERVING.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from index.encoder import Encoder, OnnxEncoder, encode_tokens
from index.errors import GenerationError, InputError
from index.generation import (
    Generation,
    current_generation,
    list_generations,
    load_generation,
    set_current,
)
from index.records import Answer
from index.sqlite_store import SqliteStore
from index.store import Record, RecordKey, Store
from index.text import canonical
from index.view import View
from service.answers import Answers
from service.batcher import Batcher
from service.decide import Decider
from service.decisions import DecisionLog
from service.errors import NotFound, PreconditionFailed
from service.lookup import search
from service.metrics import Metrics
from service.routing.choose import fallback_model
from service.settings import Settings

_AT_ONCE = 1_000
_log = structlog.get_logger("waypost")

# One short, one middling, one long: the first real prompts should not pay for the encoder's first allocations.
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
    started_at: float
    _activating: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def activate(self, generation_id: str) -> tuple[str, str]:
        """Serve from another generation; return its id and that of the one before.

        Raises:
            NotFound: there is no such generation.
            PreconditionFailed: it is damaged, or does not fit encoder or settings.
        """
        root = self.settings.index.path
        async with self._activating:  # one after the other: memory and disk must name the same one in the end
            found = {path.name: (path, manifest) for path, manifest in await asyncio.to_thread(list_generations, root)}
            if generation_id not in found:
                raise NotFound(f"no generation {generation_id[:64]!r} below the index folder: see ListGenerations")
            folder, manifest = found[generation_id]
            try:
                if isinstance(manifest, GenerationError):
                    raise manifest
                generation = await asyncio.to_thread(_load_generation, folder, self.encoder, self.settings)
            except (GenerationError, InputError) as error:
                raise PreconditionFailed("GENERATION_UNUSABLE", generation_id, str(error)) from error
            try:
                await asyncio.to_thread(set_current, root, generation.id)
            except OSError as error:
                why = f"{root} cannot be written ({error}): the next start would use another generation again"
                raise PreconditionFailed("INDEX_FOLDER_READ_ONLY", generation_id, why) from error
            previous, self.decider.generation = self.decider.generation.id, generation
        _log.info("generation_activated", generation=generation.id, previous=previous)
        return generation.id, previous

    async def close(self) -> None:
        """Stop the encoder, finish writes and close the store."""
        await asyncio.to_thread(self.decider.batcher.close)
        await self.decider.answers.close()


async def load(settings: Settings) -> Runtime:
    """Load encoder, index and store, and warm up.

    Raises:
        WaypostError: something is missing, damaged or does not fit; the text says what to do.
    """
    started = time.perf_counter()
    encoder, generation, store, view = await asyncio.to_thread(_load, settings)
    loaded = time.perf_counter()
    batcher = Batcher(
        encoder,
        search,
        workers=settings.encoder.workers,
        batch_tokens=settings.encoder.batch_tokens,
        max_queue=settings.encoder.max_queue,
    )
    metrics = Metrics()
    answers = Answers(store, view, settings.cache.max_answers)
    log = DecisionLog(settings.decisions.keep, settings.decisions.keep_mib << 20)
    decider = Decider(settings, generation, answers, batcher, log, metrics)
    _publish(metrics, decider)
    _log.info(
        "loaded",
        generation=generation.id,
        references=len(generation.references),
        answers=view.answers,
        live_references=view.live_references,
        load_s=round(loaded - started, 3),
    )
    return Runtime(settings, encoder, decider, time.time())


def _load(settings: Settings) -> tuple[Encoder, Generation, Store, View]:
    encoder = OnnxEncoder.load(settings.encoder.path)
    generation = _load_generation(current_generation(settings.index.path), encoder, settings)
    store = SqliteStore(settings.store.file)
    try:
        view = View(encoder.digest, encoder.dimensions)
        if stale := view.load(store):
            _embed_again(store, view, stale, encoder)
        encoder.encode(encoder.tokenise(_WARM_UP))
    except BaseException:
        store.close()
        raise
    return encoder, generation, store, view


def _load_generation(folder: Path, encoder: Encoder, settings: Settings) -> Generation:
    """Load a generation and what is derived from it, and check that the settings fit it."""
    generation = load_generation(folder, encoder.digest)
    fallback_model(generation, settings.routing.fallback)
    _ = generation.mean_costs, generation.known, generation.prior  # computed now, not by the first decision
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
    metrics.gauge("waypost_answers", "Cached answers.", lambda: view.answers)
    metrics.gauge("waypost_live_references", "Live references.", lambda: view.live_references)
    metrics.gauge(
        "waypost_references",
        "References of the generation in use.",
        lambda: len(decider.generation.references),
    )
