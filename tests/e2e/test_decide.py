"""The whole line over a real socket: decide, call, report, decide again."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import admin_pb2, references_pb2, router_pb2, types_pb2

from tests.e2e.kit import NO_BUDGET, Client, refusal

# Found with the default encoder: each is well above .95 from the other.
SAME = [
    ("How do I boil an egg?", "How do you boil an egg?"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("Translate 'good morning' to French please", "Please translate 'good morning' to French"),
]


def test_an_answer_that_was_reported_is_served_for_the_same_prompt(client: Client, scope: str) -> None:
    first = client.decide("What is the capital of Australia?", scope)
    assert first.WhichOneof("outcome") == "plan"
    assert first.plan.steps
    report = client.report(first, "Canberra", model=first.plan.steps[0].model, finish_reason="stop")
    assert report.stored
    second = client.decide("What is the capital of Australia?", scope)
    assert second.answer.content == "Canberra"
    assert second.answer.match == types_pb2.MATCH_EXACT
    assert second.answer.entry_id == report.entry_id


@pytest.mark.parametrize(("stored", "asked"), SAME)
def test_an_answer_is_served_for_a_prompt_that_means_the_same(
    client: Client, scope: str, stored: str, asked: str
) -> None:
    client.put(stored, "the answer", scope)
    decision = client.decide(asked, scope, cache=NO_BUDGET)
    assert decision.answer.content == "the answer"
    assert decision.answer.match == types_pb2.MATCH_SEMANTIC
    assert 0.95 <= decision.answer.similarity < 1
    assert decision.answer.matched_prompt == stored
    exact = client.decide(asked, scope, cache=types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_EXACT_ONLY))
    assert exact.WhichOneof("outcome") == "plan"


def test_a_prompt_that_differs_in_a_number_is_not_answered_from_the_cache(client: Client, scope: str) -> None:
    entry = client.put("List 5 facts about penguins", "the answer", scope).entry_id
    plan = client.decide("List 7 facts about penguins", scope).plan
    assert plan.steps
    assert plan.candidate.entry_id == entry
    assert plan.candidate.refused_by == "numbers_differ"
    assert plan.candidate.similarity > 0.95


def test_a_prompt_beyond_the_encoder_s_window_is_only_hit_exactly(client: Client, scope: str) -> None:
    long = "The quick brown fox jumps over the lazy dog. " * 200
    client.put(long + "Summarise it.", "the answer", scope)
    assert client.answers(scope)[0].truncated
    assert client.decide(long + "Summarise it.", scope).answer.content == "the answer"
    assert client.decide(long + "Translate it.", scope).WhichOneof("outcome") == "plan"


def test_an_explanation_is_given_where_it_is_asked_for_and_is_that_of_explain(client: Client, scope: str) -> None:
    decision = client.decide("Prove that there are infinitely many primes", scope, request_id="mine", explain=True)
    assert not client.decide("Prove that there are infinitely many primes", scope).HasField("explanation")
    explained = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert explained.explanation == decision.explanation
    assert explained.timings == decision.timings
    assert (explained.scope, explained.request_id) == (scope, "mine")
    assert explained.prompt == "Prove that there are infinitely many primes"
    assert explained.generation == decision.generation
    assert not explained.plan.fill_token
    expected = types_pb2.Plan()
    expected.CopyFrom(decision.plan)
    expected.fill_token = ""
    assert explained.plan == expected
    neighbours = decision.explanation.neighbours
    assert abs(sum(neighbour.weight for neighbour in neighbours) - 1) < 1e-6
    assert [n.similarity for n in neighbours] == sorted((n.similarity for n in neighbours), reverse=True)
    assert {e.model for e in decision.explanation.estimates} == {
        m.id for m in client.admin.GetInfo(admin_pb2.GetInfoRequest()).models
    }


def test_estimates_are_listed_best_first(client: Client, scope: str) -> None:
    decision = client.decide("Prove that there are infinitely many primes", scope, explain=True)
    quality = [estimate.quality for estimate in decision.explanation.estimates]
    assert quality == sorted(quality, reverse=True)


def test_an_explained_hit_names_the_answer_and_leaves_its_content_out(client: Client, scope: str) -> None:
    client.put("a question", "the answer", scope)
    decision = client.decide("a question", scope, explain=True)
    explained = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision.decision_id))
    assert explained.answer.entry_id == decision.answer.entry_id
    assert explained.answer.content == ""


def test_the_same_prompt_is_decided_alike_every_time(client: Client, scope: str) -> None:
    bypass = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
    found = {
        client.decide("Write a haiku about rain", scope, cache=bypass, explain=True).explanation.SerializeToString(
            deterministic=True
        )
        for _ in range(10)
    }
    assert len(found) == 1


def test_a_decision_says_where_its_time_went(client: Client, scope: str) -> None:
    timings = client.decide("how long did it take", scope).timings
    ran = {field.name for field, _ in timings.ListFields()}
    assert {"total", "admit", "normalise", "exact", "queue", "encode", "search", "estimate", "choose"} <= ran
    stages = sum(value.ToNanoseconds() for field, value in timings.ListFields() if field.name != "total")
    assert stages <= timings.total.ToNanoseconds() * 1.01 + 1_000


def test_a_batch_is_answered_in_order_and_one_failure_stays_one(client: Client, scope: str) -> None:
    client.put("question 3", "three", scope)
    requests = [router_pb2.DecideRequest(prompt=f"question {i}", scope=scope) for i in range(100)]
    requests[7].prompt = " "
    requests[9].scope = "not a scope"
    results = client.router.DecideBatch(router_pb2.DecideBatchRequest(requests=requests)).results
    assert len(results) == 100
    for i, result in enumerate(results):
        if i in (7, 9):
            assert result.failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert result.failure.message.startswith(("prompt: ", "scope: "))
        else:
            decision_id = result.response.decision_id
            explained = client.admin.Explain(admin_pb2.ExplainRequest(decision_id=decision_id))
            assert explained.prompt == f"question {i}"
    assert results[3].response.answer.content == "three"


def test_a_batch_of_the_largest_size_is_decided(client: Client, scope: str) -> None:
    requests = [router_pb2.DecideRequest(prompt=f"short {i % 50}", scope=scope) for i in range(1_024)]
    results = client.router.DecideBatch(router_pb2.DecideBatchRequest(requests=requests)).results
    assert all(result.response.plan.steps for result in results)
    assert len({result.response.decision_id for result in results}) == 1_024


def test_a_live_reference_votes_at_once_in_its_scope_only_and_until_it_is_deleted(client: Client, scope: str) -> None:
    prompt = "recalibrate the flux inducer of the main deflector"
    before = client.decide(prompt, scope, explain=True)
    done = client.upsert(references_pb2.Reference(id="mine", prompt=prompt, best_model="large"), scope=scope)
    assert (done.added, done.replaced) == (1, 0)
    voted = client.decide(prompt, scope, explain=True)
    assert voted.explanation.neighbours[0].reference_id == "mine"
    assert voted.explanation.neighbours[0].best_model == "gpt-6.1-sol"
    assert voted.explanation.neighbours[0].similarity > 0.999
    elsewhere = client.decide(prompt, scope + "-other", explain=True)
    assert elsewhere.explanation == before.explanation
    again = client.upsert(references_pb2.Reference(id="mine", prompt=prompt, scores={"small": 0.9}), scope=scope)
    assert (again.added, again.replaced) == (0, 1)
    assert client.decide(prompt, scope, explain=True).explanation.neighbours[0].best_model == "gpt-6-luna"
    gone = client.references.Delete(references_pb2.DeleteRequest(scope=scope, ids=["mine", "nobody"]))
    assert gone.deleted == 1
    assert client.decide(prompt, scope, explain=True).explanation == before.explanation


def test_upsert_takes_all_or_nothing(client: Client, scope: str) -> None:
    good = references_pb2.Reference(id="good", prompt="a", best_model="small")
    bad = references_pb2.Reference(id="bad", prompt="b", best_model="nobody")
    assert refusal(lambda: client.upsert(good, bad, scope=scope)).fields == ("references[1].best_model",)
    assert not client.references.List(references_pb2.ListRequest(scope=scope)).references


def test_references_are_listed_as_they_were_given(client: Client, scope: str) -> None:
    given = [
        references_pb2.Reference(id="a", prompt="x", best_model="small", category="c", source="s", note="n"),
        references_pb2.Reference(id="b", prompt="y", scores={"small": 0.5, "large": 1.0}, costs={"large": 0.25}),
        references_pb2.Reference(
            id="c",
            messages=[types_pb2.Message(role="system", content="s"), types_pb2.Message(role="user", content="u")],
            best_model="gpt-6.1-sol",
        ),
    ]
    client.upsert(*given, scope=scope)
    listed = client.references.List(references_pb2.ListRequest(scope=scope)).references
    given[0].best_model = "gpt-6-luna"
    for name in ("small", "large"):
        del given[1].scores[name]
    given[1].scores.update({"gpt-6-luna": 0.5, "gpt-6.1-sol": 1.0})
    del given[1].costs["large"]
    given[1].costs.update({"gpt-6.1-sol": 0.25})
    assert list(listed) == given


def test_references_are_listed_in_the_order_they_were_written(client: Client, scope: str) -> None:
    names = ["m", "b", "z", "a"]
    client.upsert(*(references_pb2.Reference(id=n, prompt=n, best_model="small") for n in names), scope=scope)
    listed: list[str] = []
    token = ""
    while True:
        page = client.references.List(references_pb2.ListRequest(scope=scope, page_size=3, page_token=token))
        listed += [reference.id for reference in page.references]
        token = page.next_page_token
        if not token:
            break
    assert listed == names


@pytest.mark.parametrize("fields", [{}, {"route": types_pb2.RouteControl(pin_model="large")}])
def test_a_deadline_that_leaves_no_time_is_answered_without_an_embedding_or_not_at_all(
    client: Client, scope: str, fields: dict[str, types_pb2.RouteControl]
) -> None:
    client.put("known", "the answer", scope)
    degraded = 0
    for i in range(60):
        try:
            decision = client.decide(f"{i} " + "words " * 150, scope, timeout=0.009, **fields)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - too late even for that
            continue
        if decision.degraded == types_pb2.DEGRADED_NO_EMBEDDING:
            degraded += 1
            assert decision.plan.steps[0].model == ("gpt-6.1-sol" if fields else "gpt-6.1-terra")
            expected = types_pb2.REASON_PINNED if fields else types_pb2.REASON_DEGRADED
            assert decision.plan.reason == expected
    assert client.decide("known", scope, timeout=5).answer.content == "the answer"
    assert client.decide("not known", scope, timeout=5).degraded == types_pb2.DEGRADED_NONE


def test_stats_count_what_was_done_in_a_scope(client: Client, scope: str) -> None:
    first = client.decide("a question", scope)
    client.report(first, "yes", usage=types_pb2.Usage(cost_usd=0.25), latency=Duration(seconds=1))
    hit = client.decide("a question", scope)
    client.report(hit, "", answer_wrong=True, model="", outcome=types_pb2.OUTCOME_UNSPECIFIED)
    client.put("another", "yes", scope)
    client.upsert(references_pb2.Reference(id="r", prompt="p", best_model="small"), scope=scope)
    stats = client.admin.GetStats(admin_pb2.GetStatsRequest(scope=scope))
    assert (stats.decisions, stats.exact_hits, stats.semantic_hits, stats.degraded) == (2, 1, 0, 0)
    assert dict(stats.plans_by_model) == {first.plan.steps[0].model: 1}
    assert dict(stats.reports_by_outcome) == {"ok": 1, "cached": 1}
    assert (stats.answers, stats.live_references, stats.answers_reported_wrong) == (1, 1, 1)
    assert stats.reported_cost_usd == 0.25
    assert stats.generation_references > 500
    everything = client.admin.GetStats(admin_pb2.GetStatsRequest())
    assert everything.decisions >= stats.decisions
    nobody = client.admin.GetStats(admin_pb2.GetStatsRequest(scope=scope + "-nobody"))
    assert (nobody.decisions, nobody.answers) == (0, 0)


@pytest.mark.parametrize("prompt", ["Who painted the Mona Lisa?", "Who painted the Mona Lisa??"])
def test_a_cached_answer_of_a_model_that_is_not_wanted_is_not_served(client: Client, scope: str, prompt: str) -> None:
    client.put("Who painted the Mona Lisa?", "Leonardo", scope, model="small")
    assert client.decide(prompt, scope, cache=NO_BUDGET).answer.content == "Leonardo"
    for route in (types_pb2.RouteControl(deny_models=["small"]), types_pb2.RouteControl(pin_model="large")):
        assert client.decide(prompt, scope, route=route, cache=NO_BUDGET).WhichOneof("outcome") == "plan"
    pinned = client.decide(prompt, scope, route=types_pb2.RouteControl(pin_model="small"), cache=NO_BUDGET)
    assert pinned.answer.content == "Leonardo"


@pytest.mark.parametrize("prompt", ["Who painted the Mona Lisa?", "Who painted the Mona Lisa??"])
@pytest.mark.parametrize("asked", [{"require": ["tools"]}, {"min_quality": 0.9}])
def test_a_cached_answer_of_a_model_without_what_is_required_is_not_served(
    client: Client, scope: str, prompt: str, asked: dict[str, Any]
) -> None:
    route = types_pb2.RouteControl(**asked)
    able = client.decide(prompt, scope, route=route).plan.steps[0].model
    expected = client.decide(prompt, scope, explain=True).explanation.estimates
    worst = min(expected, key=lambda one: one.quality).model
    for model in ("not in the catalogue", *[worst] * ("min_quality" in asked)):
        client.put("Who painted the Mona Lisa?", "Leonardo", scope, model=model)
        assert client.decide(prompt, scope, cache=NO_BUDGET).answer.content == "Leonardo"
        refused = client.decide(prompt, scope, route=route, cache=NO_BUDGET)
        assert refused.WhichOneof("outcome") == "plan"
        assert refused.plan.candidate.refused_by == "model_not_wanted"
    client.put("Who painted the Mona Lisa?", "Leonardo", scope, model=able)
    assert client.decide(prompt, scope, route=route, cache=NO_BUDGET).answer.content == "Leonardo"


@pytest.mark.parametrize(
    "prompt", ["hi", "capital of Mongolia?", "write quicksort in Rust", "how do I reset my password?"]
)
def test_a_plan_goes_on_to_models_that_the_references_speak_for(client: Client, scope: str, prompt: str) -> None:
    labelled = {"gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol"}  # small, medium and large: the starter's only labels
    decision = client.decide(prompt, scope, explain=True)
    steps = [step.model for step in decision.plan.steps]
    assert len(steps) > 1 or steps[0] == "gpt-6.1-sol"
    assert set(steps) <= labelled
    assert {e.model for e in decision.explanation.estimates if e.quality} == labelled
    together = client.decide(prompt, scope, route=types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_ENSEMBLE))
    assert {step.model for step in together.plan.steps} <= labelled
