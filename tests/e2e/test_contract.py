"""Every limit that stands in the contract, broken once: refused, and the field is named."""

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from tests.conftest import Server
from tests.e2e.kit import Client, refusal

MIB = 1 << 20
NAN, INF = math.nan, math.inf
BELOW = Duration(seconds=-1)
ZERO = Duration()
Parts = dict[str, Any]


def turn(role: str, content: str = "text") -> types_pb2.Message:
    return types_pb2.Message(role=role, content=content)


def decide(**parts: Any) -> Message:
    return router_pb2.DecideRequest(**{"prompt": "" if "messages" in parts else "a prompt"} | parts)


def put(**parts: Any) -> Message:
    given: Parts = {"answer": "an answer"} | ({} if "messages" in parts else {"prompt": "a prompt"})
    return cache_pb2.PutRequest(**given | parts)


def routed(**route: Any) -> Message:
    return decide(route=types_pb2.RouteControl(**route))


def cached(**cache: Any) -> Message:
    return decide(cache=types_pb2.CacheControl(**cache))


def upsert(*places: Parts, **parts: Any) -> Message:
    request = references_pb2.UpsertRequest(**parts)
    for i, place in enumerate(places):
        row: Parts = {"id": f"r{i}", "prompt": "a prompt", "best_model": "small"} | place
        request.references.add(**{key: value for key, value in row.items() if value is not None})
    return request


