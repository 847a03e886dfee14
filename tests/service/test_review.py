"""Reviews: what has a say, who is asked next, what later reports teach, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, router_pb2, types_pb2

from index.build import build_index
from index.encoder import HashEncoder
from index.generation import current_generation, load_generation
from index.records import Reference
from service.auth import Principal
from service.errors import InvalidRequest, NotFound, Overloaded
from service.routing.feedback import Curve, Feedback
from tests.index.answers import meadows, sums
from tests.service.kit import MODELS, Service, catalogue, running

ACCEPT, ESCALATE = types_pb2.VERDICT_ACCEPT, types_pb2.VERDICT_ESCALATE
CASCADE = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_CASCADE)
CHEAP = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_CASCADE, min_quality=0.9)
# Small is mostly right and cheap, large nearly always and dear.
REFERENCES = [
    Reference(
        f"r{i}",
        f"what is {i} plus {i + 1}",
        scores={"small-1": float(i % 4 > 0), "medium-1": float(i % 3 > 0), "large-1": float(i % 20 > 0)},
        costs={"small-1": 0.0001, "medium-1": 0.01, "large-1": 0.1},
    )
    for i in range(60)
]
PROMPT = "what is 7 plus 8"
SURE = {"accuracy": 0.97}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build_index(REFERENCES, catalogue(), HashEncoder(), folder)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    build_index(REFERENCES, catalogue(), HashEncoder(), folder, answers=sums(400))
    return folder


async def cascade(service: Service, scope: str = "", **fields: Any) -> router_pb2.DecideResponse:
    decision = await service.decide(PROMPT, scope, **{"route": CASCADE} | fields)
    assert decision.plan.shape == types_pb2.PLAN_SHAPE_CASCADE
    return decision


async def test_a_cascade_is_followed_by_scores(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        first, second = decision.plan.steps[:2]
        assert first.cost_usd < second.cost_usd
        assert first.HasField("accept_at")
        low = await service.review(decision, first.model, "perhaps 3", score=max(first.accept_at - 0.05, 0))
        assert (low.verdict, low.next_model) == (ESCALATE, second.model)
        high = await service.review(decision, first.model, "15", score=min(first.accept_at + 0.05, 1))
        assert (high.verdict, high.next_model) == (ACCEPT, "")
        assert high.p_acceptable == pytest.approx(min(first.accept_at + 0.05, 0.999), abs=1e-3)
        explained = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=decision.decision_id))
        notes = [note.note for note in explained.explanation.notes if note.stage == "review"]
        assert [("escalated" in note, "accepted" in note) for note in notes] == [(True, False), (False, True)]


async def test_the_last_step_is_kept_unless_it_is_no_answer(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        last = next(step.model for step in decision.plan.steps if not step.HasField("accept_at"))
        kept = await service.review(decision, last, "15", score=0.1)
        assert (kept.verdict, kept.next_model) == (ACCEPT, "")
        assert kept.p_acceptable < 0.2
        empty = await service.review(decision, decision.plan.steps[-1].model, "")
        assert (empty.verdict, empty.next_model) == (ESCALATE, "")
        assert empty.p_acceptable <= 0.01


async def test_confidence_gates_by_log_probability(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        chances = [
            (await service.review(decision, decision.plan.steps[0].model, "15", logprob_mean=x)).p_acceptable
            for x in (0.0, -0.3, -1.0, -1e5)
        ]
        assert chances == sorted(chances, reverse=True)
        assert chances[0] > 0.8
        assert chances[-1] < 0.1


async def test_without_any_word_what_was_expected_counts(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        first = decision.plan.steps[0]
        response = await service.review(decision, first.model, "15")
        assert response.p_acceptable == pytest.approx(first.quality, abs=1e-6)


@pytest.mark.parametrize(("answer", "most"), [("", 0.01), ("I'm sorry, but I can't help.", 0.1), ("first, the", 0.2)])
async def test_a_plain_failure_outweighs_every_score(root: Path, answer: str, most: float) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        response = await service.review(decision, "small", answer, score=1.0, logprob_mean=0.0)
        assert response.p_acceptable <= most
        assert response.verdict == ESCALATE


async def test_what_is_no_json_fails_where_json_is_asked(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service, context=types_pb2.AnswerContext(response_format="json_object"))
        wrong = await service.review(decision, "small", "15", score=1.0)
        assert wrong.verdict == ACCEPT  # a number alone is JSON
        wrong = await service.review(decision, "small", "the sum is 15", score=1.0)
        assert wrong.verdict == ESCALATE


async def test_a_learned_acceptor_tells_a_right_sum_from_a_wrong_one(learned: Path) -> None:
    async with running(learned) as service:
        decision = await cascade(service, route=CHEAP)
        right = await service.review(decision, "small", "7 + 8 = 15")
        wrong = await service.review(decision, "small", "7 + 8 = 16")
        assert wrong.p_acceptable < 0.4
        assert right.p_acceptable > 0.7
        assert (right.verdict, wrong.verdict) == (ACCEPT, ESCALATE)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose acceptor goes by embeddings."""
    folder = tmp_path_factory.mktemp("embedding")
    build_index(REFERENCES, catalogue(), HashEncoder(), folder, answers=meadows(400))
    return folder


