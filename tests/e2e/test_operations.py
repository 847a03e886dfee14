"""What operators rely on: tokens, metrics, logs, refusals under load, a cache that is switched off."""

import json
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from tests.conftest import ROOT, Server
from tests.e2e.kit import Client, Refusal, metrics_address, refusal, serving, to_refusal, wait_for

TOKENS = {name: f"{name}-{'x' * 20}" for name in ("alice", "bob", "root", "watcher")}
AUTH = f"""
[auth.tokens.alice]
token = "{TOKENS["alice"]}"
scopes = ["alice", "shared"]
[auth.tokens.bob]
token = "{TOKENS["bob"]}"
scopes = ["bob", "shared"]
[auth.tokens.root]
token = "{TOKENS["root"]}"
scopes = ["*"]
admin = true
[auth.tokens.watcher]
token = "{TOKENS["watcher"]}"
admin = true
"""


@pytest.fixture(scope="module")
def guarded(starter_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for tokens."""
    with serving(starter_index, tmp_path_factory.mktemp("guarded"), AUTH) as server:
        yield server


@pytest.fixture
def callers(guarded: Server) -> Iterator[dict[str, Client]]:
    found = {name: Client(guarded.address, token) for name, token in TOKENS.items()}
    yield found
    for client in found.values():
        client.close()


def scoped(client: Client, scope: str) -> dict[str, Callable[[], object]]:
    """Return a call of everything that happens in a scope."""
    metadata = client.metadata
    reference = references_pb2.Reference(id="r", prompt="p", best_model="small")
    return {
        "Decide": lambda: client.decide("a prompt", scope),
        "Put": lambda: client.put("a prompt", "yes", scope),
        "Invalidate": lambda: client.invalidate(scope, all=True),
        "ListAnswers": lambda: client.answers(scope),
        "Upsert": lambda: client.upsert(reference, scope=scope),
        "Delete": lambda: client.references.Delete(
            references_pb2.DeleteRequest(scope=scope, ids=["r"]), metadata=metadata
        ),
        "List": lambda: client.references.List(references_pb2.ListRequest(scope=scope), metadata=metadata),
        "GetStats": lambda: client.admin.GetStats(admin_pb2.GetStatsRequest(scope=scope), metadata=metadata),
    }


def admins(client: Client) -> dict[str, Callable[[], object]]:
    """Return a call of everything that is for admins."""
    metadata = client.metadata
    return {
        "GetInfo": lambda: client.admin.GetInfo(admin_pb2.GetInfoRequest(), metadata=metadata),
        "GetStats of all": lambda: client.admin.GetStats(admin_pb2.GetStatsRequest(), metadata=metadata),
        "ListGenerations": lambda: client.admin.ListGenerations(admin_pb2.ListGenerationsRequest(), metadata=metadata),
        "ActivateGeneration": lambda: client.admin.ActivateGeneration(
            admin_pb2.ActivateGenerationRequest(generation="f" * 16), metadata=metadata
        ),
    }


@pytest.mark.parametrize("token", ["", "wrong-token-of-some-length", TOKENS["alice"][:-1], TOKENS["alice"] + "x", " "])
def test_without_a_known_token_nothing_is_answered(guarded: Server, token: str) -> None:
    client = Client(guarded.address, token)
    for name, call in {**scoped(client, "alice"), **admins(client)}.items():
        told = refusal(call)
        assert told.code is grpc.StatusCode.UNAUTHENTICATED, name
        assert "authorization: Bearer" in told.text
    client.close()


def test_a_token_is_good_for_its_own_scopes_and_no_others(callers: dict[str, Client]) -> None:
    for name, call in {**scoped(callers["alice"], "alice"), **scoped(callers["alice"], "shared")}.items():
        assert call() is not None, name
    for scope in ("bob", "", "alice2", "ALICE"):
        for name, call in scoped(callers["alice"], scope).items():
            if name == "GetStats" and not scope:
                continue  # that is everyone's
            told = refusal(call)
            assert told.code is grpc.StatusCode.PERMISSION_DENIED, (name, scope)
            assert "auth.tokens.alice.scopes" in told.text
            assert TOKENS["alice"] not in told.text


def test_admin_calls_are_for_admins(callers: dict[str, Client]) -> None:
    for name, call in admins(callers["alice"]).items():
        assert refusal(call).code is grpc.StatusCode.PERMISSION_DENIED, name
    for holder in ("root", "watcher"):
        for name, call in admins(callers[holder]).items():
            if name == "ActivateGeneration":
                assert refusal(call).code is grpc.StatusCode.NOT_FOUND
            else:
                assert call() is not None, name


def test_a_token_for_all_scopes_is_good_everywhere(callers: dict[str, Client]) -> None:
    for call in scoped(callers["root"], "anything").values():
        assert call() is not None


def test_another_scope_s_decision_is_as_unknown_as_none(callers: dict[str, Client]) -> None:
    decision = callers["alice"].decide("a private prompt", "alice")

    def explain(name: str, decision_id: str) -> admin_pb2.ExplainResponse:
        client = callers[name]
        request = admin_pb2.ExplainRequest(decision_id=decision_id)
        return client.admin.Explain(request, metadata=client.metadata)

    told = refusal(lambda: explain("bob", decision.decision_id))
    unknown = refusal(lambda: explain("bob", "f" * 24))
    assert told.code is unknown.code is grpc.StatusCode.NOT_FOUND
    assert told.text.replace(decision.decision_id, "") == unknown.text.replace("f" * 24, "")
    assert refusal(lambda: callers["bob"].report(decision)).code is grpc.StatusCode.NOT_FOUND
    assert explain("alice", decision.decision_id).prompt == "a private prompt"
    assert explain("root", decision.decision_id).scope == "alice"
    assert explain("watcher", decision.decision_id).scope == "alice"
    stats = admin_pb2.GetStatsRequest(scope="alice")
    assert callers["watcher"].admin.GetStats(stats, metadata=callers["watcher"].metadata).decisions
    assert refusal(lambda: callers["watcher"].report(decision)).code is grpc.StatusCode.NOT_FOUND, "it may only look"
    review = router_pb2.ReviewRequest(decision_id=decision.decision_id, model="small", answer="yes")
    for name in ("bob", "watcher"):
        reviewed = partial(callers[name].router.Review, review, metadata=callers[name].metadata)
        assert refusal(reviewed).code is grpc.StatusCode.NOT_FOUND
    assert callers["alice"].report(decision).stored


def test_a_batch_reaches_only_the_scopes_of_its_token(callers: dict[str, Client]) -> None:
    client = callers["alice"]
    requests = [router_pb2.DecideRequest(prompt="a prompt", scope=scope) for scope in ("alice", "bob", "shared")]
    batch = router_pb2.DecideBatchRequest(requests=requests)
    results = client.router.DecideBatch(batch, metadata=client.metadata).results
    assert [result.WhichOneof("result") for result in results] == ["response", "failure", "response"]
    assert results[1].failure.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


def test_settings_are_shown_without_tokens(callers: dict[str, Client]) -> None:
    client = callers["root"]
    shown = client.admin.GetInfo(admin_pb2.GetInfoRequest(), metadata=client.metadata).settings
    assert "[auth.tokens" in shown
    assert not any(token in shown for token in TOKENS.values())


def test_tokens_are_in_no_log(guarded: Server) -> None:
    assert not any(token in line for token in TOKENS.values() for line in guarded.log)


# ---- under load -----------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_again(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[encoder]\nworkers = 1\nmax_queue = 1\n") as server:
        client = Client(server.address)
        client.put("known", "the answer")

        def ask(i: int) -> Refusal | router_pb2.DecideResponse:
            try:
                return client.decide(f"question {i} " + "and more words " * 80)
            except grpc.RpcError as error:
                return to_refusal(error)

        with ThreadPoolExecutor(32) as pool:
            told = list(pool.map(ask, range(200)))
            assert client.decide("known").answer.content == "the answer"
        refused = [one for one in told if isinstance(one, Refusal)]
        answered = [one for one in told if isinstance(one, router_pb2.DecideResponse)]
        assert refused
        assert answered
        for one in refused:
            assert one.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert one.retry_s is not None
            assert one.retry_s > 0
        stats = client.admin.GetStats(admin_pb2.GetStatsRequest())
        assert stats.refused == len(refused)
        assert stats.queue_length == 0
        batch = [router_pb2.DecideRequest(prompt=f"in a batch {i} " + "words " * 100) for i in range(30)]
        results = client.router.DecideBatch(router_pb2.DecideBatchRequest(requests=batch)).results
        codes = {result.failure.code for result in results}
        assert codes == {0, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
        for result in results:
            later = result.failure.retry_after.ToNanoseconds() > 0
            assert later == (result.WhichOneof("result") == "failure")
        client.close()


def test_callers_that_hang_up_hold_nobody_up(client: Client, scope: str) -> None:
    for i in range(50):
        call = client.router.Decide.future(router_pb2.DecideRequest(prompt=f"hung up {i}", scope=scope))
        call.cancel()
    assert client.decide("a prompt", scope).plan.steps
    stats = wait_for(lambda: client.admin.GetStats(admin_pb2.GetStatsRequest()))
    assert stats.queue_length == 0


# ---- metrics and logs ------------------------------------------------------------------------------------------

SECRETS = ["a very private prompt", "a very private answer", "private-scope", "private-request", "private-tag"]
DOCUMENTED = sorted(set(re.findall(r"`(waypost_[a-z_]+)", (ROOT / "docs" / "operations.md").read_text("utf-8"))))


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        text: str = page.read().decode()
    return text


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"{series} is not published"
    return float(found[1])


@pytest.fixture(scope="module", params=["info", "debug"])
def used(
    request: pytest.FixtureRequest, starter_index: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server that was asked everything once, with its metrics."""
    folder = tmp_path_factory.mktemp("used")
    with serving(starter_index, folder, f"[log]\nlevel = '{request.param}'\n") as server:
        client = Client(server.address)
        prompt, answer, scope, request_id, tag = SECRETS
        decision = client.decide(prompt, scope, request_id=request_id)
        usage, latency = types_pb2.Usage(cost_usd=0.01), Duration(seconds=1)
        client.report(
            decision, answer, source_tags=[tag], finish_reason="stop", quality=1.0, usage=usage, latency=latency
        )
        client.decide(prompt, scope)
        client.decide(prompt + "!", scope)
        reviewed = client.decide("Which answer is to be reviewed?", scope)
        client.review(reviewed, score=1)
        client.report(reviewed, "", model=reviewed.plan.steps[0].model, quality=1.0, outcome=types_pb2.OUTCOME_REFUSED)
        refusal(lambda: client.decide(" ", scope))
        refusal(lambda: client.decide(prompt, scope + " "))
        refusal(lambda: client.decide(prompt, scope, route=types_pb2.RouteControl(pin_model=prompt)))
        refusal(lambda: client.report(decision, answer))
        client.invalidate(scope, source_tags=[tag], dry_run=True)
        client.upsert(references_pb2.Reference(id="r", prompt=prompt, best_model="small"), scope=scope)
        generation = client.admin.GetInfo(admin_pb2.GetInfoRequest()).generation
        client.admin.ActivateGeneration(admin_pb2.ActivateGenerationRequest(generation=generation))
        client.close()
        metrics = scraped(metrics_address(server))
        server.stop()
        yield server, metrics


def test_every_documented_series_is_published(used: tuple[Server, str]) -> None:
    _, metrics = used
    assert len(DOCUMENTED) > 10
    for series in DOCUMENTED:
        assert re.search(rf"^{series}(_bucket|_sum)?[ {{]", metrics, re.MULTILINE), series
    assert value(metrics, 'waypost_decisions_total{outcome="exact"}') == 1
    assert value(metrics, 'waypost_decisions_total{outcome="plan"}') >= 1
    assert value(metrics, 'waypost_reports_total{outcome="ok"}') == 1
    assert value(metrics, 'waypost_calls_total{code="INVALID_ARGUMENT",method="Decide"}') == 3
    assert value(metrics, 'waypost_calls_total{code="FAILED_PRECONDITION",method="Report"}') == 1
    assert value(metrics, "waypost_answers") == 1
    assert value(metrics, "waypost_live_references") == 1
    assert value(metrics, "waypost_decision_coverage") == 1
    assert value(metrics, 'waypost_stage_seconds_count{stage="encode"}') >= 1


def test_neither_metrics_nor_logs_tell_what_was_asked(used: tuple[Server, str]) -> None:
    server, metrics = used
    log = "".join(server.log)
    assert "ready" in log
    for secret in SECRETS:
        assert secret not in metrics
    for secret in SECRETS[:2]:
        assert secret not in log
    assert ('"event": "decision"' in log) == ('"level": "debug"' in log)


def test_logs_are_lines_of_json(used: tuple[Server, str]) -> None:
    server, _ = used
    events = [json.loads(line) for line in server.log]
    assert {"loaded", "metrics", "ready", "generation_activated", "draining", "stopped"} <= {e["event"] for e in events}
    assert all({"level", "timestamp"} <= set(event) for event in events)


# ---- other settings ---------------------------------------------------------------------------------------------


def test_a_cache_that_is_switched_off_routes_and_stores_nothing(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[cache]\nenabled = false\n[server]\nmax_message_mib = 1\n") as server:
        client = Client(server.address)
        decision = client.decide("a prompt")
        assert decision.plan.steps
        assert not decision.plan.fill_token
        assert refusal(lambda: client.put("a prompt", "yes")).kinds == ("CACHE_DISABLED",)
        assert not client.answers()
        told = refusal(lambda: client.decide("x" * (1 << 20)))
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        client.close()


def test_a_response_larger_than_a_message_is_a_clear_error(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[server]\nmax_message_mib = 1\n") as server:
        client = Client(server.address)
        client.put("a prompt", "", chunks=["x" * 600_000])  # a hit says it twice: in one piece and in chunks
        told = refusal(lambda: client.decide("a prompt"))
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "server.max_message_mib (1)" in told.text
        assert len(client.answers()) == 1
        client.close()


def test_leases_capacity_and_ages_are_those_of_the_settings(starter_index: Path, tmp_path: Path) -> None:
    settings = (
        "[cache]\nlease_s = 1e-6\nmax_answers = 3\nttl_s = 0\n[decisions]\nkeep = 2\n[routing]\nfallback = 'large'\n"
    )
    settings = f"[journal]\nenabled = false\n{settings}"
    with serving(starter_index, tmp_path, settings + "min_similarity = 1.0\n") as server:
        client = Client(server.address)
        decisions = [client.decide(f"question {i}") for i in range(3)]
        assert decisions[0].plan.steps[0].model == "gpt-6.1-sol"
        assert decisions[0].plan.reason == types_pb2.REASON_FALLBACK
        assert refusal(lambda: client.report(decisions[0])).code is grpc.StatusCode.NOT_FOUND
        told = refusal(lambda: client.report(decisions[2]))
        assert (told.code, told.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, ("FILL_TOKEN_LAPSED",))
        for i in range(5):
            client.put(f"question {i}", str(i))
        assert [answer.content for answer in client.answers()] == ["2", "3", "4"]
        assert not client.answers()[0].HasField("expires_at")
        assert not client.decide("question 0").HasField("answer")
        client.put("soon over", "x", ttl=Duration(nanos=1_000))
        assert not client.decide("soon over").HasField("answer")
        client.close()


def test_an_answer_that_is_damaged_on_disk_is_a_plan_and_an_error_in_the_log(
    starter_index: Path, tmp_path: Path
) -> None:
    prompt, alike = "What is the capital of Australia?", "what is the capital of australia?"
    control = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_DEFAULT, error_budget=1)
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        client.put(prompt, "Canberra")
        client.put("another prompt", "sound")
        assert client.decide(alike, cache=control).answer.content == "Canberra"
        client.close()
    with closing(sqlite3.connect(tmp_path / "waypost.sqlite3")) as file, file:
        file.execute("UPDATE answer_content SET chunks = '[\"' WHERE content = 'Canberra'")
    with serving(starter_index, tmp_path) as server:
        client = Client(server.address)
        decisions = [client.decide(text, cache=control) for text in (prompt, alike)]
        assert all(decision.plan.steps for decision in decisions)
        assert client.decide("another prompt").answer.content == "sound"
        assert refusal(client.answers).code is grpc.StatusCode.DATA_LOSS
        assert "\nwaypost_answers_unreadable_total 3.0\n" in scraped(metrics_address(server))
        assert client.report(decisions[0], "Canberra again").stored
        assert client.decide(alike, cache=control).answer.content == "Canberra again"
        client.close()
        server.stop()
        lines = [event for event in map(json.loads, server.log) if event["event"] == "answer_unreadable"]
        assert [(line["level"], line["scope"], line["unsaid"]) for line in lines] == [("error", "default", 0)]
        assert "is damaged" in lines[0]["why"]


def test_every_answer_of_a_scope_can_be_paged_through_over_the_wire(client: Client, scope: str) -> None:
    for i in range(25):
        client.put(f"question {i}", f"answer {i}", scope)
    found: list[str] = []
    token = ""
    while True:
        page = client.cache.ListAnswers(cache_pb2.ListAnswersRequest(scope=scope, page_size=7, page_token=token))
        found += [answer.content for answer in page.answers]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"answer {i}" for i in range(25)]


def test_serving_needs_nothing_that_only_exporting_does() -> None:
    code = """
import sys, service.server, service.cli
sys.exit(any(name in sys.modules for name in ("torch", "sentence_transformers", "onnx")))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_at_debug_every_decision_is_a_line_and_prompts_are_in_it_where_they_may_be(
    starter_index: Path, tmp_path: Path
) -> None:
    with serving(starter_index, tmp_path, "[log]\nlevel = 'debug'\nprompts = true\n") as server:
        client = Client(server.address)
        decisions = [client.decide("hello there", "s"), client.decide("goodbye", "s")]
        client.close()
        server.stop()
        events = [json.loads(line) for line in server.log]
        lines = {event["decision"]: event for event in events if event["event"] == "decision"}
        assert {name: line["prompt"] for name, line in lines.items()} == {
            decisions[0].decision_id: "hello there",
            decisions[1].decision_id: "goodbye",
        }
        assert lines[decisions[0].decision_id]["model"] == decisions[0].plan.steps[0].model
