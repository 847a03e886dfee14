"""Invalidate against a model of it: by every condition, dry or not, between fills, lapses and restarts."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from waypost.v1 import types_pb2

from index.encoder import HashEncoder
from index.store import MemoryStore
from tests.service.kit import Service, build, running
from tests.service.test_answers import SlowStore, until_begun
from tests.service.test_storable import Times

PROMPTS = ("alpha beta", "alpha gamma", "alpha beta gamma", "delta", "delta epsilon")
SCOPES, TAGS, MODELS = ("a", "b"), ("one", "two", "three"), ("small-1", "medium-1", "unknown")
REFRESH = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_REFRESH)
EXACT = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_EXACT_ONLY)
ENCODER = HashEncoder()
VECTORS = dict(zip(PROMPTS, ENCODER.encode(ENCODER.tokenise(PROMPTS)), strict=True))

prompts, scopes = st.sampled_from(PROMPTS), st.sampled_from(SCOPES)
tags = st.frozensets(st.sampled_from(TAGS), max_size=2)


@dataclass(frozen=True)
class Known:
    """What the model holds of an answer."""

    content: str
    tags: frozenset[str]
    model: str
    stored_at: float
    expires_at: float
    entry_id: str


class Model(RuleBasedStateMachine):
    """The service, and a dictionary that is what its cache should be."""

    root: Path

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.store.close = lambda: None  # type: ignore[method-assign]
        self.times = Times(1e9)
        self.there: dict[tuple[str, str], Known] = {}
        self.versions = 0
        self.stack, self.service = self.run(self._open())

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def _open(self) -> tuple[AsyncExitStack, Service]:
        stack = AsyncExitStack()
        service = await stack.enter_async_context(running(self.root, store=self.store, cache={"threshold": 0.5}))
        service.runtime.decider.answers.clock = self.times.clock()
        return stack, service

    @rule(scope=scopes, prompt=prompts, tags=tags, model=st.sampled_from(MODELS), ttl=st.sampled_from([5, 50]))
    def put(self, scope: str, prompt: str, tags: frozenset[str], model: str, ttl: int) -> None:
        self.versions += 1
        content = f"version {self.versions}"
        done = self.run(
            self.service.put(prompt, content, scope, source_tags=sorted(tags), model=model, ttl=Duration(seconds=ttl))
        )
        now = self.times.wall
        assert done.replaced == ((scope, prompt) in self.there)
        self.there[scope, prompt] = Known(content, tags, model, now, now + ttl, done.entry_id)

    @rule(scope=scopes, prompt=prompts, tags=tags)
    def fill(self, scope: str, prompt: str, tags: frozenset[str]) -> None:
        self.versions += 1
        content = f"version {self.versions}"
        decision = self.run(self.service.decide(prompt, scope, cache=REFRESH))
        done = self.run(
            self.service.report(decision, answer=content, source_tags=sorted(tags), ttl=Duration(seconds=20))
        )
        now = self.times.wall
        self.there[scope, prompt] = Known(content, tags, "small-1", now, now + 20, done.entry_id)

    @rule(seconds=st.integers(1, 30))
    def time_goes_on(self, seconds: int) -> None:
        self.times.go_on(seconds)

    @rule()
    def sweep(self) -> None:
        self.run(self.service.runtime.decider.answers.sweep())
        self.there = {place: known for place, known in self.there.items() if self.times.wall < known.expires_at}

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.stack, self.service = self.run(self._open())

    @rule(
        scope=scopes,
        wanted=st.fixed_dictionaries(
            {},
            optional={
                "source_tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=2),
                "model": st.sampled_from(MODELS),
                "older_than": st.integers(1, 30),
                "radius": st.tuples(prompts, st.sampled_from([0.3, 0.6, 0.99])),
                "entry_ids": st.lists(prompts, min_size=1, max_size=3),
            },
        ),
        dry_run=st.booleans(),
    )
    def invalidate(self, scope: str, wanted: dict[str, Any], dry_run: bool) -> None:  # noqa: FBT001
        meant = {
            place for place, known in self.there.items() if place[0] == scope and self._meant(place, known, wanted)
        }
        fields: dict[str, Any] = dict(wanted) or {"all": True}
        if "older_than" in fields:
            fields["older_than"] = Duration(seconds=fields["older_than"])
        if "radius" in fields:
            fields["radius"] = {"prompt": fields["radius"][0], "min_similarity": fields["radius"][1]}
        if "entry_ids" in fields:
            fields["entry_ids"] = self._ids(scope, fields["entry_ids"])
        done = self.run(self.service.invalidate(scope, dry_run=dry_run, **fields))
        assert set(done.entry_ids) == {self.there[place].entry_id for place in meant}
        assert done.removed == len(meant)
        if not dry_run:
            self.there = {place: known for place, known in self.there.items() if place not in meant}

    def _ids(self, scope: str, texts: list[str]) -> list[str]:
        return [self.there[scope, text].entry_id if (scope, text) in self.there else "none" for text in texts]

    def _meant(self, place: tuple[str, str], known: Known, wanted: dict[str, Any]) -> bool:
        text, least = wanted.get("radius", (place[1], -1.0))
        return (
            ("source_tags" not in wanted or not known.tags.isdisjoint(wanted["source_tags"]))
            and known.model == wanted.get("model", known.model)
            and known.stored_at <= self.times.wall - wanted.get("older_than", 0)
            and float(np.dot(VECTORS[text], VECTORS[place[1]])) >= least
            and place[1] in wanted.get("entry_ids", [place[1]])
        )

    @invariant()
    def what_is_served_is_what_is_there(self) -> None:
        if not hasattr(self, "service"):
            return
        for scope in SCOPES:
            alive = {
                prompt: known.content
                for (owner, prompt), known in self.there.items()
                if owner == scope and self.times.wall < known.expires_at
            }
            for prompt in PROMPTS:
                exact = self.run(self.service.decide(prompt, scope, cache=EXACT)).answer.content
                assert exact == alive.get(prompt, "")
                near = self.run(self.service.decide(prompt, scope)).answer.content
                assert near in {*alive.values(), ""}

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.run(self.stack.aclose())
            self.loop.close()


def test_invalidate_removes_what_is_meant_and_nothing_else_at_once_and_for_good() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Model.root = Path(folder)
        build(Model.root)
        machine = Model.TestCase
        machine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
        machine("runTest").runTest()


async def test_what_takes_the_place_of_a_removed_answer_meanwhile_stays(tmp_path: Path) -> None:
    store = SlowStore()
    async with running(tmp_path, store=store) as service:
        for prompt in ("a question", "another"):
            await service.put(prompt, "old", "s", model="old")
        store.gate.clear()
        store.begun.clear()
        first = asyncio.ensure_future(service.put("elsewhere", "yes", "t"))
        await until_begun(store)
        later = [
            asyncio.ensure_future(service.put("a question", "new", "s", model="new")),
            asyncio.ensure_future(service.invalidate("s", model="old")),
        ]
        await asyncio.sleep(0.2)
        store.gate.set()
        await asyncio.gather(first, *later)
        assert (await service.decide("a question", "s")).answer.content == "new"
        assert (await service.decide("another", "s")).answer.content == ""


async def test_a_radius_also_covers_what_is_only_hit_exactly(tmp_path: Path) -> None:
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "alpha beta gamma")]
    conversation = [types_pb2.Message(role=role, content=content) for role, content in turns]
    tool = [*conversation[:2], types_pb2.Message(role="tool", content="gamma beta alpha")]
    async with running(tmp_path) as service:
        for fields in ({"messages": conversation}, {"messages": tool}, {"prompt": "make it shorter"}):
            decision = await service.decide(scope="s", **fields)
            assert (await service.report(decision, model=decision.plan.steps[0].model, source_tags=["a"])).stored
        await service.put("alpha beta gamma", "yes", "s", source_tags=["b"])
        await service.put("alpha beta gamma", "yes", "elsewhere")
        radius = {"prompt": "beta alpha gamma", "min_similarity": 0.99}
        assert (await service.invalidate("s", radius=radius, source_tags=["b"], dry_run=True)).removed == 1
        assert (await service.invalidate("s", radius=radius, dry_run=True)).removed == 3
        assert (await service.invalidate("s", radius=radius)).removed == 3
        assert (await service.decide(scope="s", messages=conversation)).WhichOneof("outcome") == "plan"
        assert (await service.decide("make it shorter", "s")).answer.content == "an answer"
        assert (await service.decide("alpha beta gamma", "elsewhere")).answer.content == "yes"
