"""A whole stream through the error budget alone: guard, verifier, learner and account as the service has them.

What is left out is what does not decide: sockets, routing, the store. Vectors are made once for all orders, so that
many of them are affordable. `benchmarks.budget.service` goes the whole way.
"""

import random
from typing import Final

import numpy as np

from benchmarks.budget.seeded import coins
from benchmarks.budget.streams import Run, Stream, World, outcome
from benchmarks.budget.texts import Embedder, RememberingJudge, Texts
from index.view import Entry
from service.cache.keeper import Keeper
from service.cache.verdicts import doubt, near_verdict
from service.lookup import ANSWERS
from service.requests import CacheOptions, Prompt, Request, Trial
from service.settings import CacheSettings

_SETTINGS: Final = CacheSettings()


class _Cache:
    """What is stored: which texts, and what each one's answer is about."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._stored = np.zeros(len(texts.numbers), np.bool_)
        self._entries: dict[int, Entry] = {}
        self.about: dict[int, str] = {}

    def near(self, number: int) -> list[tuple[float, Entry]]:
        return [(cosine, self._entries[row]) for cosine, row in self._texts.near(number, self._stored, ANSWERS)]

    def store(self, number: int, prompt: str, meaning: bytes, about: str) -> None:
        self._stored[number] = True
        self._entries[number] = Entry(
            str(number), number, "", b"", b"", 0.0, 0.0, "", (), truncated=False, prompt=prompt, meaning=meaning
        )
        self.about[number] = about


class Compared:
    """What the texts of two answers tell, each pair compared once."""

    def __init__(self, embed: Embedder) -> None:
        self._embed = embed
        self._known: dict[tuple[str, str], bool | None] = {}

    def __call__(self, said: str, candidate: str) -> bool | None:
        """Return the verdict on a candidate's answer, None where nobody can tell."""
        if (said, candidate) not in self._known:
            one, other = self._embed([said, candidate])
            same = said == candidate
            self._known[said, candidate] = same or near_verdict(float(one @ other), said, candidate)
        return self._known[said, candidate]


def play(
    stream: Stream,
    texts: Texts,
    budget: float,
    world: World,
    seed: int,
    judge: RememberingJudge,
    compared: Compared,
) -> Run:
    """Return what comes of a stream.

    Args:
        stream: prompts and right answers.
        texts: all its prompts, or more.
        budget: the error budget.
        world: how callers report.
        seed: of the audits and of what callers get wrong.
        judge: guard and verifier.
        compared: tells of answers where callers say nothing.
    """
    chance = random.Random(seed)
    keeper = Keeper(judge, coins(seed).random)
    cache = _Cache(texts)
    request = Request("", "", cache=CacheOptions(error_budget=budget))
    hits, wrong = [False] * len(stream), [False] * len(stream)
    for place, (text, about) in enumerate(zip(stream.prompts, stream.answers, strict=True)):
        keeper.count("", budget)
        number = judge.asked = texts.numbers[text]
        if number in cache.about:
            hits[place], wrong[place] = True, cache.about[number] != about
            continue
        served, _, trial = keeper.verify(Prompt(text, b""), cache.near(number), request, _SETTINGS, 1.0)
        if served is not None:
            hits[place], wrong[place] = True, cache.about[served.entry.row] != about
            continue
        if trial is not None and chance.random() < world.missing:
            continue
        said = about if not world.own_words else f"{about} | {place}"
        flip = trial is not None and chance.random() < world.flipped
        if world.unsaid and trial is not None:
            cache.store(number, text, *_told_by_texts(keeper, cache, trial, about, compared))
        else:
            cache.store(number, text, *_reported(keeper, cache, trial, about, said, flip=flip))
    [ledger] = keeper.ledgers("")
    window = ledger.window
    return Run(outcome(hits, wrong), 100 * window.audits / window.requests, 100 * ledger.bound / window.requests)


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


def _told_by_texts(keeper: Keeper, cache: _Cache, trial: Trial, said: str, compared: Compared) -> tuple[bytes, str]:
    """Report a model's answer, and nothing of the candidate; return what it means, and whose answer is stored."""
    candidate = cache.about[trial.entry.row]
    right = compared(said, candidate)
    if right is None:
        keeper.learn_unknown("", trial)
    else:
        keeper.learn("", trial, wrong=not right)
    if said != candidate:
        return said.encode(), said
    return trial.entry.meaning, candidate
