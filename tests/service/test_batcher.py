"""The queue in front of the encoder: shared runs, bounded, and nobody waits for ever."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st
from waypost.v1 import router_pb2, types_pb2

from index.encoder import HashEncoder, Tokens
from index.vectors import Vectors
from service.batcher import Batcher, Embedded, choose
from service.errors import NotReady, Overloaded
from tests.e2e.kit import wait_for
from tests.service.kit import running


class GatedEncoder(HashEncoder):
    """Waits where it is told to, fails at texts that say so, and remembers its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)
        self.runs: list[int] = []
        self.texts: list[str] = []

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        if any("cannot be tokenised" in text for text in texts):
            raise ValueError("a bad text")
        self.texts += texts
        return super().tokenise(texts)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.runs.append(len(batch))
        self.running.release()
        assert self.gate.wait(30)
        if any(len(tokens) == 4 for tokens in batch):
            raise ValueError("three words are too much")
        return super().encode(batch)


def search(asks: Sequence[str], vectors: Vectors) -> list[str]:
    assert len(asks) == len(vectors)
    if "fail" in asks:
        raise ValueError("nothing can be found")
    return [f"found {ask}" for ask in asks]


Found = Embedded[str]


@asynccontextmanager
async def batching(
    encoder: GatedEncoder, *, workers: int = 1, batch_tokens: int = 512, max_queue: int = 1_024
) -> AsyncIterator[Batcher[str, str]]:
    batcher = Batcher(encoder, search, workers=workers, batch_tokens=batch_tokens, max_queue=max_queue)
    try:
        yield batcher
    finally:
        encoder.gate.set()
        await asyncio.to_thread(batcher.close)


async def busy(encoder: GatedEncoder, batcher: Batcher[str, str]) -> "asyncio.Future[Found]":
    """Keep a worker busy until the gate opens."""
    encoder.gate.clear()
    first = batcher.submit("busy", "first")
    await asyncio.to_thread(encoder.running.acquire, timeout=10)
    return first


async def test_a_text_is_embedded_and_searched_for() -> None:
    encoder = GatedEncoder()
    async with batching(encoder) as batcher:
        found = await batcher.submit("one text", "mine")
        np.testing.assert_array_equal(found.vector, encoder.encode(encoder.tokenise(["one text"]))[0])
        assert found.found == "found mine"
        assert not found.truncated
        assert min(found.queue, found.encode, found.search) >= 0
        assert (await batcher.submit("word " * 300, "long")).truncated
        assert len(batcher) == 0


async def test_everyone_gets_their_own_vector_and_their_own_finds_whatever_shares_a_run() -> None:
    encoder, chance = GatedEncoder(), random.Random(0)
    texts = [" ".join(f"w{chance.randrange(50)}" for _ in range(chance.choice([1, 2, 5, 40]))) for _ in range(400)]
    async with batching(encoder, workers=3, batch_tokens=64) as batcher:
        found = await asyncio.gather(*(batcher.submit(text, f"{i}") for i, text in enumerate(texts)))
    for i, (text, one) in enumerate(zip(texts, found, strict=True)):
        assert one.found == f"found {i}"
        np.testing.assert_array_equal(one.vector, encoder.encode(encoder.tokenise([text]))[0])
    assert max(encoder.runs) > 1


async def test_identical_texts_in_flight_are_embedded_once() -> None:
    encoder = GatedEncoder()
    async with batching(encoder) as batcher:
        first = await busy(encoder, batcher)
        same = [batcher.submit("the same", f"{i}") for i in range(20)]
        other = batcher.submit("another", "x")
        encoder.gate.set()
        found = await asyncio.gather(*same)
        await asyncio.gather(first, other)
        assert [one.found for one in found] == [f"found {i}" for i in range(20)]
        assert encoder.texts.count("the same") == 1
        await batcher.submit("the same", "later")
        assert encoder.texts.count("the same") == 2, "only what is in flight is shared"


async def test_what_waits_shares_the_next_run() -> None:
    encoder = GatedEncoder()
    async with batching(encoder) as batcher:
        first = await busy(encoder, batcher)
        waiting = [batcher.submit(f"text {i}", "x") for i in range(10)]
        encoder.gate.set()
        await asyncio.gather(first, *waiting)
        assert encoder.runs == [1, 10]


