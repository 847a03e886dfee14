"""The whole line over a real socket: decide, call, report, decide again."""

import uuid

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

from tests.conftest import Server


@pytest.fixture
def router(server: Server) -> router_pb2_grpc.RouterStub:
    return router_pb2_grpc.RouterStub(server.channel())


@pytest.fixture
def scope() -> str:
    return f"test-{uuid.uuid4().hex}"


def test_an_answer_that_was_reported_is_served_for_the_same_prompt(
    router: router_pb2_grpc.RouterStub, scope: str
) -> None:
    request = router_pb2.DecideRequest(scope=scope, prompt="What is the capital of Australia?")
    first = router.Decide(request)
    assert first.WhichOneof("outcome") == "plan"
    assert first.plan.steps
    report = router.Report(
        router_pb2.ReportRequest(
            decision_id=first.decision_id,
            fill_token=first.plan.fill_token,
            model=first.plan.steps[0].model,
            outcome=types_pb2.OUTCOME_OK,
            answer="Canberra",
            finish_reason="stop",
        )
    )
    assert report.stored
    second = router.Decide(request)
    assert second.answer.content == "Canberra"
    assert second.answer.match == types_pb2.MATCH_EXACT


def test_a_blank_prompt_is_refused_and_the_field_is_named(router: router_pb2_grpc.RouterStub) -> None:
    with pytest.raises(grpc.RpcError) as error:
        router.Decide(router_pb2.DecideRequest(prompt=" \n"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad)
    assert bad.field_violations[0].field == "prompt"
