"""Which model is called: limits first, then what the neighbours say, and always a word on why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from waypost.v1 import admin_pb2, references_pb2, types_pb2

from index.build import build_index
from index.encoder import HashEncoder
from index.estimator import Neighbours
from index.generation import Generation, current_generation, load_generation
from index.records import Reference
from service.lookup import NOTHING_FOUND, Found
from service.requests import Estimate, Plan, Reason, RouteOptions
from service.routing.choose import Ranking, choose, fallback_model, single
from service.routing.estimate import Asked, Estimated, estimate
from tests.service.kit import MODELS, REFERENCES, build, catalogue, running

CATALOGUE = catalogue()
IDS = CATALOGUE.ids
EASY, HARD = "add two small numbers", "prove the hard theorem"
FAR = "entirely unrelated words here"


def route(**fields: Any) -> types_pb2.RouteControl:
    return types_pb2.RouteControl(**fields)


@pytest.fixture(scope="module")
def generation(root: Path) -> Generation:
    return load_generation(current_generation(root))


def estimates(quality: tuple[float, ...], cost: tuple[float, ...], latency: tuple[float | None, ...]) -> list[Estimate]:
    return [Estimate(m, q, q, c, s) for m, q, c, s in zip(IDS, quality, cost, latency, strict=True)]


def planned(
    options: RouteOptions, found: list[Estimate], reason: Reason = Reason.NEIGHBOURS, tokens: float = 100
) -> Plan:
    return choose(
        found,
        options,
        CATALOGUE,
        input_tokens=tokens,
        output_tokens=100,
        fallback=IDS[1],
        confidence=0.5,
        reason=reason,
    )


SOME = estimates((0.5, 0.8, 0.9), (0.01, 0.1, 1.0), (1.0, 2.0, 4.0))


def test_without_limits_quality_comes_first_and_cost_second() -> None:
    assert planned(RouteOptions(), SOME).steps[0].model == "large-1"
    equal = estimates((0.8, 0.8, 0.8), (0.2, 0.1, 0.3), (None,) * 3)
    assert planned(RouteOptions(), equal).steps[0].model == "medium-1"


def test_the_steps_after_the_first_are_dearer_ones_in_order() -> None:
    plan = planned(RouteOptions(willingness_to_pay=0.001), SOME)
    assert [step.model for step in plan.steps] == ["small-1", "medium-1", "large-1"]


def test_the_best_of_the_dearer_ones_come_next_and_the_best_of_the_rest_stand_by() -> None:
    def steps(*pairs: tuple[float, float]) -> list[str]:
        models = [Estimate(f"m{i}", quality, 0.0, cost, None) for i, (quality, cost) in enumerate(pairs)]
        return [step.model for step in single(Ranking(tuple(models), 0.5, Reason.NEIGHBOURS)).steps]

    assert steps((0.9, 0.1), (0.8, 0.4), (0.7, 0.3), (0.3, 0.2)) == ["m0", "m2", "m1"]
    assert steps((0.9, 1.0), (0.8, 0.1), (0.7, 0.2)) == ["m0", "m1", "m2"]
    assert steps((0.9, 0.5), (0.8, 0.1), (0.7, 1.0)) == ["m0", "m2", "m1"]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (RouteOptions(allow=frozenset({"small-1", "medium-1"})), "medium-1"),
        (RouteOptions(deny=frozenset({"large-1"})), "medium-1"),
        (RouteOptions(deny=frozenset({"large-1"}), allow=frozenset({"large-1", "small-1"})), "small-1"),
        (RouteOptions(require=frozenset({"vision"})), "large-1"),
        (RouteOptions(max_cost_usd=0.1), "medium-1"),
        (RouteOptions(max_cost_usd=0.0999), "small-1"),
        (RouteOptions(max_latency_s=2.0), "medium-1"),
        (RouteOptions(min_quality=0.8, willingness_to_pay=0.01), "medium-1"),
        (RouteOptions(pin="small-1"), "small-1"),
    ],
)
def test_a_limit_is_kept_by_every_step(options: RouteOptions, first: str) -> None:
    plan = planned(options, SOME)
    assert plan.steps[0].model == first
    for step in plan.steps:
        assert step.model not in options.deny
        assert not options.allow or step.model in options.allow
        assert options.max_cost_usd is None or step.cost_usd <= options.max_cost_usd
        assert options.max_latency_s is None or (step.latency_s or 0) <= options.max_latency_s
        assert options.min_quality is None or step.quality >= options.min_quality


def test_a_model_of_unknown_latency_is_not_held_back() -> None:
    unknown = estimates((0.5, 0.8, 0.9), (0.01, 0.1, 1.0), (1.0, 2.0, None))
    assert planned(RouteOptions(max_latency_s=0.5), unknown).steps[0].model == "large-1"


def test_a_prompt_that_does_not_fit_a_window_goes_to_a_model_it_fits() -> None:
    cheap = RouteOptions(willingness_to_pay=1e-6)
    assert planned(cheap, SOME, tokens=100).steps[0].model == "small-1"
    assert planned(cheap, SOME, tokens=8_000).steps[0].model == "medium-1"
    assert planned(cheap, SOME, tokens=150_000).steps[0].model == "large-1"
    assert "context window" in planned(cheap, SOME, tokens=10**7).infeasible[0]


def test_the_reason_tells_how_the_first_model_came_about() -> None:
    assert planned(RouteOptions(), SOME).reason is Reason.NEIGHBOURS
    assert planned(RouteOptions(deny=frozenset({"large-1"})), SOME).reason is Reason.CONSTRAINED
    assert planned(RouteOptions(deny=frozenset({"small-1"})), SOME).reason is Reason.NEIGHBOURS
    assert planned(RouteOptions(pin="small-1"), SOME).reason is Reason.PINNED
    for reason in (Reason.FALLBACK, Reason.DEGRADED):
        assert planned(RouteOptions(), SOME, reason).steps[0].model == "medium-1"
        assert planned(RouteOptions(), SOME, reason).reason is reason
        limited = planned(RouteOptions(deny=frozenset({"medium-1"})), SOME, reason)
        assert limited.reason is Reason.CONSTRAINED
        assert planned(RouteOptions(pin="large-1"), SOME, reason).reason is Reason.PINNED


UNIT = st.floats(0, 1)
FOUND = st.tuples(*[st.tuples(UNIT, st.floats(0, 10), st.none() | st.floats(0.001, 100))] * 3).map(
    lambda rows: estimates(*zip(*rows, strict=True))
)
NAMES = st.frozensets(st.sampled_from(IDS))
OPTIONS = st.builds(
    RouteOptions,
    allow=NAMES,
    deny=NAMES,
    require=st.frozensets(st.sampled_from(["json", "tools", "vision", "none"])),
    max_cost_usd=st.none() | st.floats(0, 10),
    max_latency_s=st.none() | st.floats(0.001, 100),
    min_quality=st.none() | UNIT,
    willingness_to_pay=st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    pin=st.sampled_from(["", *IDS]),
)
REASONS = st.sampled_from([Reason.NEIGHBOURS, Reason.FALLBACK, Reason.DEGRADED])


@given(OPTIONS, FOUND, REASONS, st.floats(0, 300_000))
def test_any_limits_give_a_plan_or_say_what_to_relax(
    options: RouteOptions, found: list[Estimate], reason: Reason, tokens: float
) -> None:
    plan = planned(options, found, reason, tokens)
    assert bool(plan.steps) != bool(plan.infeasible)
    assert 0 <= plan.confidence <= 1
    assert len({step.model for step in plan.steps}) == len(plan.steps) <= 3
    dearer = [step.cost_usd for step in plan.steps[1:] if step.cost_usd > plan.steps[0].cost_usd]
    assert dearer == sorted(dearer)
    assert [step.cost_usd for step in plan.steps[1 : 1 + len(dearer)]] == dearer, "cheaper ones stand last"
    if options.pin and plan.steps:
        assert [step.model for step in plan.steps] == [options.pin]
    assert plan == planned(options, found, reason, tokens)


@given(FOUND, st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_who_pays_less_for_quality_never_gets_a_dearer_model(found: list[Estimate], one: float, other: float) -> None:
    poor, rich = (planned(RouteOptions(willingness_to_pay=w), found).steps[0] for w in sorted([one, other]))
    assert poor.cost_usd <= rich.cost_usd + 1e-9
    assert poor.quality <= rich.quality + 1e-9


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (RouteOptions(max_cost_usd=0), "max_cost_usd 0 excludes 3 of 3 models; without it: small-1, medium-1, large-1"),
        (RouteOptions(require=frozenset({"telepathy"})), "require telepathy excludes 3 of 3"),
        (RouteOptions(min_quality=1), "min_quality 1 excludes 3 of 3"),
        (RouteOptions(max_latency_s=0.1), "max_latency 0.1 s excludes 3 of 3"),
        (RouteOptions(pin="small-1", deny=frozenset({"small-1"})), "pin_model small-1"),
        (RouteOptions(allow=frozenset({"small-1"}), require=frozenset({"vision"})), "require vision"),
    ],
)
def test_limits_that_leave_no_model_say_what_to_relax(options: RouteOptions, named: str) -> None:
    plan = planned(options, SOME)
    assert plan.steps == ()
    assert any(line.startswith(named) for line in plan.infeasible)


@pytest.mark.parametrize(
    ("names", "configured", "scores", "expected"),
    [
        (True, "large", {"small-1": 0.3}, "large-1"),
        (True, "", {"small-1": 0.3}, "medium-1"),
        (False, "", {"small-1": 0.1, "medium-1": 0.2}, "medium-1"),
        (False, "", {"small-1": 0.3, "medium-1": 0.2}, "small-1"),
        (False, "", {"large-1": 0.0}, "large-1"),
        (False, "", {}, "small-1"),
    ],
)
def test_the_fallback_is_the_configured_one_then_the_catalogue_s_then_the_best_on_average(
    generation: Generation,
    names: bool,  # noqa: FBT001
    configured: str,
    scores: dict[str, float],
    expected: str,
) -> None:
    models = CATALOGUE if names else catalogue(MODELS.replace('fallback = "medium"', ""))
    of = replace(generation, catalogue=models, references=[Reference("r", "p", scores=scores)])
    assert fallback_model(of, configured) == expected


# ---- the estimates ---------------------------------------------------------------------------------------------

NEAR = st.lists(st.tuples(st.floats(0.25, 1, width=32), st.integers(0, 3)), max_size=4, unique_by=lambda n: n[1])
LIVE = st.lists(
    st.tuples(
        st.floats(0.25, 1, width=32),
        st.builds(
            Reference,
            st.text(max_size=5),
            st.text(max_size=5),
            st.sampled_from(["", *IDS, "unknown-model"]),
            st.dictionaries(st.sampled_from([*IDS, "unknown-model"]), UNIT),
            st.dictionaries(st.sampled_from([*IDS, "unknown-model"]), st.floats(0, 10)),
        ),
    ),
    max_size=5,
)


@given(NEAR, LIVE, st.integers(0, 10**6), st.integers(1, 10**6))
def test_an_estimate_is_made_of_probabilities_whatever_the_neighbours_know(
    near: list[tuple[float, int]], live: list[tuple[float, Reference]], read: int, written: int
) -> None:
    found = estimated(_GENERATION[0], near, live, read=read, written=written)
    assert [one.model for one in found.estimates] == list(IDS)
    for one in found.estimates:
        assert 0 <= one.quality_low <= one.quality <= 1
        assert one.cost_usd >= 0
        assert one.doubt >= 0
    assert found.estimates[BASE].doubt == 0
    assert 0 <= found.confidence <= 1
    assert (found.voters is None) == (not near and not live)
    if found.voters is not None:
        neighbours = found.voters.neighbours()
        assert len(neighbours) == len(near) + len(live)
        assert abs(sum(n.weight for n in neighbours) - 1) < 1e-9
        assert [n.similarity for n in neighbours] == sorted((s for s, _ in [*near, *live]), reverse=True)
    assert found.estimates == estimated(_GENERATION[0], near, live, read=read, written=written).estimates


_GENERATION: list[Generation] = []
BASE = 1


@pytest.fixture(autouse=True, scope="module")
def _loaded(generation: Generation) -> None:
    _GENERATION[:] = [generation]


def estimated(
    generation: Generation,
    near: list[tuple[float, int]],
    live: list[tuple[float, Reference]],
    *,
    read: float = 100,
    written: int = 100,
    evidence: float = 0.5,
) -> Estimated:
    """Return what is expected where the search found these rows."""
    near = sorted(near, reverse=True)
    rows = np.array([row for _, row in near], np.int64)
    similarities = np.array([s for s, _ in near], np.float32)
    vector = HashEncoder().encode(HashEncoder().tokenise([FAR]))
    neighbours = Neighbours.gather(rows[None], similarities[None], generation.experience)
    (expected,) = generation.estimator.predict(vector, [FAR], neighbours, BASE).each()
    found = Found([], [], rows, similarities, expected)
    asked = Asked(FAR, vector[0], read, written, BASE)
    return estimate(generation, found, live, asked, evidence=evidence, min_similarity=0.25)


def test_nobody_near_leaves_the_means_and_no_confidence(generation: Generation) -> None:
    found = estimated(generation, [(0.2499, 0)], [])
    assert found.voters is None
    assert found.confidence == 0
    np.testing.assert_allclose([e.quality for e in found.estimates], generation.mean_scores, rtol=1e-6)


def test_without_an_embedding_the_means_are_left(generation: Generation) -> None:
    asked = Asked(FAR, np.empty(0, np.float32), 100, 100, BASE)
    found = estimate(generation, NOTHING_FOUND, (), asked, evidence=0, min_similarity=0)
    assert found.voters is None
    np.testing.assert_allclose([e.quality for e in found.estimates], generation.mean_scores, rtol=1e-6)


def test_a_live_reference_to_a_model_the_catalogue_no_longer_has_says_nothing_of_the_others(
    generation: Generation,
) -> None:
    with_it = estimated(generation, [(0.9, 0)], [(0.9, Reference("x", "p", "unknown-model"))])
    assert with_it.estimates == estimated(generation, [(0.9, 0)], []).estimates


def test_a_live_reference_to_the_same_prompt_moves_the_estimate(generation: Generation) -> None:
    before, after = (
        estimated(generation, [(0.3, 0)], live).estimates[2].quality
        for live in ([], [(1.0, Reference("x", FAR, "large-1"))])
    )
    assert after > before + 0.2


def test_more_evidence_wanted_is_more_doubt(generation: Generation) -> None:
    none, some, much = (estimated(generation, [(0.9, 0)], [], evidence=z).estimates[0].doubt for z in (0, 1, 2))
    assert none == 0
    assert much == pytest.approx(2 * some)


def test_prices_tell_the_cost_where_references_do_not(tmp_path: Path) -> None:
    rows = [reference for reference in REFERENCES if not reference.costs]
    build_index(rows, CATALOGUE, HashEncoder(), tmp_path)
    generation = load_generation(current_generation(tmp_path))
    found = estimated(generation, [(0.9, 0)], [], read=1_000, written=500)
    expected = [model.cost_usd(1_000, 500) for model in CATALOGUE.models]
    np.testing.assert_allclose([e.cost_usd for e in found.estimates], expected)
    assert [e.latency_s for e in found.estimates] == [model.latency_s(500) for model in CATALOGUE.models]


def test_a_gain_that_could_be_chance_does_not_leave_the_fallback() -> None:
    better, fallback, worse = (
        estimate._replace(quality=quality) for estimate, quality in zip(SOME, (0.6, 0.5, 0.4), strict=True)
    )
    for doubt, model, reason in ((0.05, IDS[0], Reason.NEIGHBOURS), (0.15, IDS[1], Reason.FALLBACK)):
        plan = planned(RouteOptions(), [better._replace(doubt=doubt), fallback, worse._replace(doubt=doubt)])
        assert (plan.steps[0].model, plan.reason) == (model, reason)


def test_nobody_doubts_a_model_where_the_fallback_may_not_be_called() -> None:
    doubted = [estimate._replace(doubt=doubt) for estimate, doubt in zip(SOME, (0.9, 0, 0.1), strict=True)]
    denied = RouteOptions(deny=frozenset({IDS[1]}))
    assert planned(denied, doubted).steps[0].model == planned(denied, SOME).steps[0].model


# ---- whole decisions -------------------------------------------------------------------------------------------


async def test_the_nearest_references_decide(root: Path) -> None:
    async with running(root) as service:
        easy, hard = await service.decide(EASY), await service.decide(HARD)
        assert (easy.plan.steps[0].model, easy.plan.reason) == ("small-1", types_pb2.REASON_NEIGHBOURS)
        assert (hard.plan.steps[0].model, hard.plan.reason) == ("large-1", types_pb2.REASON_NEIGHBOURS)


async def test_a_prompt_near_nothing_falls_back(root: Path) -> None:
    async with running(root, routing={"min_similarity": 0.9}) as service:
        decision = await service.decide(FAR, explain=True)
        assert (decision.plan.steps[0].model, decision.plan.reason) == ("medium-1", types_pb2.REASON_FALLBACK)
        assert decision.plan.confidence == 0
        assert not decision.explanation.neighbours


async def test_models_may_be_named_by_alias(root: Path) -> None:
    async with running(root) as service:
        pinned = await service.decide(EASY, route=route(pin_model="large"), explain=True)
        assert [step.model for step in pinned.plan.steps] == ["large-1"]
        assert pinned.plan.reason == types_pb2.REASON_PINNED
        assert pinned.explanation.rule == "route.pin_model"
        allowed = await service.decide(HARD, route=route(allow_models=["small", "medium-1"]))
        assert {step.model for step in allowed.plan.steps} <= {"small-1", "medium-1"}
        denied = await service.decide(HARD, route=route(deny_models=["large"]))
        assert "large-1" not in {step.model for step in denied.plan.steps}


async def test_what_leaves_no_model_is_told_and_gives_no_token(root: Path) -> None:
    async with running(root) as service:
        limits = route(max_cost_usd=0, require=["telepathy"], min_quality=1, max_latency=Duration(nanos=1))
        decision = await service.decide(EASY, route=limits)
        assert not decision.plan.steps
        assert len(decision.plan.infeasible) >= 3
        assert not decision.plan.fill_token
        assert decision.plan.reason == types_pb2.REASON_CONSTRAINED


async def test_a_plan_gets_cheaper_as_less_is_paid_for_quality(root: Path) -> None:
    async with running(root) as service:
        costs = [
            (await service.decide(HARD, route=route(willingness_to_pay=w))).plan.steps[0].cost_usd
            for w in (1e6, 10, 1, 0.1, 0.01, 0.001, 1e-9)
        ]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > costs[-1]


async def test_longer_answers_cost_and_take_more(tmp_path: Path) -> None:
    build(tmp_path, [reference for reference in REFERENCES if not reference.costs])
    async with running(tmp_path) as service:
        short, long = [
            (await service.decide(HARD, route=route(pin_model="large", expected_output_tokens=tokens))).plan.steps[0]
            for tokens in (10, 10_000)
        ]
        assert short.cost_usd < long.cost_usd
        assert short.latency.ToNanoseconds() < long.latency.ToNanoseconds()


async def test_decisions_are_repeatable(root: Path) -> None:
    async with running(root) as service:
        bypass = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
        plans = {
            (await service.decide(HARD, cache=bypass, explain=True)).plan.SerializeToString(deterministic=True)
            for _ in range(20)
        }
        assert len(plans) == 1


async def test_a_scope_s_own_references_vote_there_and_nowhere_else(root: Path) -> None:
    async with running(root) as service:
        mine = references_pb2.Reference(id="mine", prompt=FAR, best_model="small")
        await service.upsert(mine, scope="a")
        decision = await service.decide(FAR, "a", explain=True)
        assert decision.explanation.neighbours[0].reference_id == "mine"
        assert decision.plan.steps[0].model == "small-1"
        for scope in ("aa", "", "A", "b"):
            other = await service.decide(FAR, scope, explain=True)
            assert "mine" not in {n.reference_id for n in other.explanation.neighbours}
            assert not any(FAR in n.prompt for n in other.explanation.neighbours)
        listed = await service.call("References.List", references_pb2.ListRequest(scope="b"))
        assert not listed.references
        gone = await service.call("References.Delete", references_pb2.DeleteRequest(scope="b", ids=["mine"]))
        assert gone.deleted == 0
        gone = await service.call("References.Delete", references_pb2.DeleteRequest(scope="a", ids=["mine"]))
        assert gone.deleted == 1
        after = await service.decide(FAR, "a", explain=True)
        assert "mine" not in {n.reference_id for n in after.explanation.neighbours}


async def test_an_explanation_shortens_long_prompts_and_sums_to_one(root: Path) -> None:
    async with running(root) as service:
        long = "tell me more " * 100
        await service.upsert(references_pb2.Reference(id="long", prompt=long, scores={"small": 0.5, "large": 0.5}))
        decision = await service.decide(long, explain=True)
        neighbour = decision.explanation.neighbours[0]
        assert neighbour.prompt == long[:500]
        assert neighbour.best_model == "large-1", "of equals the first by name"
        assert abs(sum(n.weight for n in decision.explanation.neighbours) - 1) < 1e-9
        explained = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert explained.explanation == decision.explanation