SCOPES = ["x" * 129, "with space", "ümlaut", "a\nb", "a\x00", "a*", "a\n"]
# Fields that several requests share: (parts of the request, field that is named).
PROMPTS: list[tuple[Parts, str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": " \t\r\n\u2003"}, "prompt"),
    ({"prompt": "x" * (MIB + 1)}, "prompt"),
    ({"prompt": "é" * (MIB // 2 + 1)}, "prompt"),
    ({"prompt": "a", "messages": [turn("user")]}, "messages"),
    ({"messages": [turn("user")] * 1_001}, "messages"),
    ({"messages": [turn("user", "x" * (MIB // 2)), turn("user", "x" * (MIB // 2 + 1))]}, "messages"),
    ({"messages": [turn("user", "x" * (MIB + 1))]}, "messages"),
    ({"messages": [turn("User")]}, "messages[0].role"),
    ({"messages": [turn("user"), turn(""), turn("user")]}, "messages[1].role"),
    ({"messages": [turn("user"), turn("assistant")]}, "messages[1].role"),
    ({"messages": [turn("system")]}, "messages[0].role"),
    ({"messages": [turn("user"), turn("user", " ")]}, "messages[1].content"),
]
CONTEXTS: list[tuple[Parts, str]] = [
    ({"system_prompt": "x" * (MIB + 1)}, "context"),
    ({"tools": "x" * (MIB // 2), "response_format": "é" * (MIB // 2)}, "context"),
    ({"sampling": "x" * MIB, "extra": {"a": ""}}, "context"),
    ({"extra": {"k" * MIB: "v"}}, "context"),
    ({"extra": {str(i): "" for i in range(65)}}, "context.extra"),
]
NUMBERS_0_TO_1 = [-0.001, 1.001, NAN, INF, -INF]
NOT_NEGATIVE = [-0.001, NAN, INF, -INF]
TOO_DEAR = [*NOT_NEGATIVE, 1e300]
POSITIVE = [ZERO, BELOW, Duration(nanos=-1), Duration(seconds=400_000_000_000)]

DECIDE: list[tuple[Callable[[], Message], str]] = [
    *((lambda s=s: decide(scope=s), "scope") for s in SCOPES),
    *((lambda p=p: decide(**p), field) for p, field in PROMPTS),
    *((lambda p=p: decide(context=types_pb2.AnswerContext(**p)), field) for p, field in CONTEXTS),
    (lambda: decide(conversation_id="x" * 257), "conversation_id"),
    (lambda: decide(request_id="é" * 129), "request_id"),
    (lambda: decide(attributes={str(i): "" for i in range(65)}), "attributes"),
    (lambda: decide(attributes={"k" * 1_025: ""}), "attributes"),
    (lambda: decide(attributes={"tier": "v" * 1_025}), "attributes['tier']"),
    (lambda: cached(mode=9), "cache.mode"),
    (lambda: cached(mode=-1), "cache.mode"),
    *((lambda d=d: cached(max_age=d), "cache.max_age") for d in POSITIVE),
    *((lambda n=n: cached(error_budget=n), "cache.error_budget") for n in NUMBERS_0_TO_1),
    (lambda: cached(wait=Duration(seconds=61)), "cache.wait"),
    (lambda: cached(wait=BELOW), "cache.wait"),
    (lambda: routed(allow_models=["small"] * 257), "route.allow_models"),
    (lambda: routed(deny_models=["small"] * 257), "route.deny_models"),
    (lambda: routed(require=["tools"] * 65), "route.require"),
    (lambda: routed(require=["tools", ""]), "route.require"),
    (lambda: routed(allow_models=["nobody"]), "route.allow_models"),
    (lambda: routed(deny_models=["Small"]), "route.deny_models"),
    (lambda: routed(pin_model="nobody"), "route.pin_model"),
    (lambda: routed(pin_model="\U000e0001" * 5_000), "route.pin_model"),
    *((lambda n=n: routed(max_cost_usd=n), "route.max_cost_usd") for n in NOT_NEGATIVE),
    *((lambda d=d: routed(max_latency=d), "route.max_latency") for d in POSITIVE),
    *((lambda n=n: routed(min_quality=n), "route.min_quality") for n in NUMBERS_0_TO_1),
    *((lambda n=n: routed(willingness_to_pay=n), "route.willingness_to_pay") for n in [0.0, -1.0, NAN, INF]),
    *((lambda n=n: routed(expected_output_tokens=n), "route.expected_output_tokens") for n in [0, -1, 1_000_001]),
    (lambda: routed(shape=99), "route.shape"),
    (lambda: routed(experiment_unit="x" * 257), "route.experiment_unit"),
]

PUT: list[tuple[Callable[[], Message], str]] = [
    *((lambda s=s: put(scope=s), "scope") for s in SCOPES),
    *((lambda p=p: put(**p), field) for p, field in PROMPTS),
    *((lambda p=p: put(context=types_pb2.AnswerContext(**p)), field) for p, field in CONTEXTS),
    (lambda: put(answer=""), "answer"),
    (lambda: put(answer=" \n"), "answer"),
    (lambda: put(answer="x" * (4 * MIB + 1)), "answer"),
    (lambda: put(answer="", chunks=["x" * MIB] * 5), "answer"),
    (lambda: put(answer="x" * (2 * MIB)), "answer"),  # beyond the setting, which is below the contract's limit
    (lambda: put(answer="abc", chunks=["ab", "d"]), "chunks"),
    (lambda: put(content_type="x" * 257), "content_type"),
    (lambda: put(model="x" * 257), "model"),
    (lambda: put(source_tags=[str(i) for i in range(65)]), "source_tags"),
    (lambda: put(source_tags=["ok", "x" * 257]), "source_tags[1]"),
    (lambda: put(source_tags=["ok", ""]), "source_tags[1]"),
    *((lambda d=d: put(ttl=d), "ttl") for d in POSITIVE),
]


def invalidate(**parts: Any) -> Message:
    return cache_pb2.InvalidateRequest(**parts)


def near(**parts: Any) -> Message:
    given: Parts = {"prompt": "a prompt", "min_similarity": 0.9} | parts
    return invalidate(radius=cache_pb2.Radius(**given))


INVALIDATE: list[tuple[Callable[[], Message], str]] = [
    *((lambda s=s: invalidate(scope=s, all=True), "scope") for s in SCOPES),
    (invalidate, "all"),
    (lambda: invalidate(dry_run=True), "all"),
    (lambda: invalidate(all=True, model="m"), "all"),
    (lambda: invalidate(all=True, entry_ids=["e"]), "all"),
    (lambda: invalidate(entry_ids=["e"] * 10_001), "entry_ids"),
    (lambda: invalidate(source_tags=[str(i) for i in range(65)]), "source_tags"),
    (lambda: invalidate(source_tags=[""]), "source_tags[0]"),
    (lambda: invalidate(model="x" * 257), "model"),
    *((lambda d=d: invalidate(older_than=d), "older_than") for d in POSITIVE),
    (lambda: near(prompt=""), "radius.prompt"),
    (lambda: near(prompt=" \n"), "radius.prompt"),
    (lambda: near(prompt="x" * (MIB + 1)), "radius.prompt"),
    *((lambda n=n: near(min_similarity=n), "radius.min_similarity") for n in [-1.001, 0, 1.001, NAN, INF]),
]

PAGES: list[tuple[Parts, str]] = [
    *(({"scope": s}, "scope") for s in SCOPES),
    ({"page_size": -1}, "page_size"),
    ({"page_size": 1_001}, "page_size"),
    ({"page_token": "not a token"}, "page_token"),
    ({"page_token": "-1"}, "page_token"),
    ({"page_token": "9" * 19}, "page_token"),
    ({"page_token": "٣"}, "page_token"),
]

UPSERT: list[tuple[Callable[[], Message], str]] = [
    *((lambda s=s: upsert({}, scope=s), "scope") for s in SCOPES),
    (upsert, "references"),
    (lambda: upsert(*[{}] * 1_001), "references"),
    (lambda: upsert({}, {"id": ""}), "references[1].id"),
    (lambda: upsert({}, {"id": "x" * 257}), "references[1].id"),
    (lambda: upsert({}, {"id": "r0"}), "references[1].id"),
    *(
        (lambda p=p: upsert({}, {"prompt": None} | p), f"references[1].{field}")
        for p, field in PROMPTS
        if not ("prompt" in p and "messages" in p)
    ),
    (lambda: upsert({}, {"messages": [turn("user")]}), "references[1].messages"),
    (lambda: upsert({}, {"best_model": "nobody"}), "references[1].best_model"),
    (lambda: upsert({}, {"best_model": None}), "references[1].best_model"),
    (lambda: upsert({}, {"scores": {"small": 1.0}}), "references[1].best_model"),
    (lambda: upsert({}, {"best_model": None, "scores": {"nobody": 1.0}}), "references[1].scores"),
    *(
        (lambda n=n: upsert({}, {"best_model": None, "scores": {"small": n}}), "references[1].scores['small']")
        for n in NUMBERS_0_TO_1
    ),
    (
        lambda: upsert({}, {"best_model": None, "scores": {"small": 1.0, "gpt-6-luna": 1.0}}),
        "references[1].scores[",
    ),
    *((lambda n=n: upsert({}, {"costs": {"small": n}}), "references[1].costs['small']") for n in TOO_DEAR),
    (lambda: upsert({}, {"costs": {"nobody": 1.0}}), "references[1].costs"),
    (lambda: upsert({}, {"category": "x" * 257}), "references[1].category"),
    (lambda: upsert({}, {"source": "x" * 257}), "references[1].source"),
    (lambda: upsert({}, {"note": "x" * 4_097}), "references[1].note"),
]

DELETE: list[tuple[Callable[[], Message], str]] = [
    *((lambda s=s: references_pb2.DeleteRequest(scope=s, ids=["r"]), "scope") for s in SCOPES),
    (references_pb2.DeleteRequest, "ids"),
    (lambda: references_pb2.DeleteRequest(ids=["r"] * 10_001), "ids"),
]

OTHERS: list[tuple[str, Callable[[], Message], str]] = [
    ("Router.DecideBatch", router_pb2.DecideBatchRequest, "requests"),
    ("Router.DecideBatch", lambda: router_pb2.DecideBatchRequest(requests=[decide()] * 1_025), "requests"),  # type: ignore[list-item]
    ("Router.Report", router_pb2.ReportRequest, "decision_id"),
    ("Admin.Explain", admin_pb2.ExplainRequest, "decision_id"),
    ("Admin.ActivateGeneration", admin_pb2.ActivateGenerationRequest, "generation"),
    *(("Admin.GetStats", lambda s=s: admin_pb2.GetStatsRequest(scope=s), "scope") for s in SCOPES),
]

TABLE: list[tuple[str, Callable[[], Message], str]] = [
    *(("Router.Decide", make, field) for make, field in DECIDE),
    *(("Cache.Put", make, field) for make, field in PUT),
    *(("Cache.Invalidate", make, field) for make, field in INVALIDATE),
    *(("Cache.ListAnswers", lambda p=p: cache_pb2.ListAnswersRequest(**p), field) for p, field in PAGES),
    *(("References.Upsert", make, field) for make, field in UPSERT),
    *(("References.Delete", make, field) for make, field in DELETE),
    *(("References.List", lambda p=p: references_pb2.ListRequest(**p), field) for p, field in PAGES),
    *OTHERS,
]


def send(client: Client, method: str, message: Message) -> bytes:
    return client.raw(method.replace(".", "/"), message.SerializeToString())


@pytest.mark.parametrize(("method", "make", "field"), TABLE, ids=[f"{method}-{field}" for method, _, field in TABLE])
def test_what_is_beyond_a_limit_is_refused_and_the_field_is_named(
    client: Client, method: str, make: Callable[[], Message], field: str
) -> None:
    told = refusal(lambda: send(client, method, make()))
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(told.fields) == 1
    assert told.fields[0] == field or (field.endswith("[") and told.fields[0].startswith(field))
    assert told.fields[0] in told.text


LIMITS: list[tuple[str, Callable[[], Message]]] = [
    ("Router.Decide", lambda: decide(scope="A-Za-z0-9._:/@-" + "x" * 113)),
    ("Router.Decide", lambda: decide(prompt="x" * MIB)),
    ("Router.Decide", lambda: decide(prompt="é" * (MIB // 2))),
    ("Router.Decide", lambda: decide(messages=[turn("user", "x")] * 1_000)),
    ("Router.Decide", lambda: decide(messages=[turn("user", "x" * (MIB // 2))] * 2)),
    ("Router.Decide", lambda: decide(messages=[turn("system", ""), turn("assistant", ""), turn("tool", "x")])),
    ("Router.Decide", lambda: decide(context=types_pb2.AnswerContext(system_prompt="x" * MIB))),
    ("Router.Decide", lambda: decide(context=types_pb2.AnswerContext(extra={str(i): "" for i in range(64)}))),
    ("Router.Decide", lambda: decide(conversation_id="x" * 256, request_id="x" * 256)),
    ("Router.Decide", lambda: decide(attributes={f"{i:1024}": "v" * 1_024 for i in range(64)})),
    ("Router.Decide", lambda: cached(error_budget=1, max_age=Duration(nanos=1), wait=Duration(seconds=60))),
    ("Router.Decide", lambda: cached(error_budget=0, wait=ZERO)),
    ("Router.Decide", lambda: routed(allow_models=["small"] * 256, deny_models=["large"] * 256)),
    ("Router.Decide", lambda: routed(max_cost_usd=0, min_quality=1, willingness_to_pay=5e-324)),
    ("Router.Decide", lambda: routed(max_cost_usd=1.7e308, willingness_to_pay=1.7e308, min_quality=0)),
    ("Router.Decide", lambda: routed(expected_output_tokens=1_000_000, max_latency=Duration(nanos=1))),
    ("Router.Decide", lambda: routed(expected_output_tokens=1, experiment_unit="x" * 256, require=["x"] * 64)),
    *(("Router.Decide", lambda s=s: routed(shape=s)) for s in types_pb2.PlanShape.values()),
    ("Cache.Put", lambda: put(scope="limits", answer="x" * MIB)),
    ("Cache.Put", lambda: put(scope="limits", source_tags=[f"{i:256}" for i in range(64)])),
    ("Cache.Put", lambda: put(scope="limits", content_type="x" * 256, model="x" * 256, answer="a", chunks=["a", ""])),
    ("Cache.Invalidate", lambda: invalidate(scope="limits", entry_ids=["e"] * 10_000)),
    ("Cache.Invalidate", lambda: near(min_similarity=1)),
    ("Cache.Invalidate", lambda: near(prompt="x" * MIB)),
    ("Cache.ListAnswers", lambda: cache_pb2.ListAnswersRequest(scope="limits", page_size=1_000)),
    ("Cache.ListAnswers", lambda: cache_pb2.ListAnswersRequest(scope="limits", page_token="9" * 18)),
    ("References.Delete", lambda: references_pb2.DeleteRequest(scope="limits", ids=["r"] * 10_000)),
    ("References.Upsert", lambda: upsert({"id": "x" * 256, "note": "x" * 4_096}, scope="limits")),
    ("References.Upsert", lambda: upsert({"best_model": None, "scores": {"small": 0, "large": 1}}, scope="limits")),
]


@pytest.mark.parametrize(("method", "make"), LIMITS)
def test_what_is_just_within_the_limits_is_taken(client: Client, method: str, make: Callable[[], Message]) -> None:
    send(client, method, make())


def test_pieces_that_hold_nothing_are_not_kept(client: Client, scope: str) -> None:
    client.put("a prompt", "", scope, chunks=["", "yes", *[""] * 500_000, " and no", ""])
    assert list(client.decide("a prompt", scope).answer.chunks) == ["yes", " and no"]
    decision = client.decide("another prompt", scope)
    assert client.report(decision, "", chunks=["", "no"]).stored
    assert list(client.decide("another prompt", scope).answer.chunks) == ["no"]


REPORTS: list[tuple[Parts, str]] = [
    ({"model": ""}, "model"),
    ({"model": "nobody"}, "model"),
    ({"outcome": 0}, "outcome"),
    ({"outcome": 99}, "outcome"),
    ({"answer": "x" * (4 * MIB + 1)}, "answer"),
    ({"answer": "abc", "chunks": ["ab"]}, "chunks"),
    *(({"quality": n}, "quality") for n in NUMBERS_0_TO_1),
    ({"usage": types_pb2.Usage(input_tokens=-1)}, "usage.input_tokens"),
    ({"usage": types_pb2.Usage(input_tokens=10**9 + 1)}, "usage.input_tokens"),
    ({"usage": types_pb2.Usage(output_tokens=-1)}, "usage.output_tokens"),
    ({"usage": types_pb2.Usage(output_tokens=2**62)}, "usage.output_tokens"),
    *(({"usage": types_pb2.Usage(cost_usd=n)}, "usage.cost_usd") for n in (*NOT_NEGATIVE, 1e6 + 1, 1e300)),
    ({"latency": BELOW}, "latency"),
    ({"source_tags": [str(i) for i in range(65)]}, "source_tags"),
    ({"source_tags": ["x" * 257]}, "source_tags[0]"),
    *(({"ttl": d}, "ttl") for d in POSITIVE),
    ({"content_type": "x" * 257}, "content_type"),
    ({"finish_reason": "x" * 257}, "finish_reason"),
    ({"quality_source": "x" * 257}, "quality_source"),
    ({"quality_source": "bob\0judge"}, "quality_source"),
    ({"answer_wrong": True}, "answer_wrong"),
]


@pytest.mark.parametrize(("parts", "field"), REPORTS)
def test_a_report_beyond_a_limit_is_refused_and_leaves_the_decision_as_it_was(
    client: Client, scope: str, parts: Parts, field: str
) -> None:
    decision = client.decide("a prompt", scope)
    told = refusal(lambda: client.report(decision, **parts))
    assert (told.code, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert client.report(decision).stored


@pytest.mark.parametrize("method", list(dict.fromkeys(m for m, _, _ in TABLE)))
@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff", b"\x0b", b"\x0a\x01\xff"], ids=repr)
def test_what_is_no_message_is_refused(client: Client, method: str, content: bytes) -> None:
    told = refusal(lambda: client.raw(method.replace(".", "/"), content))
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_field_of_a_later_version_is_passed_over(client: Client, scope: str) -> None:
    content = decide(scope=scope).SerializeToString() + b"\xf8\x7f\x01"
    response = router_pb2.DecideResponse.FromString(client.raw("Router/Decide", content))
    assert response.plan.steps


REVIEWS: list[tuple[Parts, str]] = [
    ({"model": ""}, "model"),
    ({"model": "nobody"}, "model"),
    ({"answer": "x" * (4 * MIB + 1)}, "answer"),
    *(({"score": n}, "score") for n in NUMBERS_0_TO_1),
    *(({"logprob_mean": n}, "logprob_mean") for n in (0.1, NAN, INF, -INF)),
]


@pytest.mark.parametrize(("parts", "field"), REVIEWS)
def test_a_review_beyond_a_limit_is_refused(client: Client, scope: str, parts: Parts, field: str) -> None:
    decision = client.decide("a prompt", scope)
    told = refusal(lambda: client.review(decision, **parts))
    assert (told.code, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert client.review(decision, score=1, logprob_mean=-0.0).verdict == types_pb2.VERDICT_ACCEPT


@pytest.mark.parametrize("call", ["Explain", "Report", "Review"])
def test_an_unknown_decision_is_not_found(client: Client, call: str) -> None:
    def ask() -> object:
        if call == "Explain":
            return client.admin.Explain(admin_pb2.ExplainRequest(decision_id="f" * 24))
        if call == "Review":
            return client.review(router_pb2.DecideResponse(decision_id="f" * 24), model="small")
        return client.report(router_pb2.DecideResponse(decision_id="f" * 24))

    assert refusal(ask).code is grpc.StatusCode.NOT_FOUND


def test_an_unknown_generation_is_not_found(client: Client) -> None:
    for name in ("f" * 16, "..", "/", "CURRENT", "."):
        told = refusal(
            lambda name=name: client.admin.ActivateGeneration(  # type: ignore[misc]
                admin_pb2.ActivateGenerationRequest(generation=name)
            )
        )
        assert told.code is grpc.StatusCode.NOT_FOUND


def test_an_unknown_method_is_not_offered(client: Client) -> None:
    assert refusal(lambda: client.raw("Router/Guess", b"")).code is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused_and_the_next_one_taken(client: Client, scope: str) -> None:
    told = refusal(lambda: client.decide("x" * (17 * MIB), scope))
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.decide("a prompt", scope).plan.steps


@pytest.mark.parametrize(
    "prompt",
    [
        "nul \x00",
        "\x00",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "مرحبا بالعالم \u202e",
        "\ufeff",
        "a\u0301" * 999,
        "\U0010ffff",
        "x" * MIB,
        "日" * (MIB // 3),
    ],
)
def test_any_text_is_decided_on(client: Client, scope: str, prompt: str) -> None:
    decision = client.decide(prompt, scope, explain=True)
    assert decision.plan.steps
    client.report(decision, "answer \x00 👍")
    assert client.decide(prompt, scope).answer.content == "answer \x00 👍"


def test_both_addresses_serve_the_same(server: Server, client: Client, scope: str) -> None:
    client.put("a prompt", "yes", scope)
    over_socket = Client(server.socket)
    assert over_socket.decide("a prompt", scope).answer.content == "yes"
    over_socket.close()


@pytest.mark.parametrize(
    "parts",
    [
        {"attributes": {"\U000e0001" * 256: "v" * 1_025}},
        {"attributes": {"\x01" * 1_024: "v" * 1_025}},
        {"route": {"pin_model": "\U000e0001" * 256}},
        {"route": {"allow_models": ["\x01" * 256]}},
        {"route": {"allow_models": ["日" * 3_000]}},
        {"messages": [{"role": "\U000e0001" * 9_000, "content": ""}]},
        {"scope": "\U000e0001" * 9_000},
    ],
)
def test_a_refusal_fits_into_the_trailers_whatever_it_quotes(client: Client, parts: Parts) -> None:
    told = refusal(lambda: client.decide("" if "messages" in parts else "a prompt", **parts))
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(told.fields) == 1
