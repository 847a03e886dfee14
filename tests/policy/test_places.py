"""One model at several places is one choice: in plans of several models, in reviews and in replays."""

from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, router_pb2, types_pb2

from index.records import Reference
from tests.service.kit import Service, build, running

MODEL = """
[[models]]
id = "{}"
input_usd_per_mtok = {}
output_usd_per_mtok = {}
context_window = 100000
"""
MODELS = (
    MODEL.format("small", 0.1, 0.5)
    + MODEL.format("middle", 1, 5)
    + MODEL.format("east", 4, 20)
    + 'group = "big"\nweight = 3\nlatency_ms = 800\n'
    + MODEL.format("west", 4, 20)
    + 'group = "big"\nlatency_ms = 400\n'
    + MODEL.format("spare", 4, 20)
    + 'group = "big"\nweight = 0\n'
)
PLACES = {"east", "west", "spare"}
ASKED = "question 5"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    scores = [{"small": float(i % 3 == 0), "middle": float(i % 3 > 0), "east": float(i % 10 > 0)} for i in range(60)]
    build(folder, [Reference(f"r{i}", f"question {i}", scores=one) for i, one in enumerate(scores)], MODELS)
    return folder


async def plan(service: Service, shape: int, **fields: Any) -> router_pb2.DecideResponse:
    route = types_pb2.RouteControl(shape=shape, **fields)  # type: ignore[arg-type]
    return await service.decide(ASKED, route=route)


@pytest.mark.parametrize(
    "shape", [types_pb2.PLAN_SHAPE_CASCADE, types_pb2.PLAN_SHAPE_SPECULATIVE, types_pb2.PLAN_SHAPE_ENSEMBLE]
)
async def test_no_plan_asks_the_same_model_twice_for_a_second_opinion(root: Path, shape: int) -> None:
    async with running(root, cache={"enabled": False}) as service:
        for _ in range(10):
            found = (await plan(service, shape)).plan
            asked = [s.model for s in found.steps if s.with_previous or s.HasField("accept_at")]
            assert len(PLACES & {found.steps[0].model, *asked}) <= 1
        only = (await plan(service, shape, allow_models=sorted(PLACES))).plan
        assert only.shape == types_pb2.PLAN_SHAPE_SINGLE, "there is no other opinion to be had"
        assert {s.model for s in only.steps} == PLACES
        assert only.steps[2].model == "spare", "who only stands in comes last"


async def test_an_answer_that_will_not_do_is_not_asked_for_again_elsewhere(root: Path) -> None:
    async with running(root, cache={"enabled": False}) as service:
        decision = await plan(service, types_pb2.PLAN_SHAPE_SINGLE, allow_models=["middle", *PLACES])
        first = decision.plan.steps[0].model
        assert {first, decision.plan.steps[1].model} <= PLACES
        doubtful = await service.review(decision, first, "an answer", score=0.05)
        assert (doubtful.verdict, doubtful.next_model) == (types_pb2.VERDICT_ESCALATE, "middle")
        decision = await plan(service, types_pb2.PLAN_SHAPE_SINGLE, allow_models=sorted(PLACES))
        kept = await service.review(decision, decision.plan.steps[0].model, "an answer", score=0.05)
        assert kept.verdict == types_pb2.VERDICT_ACCEPT, "nothing better is to be had"


async def test_later_steps_are_shared_by_weight_too(root: Path) -> None:
    async with running(root, cache={"enabled": False}) as service:
        found = [(await plan(service, types_pb2.PLAN_SHAPE_CASCADE, min_quality=0.5)).plan for _ in range(60)]
        called = [{s.model for s in one.steps} & PLACES for one in found]
        assert {"east"} in called
        assert {"west"} in called
        assert {"spare"} not in called


async def test_a_replay_of_what_was_decided_moves_nothing_from_place_to_place(root: Path) -> None:
    async with running(root, cache={"enabled": False}, journal={"enabled": True}) as service:
        for _ in range(20):
            await plan(service, types_pb2.PLAN_SHAPE_SINGLE, allow_models=sorted(PLACES))
        found: admin_pb2.ReplayResponse = await service.call("Admin.Replay", admin_pb2.ReplayRequest())
        assert (found.replayed, found.changed) == (20, 0)
        assert set(found.models_before) == {"east", "west"}