async def test_an_acceptor_that_goes_by_embeddings_has_answers_embedded(embedding: Path) -> None:
    async with running(embedding) as service:
        decision = await cascade(service, route=CHEAP)
        right = await service.review(decision, "small", "green meadows lie ahead...")
        wrong = await service.review(decision, "small", "grey clouds hang low ahead")
        assert (right.verdict, wrong.verdict) == (ACCEPT, ESCALATE)
        # Decided without an embedding, or with too little time for one: what else there is has to do.
        service.deadline = 0.001
        unsure = await service.review(decision, "small", "green meadows lie ahead...")
        assert wrong.p_acceptable < unsure.p_acceptable < right.p_acceptable
        degraded = await service.decide("what is 9 plus 9", route=CHEAP)
        assert degraded.degraded == types_pb2.DEGRADED_NO_EMBEDDING
        service.deadline = None
        late = await service.review(degraded, degraded.plan.steps[0].model, "green meadows lie ahead...")
        assert late.p_acceptable > unsure.p_acceptable


async def test_a_review_that_would_wait_too_long_is_refused_like_a_decision(embedding: Path) -> None:
    async with running(embedding) as service:
        decision = await cascade(service, route=CHEAP)
        service.runtime.decider.batcher._max_queue = 0
        with pytest.raises(Overloaded):
            await service.review(decision, "small", "green meadows lie ahead...")


async def test_a_long_answer_is_judged_as_well(learned: Path) -> None:
    async with running(learned) as service:
        decision = await cascade(service)
        response = await service.review(decision, "small", "7 + 8 = 15\n" * 10_000)
        assert 0 < response.p_acceptable < 1


async def test_a_review_of_a_degraded_decision_works(learned: Path) -> None:
    async with running(learned) as service:
        service.deadline = 0.001
        decision = await service.decide(PROMPT, route=CASCADE)
        assert decision.degraded == types_pb2.DEGRADED_NO_EMBEDDING
        model = decision.plan.steps[0].model
        assert (await service.review(decision, model, "7 + 8 = 15")).p_acceptable > 0.5


@pytest.mark.parametrize(("asked", "planned"), [(0, 2), (1, 1), (4, 4)])
async def test_a_rule_names_the_shape_where_the_request_does_not(root: Path, asked: int, planned: int) -> None:
    policy = {"rules": [{"name": "step by step", "shape": "cascade"}]}
    async with running(root, review=SURE, policy=policy) as service:
        route = types_pb2.RouteControl(shape=asked)  # type: ignore[arg-type]
        assert (await service.decide(PROMPT, route=route)).plan.shape == planned