async def test_who_went_away_is_not_encoded() -> None:
    encoder = GatedEncoder()
    async with batching(encoder) as batcher:
        first = await busy(encoder, batcher)
        gone, stays = batcher.submit("gone", "x"), batcher.submit("stays", "x")
        shared = [batcher.submit("shared", "x") for _ in range(2)]
        gone.cancel()
        shared[0].cancel()
        encoder.gate.set()
        await asyncio.gather(first, stays, shared[1])
        assert encoder.runs == [1, 2]
        assert len(batcher) == 0


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    encoder = GatedEncoder()
    async with batching(encoder, max_queue=3) as batcher:
        first = await busy(encoder, batcher)
        waiting = [batcher.submit("same text" if i else "other", "x") for i in range(3)]
        with pytest.raises(Overloaded) as error:
            batcher.submit("one too many", "x")
        assert error.value.retry_after > 0
        assert batcher.refused == 1
        assert len(batcher) == 3
        waiting[0].cancel()
        waiting.append(batcher.submit("room", "x"))  # whoever went away makes room at once
        encoder.gate.set()
        await asyncio.gather(first, *waiting[1:])
        assert "one too many" not in encoder.texts
        assert len(batcher) == 0


@pytest.mark.parametrize(
    ("text", "ask"), [("cannot be tokenised", "x"), ("one two three", "x"), ("a text", "fail")], ids=["t", "e", "s"]
)
async def test_a_failure_reaches_its_caller_and_the_worker_lives_on(text: str, ask: str) -> None:
    encoder = GatedEncoder()
    async with batching(encoder) as batcher:
        for _ in range(5):
            with pytest.raises(ValueError, match=r"a bad text|too much|nothing can be found"):
                await batcher.submit(text, ask)
            assert (await batcher.submit("a good text or so", "x")).found == "found x"
        assert len(batcher) == 0


async def test_an_exception_in_one_run_leaves_other_runs_alone() -> None:
    encoder = GatedEncoder()
    async with batching(encoder, batch_tokens=4) as batcher:
        first = await busy(encoder, batcher)
        bad, good = batcher.submit("one two three", "x"), batcher.submit("a much longer text than that", "x")
        encoder.gate.set()
        done = await asyncio.gather(first, bad, good, return_exceptions=True)
        assert [isinstance(one, ValueError) for one in done] == [False, True, False]


async def test_closing_tells_who_still_waits_and_finishes_what_runs() -> None:
    encoder = GatedEncoder()
    asyncio.get_running_loop().set_debug(True)  # refuses to be called from another thread
    async with batching(encoder) as batcher:
        first = await busy(encoder, batcher)
        waiting = [batcher.submit(f"text {i}", "x") for i in range(5)]
        closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert all(isinstance(one, NotReady) for one in done)
        with pytest.raises(NotReady):
            batcher.submit("too late", "x")
        encoder.gate.set()
        assert (await first).found == "found first"
        await closing
        assert len(batcher) == 0


async def test_nobody_is_forgotten_when_callers_come_and_go_all_the_time() -> None:
    encoder, chance = GatedEncoder(), random.Random(1)

    async def call(batcher: Batcher[str, str]) -> None:
        answered = 0
        while answered < 30:
            text = " ".join(f"w{chance.randrange(30)}" for _ in range(chance.choice([1, 2, 6, 30])))
            try:
                future = batcher.submit(text, text)
            except Overloaded:  # another caller's turn: asking again at once would only keep the loop busy
                await asyncio.sleep(0.001)
                continue
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.002)
                future.cancel()
            try:
                assert (await asyncio.wait_for(future, 30)).found == f"found {text}"
                answered += 1
            except asyncio.CancelledError:
                assert future.cancelled()

    async with batching(encoder, workers=3, batch_tokens=32, max_queue=20) as batcher:
        await asyncio.gather(*(call(batcher) for _ in range(40)))
        assert len(batcher) == 0


async def test_idle_workers_share_what_comes_at_once() -> None:
    encoder = GatedEncoder()
    async with batching(encoder, workers=2) as batcher:
        await asyncio.to_thread(wait_for, lambda: batcher._idle == 2)
        encoder.gate.clear()
        waiting = [batcher.submit(f"text {i}", "x") for i in range(8)]
        both = [await asyncio.to_thread(encoder.running.acquire, timeout=10) for _ in range(2)]
        encoder.gate.set()
        await asyncio.gather(*waiting)
        assert all(both), "one worker took everything while the other was idle"


LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=64)


@given(LENGTHS, st.integers(1, 2_048), st.integers(1, 20))
def test_a_run_begins_with_the_oldest_and_stays_within_the_budget(lengths: list[int], budget: int, rows: int) -> None:
    batch = choose(lengths, budget, rows)
    assert batch[0] == 0
    assert len(batch) == len(set(batch)) <= rows
    assert all(0 <= i < len(lengths) for i in batch)
    if len(batch) > 1:
        assert max(lengths[i] for i in batch) * len(batch) <= budget


