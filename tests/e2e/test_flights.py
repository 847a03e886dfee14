"""A thousand callers of a real server ask the same at once: one calls the model, whoever dies meanwhile."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

from tests.conftest import Server
from tests.e2e.kit import serving, wait_for

PROMPT = "Where is the parcel that I ordered last week?"
CALLERS, CHANNELS = 1_000, 10
# Decides, says that it has the plan, and then hangs for ever as if it were calling a model.
HOLDER = """
import sys, grpc, time
from waypost.v1 import router_pb2, router_pb2_grpc
router = router_pb2_grpc.RouterStub(grpc.insecure_channel(sys.argv[1]))
decision = router.Decide(router_pb2.DecideRequest(scope=sys.argv[2], prompt=sys.argv[3]))
print(decision.plan.fill_token, flush=True)
time.sleep(600)
"""


class Callers:
    """Many callers over a few connections."""

    def __init__(self, address: str, scope: str) -> None:
        self.channels = [
            grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
        ]
        self.routers: list[Any] = [router_pb2_grpc.RouterStub(channel) for channel in self.channels]
        self.scope = scope

    def ask(self, wait_s: int, timeout: float | None = None) -> list[Any]:
        """Return a future of each caller's decision."""
        cache = types_pb2.CacheControl(wait=Duration(seconds=wait_s))
        request = router_pb2.DecideRequest(scope=self.scope, prompt=PROMPT, cache=cache)
        return [self.routers[number % CHANNELS].Decide.future(request, timeout=timeout) for number in range(CALLERS)]

    def one_fetches(self, asked: list[Any]) -> int:
        """Report for the first that gets a plan; return how many were answered."""
        done = wait_for(lambda: [one for one in asked if one.done()], 40)
        (plan,) = (one.result() for one in done)
        request = router_pb2.ReportRequest(
            decision_id=plan.decision_id,
            fill_token=plan.plan.fill_token,
            model=plan.plan.steps[0].model,
            outcome=types_pb2.OUTCOME_OK,
            answer="It comes tomorrow.",
        )
        assert self.routers[0].Report(request).stored
        return sum(one.result(30).answer.content == "It comes tomorrow." for one in asked)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


@pytest.fixture
def callers(server: Server, scope: str) -> Iterator[Callers]:
    callers = Callers(server.address, scope)
    yield callers
    callers.close()


def test_a_thousand_callers_at_once_call_the_model_once(callers: Callers) -> None:
    assert callers.one_fetches(callers.ask(50)) == CALLERS - 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells that a connection is gone")
def test_a_holder_that_dies_is_replaced_at_once_by_one_of_those_who_wait(
    server: Server, scope: str, callers: Callers
) -> None:
    holder = hold(server.address, scope)
    asked = callers.ask(60)
    time.sleep(2)
    assert not any(one.done() for one in asked), "somebody called the model a second time"
    holder.kill()
    holder.wait(10)
    # The next one gets its plan before its wait is over, and long before the lease is.
    assert callers.one_fetches(asked) == CALLERS - 1


def test_a_holder_on_a_socket_is_replaced_when_its_lease_has_lapsed(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[cache]\nlease_s = 3\n") as server:
        holder = hold(server.socket, "shop")
        holder.kill()
        holder.wait(10)
        callers = Callers(server.socket, "shop")
        assert callers.one_fetches(callers.ask(60)) == CALLERS - 1
        callers.close()


def test_a_deadline_comes_before_the_wait_is_over_and_everyone_has_a_plan(
    server: Server, scope: str, callers: Callers
) -> None:
    holder = hold(server.address, scope)
    assert all(one.result().plan.fill_token for one in callers.ask(60, timeout=10))
    holder.kill()
    holder.wait(10)


def test_a_server_that_is_told_to_stop_does_not_wait_for_those_who_wait(starter_index: Path, tmp_path: Path) -> None:
    with serving(starter_index, tmp_path, "[server]\ndrain_s = 60\n") as server, server.channel() as channel:
        router: Any = router_pb2_grpc.RouterStub(channel)
        request = router_pb2.DecideRequest(
            prompt=PROMPT, cache=types_pb2.CacheControl(wait=Duration(seconds=59)), scope="shop"
        )
        assert router.Decide(request).plan.fill_token
        waits = router.Decide.future(request)
        with pytest.raises(grpc.FutureTimeoutError):
            waits.result(timeout=1)
        assert server.stop() == 0
        assert waits.result(timeout=10).plan.steps


def hold(address: str, scope: str) -> "subprocess.Popen[str]":
    """Start a caller that gets a plan and never reports."""
    command = [sys.executable, "-c", HOLDER, address, scope, PROMPT]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip(), "the holder got no plan"
    holder.stdout.close()
    return holder