async def test_of_two_at_once_the_second_waits_for_the_review_of_the_first(root: Path) -> None:
    async with running(root, review=SURE) as service:
        route = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_SPECULATIVE)
        plan = (decision := await service.decide(PROMPT, route=route)).plan
        assert plan.shape == types_pb2.PLAN_SHAPE_SPECULATIVE
        assert [step.with_previous for step in plan.steps[:2]] == [False, True]
        refused = await service.review(decision, plan.steps[0].model, "3", score=0.01)
        assert (refused.verdict, refused.next_model) == (ESCALATE, plan.steps[1].model)


async def test_answers_of_an_ensemble_are_only_weighed(root: Path) -> None:
    async with running(root, review=SURE) as service:
        route = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_ENSEMBLE)
        plan = (decision := await service.decide(PROMPT, route=route)).plan
        assert plan.shape == types_pb2.PLAN_SHAPE_ENSEMBLE
        assert plan.combine == types_pb2.COMBINE_WEIGHTED_VOTE
        assert [step.with_previous for step in plan.steps] == [False, True, True]
        weak = await service.review(decision, plan.steps[0].model, "3", score=0.1)
        assert (weak.verdict, weak.next_model) == (ESCALATE, "")


@pytest.mark.parametrize(
    ("score", "min_quality", "verdict"),
    [(0.05, None, ESCALATE), (0.65, None, ESCALATE), (0.85, None, ACCEPT), (0.65, 0.6, ACCEPT), (0.55, 0.6, ESCALATE)],
)
async def test_a_single_plan_goes_on_where_the_next_model_is_worth_its_price(
    root: Path, score: float, min_quality: float | None, verdict: int
) -> None:
    async with running(root) as service:
        route = types_pb2.RouteControl(deny_models=["medium"], willingness_to_pay=0.5, min_quality=min_quality)
        decision = await service.decide(PROMPT, route=route)
        first, second = decision.plan.steps
        assert not first.HasField("accept_at")
        response = await service.review(decision, first.model, "3", score=score)
        assert (response.verdict, response.next_model) == (verdict, second.model if verdict == ESCALATE else "")


async def test_escalations_and_false_accepts_are_counted(root: Path) -> None:
    async with running(root, review=SURE) as service:
        for score, quality in ((0.01, 0.0), (0.999, 1.0), (0.999, None), (0.999, 0.0)):
            decision = await cascade(service, "counted")
            model = decision.plan.steps[0].model
            await service.review(decision, model, "15", score=score)
            fields = {} if quality is None else {"quality": quality}
            for _ in range(2):  # the first report of it counts
                await service.report(decision, model=model, fill_token="", answer="", **fields)
        stats = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope="counted"))
        assert (stats.reviews, stats.reviews_escalated) == (4, 1)
        assert (stats.accepts_judged, stats.false_accepts) == (2, 1)


async def test_a_reviewed_answer_reported_wrong_is_a_false_accept_and_leaves_the_cache(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        model = decision.plan.steps[0].model
        await service.review(decision, model, "16", score=0.999)
        assert (await service.report(decision, model=model, answer="16")).stored
        found = await service.report(decision, model=model, fill_token="", answer="", answer_wrong=True)
        assert found.removed == 1
        assert (await service.decide(PROMPT)).WhichOneof("outcome") == "plan"
        stats = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest())
        assert stats.false_accepts == 1


