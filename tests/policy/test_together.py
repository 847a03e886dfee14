"""Everything at once: whatever comes, limits hold, every choice is told, and what is remembered stays bounded."""

import random
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import types_pb2

from tests.policy.kit import TIERED
from tests.service.kit import Service, build, running

PROMPTS = ["add two small numbers", "prove the hard theorem", "write a short poem", "make it shorter", "zzz", "why?"]
SCOPES = ["", "shop", "share", "lab"]
SHAPES = [types_pb2.PLAN_SHAPE_SINGLE, types_pb2.PLAN_SHAPE_CASCADE, types_pb2.PLAN_SHAPE_ENSEMBLE]
OUTCOMES = [types_pb2.OUTCOME_OK] * 4 + [types_pb2.OUTCOME_ERROR, types_pb2.OUTCOME_TIMEOUT, types_pb2.OUTCOME_REFUSED]
POLICY: dict[str, Any] = {
    "latency_weight": 0.001,
    "rules": [
        {"name": "gold", "when": 'attributes.tier == "gold"', "min_tier": "medium"},
        {"name": "private", "when": "has(attributes.private)", "cache": "bypass"},
        {"name": "maths", "when": 'category == "maths" && attributes.tier != "gold"', "max_cost_usd": 10},
    ],
    "experiments": [
        {"name": "e", "scopes": ["lab"], "arms": [
            {"name": "a", "share": 0.3, "willingness_to_pay": 0.001},
            {"name": "b", "share": 0.3, "tier": "large", "shadow": True},
            {"name": "c", "share": 0.3},
        ]},
    ],
    "scopes": {"shop": {"monthly_budget_usd": 0.5}, "share": {"target_strong_share": 0.4}},
    "session": {"keep": 5, "switching_cost": 0.1},
    "health": {"window": 6, "least": 3, "open_s": 0.01},
    "exploration": {"share": 0.5, "within": 0.3},
}  # fmt: skip


def grouped() -> str:
    twin = TIERED[TIERED.index('[[models]]\nid = "medium-1"') : TIERED.index('[[models]]\nid = "large-1"')]
    twin = twin.replace("medium-1", "medium-2").replace('aliases = ["medium"]\n', "")
    return (TIERED + twin).replace('tier = "medium"', 'tier = "medium"\ngroup = "m"')


def asked(rng: random.Random) -> dict[str, Any]:
    """Return a request as it might come."""
    route = types_pb2.RouteControl(shape=rng.choice(SHAPES))
    if rng.random() < 0.3:
        route.deny_models.append(rng.choice(["small", "medium", "large"]))
    if rng.random() < 0.2:
        route.pin_model = rng.choice(["small", "medium", "large"])
    if rng.random() < 0.2:
        route.willingness_to_pay = 10 ** rng.uniform(-6, 2)
    if rng.random() < 0.2:
        route.experiment_unit = str(rng.randrange(20))
    return {
        "prompt": rng.choice(PROMPTS),
        "scope": rng.choice(SCOPES),
        "route": route,
        "conversation_id": rng.choice(["", "", *"abcdefgh"]),
        "attributes": rng.choice([{}, {"tier": "gold"}, {"tier": "tin"}, {"private": "yes"}]),
    }


async def answered(service: Service, rng: random.Random, response: Any) -> None:
    """Report on some of a plan's steps, as callers do."""
    for step in response.plan.steps[: rng.randint(0, 2)]:
        outcome = rng.choice(OUTCOMES)
        usage = types_pb2.Usage(cost_usd=rng.random() / 100) if rng.random() < 0.5 else None
        fields: dict[str, Any] = {"quality": rng.random()} if rng.random() < 0.5 else {}
        await service.report(response, fill_token="", model=step.model, outcome=outcome, usage=usage, **fields)


@pytest.mark.parametrize("seed", range(3))
async def test_any_traffic_keeps_all_limits(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    build(tmp_path, models=grouped())
    async with running(tmp_path, routing={"evidence": 0.1}, policy=POLICY) as service:
        policy, log = service.runtime.decider.policy, service.runtime.decider.log
        for _ in range(300):
            request = asked(rng)
            response = await service.decide(**request, explain=True)
            decision = log.get(response.decision_id)
            assert decision is not None
            route, steps = decision.request.route, response.plan.steps
            assert bool(steps) != bool(response.plan.infeasible) or response.WhichOneof("outcome") == "answer"
            assert all(route.admits(step.model) for step in steps)
            own = (decision.trace.asked or decision.request).route
            assert all(step.model not in own.deny for step in steps)
            if request["attributes"].get("tier") == "gold":
                assert "gold" in response.explanation.rule
                assert "small-1" not in {step.model for step in steps}
            if "private" in request["attributes"]:
                assert not response.plan.fill_token
            assert bool(response.explanation.experiment_arm) <= (request["scope"] == "lab")
            assert 0 < decision.trace.propensity <= 1
            await answered(service, rng, response)
            assert len(policy.sessions) <= 5
        assert policy.spent_usd() >= 0
        assert sum(arm.decisions for arm in policy.results.arms.values()) > 0
