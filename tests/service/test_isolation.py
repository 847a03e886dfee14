"""Nothing cached in one scope or context is ever served in another: a hundred thousand adversarial lookups."""

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import cache_pb2, types_pb2

from benchmarks.isolation import probe
from index.encoder import HashEncoder
from index.records import Answer
from index.store import Change, key_of
from index.text import Context, answer_key, canonical, context_fingerprint
from index.view import View
from tests.service.kit import Service, running

# Prefixes and concatenations of each other, and of what else goes into a key.
SCOPES = ["a", "aa", "ab", "a:b", "a/b", "b", "ba", "A", "a.b", "a-b", "default", "default2", "a:a", "aaa", "b:a"]
CONTEXTS: list[dict[str, Any]] = [
    {"system_prompt": ""},
    {"system_prompt": "a"},
    {"system_prompt": "ab"},
    {"system_prompt": "a", "tools": "b"},
    {"tools": "ab"},
    {"tools": "a", "response_format": "b"},
    {"extra": {"a": "b"}},
    {"extra": {"ab": ""}},
    {"extra": {"": "ab"}},
    {"extra": {"a": "b", "b": "a"}},
    {"sampling": "a"},
    {"response_format": "a"},
]
# The second of each pair is the same vector and another text.
TEXTS = [(t, t.replace(" ", "  ")) for t in ("a b", "ab c", "a b c d", "one question")]


def turns(*said: str) -> list[types_pb2.Message]:
    return [types_pb2.Message(role=role, content=text) for role, _, text in (turn.partition(": ") for turn in said)]


def owner(scope: str, context: int, text: str) -> str:
    return f"{scope}\x00{context}\x00{text}"


async def fill(service: Service, places: list[tuple[str, int, str]]) -> None:
    await asyncio.gather(
        *(service.put(t, owner(s, c, t), s, context=types_pb2.AnswerContext(**CONTEXTS[c])) for s, c, t in places)
    )


