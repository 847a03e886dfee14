"""Adversarial lookups, by the million: is anything ever served outside the scope, context and principal it is for?

    python -m benchmarks.isolation [--lookups 1000000] [--seed 0]

Scopes are prefixes and concatenations of each other, contexts of each other's parts, and three principals share every
scope. Answers come and go all the time: they are put, corroborated, invalidated, evicted (scopes hold few), and lapse.
Between the waves the service is restarted on its store, or another generation is activated. Most lookups go straight to
the view, as a decision's do: by key, and by searching the partitions; the others are whole decisions. Every answer says
whose it is. Ends with exit code 1 where one was found by anybody else.
"""

import argparse
import asyncio
import itertools
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog
from waypost.v1 import types_pb2

from index.encoder import HashEncoder
from index.records import Reference
from index.store import MemoryStore
from index.text import Context, answer_key, canonical, context_fingerprint
from service.auth import Principal
from tests.service.kit import REFERENCES, Service, build, running

SCOPES: Final = ("a", "aa", "ab", "a:b", "a/b", "b", "ba", "A", "a.b", "a-b", "default", "default2", "aaa", "b:a")
CONTEXTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"system_prompt": "a"},
    {"system_prompt": "ab"},
    {"system_prompt": "a", "tools": "b"},
    {"tools": "ab"},
    {"extra": {"a": "b"}},
    {"extra": {"ab": ""}},
    {"sampling": "a"},
)
# The hashed words have no order and no spaces: the second of each pair is the same vector and another text.
TEXTS: Final = tuple((t, t.replace(" ", "  ")) for t in ("a b", "ab c", "a b c d", "one question", "question two"))
PRINCIPALS: Final = ("ann", "bob", "eve")
_DECISIONS: Final = 0.02  # share of the lookups
_WAVE: Final = 5_000
_CHANGES: Final = 300

_ENCODER = HashEncoder()
_VECTORS = dict(
    zip(
        [text for pair in TEXTS for text in pair],
        _ENCODER.encode(_ENCODER.tokenise([text for pair in TEXTS for text in pair])),
        strict=True,
    )
)
_PRINTS = [context_fingerprint(Context(**context)) for context in CONTEXTS]


class Prober:
    """One run: a service, and what it was seen to serve."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root, self._chance = root, random.Random(seed)
        self._store = MemoryStore()
        self._store.close = lambda: None  # type: ignore[method-assign]
        self._stack = AsyncExitStack()
        self.counts: Counter[str] = Counter()
        self.leaks: list[str] = []

    async def run(self, lookups: int) -> None:
        """Look up so often."""
        generations = [build(self._root), build(self._root, [*REFERENCES, Reference("r9", "one more", "small-1")])]
        await self._open()
        try:
            while self.counts["lookups"] < lookups:
                await self._change(_CHANGES)
                self._look(min(int(_WAVE * (1 - _DECISIONS)), lookups))
                await self._decide(int(_WAVE * _DECISIONS))
                if self._chance.random() < 0.1:
                    self.counts["evicted"] += self._service.runtime.decider.answers.capacity.evicted
                    await self._stack.aclose()
                    await self._open()
                    self.counts["restarts"] += 1
                elif self._chance.random() < 0.2:
                    await self._service.runtime.activate(self._chance.choice(generations))
                    self.counts["swaps"] += 1
        finally:
            self.counts["evicted"] += self._service.runtime.decider.answers.capacity.evicted
            await self._stack.aclose()

    async def _open(self) -> None:
        tokens = {name: {"token": f"{name}-0123456789abcdef", "scopes": ["*"]} for name in PRINCIPALS}
        self._stack = AsyncExitStack()
        self._service = await self._stack.enter_async_context(
            running(
                self._root,
                store=self._store,
                auth={"tokens": tokens},
                cache={"threshold": 0.9, "min_probability": 0, "max_answers": 20},
            )
        )
        self._as = {
            name: Service(self._service.runtime, Principal(name, frozenset({"*"}), admin=False)) for name in PRINCIPALS
        }

    async def _change(self, times: int) -> None:
        """Put, corroborate and remove."""
        for _ in range(times):
            scope, number, text, name = self._place()
            context = types_pb2.AnswerContext(**CONTEXTS[number])
            action = self._chance.random()
            if action < 0.7:
                said = owner(scope, number, text, name)
                await self._as[name].put(text, said, scope, context=context)
                self.counts["puts"] += 1
            elif action < 0.97:  # two are told the same, so it is everyone's in the scope
                for one in PRINCIPALS[:2]:
                    await self._as[one].put(text, owner(scope, number, text, ""), scope, context=context)
                self.counts["corroborated"] += 1
            else:
                conditions: list[dict[str, Any]] = [{"all": True}, {"model": "unknown"}]
                await self._as[name].invalidate(scope, **self._chance.choice(conditions))
                self.counts["invalidations"] += 1

    def _place(self) -> tuple[str, int, str, str]:
        chance = self._chance
        pair = chance.choice(TEXTS)
        return chance.choice(SCOPES), chance.randrange(len(CONTEXTS)), chance.choice(pair), chance.choice(PRINCIPALS)

    def _look(self, times: int) -> None:
        """Look up in the view, as decisions do."""
        answers = self._service.runtime.decider.answers
        view = answers.view
        for _ in range(times):
            scope, number, text, name = self._place()
            self.counts["lookups"] += 1
            found = [view.exact(scope, answer_key(scope, _PRINTS[number], canonical(text)), name)]
            for private_to in ("", name):
                partition = view.answer_partition(scope, _PRINTS[number], private_to)
                if partition is not None:
                    _, rows = partition.search(_VECTORS[text][None], 4)
                    found += [view.entry_at(scope, row) for row in rows[0].tolist() if row >= 0]
            for entry in (entry for entry in found if entry is not None):
                answer = answers.fetch(entry)
                if answer is not None:
                    self._check(answer.content, scope, number, name)

    async def _decide(self, times: int) -> None:
        """Ask for decisions."""
        places = [self._place() for _ in range(times)]
        decisions = await asyncio.gather(
            *(
                self._as[name].decide(text, scope, context=types_pb2.AnswerContext(**CONTEXTS[number]))
                for scope, number, text, name in places
            )
        )
        for (scope, number, _, name), decision in zip(places, decisions, strict=True):
            self.counts["lookups"] += 1
            self.counts["decisions"] += 1
            if decision.answer.content:
                self._check(decision.answer.content, scope, number, name)

    def _check(self, content: str, scope: str, number: int, name: str) -> None:
        self.counts["found"] += 1
        its_scope, its_context, _, its_own = content.split("\x1f")
        if (its_scope, its_context) != (scope, str(number)) or its_own not in {"", name}:
            self.leaks.append(f"{name} in scope {scope!r}, context {number} was served {content!r}")


def owner(scope: str, context: int, text: str, name: str) -> str:
    """Return an answer that says for whom it is; "" is everyone in its scope."""
    return "\x1f".join((scope, str(context), " ".join(text.split()), name))


def probe(lookups: int, seed: int, root: Path) -> Prober:
    """Run it; `root` is an empty folder for the index."""
    prober = Prober(root, seed)
    asyncio.run(prober.run(lookups))
    return prober


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lookups", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = probe(given.lookups, given.seed, Path(folder))
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(done.counts.items()))
    print(f"{counts}; {len(done.leaks)} found by somebody they are not for ({time.perf_counter() - started:.0f} s)")
    for leak in itertools.islice(done.leaks, 20):
        print(leak)
    sys.exit(bool(done.leaks))


if __name__ == "__main__":
    main()
