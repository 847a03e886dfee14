"""What reports teach: around a prompt, in their scope, within bounds, and for as long as nobody takes them back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from waypost.v1 import references_pb2, router_pb2, types_pb2

from index.encoder import HashEncoder
from index.records import Reference
from service.errors import InvalidRequest
from service.learning.heads import bounded
from service.learning.journal import Rating
from service.learning.online import Learner
from service.requests import Decision, Estimate, Outcome, Prompt, Request, Timings, source_of
from service.settings import LearningSettings
from tests.service.kit import Service, build, running

ESTIMATES = (Estimate("cheap", 0.7, 0.6, 0.001, None, 0.1), Estimate("dear", 0.9, 0.8, 0.01, 2.0))
DAY = 86_400.0


class World:
    """A learner with a clock, and prompts about two topics."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.learner = Learner(LearningSettings(**settings), clock=lambda: self.now)
        self.random = np.random.default_rng(0)
        self.count = 0

    def vector(self, topic: int) -> NDArray[np.float32]:
        found = self.random.standard_normal(16).astype(np.float32) * 0.05
        found[topic] += 1.0
        return np.asarray(found / np.linalg.norm(found), np.float32)

    def report(
        self,
        quality: float | None,
        *,
        topic: int = 0,
        model: str = "cheap",
        source: str = "s",
        scope: str = "a",
        times: int = 1,
        **fields: Any,
    ) -> None:
        for _ in range(times):
            self.count += 1
            self.now += 1.0
            decision = Decision(
                str(self.count), Request(scope, "x"), Prompt("x", b""), "g", self.now, Timings(), expected=ESTIMATES
            )
            decision.vector = self.vector(topic).tobytes()
            self.learner.reported(decision, Rating(model, Outcome.OK, quality, source, **fields))

    def fit(self) -> None:
        for scope in self.learner.due():
            self.learner.fit(scope)()()

    def estimates(self, topic: int = 0, scope: str = "a") -> dict[str, Estimate]:
        found = self.learner.adjust(scope, self.vector(topic).tobytes(), ESTIMATES, 1, 0.5)
        return {estimate.model: estimate for estimate in found.estimates}


def test_without_reports_estimates_are_the_very_same() -> None:
    world = World()
    assert world.learner.adjust("a", b"", ESTIMATES, 1, 0.5).estimates is ESTIMATES
    world.report(None)  # that a call was made, and nothing about it
    assert world.learner.adjust("a", b"", ESTIMATES, 1, 0.5).estimates is ESTIMATES
    world.report(0.0, times=50)
    assert world.learner.adjust("b", b"", ESTIMATES, 1, 0.5).estimates is ESTIMATES


def test_a_model_that_turns_bad_is_expected_to_be_bad_without_a_fit() -> None:
    world = World()
    world.report(0.7, times=100)
    assert world.estimates()["cheap"].quality == pytest.approx(0.7, abs=0.02)
    world.report(0.0, times=60)
    assert world.estimates()["cheap"].quality < 0.4
    assert world.estimates()["dear"].quality == 0.9


def test_what_is_learned_depends_on_the_prompt() -> None:
    world = World()
    for _ in range(100):
        world.report(0.3, topic=0)
        world.report(1.0, topic=1)
    world.fit()
    assert world.estimates(0)["cheap"].quality < 0.45
    assert world.estimates(1)["cheap"].quality > 0.85


def test_no_report_moves_more_than_is_allowed() -> None:
    world = World(max_shift=0.1)
    world.report(0.0, times=300)
    world.fit()
    assert world.estimates()["cheap"].quality == pytest.approx(0.6)
    assert world.estimates()["cheap"].quality_low == pytest.approx(0.5)


def test_a_snapshot_adjusts_alike_and_learns_no_further() -> None:
    world = World()
    world.report(0.2, times=60, cost_usd=0.002)
    world.fit()
    vector = world.vector(0).tobytes()
    before = world.learner.adjust("a", vector, ESTIMATES, 1, 0.5)
    snapshot = world.learner.snapshot(LearningSettings())
    world.report(1.0, times=60)
    world.fit()
    assert snapshot.adjust("a", vector, ESTIMATES, 1, 0.5) == before
    assert world.learner.adjust("a", vector, ESTIMATES, 1, 0.5) != before
    bounded_ = world.learner.snapshot(LearningSettings(max_shift=0.0))
    assert bounded_.adjust("a", vector, ESTIMATES, 1, 0.5).estimates[0].quality == 0.7


def test_a_few_reports_prove_little() -> None:
    world = World()
    world.report(0.0, times=7)
    world.fit()
    assert world.estimates()["cheap"].quality == 0.7