async def test_an_answer_reported_wrong_is_not_stored(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        model = decision.plan.steps[0].model
        await service.review(decision, model, "16", score=0.999)
        told = await service.report(decision, model=model, answer="16", answer_wrong=True)
        assert not told.stored
        assert "wrong" in told.not_stored_because


async def test_reports_teach_what_a_score_is_worth_and_only_in_their_scope(root: Path) -> None:
    async with running(root, review=SURE) as service:
        for _ in range(60):  # this caller is far too sure of itself
            decision = await cascade(service, "boasts")
            model = decision.plan.steps[0].model
            await service.review(decision, model, "15", score=0.95)
            await service.report(decision, model=model, fill_token="", answer="", quality=0.0)
        for scope, low, high in (("boasts", 0.0, 0.4), ("other", 0.94, 0.96)):
            decision = await cascade(service, scope)
            response = await service.review(decision, decision.plan.steps[0].model, "15", score=0.95)
            assert low < response.p_acceptable < high


NUMBERS: list[tuple[dict[str, Any], str]] = [
    *(({"score": n}, "score") for n in (-0.1, 1.1, math.nan, math.inf, -math.inf)),
    *(({"logprob_mean": n}, "logprob_mean") for n in (0.1, math.nan, math.inf, -math.inf)),
    ({"answer": "x" * ((4 << 20) + 1)}, "answer"),
    ({"model": ""}, "model"),
    ({"model": "nobody"}, "model"),
    ({"decision_id": ""}, "decision_id"),
]


@pytest.mark.parametrize(("fields", "named"), NUMBERS)
async def test_what_is_wrong_with_a_review_is_named(root: Path, fields: dict[str, Any], named: str) -> None:
    async with running(root, review=SURE) as service:
        decision = await cascade(service)
        given = {"decision_id": decision.decision_id, "model": "small", "answer": "15"} | fields
        with pytest.raises(InvalidRequest) as refused:
            await service.call("Router.Review", router_pb2.ReviewRequest(**given))
        assert [field for field, _ in refused.value.violations] == [named]


async def test_a_model_that_is_no_step_is_refused_and_the_steps_are_named(root: Path) -> None:
    async with running(root, review=SURE) as service:
        route = types_pb2.RouteControl(pin_model="small")
        decision = await service.decide(PROMPT, route=route)
        with pytest.raises(InvalidRequest, match="no step of this plan, which has small-1"):
            await service.review(decision, "large", "15")


async def test_a_decision_without_steps_has_nothing_to_review(root: Path) -> None:
    async with running(root, review=SURE) as service:
        decision = await service.decide(PROMPT, route=types_pb2.RouteControl(require=["flight"]))
        with pytest.raises(InvalidRequest, match="no step of this plan, which has none"):
            await service.review(decision, "small", "15")


async def test_a_cached_answer_has_nothing_to_review(root: Path) -> None:
    async with running(root, review=SURE) as service:
        await service.put(PROMPT, "15")
        decision = await service.decide(PROMPT)
        with pytest.raises(InvalidRequest, match="served a cached answer"):
            await service.review(decision, "small", "15")


async def test_a_forgotten_decision_and_one_of_another_scope_are_not_found(root: Path) -> None:
    async with running(root, review=SURE, decisions={"keep": 1}) as service:
        old = await cascade(service)
        new = await cascade(service)
        with pytest.raises(NotFound):
            await service.review(old, "small", "15")
        service.principal = Principal("someone", frozenset({"elsewhere"}), admin=False)
        with pytest.raises(NotFound):
            await service.review(new, "small", "15")


async def test_a_plan_of_models_that_a_newer_generation_lacks_is_still_reviewed(root: Path, tmp_path: Path) -> None:
    models = MODELS.replace("small", "tiny").replace("large", "huge")
    build_index([Reference("r", "what is 1 plus 2", "tiny-1")], catalogue(models), HashEncoder(), tmp_path)
    async with running(root, review=SURE) as service:
        plans = [await cascade(service), await service.decide(PROMPT)]
        newer = load_generation(current_generation(tmp_path))
        service.runtime.decider.policy.prepare(newer)
        service.runtime.decider.generation = newer
        for decision in plans:
            for step in decision.plan.steps:
                response = await service.review(decision, step.model, "15", score=0.01)
                assert response.next_model in {"", *(step.model for step in decision.plan.steps)}


def test_a_curve_follows_outcomes_and_never_turns_round() -> None:
    curve = Curve(1.0, 0.0)
    for _ in range(200):
        curve.learn(3.0, right=False)
        curve.learn(-3.0, right=True)
    assert curve.weights[0] >= 0.0
    assert curve.logit(3.0) < 0.5


def test_one_outcome_moves_little() -> None:
    feedback = Feedback()
    feedback.learn("a", "score", 3.0, right=False)
    assert feedback.logit("a", "score", 3.0) > 1.5
    assert feedback.logit("b", "score", 3.0) == 3.0
