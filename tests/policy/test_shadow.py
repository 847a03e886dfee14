"""A shadow arm differs by what it asks, and by nothing else that had a say in what was served."""

from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import types_pb2

from index.records import Reference
from tests.policy.kit import TIERED
from tests.policy.test_places import MODELS
from tests.service.kit import REFERENCES, Service, build, running

BYPASS = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
NOTHING = {"experiments": [{"name": "e", "arms": [{"name": "as is", "share": 1, "shadow": True}]}]}
PLAIN: dict[str, Any] = {"routing": {"evidence": 0}, "learning": {"enabled": False}}


async def changed(service: Service, *prompts: str, **fields: Any) -> int:
    for prompt in prompts:
        await service.decide(prompt, cache=BYPASS, **fields)
    result = service.runtime.decider.policy.results.arms["e/as is"]
    assert result.decisions == len(prompts)
    return result.changed


@pytest.mark.parametrize(
    "policy",
    [
        {"target_strong_share": 0.5, "strong": ["large"]},
        {"exploration": {"share": 1, "within": 1}},
        {"health": {"least": 1, "open_s": 1000}},
        {},
    ],
)
async def test_an_arm_that_asks_for_nothing_changes_nothing(tmp_path: Path, policy: dict[str, Any]) -> None:
    build(tmp_path, REFERENCES, TIERED)
    async with running(tmp_path, **PLAIN, policy=NOTHING | policy) as service:
        prompts = [f"{text} {i}" for i in range(8) for text in ("add two small numbers", "prove the hard theorem")]
        assert await changed(service, *prompts) == 0
        if "health" in policy:
            decision = await service.decide("prove the hard theorem", cache=BYPASS)
            model = decision.plan.steps[0].model
            await service.report(decision, fill_token="", model=model, outcome=types_pb2.OUTCOME_ERROR)
            await service.decide("prove the hard theorem", cache=BYPASS)
            assert service.runtime.decider.policy.results.arms["e/as is"].changed == 0


async def test_a_conversation_and_a_place_change_nothing_either(tmp_path: Path) -> None:
    rows = [Reference(f"r{i}", f"question {i}", scores={"small": 0.2, "east": 0.9}) for i in range(20)]
    build(tmp_path, rows, MODELS)
    async with running(tmp_path, **PLAIN, policy=NOTHING) as service:
        assert await changed(service, *(f"question {i}" for i in range(20))) == 0
    build(tmp_path / "other", REFERENCES, TIERED)
    async with running(tmp_path / "other", **PLAIN, policy=NOTHING) as service:
        talk = ("prove the hard theorem", "why?", "make it shorter", "add two small numbers")
        assert await changed(service, *talk, conversation_id="c") == 0


async def test_limits_of_an_arm_or_a_rule_are_told_where_they_leave_nothing(tmp_path: Path) -> None:
    build(tmp_path, REFERENCES, TIERED)
    arms = {"experiments": [{"name": "cheap", "arms": [{"name": "free", "share": 1, "max_cost_usd": 0}]}]}
    async with running(tmp_path, policy=arms) as service:
        plan = (await service.decide("prove the hard theorem")).plan
        assert not plan.steps
        assert "some of these limits are those of the experiment's arm cheap/free" in plan.infeasible
    strict = {"rules": [{"name": "perfect", "min_quality": 1}]}
    for shape in (types_pb2.PLAN_SHAPE_CASCADE, types_pb2.PLAN_SHAPE_SPECULATIVE, types_pb2.PLAN_SHAPE_ENSEMBLE):
        async with running(tmp_path, policy=strict) as service:
            plan = (await service.decide("prove a theorem", route=types_pb2.RouteControl(shape=shape))).plan
            assert plan.infeasible[0].startswith("min_quality 1: the best ")
            assert plan.infeasible[1] == "some of these limits are those of the rules in force: perfect"