def test_one_source_does_not_outvote_the_others() -> None:
    world = World()
    for i in range(40):
        world.report(0.7, source=f"user-{i % 8}")
        world.report(0.0, source="attacker", times=10)
    world.fit()
    poisoned = world.estimates()["cheap"].quality
    assert poisoned > 0.3
    alone = World()
    alone.report(0.0, source="attacker", times=400)
    alone.fit()
    assert alone.estimates()["cheap"].quality < poisoned - 0.05


def test_a_flood_in_one_region_leaves_the_others_alone() -> None:
    world = World()
    world.report(0.7, topic=1, times=100)
    world.report(0.0, topic=0, times=2_000)
    world.fit()
    assert world.estimates(1)["cheap"].quality > 0.5


def test_what_a_source_taught_can_be_forgotten() -> None:
    world = World()
    world.report(0.7, source="good", times=50)
    world.report(0.0, source="bad", times=50)
    world.fit()
    assert world.estimates()["cheap"].quality < 0.6
    assert world.learner.forget("a", "bad") == 50
    assert world.learner.forget("b", "bad") == 0
    world.fit()
    assert world.estimates()["cheap"].quality == pytest.approx(0.7, abs=0.02)


def test_with_time_reports_count_less_and_less() -> None:
    world = World(half_life_days=1.0)
    world.report(0.2, times=60)
    world.fit()
    fresh = world.estimates()["cheap"].quality
    world.now += 8 * DAY
    world.fit()
    assert fresh < 0.35
    assert world.estimates()["cheap"].quality > 0.6


def test_the_last_word_of_a_source_on_an_answer_counts() -> None:
    world = World()
    decision = Decision("1", Request("a", "x"), Prompt("x", b""), "g", 0.0, Timings(), expected=ESTIMATES)
    decision.vector = world.vector(0).tobytes()
    for quality in (0.0, 0.5, 1.0):
        world.learner.reported(decision, Rating("cheap", Outcome.OK, quality, "s"))
    [(_, samples)] = world.learner.samples()
    assert [sample.quality for sample in samples] == [1.0]


def test_memory_is_bounded() -> None:
    world = World(keep=100)
    world.report(0.7, times=250)
    assert len(world.learner) == 100
    assert sum(len(samples) for _, samples in world.learner.samples()) == 100


def test_cost_and_latency_follow_what_is_reported() -> None:
    world = World()
    world.report(None, cost_usd=0.002, latency_s=0.5, times=100)
    world.report(None, model="dear", cost_usd=0.02, latency_s=6.0, times=100)
    found = world.estimates()
    assert found["cheap"].cost_usd == pytest.approx(0.002, rel=0.1)
    assert found["dear"].cost_usd == pytest.approx(0.02, rel=0.1)
    assert found["cheap"].latency_s == pytest.approx(0.5)
    assert found["dear"].latency_s == pytest.approx(6.0, rel=0.15)
    assert found["cheap"].quality == 0.7
    world.report(None, cost_usd=1_000.0, times=100)
    assert world.estimates()["cheap"].cost_usd <= 0.001 * 20


def test_switched_off_it_learns_nothing() -> None:
    world = World(enabled=False)
    world.report(0.0, cost_usd=1.0, times=100)
    assert world.learner.adjust("a", b"", ESTIMATES, 1, 0.5).estimates is ESTIMATES


def test_reports_on_both_lower_the_doubt_about_leaving_the_fallback() -> None:
    world = World()
    world.report(0.7, times=200)
    world.fit()
    assert world.estimates()["cheap"].doubt == 0.1
    world.report(0.9, model="dear", times=200)
    world.fit()
    assert world.estimates()["cheap"].doubt < 0.05
    strange = tuple(estimate._replace(doubt=0.0) for estimate in ESTIMATES)
    found = world.learner.adjust("a", world.vector(0).tobytes(), strange, 1, 0.5)
    assert found.supported
    assert 0 < found.estimates[0].doubt < 0.05


def test_a_fallback_that_turns_bad_is_left_though_the_prompt_is_like_no_reference() -> None:
    world = World()
    world.report(0.9, model="dear", times=60)
    vector = world.vector(0).tobytes()
    assert not world.learner.adjust("a", vector, ESTIMATES, 1, 0.5).supported
    world.report(0.0, model="dear", times=60)
    assert world.learner.adjust("a", vector, ESTIMATES, 1, 0.5).supported
    assert not world.learner.adjust("a", b"", ESTIMATES, 1, 0.5).supported


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=400),
)
def test_bounded_weights_grow_nowhere_and_no_source_outweighs_the_rest(rows: Sequence[tuple[float, int, int]]) -> None:
    weights = np.array([weight for weight, _, _ in rows])
    sources, regions = [str(source) for _, source, _ in rows], [region for _, _, region in rows]
    found = bounded(weights, sources, regions)
    assert (found <= weights + 1e-9).all()
    assert (found >= 0).all()
    for source in set(sources):
        own = found[[other == source for other in sources]].sum()
        assert len(set(sources)) == 1 or own <= max(found.sum() - own, 20.0) + 1e-6


