"""A call that is reported on more than once: what is said later is taken in, and nothing is counted twice."""

from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, router_pb2, types_pb2

from tests.service.kit import Service, build, running

USAGE = types_pb2.Usage(cost_usd=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build(folder)
    return folder


async def stats(service: Service) -> admin_pb2.GetStatsResponse:
    found: admin_pb2.GetStatsResponse = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest())
    return found


async def say(service: Service, decision: router_pb2.DecideResponse, model: str = "", **fields: Any) -> None:
    await service.report(decision, fill_token="", answer="", model=model or decision.plan.steps[0].model, **fields)


async def test_a_quality_that_is_told_later_counts_for_the_model(root: Path) -> None:
    async with running(root) as service:
        decision = await service.decide("add two small numbers")
        await say(service, decision, usage=USAGE)
        await say(service, decision, quality=0.25, usage=USAGE)
        await say(service, decision, quality=1.0)
        found = await stats(service)
        (one,) = found.models.values()
        assert (one.reports, one.rated, one.quality) == (1, 1, 0.25)
        assert found.cost_usd == found.reported_cost_usd == 0.5


async def test_a_cost_that_is_told_later_takes_the_place_of_the_expected_one(root: Path) -> None:
    async with running(root) as service:
        decision = await service.decide("add two small numbers")
        later = next(e for e in ("medium-1", "large-1") if e != decision.plan.steps[0].model)
        for _ in range(2):
            await say(service, decision)
            await say(service, decision, model=later)
        for _ in range(2):
            await say(service, decision, usage=USAGE)
            await say(service, decision, model=later, usage=USAGE)
        found = await stats(service)
        assert found.cost_usd == pytest.approx(1.0)
        assert found.escalations == 1


async def test_a_budget_is_charged_once_for_a_call(root: Path) -> None:
    async with running(root, policy={"monthly_budget_usd": 100}) as service:
        policy = service.runtime.decider.policy
        decision = await service.decide("add two small numbers")
        await say(service, decision)
        await say(service, decision, quality=1.0)
        assert policy.spent_usd() == pytest.approx(decision.plan.steps[0].cost_usd)
        for _ in range(3):
            await say(service, decision, usage=USAGE)
            assert policy.spent_usd() == pytest.approx(0.5)


async def test_what_users_say_of_old_answers_closes_no_circuit(root: Path) -> None:
    async with running(root, policy={"health": {"least": 3, "open_s": 1e-9}}) as service:
        health = service.runtime.decider.policy
        old = await service.decide("add two small numbers")
        await say(service, old)
        for _ in range(3):
            failed = await service.decide("add two small numbers")
            await say(service, failed, model=old.plan.steps[0].model, outcome=types_pb2.OUTCOME_ERROR)
        assert health.open_circuits() == 1
        tried = await service.decide("add two small numbers")
        assert tried.plan.steps[0].model == old.plan.steps[0].model, "half open: one may try"
        await say(service, old, quality=1.0)
        assert health.open_circuits() == 1
        await say(service, tried)
        assert health.open_circuits() == 0


async def test_a_second_attempt_that_ends_otherwise_counts(root: Path) -> None:
    async with running(root, policy={"health": {"least": 1, "open_s": 1e-9}}) as service:
        policy = service.runtime.decider.policy
        decision = await service.decide("add two small numbers")
        await say(service, decision, outcome=types_pb2.OUTCOME_ERROR)
        assert policy.open_circuits() == 1
        await say(service, decision)
        assert policy.open_circuits() == 0, "half open, and the model answered"
