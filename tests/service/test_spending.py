"""What was spent, what always calling the baseline would have cost, and how good every model was."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import generate_latest
from waypost.v1 import admin_pb2, types_pb2

from index.errors import CatalogueError
from index.records import Reference
from tests.service.kit import Service, build, running

LARGE: dict[str, Any] = {"stats": {"baseline": "large"}}


async def stats(service: Service, scope: str = "") -> admin_pb2.GetStatsResponse:
    found: admin_pb2.GetStatsResponse = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope=scope))
    return found


async def test_a_plan_counts_as_expected_until_it_is_reported(tmp_path: Path) -> None:
    async with running(tmp_path, **LARGE) as service:
        made = await service.decide("add two small numbers", explain=True)
        expected = {e.model: e.cost_usd for e in made.explanation.estimates}
        first = made.plan.steps[0].model
        assert first == "small-1"
        found = await stats(service)
        assert found.baseline_model == "large-1"
        assert found.cost_usd == pytest.approx(expected["small-1"])
        assert found.baseline_cost_usd == pytest.approx(expected["large-1"])
        await service.report(made, usage=types_pb2.Usage(cost_usd=3 * expected["small-1"]))
        found = await stats(service)
        assert found.cost_usd == pytest.approx(3 * expected["small-1"])
        assert found.baseline_cost_usd == pytest.approx(3 * expected["large-1"])


async def test_tokens_are_priced_by_the_catalogue(tmp_path: Path) -> None:
    async with running(tmp_path, **LARGE) as service:
        made = await service.decide("add two small numbers")
        await service.report(made, usage=types_pb2.Usage(input_tokens=1_000_000, output_tokens=1_000_000))
        found = await stats(service)
        assert found.cost_usd == pytest.approx(0.6)
        assert found.baseline_cost_usd == pytest.approx(24.0)
        assert found.models["small-1"].reported_cost_usd == pytest.approx(0.6)


async def test_what_was_spent_is_the_sum_over_models_however_many_a_decision_called(tmp_path: Path) -> None:
    async with running(tmp_path, **LARGE) as service:
        made = await service.decide("add two small numbers")
        first, second = (step.model for step in made.plan.steps[:2])
        failed = types_pb2.OUTCOME_ERROR
        await service.report(made, model=first, outcome=failed, fill_token="", usage=types_pb2.Usage(cost_usd=0.1))
        await service.report(made, model=second, usage=types_pb2.Usage(input_tokens=1_000, output_tokens=1_000))
        found = await stats(service)
        each = [one.reported_cost_usd for one in found.models.values()]
        assert min(each) > 0
        assert found.reported_cost_usd == pytest.approx(sum(each))
        assert found.cost_usd == pytest.approx(sum(each))


async def test_a_cached_answer_costs_nothing_and_saves_the_baseline(tmp_path: Path) -> None:
    async with running(tmp_path, **LARGE) as service:
        await service.put("how do I reset my password", "x" * 4_000)
        await service.decide("how do I reset my password")
        found = await stats(service)
        assert found.cost_usd == 0
        assert found.baseline_cost_usd == pytest.approx((26 / 4 * 4 + 1_000 * 20) / 1e6)


async def test_escalations_quality_latency_and_failures_by_model_and_scope(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        made = await service.decide("add two small numbers", scope="a")
        await service.report(made, fill_token="", outcome=types_pb2.OUTCOME_ERROR, answer="", quality=0.0)
        await service.report(made, model="large", quality=1.0, latency=Duration(seconds=2))
        await service.report(made, fill_token="", model="large", quality=0.0)  # once more is not once more
        await service.decide("prove the hard theorem", scope="b")
        found = await stats(service, "a")
        assert found.escalations == 1
        small, large = found.models["small-1"], found.models["large-1"]
        assert (small.plans, small.share, small.reports, small.failures, small.quality) == (1, 1.0, 1, 1, 0.0)
        assert (large.plans, large.reports, large.rated, large.quality) == (0, 1, 1, 1.0)
        assert large.latency.seconds == 2
        assert not (await stats(service, "b")).escalations
        assert sum(model.plans for model in (await stats(service)).models.values()) == 2
        text = generate_latest(service.runtime.decider.metrics.registry).decode()
        assert 'waypost_reported_quality_sum{model="large-1"} 1.0' in text
        assert "waypost_escalations_total 1.0" in text


async def test_arms_are_counted_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        made = await service.decide("add two small numbers", scope="a")
        kept = service.runtime.decider.log.get(made.decision_id)
        accounts = service.runtime.decider.accounts
        assert kept is not None
        assert accounts is not None
        kept.trace.arm = "cheap"
        accounts.decided(kept, service.runtime.decider.generation.catalogue)
        await service.report(made, quality=0.75)
        arm = (await stats(service, "a")).arms["cheap"]
        assert (arm.decisions, arm.models["small-1"].quality) == (1, 0.75)
        assert (await stats(service)).arms["cheap"].decisions == 1
        assert not (await stats(service, "b")).arms


async def test_a_baseline_that_is_no_model_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="smal"):
        async with running(tmp_path, stats={"baseline": "smal"}):
            pass


async def test_what_a_plan_starts_together_is_expected_to_be_paid_and_is_no_escalation(tmp_path: Path) -> None:
    alike = dict.fromkeys(("small-1", "medium-1", "large-1"), 0.8)
    build(tmp_path, [Reference(f"r{i}", f"question {i}", scores=alike) for i in range(20)])
    async with running(tmp_path, cache={"enabled": False}, **LARGE) as service:
        vote = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_ENSEMBLE)
        made = await service.decide("question 5", route=vote)
        steps = made.plan.steps
        assert [step.with_previous for step in steps] == [False, True, True]
        assert (await stats(service)).cost_usd == pytest.approx(sum(step.cost_usd for step in steps))
        for step in steps:
            await service.report(made, fill_token="", model=step.model, usage=types_pb2.Usage(cost_usd=0.5))
        found = await stats(service)
        assert found.cost_usd == pytest.approx(1.5)
        assert found.escalations == 0


_LABELS: list[dict[str, Any]] = [{"best_model": name} for name in ("small-1", "small-1", "medium-1")]
_SCORES: list[dict[str, Any]] = [{"scores": {"small-1": 1.0, "medium-1": 0.5}}]


_MIXED = [
    (_LABELS, "medium-1"),
    (_SCORES, "small-1"),
    (_LABELS + _SCORES, "medium-1"),
    (_LABELS + 3 * _SCORES, "small-1"),
]


@pytest.mark.parametrize(("told", "baseline"), _MIXED)
async def test_savings_are_against_the_best_or_where_labels_name_the_cheapest_that_will_do_the_dearest(
    tmp_path: Path, told: list[dict[str, Any]], baseline: str
) -> None:
    build(tmp_path, [Reference(f"r{i}", f"question {i}", **one) for i, one in enumerate(told)])
    async with running(tmp_path) as service:
        assert (await stats(service)).baseline_model == baseline
        assert (await service.decide("question 0")).plan.steps
        decider = service.runtime.decider
        assert decider.policy._ready[decider.generation.id].compiled.strong == {baseline}


async def test_savings_are_against_one_model_though_another_generation_would_name_another(tmp_path: Path) -> None:
    build(tmp_path, [Reference(f"r{i}", f"question {i}", **one) for i, one in enumerate(_LABELS)])
    async with running(tmp_path) as service:
        other = build(tmp_path, [Reference(f"r{i}", f"question {i}", **one) for i, one in enumerate(3 * _SCORES)])
        await service.runtime.activate(other)
        assert (await stats(service)).baseline_model == "medium-1"
    async with running(tmp_path) as service:
        assert (await stats(service)).baseline_model == "small-1"