async def taught(service: Service, quality: float, times: int, scope: str = "a", source: str = "") -> None:
    for i in range(times):
        made = await service.decide(f"add two small numbers {i} {source}", scope=scope)
        await service.report(made, fill_token="", quality=quality, quality_source=source)


async def expected(service: Service, scope: str = "a") -> float:
    made = await service.decide("add two small numbers once more", scope=scope, explain=True)
    return next(e.quality for e in made.explanation.estimates if e.model == "small-1")


async def test_reports_of_quality_move_the_estimates_of_their_scope_and_survive_a_restart(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"journal": {"enabled": True}}
    async with running(tmp_path, **tables) as service:
        before = await expected(service)
        await taught(service, 0.0, 40)
        after = await expected(service)
        assert after < before - 0.2
        assert await expected(service, "b") == before
    async with running(tmp_path, **tables) as service:
        learner = service.runtime.decider.learner
        assert learner is not None
        async with asyncio.timeout(30):
            while not len(learner):  # noqa: ASYNC110 - read on a thread
                await asyncio.sleep(0.01)
        assert await expected(service) < before - 0.2
        assert await expected(service, "b") == before


async def test_what_a_source_reported_is_taken_back_by_its_name(tmp_path: Path) -> None:
    async with running(tmp_path, journal={"enabled": True}) as service:
        before = await expected(service)
        await taught(service, 0.0, 40, source="user:9")
        await service.upsert(
            references_pb2.Reference(id="x", prompt="p", best_model="small", source="user:9"),
            references_pb2.Reference(id="y", prompt="p", best_model="small", source="user:8"),
            scope="a",
        )
        found = await service.call("References.Delete", references_pb2.DeleteRequest(scope="a", sources=["user:9"]))
        assert (found.deleted, found.reports) == (1, 40)
        assert await expected(service) == pytest.approx(before)
        with pytest.raises(InvalidRequest, match="ids"):
            await service.call("References.Delete", references_pb2.DeleteRequest(scope="a"))
        with pytest.raises(InvalidRequest, match=r"sources\[0\]"):
            await service.call("References.Delete", references_pb2.DeleteRequest(scope="a", sources=[""]))


async def test_latency_and_tokens_that_are_reported_move_a_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        route = types_pb2.RouteControl(max_latency=Duration(seconds=5))
        for i in range(30):
            made = await service.decide(f"add two small numbers {i}", route=route)
            await service.report(made, fill_token="", latency=Duration(seconds=30))
        made = await service.decide("add two small numbers", route=route)
        assert made.plan.steps[0].model != "small-1"


async def test_expectations_follow_another_generation(tmp_path: Path) -> None:
    from index.build import build_index
    from index.generation import set_current
    from tests.service.kit import catalogue

    first = build(tmp_path)
    better = [Reference("s", "add two small numbers", scores={"small-1": 0.0, "medium-1": 0.9, "large-1": 1.0})]
    second = build_index(better, catalogue(), HashEncoder(), tmp_path).generation
    set_current(tmp_path, first)
    async with running(tmp_path) as service:
        await taught(service, 0.0, 40)
        await service.runtime.activate(second)
        learner = service.runtime.decider.learner
        assert learner is not None
        async with asyncio.timeout(30):
            while {s.generation for _, samples in learner.samples() for s in samples} != {second}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # The new generation knows what the reports say: nothing is taken off twice.
        [(_, samples)] = learner.samples()
        assert max(abs(sample.quality - sample.expected) for sample in samples) < 0.5
        request = router_pb2.DecideRequest(prompt="add two small numbers 1", scope="a", explain=True)
        made = await service.call("Router.Decide", request)
        assert made.plan.steps[0].model != "small-1"


def test_all_sources_of_one_principal_weigh_no_more_than_everyone_else_s() -> None:
    sources = [source_of(f"made up {i}", "eve") for i in range(90)] + [source_of("judge", "bob")] * 20 + ["boss"] * 10
    weights = bounded(np.ones(120), sources)
    assert weights[:90].sum() == pytest.approx(30)
    assert weights[90:].sum() == pytest.approx(30)
    alone = bounded(np.ones(90), sources[:90])
    assert alone.sum() == pytest.approx(90), "where there is only one, it is all there is to go by"
