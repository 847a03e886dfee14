"""Every example, as its reader would run it: against a real Waypost, a busy one, and none."""

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Protocol

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

PROMPT = 'What is a "waypost" — and why?'
RUN_TIMEOUT_S = 60
Steps = list[dict[str, Any]]


class Server(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def socket(self) -> str: ...


class Caller:
    """One of the examples."""

    def __init__(self, language: str, command: list[str]) -> None:
        self.language = language
        self.command = command

    def start(self, address: str, *flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        # A scope of its own: no test sees what another one stored.
        scope = f"clients/{uuid.uuid4()}"
        command = [*self.command, "--scope", scope, *flags, address, PROMPT]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, env=environment
        )

    def run(self, address: str, *flags: str, env: dict[str, str] | None = None) -> Steps:
        done = self.start(address, *flags, env=env)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=["python", "node", "go", "java"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param, request.getfixturevalue(f"{request.param}_caller"))


class Busy(router_pb2_grpc.RouterServicer):
    """Refuses the first requests, then plans, and keeps the reports."""

    def __init__(self, refusals: int, retry_after_ms: int) -> None:
        self.refusals = refusals
        self.retry_after_ms = retry_after_ms
        self.decides: list[router_pb2.DecideRequest] = []
        self.deadlines: list[float | None] = []
        self.reports: list[router_pb2.ReportRequest] = []
        self.address = ""

    def Decide(  # noqa: N802 - gRPC's spelling
        self, request: router_pb2.DecideRequest, context: grpc.ServicerContext
    ) -> router_pb2.DecideResponse:
        self.decides.append(request)
        self.deadlines.append(context.time_remaining())
        if len(self.decides) <= self.refusals:
            info = error_details_pb2.RetryInfo()
            info.retry_delay.FromMilliseconds(self.retry_after_ms)
            detail = any_pb2.Any()
            detail.Pack(info)
            refusal = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, details=[detail])
            context.abort_with_status(rpc_status.to_status(refusal))
        plan = types_pb2.Plan(
            steps=[types_pb2.Step(model="small"), types_pb2.Step(model="large")],
            reason=types_pb2.REASON_NEIGHBOURS,
            fill_token="token",  # noqa: S106 - not a secret
        )
        return router_pb2.DecideResponse(decision_id="decision", plan=plan)

    def Report(  # noqa: N802 - gRPC's spelling
        self, request: router_pb2.ReportRequest, context: grpc.ServicerContext
    ) -> router_pb2.ReportResponse:
        del context
        self.reports.append(request)
        return router_pb2.ReportResponse()


@pytest.fixture
def start_busy() -> Iterator[Callable[..., Busy]]:
    servers = []

    def start(refusals: int, retry_after_ms: int = 50) -> Busy:
        # Its other methods answer UNIMPLEMENTED.
        busy = Busy(refusals, retry_after_ms)  # type: ignore[abstract]
        server = grpc.server(futures.ThreadPoolExecutor(2))
        router_pb2_grpc.add_RouterServicer_to_server(busy, server)
        busy.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        servers.append(server)
        return busy

    yield start
    for server in servers:
        server.stop(None).wait()


def named(steps: Steps, step: str) -> Steps:
    return [line for line in steps if line["step"] == step]


def check_fill_then_hit(steps: Steps) -> None:
    plan, hit = named(steps, "decide")
    first, second = named(steps, "answer")
    (report,) = named(steps, "report")
    assert plan["outcome"] == "plan"
    assert report["outcome"] == "OUTCOME_OK"
    assert report["stored"], report
    assert first["source"] == "model"
    assert first["model"] == plan["models"][0]
    assert (hit["outcome"], hit["match"]) == ("answer", "MATCH_EXACT")
    assert second["source"] == "cache"
    assert second["content"] == first["content"]
    assert PROMPT in first["content"]


def test_the_first_answer_is_a_models_and_the_second_the_cached_one(caller: Caller, server: Server) -> None:
    check_fill_then_hit(caller.run(server.address))


