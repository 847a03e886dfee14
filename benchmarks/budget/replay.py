"""A whole stream through the error budget alone: guard, verifier, learner and account as the service has them.

What is left out is what does not decide: sockets, routing, the store. Vectors are made once for all orders, so that
many of them are affordable. `benchmarks.budget.service` goes the whole way.
"""

import random
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.budget.streams import Run, Stream, World, outcome
from index.vectors import Vectors
from index.verifier import Verifier
from index.view import Entry
from service.cache.keeper import Keeper
from service.cache.semantic import Judge
from service.cache.verdicts import doubt
from service.lookup import ANSWERS
from service.requests import CacheOptions, Prompt, Request, Trial
from service.settings import CacheSettings

_SETTINGS: Final = CacheSettings()


@dataclass(slots=True)
class _Cache:
    """What is stored: entries, their vectors, and what each one's answer is about."""

    vectors: Vectors
    entries: list[Entry] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    exact: dict[str, str] = field(default_factory=dict)

    def near(self, vector: Vectors) -> list[tuple[float, Entry]]:
        cosines = self.vectors[: len(self.entries)] @ vector
        near = np.argpartition(-cosines, ANSWERS)[:ANSWERS] if len(cosines) > ANSWERS else np.arange(len(cosines))
        found = sorted(((min(float(cosines[i]), 1.0), int(i)) for i in near), reverse=True)
        return [(cosine, self.entries[i]) for cosine, i in found]

    def store(self, prompt: str, vector: Vectors, meaning: bytes, about: str) -> None:
        row = len(self.entries)
        self.vectors[row] = vector
        self.entries.append(
            Entry(str(row), row, "", b"", b"", 0.0, 0.0, "", (), truncated=False, prompt=prompt, meaning=meaning)
        )
        self.about.append(about)
        self.exact[prompt] = about


def play(stream: Stream, vectors: Vectors, budget: float, world: World, seed: int, judge: Judge) -> Run:
    """Return what comes of a stream.

    Args:
        stream: prompts and right answers.
        vectors: of the prompts, in order.
        budget: the error budget.
        world: how callers report.
        seed: of the audits and of what callers get wrong.
        judge: guard and verifier.
    """
    chance = random.Random(seed)
    keeper = Keeper(judge, random.Random(seed + 1_000_000).random)
    cache = _Cache(np.empty_like(vectors))
    request = Request("", "", cache=CacheOptions(error_budget=budget))
    hits, wrong, seconds = [False] * len(stream), [False] * len(stream), []
    for place, (text, about) in enumerate(zip(stream.prompts, stream.answers, strict=True)):
        keeper.count("", budget)
        if text in cache.exact:
            hits[place], wrong[place] = True, cache.exact[text] != about
            continue
        near = cache.near(vectors[place])
        mark = time.perf_counter()
        served, _, trial = keeper.verify(Prompt(text, b""), near, request, _SETTINGS, 1.0)
        seconds.append(1e6 * (time.perf_counter() - mark))
        if served is not None:
            hits[place], wrong[place] = True, cache.about[served.entry.row] != about
            continue
        if trial is not None and chance.random() < world.missing:
            continue
        said = about if not world.own_words else f"{about} | {place}"
        flip = trial is not None and chance.random() < world.flipped
        cache.store(text, vectors[place], *_reported(keeper, cache, trial, about, said, flip=flip))
    ledger = next(iter(keeper.ledgers("")))
    window = ledger.window
    return Run(
        outcome(hits, wrong),
        100 * window.audits / window.requests,
        100 * ledger.bound / window.requests,
        float(np.median(seconds)) if seconds else 0.0,
    )


def _reported(
    keeper: Keeper, cache: _Cache, trial: Trial | None, about: str, said: str, *, flip: bool
) -> tuple[bytes, str]:
    """Report a model's answer as `service.lessons` hears it; return what it means, and whose answer is stored."""
    if trial is None:
        return said.encode(), about
    candidate = cache.about[trial.entry.row]
    right = (candidate == about) != flip
    keeper.learn("", trial, wrong=not right)
    if not right:
        return said.encode(), about
    sure = doubt(trial.error, said=True) <= trial.budget
    return trial.entry.meaning, candidate if sure else about


def judge(digest: str) -> Judge:
    """Return guard and verifier for the encoder with this digest."""
    return Judge(Verifier.load(), digest)