@given(st.integers(1, 100), st.integers(1, 64), st.integers(1, 2_048), st.integers(1, 20))
def test_a_run_of_equals_is_as_full_as_it_may_be(length: int, count: int, budget: int, rows: int) -> None:
    assert len(choose([length] * count, budget, rows)) == max(1, min(count, rows, budget // length))


@given(LENGTHS, st.integers(600, 4_096))
def test_a_run_prefers_what_is_most_alike_in_length(lengths: list[int], budget: int) -> None:
    batch = choose(lengths, budget, 2)
    if len(batch) == 2:
        nearest = min(abs(length - lengths[0]) for length in lengths[1:] if max(length, lengths[0]) * 2 <= budget)
        assert abs(lengths[batch[1]] - lengths[0]) == nearest


# ---- deadlines, through a decision ------------------------------------------------------------------------------


class SlowEncoder(HashEncoder):
    """Takes longer than anyone waits for."""

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        time.sleep(0.5)
        return super().encode(batch)


async def test_a_deadline_that_is_too_near_is_met_without_an_embedding(tmp_path: Path) -> None:
    async with running(tmp_path, encoder=SlowEncoder()) as service:
        await service.put("known", "the answer")
        service.deadline = 0.05
        decision = await service.decide("prove the hard theorem")
        assert decision.degraded == types_pb2.DEGRADED_NO_EMBEDDING
        assert decision.plan.steps[0].model == "medium-1"
        assert decision.plan.reason == types_pb2.REASON_DEGRADED
        pinned = await service.decide("prove the hard theorem", route=types_pb2.RouteControl(pin_model="large"))
        assert (pinned.plan.steps[0].model, pinned.plan.reason) == ("large-1", types_pb2.REASON_PINNED)
        limited = await service.decide("prove it", route=types_pb2.RouteControl(deny_models=["medium"]))
        assert limited.degraded == types_pb2.DEGRADED_NO_EMBEDDING
        assert limited.plan.steps[0].model != "medium-1"
        known = await service.decide("known")
        assert known.degraded == types_pb2.DEGRADED_NONE
        assert known.answer.content == "the answer"


async def test_a_large_batch_gives_up_embedding_early_enough_to_decide_on_all(tmp_path: Path) -> None:
    async with running(tmp_path, encoder=SlowEncoder()) as service:
        service.deadline = 1.0  # time for one run, but then not for all these decisions as well
        requests = [router_pb2.DecideRequest(prompt=f"prompt {i}") for i in range(600)]
        done = await service.call("Router.DecideBatch", router_pb2.DecideBatchRequest(requests=requests))
        assert {one.response.degraded for one in done.results} == {types_pb2.DEGRADED_NO_EMBEDDING}


async def test_what_a_batch_has_no_time_for_is_said_in_its_place_and_not_decided(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        service.deadline = 0.0
        requests = [router_pb2.DecideRequest(prompt=f"prompt {i}") for i in range(1_024)]
        done = await service.call("Router.DecideBatch", router_pb2.DecideBatchRequest(requests=requests))
        assert [one.failure.code for one in done.results] == [code_pb2.DEADLINE_EXCEEDED] * 1_024
        assert "send fewer at once" in done.results[0].failure.message
        assert not list(service.runtime.decider.log.all())


async def test_a_degraded_decision_can_be_filled_and_is_then_hit_exactly_only(tmp_path: Path) -> None:
    async with running(tmp_path, encoder=SlowEncoder()) as service:
        service.deadline = 0.05
        decision = await service.decide("a b c")
        assert (await service.report(decision, answer="yes")).stored
        assert (await service.decide("a b c")).answer.content == "yes"
        service.deadline = None
        assert (await service.decide("c b a")).WhichOneof("outcome") == "plan"


@pytest.mark.parametrize("deadline", [0.0, -1.0, 0.004])
async def test_a_deadline_that_has_passed_still_gets_a_plan(tmp_path: Path, deadline: float) -> None:
    async with running(tmp_path) as service:
        service.deadline = deadline
        decision = await service.decide("a prompt")
        assert decision.degraded == types_pb2.DEGRADED_NO_EMBEDDING
        assert decision.plan.steps


async def test_a_full_queue_refuses_a_decision_but_no_exact_hit(tmp_path: Path) -> None:
    async with running(tmp_path, encoder=SlowEncoder()) as service:
        await service.put("known", "the answer")
        service.runtime.decider.batcher._max_queue = 1
        asked = [asyncio.ensure_future(service.decide(f"question {i}")) for i in range(10)]
        await asyncio.sleep(0)
        assert (await service.decide("known")).answer.content == "the answer"
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert any(isinstance(one, Overloaded) for one in done)
        assert not any(isinstance(one, BaseException) and not isinstance(one, Overloaded) for one in done)