def test_no_proxy_of_the_environment_comes_between(caller: Caller, server: Server) -> None:
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "no_proxy"), "http://127.0.0.1:1")
    check_fill_then_hit(caller.run(server.address, env=proxy))


def test_a_unix_socket_does_as_well(caller: Caller, server: Server) -> None:
    if caller.language == "java":
        refused = caller.start(server.socket)
        if refused.returncode == 2 and "epoll" in refused.stderr:
            pytest.skip("this netty has no native epoll library, Debian's never has")
    check_fill_then_hit(caller.run(server.socket))


def test_a_model_that_fails_is_followed_by_the_plans_next_step(caller: Caller, server: Server) -> None:
    steps = caller.run(server.address, "--fail-first")
    first, second = named(steps, "decide")[0]["models"][:2]
    assert [(call["model"], call["ok"]) for call in named(steps, "call")] == [
        (first, False),
        (second, True),
    ]
    assert [(report["model"], report["outcome"]) for report in named(steps, "report")] == [
        (first, "OUTCOME_ERROR"),
        (second, "OUTCOME_OK"),
    ]
    assert [answer["source"] for answer in named(steps, "answer")] == ["model", "cache"]


def test_without_a_waypost_the_default_model_answers(caller: Caller) -> None:
    with socket.socket() as unused:  # bound and never listening: nobody else gets this port
        unused.bind(("127.0.0.1", 0))
        steps = caller.run(f"127.0.0.1:{unused.getsockname()[1]}")
    assert {line["outcome"] for line in named(steps, "decide")} == {"failed"}
    assert {line["code"] for line in named(steps, "decide")} == {"UNAVAILABLE"}
    assert [line["source"] for line in named(steps, "answer")] == ["default_model"] * 2


def test_a_busy_waypost_is_asked_again_after_the_delay_it_names(
    caller: Caller, start_busy: Callable[..., Busy]
) -> None:
    busy = start_busy(refusals=1)
    steps = caller.run(busy.address)
    (backoff,) = named(steps, "backoff")
    assert backoff["code"] == "RESOURCE_EXHAUSTED"
    assert backoff["seconds"] == pytest.approx(0.05)
    assert [line["source"] for line in named(steps, "answer")] == ["model"] * 2


def test_a_waypost_that_stays_busy_is_done_without(caller: Caller, start_busy: Callable[..., Busy]) -> None:
    busy = start_busy(refusals=4)
    steps = caller.run(busy.address)
    assert len(named(steps, "backoff")) == 2  # one for each prompt
    assert len(busy.decides) == 4
    assert [line["source"] for line in named(steps, "answer")] == ["default_model"] * 2


def test_a_delay_that_is_too_long_is_not_waited_for(caller: Caller, start_busy: Callable[..., Busy]) -> None:
    steps = caller.run(start_busy(refusals=2, retry_after_ms=3_600_000).address)
    assert not named(steps, "backoff")
    assert [line["source"] for line in named(steps, "answer")] == ["default_model"] * 2


def test_calls_have_deadlines_and_contexts_and_reports_are_complete(
    caller: Caller, start_busy: Callable[..., Busy]
) -> None:
    busy = start_busy(refusals=0)
    caller.run(busy.address, "--fail-first")
    assert all(deadline is not None and 0 < deadline < 2.1 for deadline in busy.deadlines)
    assert all(request.prompt == PROMPT for request in busy.decides)
    assert all(request.context.system_prompt for request in busy.decides)
    failed, succeeded, _ = busy.reports
    assert (failed.model, failed.outcome) == ("small", types_pb2.OUTCOME_ERROR)
    assert not failed.fill_token
    assert failed.HasField("latency")
    assert (succeeded.model, succeeded.outcome) == ("large", types_pb2.OUTCOME_OK)
    assert (succeeded.decision_id, succeeded.fill_token) == ("decision", "token")
    assert succeeded.finish_reason == "stop"
    assert PROMPT in succeeded.answer
    assert succeeded.usage.input_tokens > 0
    assert succeeded.usage.output_tokens > 0
    assert succeeded.latency.ToNanoseconds() > 0