async def test_decisions_are_only_ever_answered_from_their_own_scope_and_context(tmp_path: Path) -> None:
    chance = random.Random(5)
    every = list(itertools.product(SCOPES, range(len(CONTEXTS)), [first for first, _ in TEXTS]))
    filled = set(chance.sample(every, len(every) // 2))
    hits = {types_pb2.MATCH_EXACT: 0, types_pb2.MATCH_SEMANTIC: 0}
    async with running(tmp_path) as service:
        await fill(service, sorted(filled))
        for _ in range(40):
            asked = [
                (s, c, chance.choice(pair))
                for s, c, pair in chance.choices(list(itertools.product(SCOPES, range(len(CONTEXTS)), TEXTS)), k=500)
            ]
            answered = await asyncio.gather(
                *(service.decide(t, s, context=types_pb2.AnswerContext(**CONTEXTS[c])) for s, c, t in asked)
            )
            for (scope, context, text), response in zip(asked, answered, strict=True):
                (stored,) = (first for first, second in TEXTS if text in (first, second))
                if (scope, context, stored) in filled:
                    assert response.answer.content == owner(scope, context, stored)
                    hits[response.answer.match] += 1
                else:
                    assert response.WhichOneof("outcome") == "plan"
                    assert not response.plan.HasField("candidate"), "not even a hint of another's answer"
    assert min(hits.values()) > 3_000


def test_a_hundred_thousand_lookups_find_nothing_of_another_scope() -> None:
    chance = random.Random(6)
    encoder = HashEncoder()
    contexts = [context_fingerprint(Context(**c)) for c in CONTEXTS]
    texts = [canonical(text) for pair in TEXTS for text in pair]
    vectors = dict(zip(texts, encoder.encode(encoder.tokenise(texts)), strict=True))
    scopes = [*SCOPES, *(f"{one}{other}" for one in SCOPES for other in SCOPES)]
    view = View(encoder.digest, encoder.dimensions)
    owners: dict[tuple[str, str], tuple[str, bytes, str]] = {}
    stored: set[tuple[str, bytes, str]] = set()
    for scope, context, text in chance.sample(list(itertools.product(sorted(set(scopes)), contexts, texts)), 6_000):
        key = answer_key(scope, context, text)
        raw = vectors[text].tobytes()
        answer = Answer(key[:16].hex(), scope, key, context, text, "", "m", encoder.digest, raw, 1.0)
        owners[scope, answer.id] = (scope, context, text)
        stored.add((scope, context, text))
        view.apply([Change(0, key_of(answer), answer)])
    found = 0
    for _ in range(50_000):
        scope, context, text = chance.choice(scopes), chance.choice(contexts), chance.choice(texts)
        entry = view.exact(scope, answer_key(scope, context, text))
        assert (entry is not None) == ((scope, context, text) in stored)
        if entry is not None:
            assert owners[scope, entry.id] == (scope, context, text)
        partition = view.answer_partition(scope, context)
        if partition is None:
            continue
        _, rows = partition.search(vectors[text][None], 8)
        for row in rows[0].tolist():
            near = view.entry_at(scope, row)
            if row >= 0:
                assert near is not None, "a row of this partition is of this scope"
                assert owners[scope, near.id][:2] == (scope, context)
                found += 1
    assert found > 50_000


@pytest.mark.parametrize("scope", ["b", "ab", "", "A", "a:"])
async def test_what_looks_after_answers_stays_in_its_scope(tmp_path: Path, scope: str) -> None:
    async with running(tmp_path) as service:
        stored = await service.put("a question", "mine", "a", source_tags=["t"], model="m")
        for condition in (
            {"all": True},
            {"entry_ids": [stored.entry_id]},
            {"source_tags": ["t"]},
            {"model": "m"},
            {"radius": {"prompt": "a question", "min_similarity": -1}},
        ):
            assert (await service.invalidate(scope, **condition)).removed == 0
        decision = await service.decide("a question", scope)
        assert decision.WhichOneof("outcome") == "plan"
        assert (await service.decide("a question", "a")).answer.content == "mine"


async def test_a_fill_token_of_one_decision_stores_in_its_own_scope_only(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        one, other = [await service.decide("a question", scope) for scope in ("a", "b")]
        await service.report(one, answer="for a")
        assert (await service.decide("a question", "a")).answer.content == "for a"
        assert (await service.decide("a question", "b")).WhichOneof("outcome") == "plan"
        await service.report(other, answer="for b")
        assert (await service.decide("a question", "b")).answer.content == "for b"
        assert (await service.decide("a question", "a")).answer.content == "for a"


async def test_an_empty_scope_is_the_default_scope_and_no_other(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("a question", "by default")
        assert (await service.decide("a question", "default")).answer.content == "by default"
        assert (await service.decide("a question", "Default")).WhichOneof("outcome") == "plan"


CONVERSATIONS: list[dict[str, Any]] = [
    {"prompt": "q"},
    {"prompt": "q", "context": types_pb2.AnswerContext(system_prompt="s")},
    {"messages": turns("system: s", "user: q")},
    {"messages": turns("user: s", "user: q")},
    {"messages": turns("user: s", "assistant: q", "user: q")},
    {"messages": turns("user: ", "user: q")},
    {"messages": turns("tool: q")},
    {"messages": turns("user: s", "tool: q")},
    {"messages": turns("tool: ", "user: q")},
    {"messages": turns("user: s", "user: s", "user: q")},
    {"messages": turns("user: ss", "user: q")},
]


@pytest.mark.parametrize("stored", range(len(CONVERSATIONS)))
async def test_an_answer_to_one_conversation_is_served_in_no_other(tmp_path: Path, stored: int) -> None:
    async with running(tmp_path) as service:
        one = CONVERSATIONS[stored]
        await service.call("Cache.Put", cache_pb2.PutRequest(answer="mine", **one))
        served = [(await service.decide(**asked)).answer.content for asked in CONVERSATIONS]
        assert served == ["mine" if asked is one else "" for asked in CONVERSATIONS]


def test_nothing_is_found_by_anybody_it_is_not_for_under_eviction_swaps_and_restarts(tmp_path: Path) -> None:
    done = probe(60_000, 3, tmp_path)
    assert done.leaks == []
    assert done.counts["found"] > 40_000
    assert min(done.counts[what] for what in ("evicted", "restarts", "swaps", "invalidations", "corroborated")) > 0
