"""A caller of a running service, and what it is told when it is refused."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from waypost.v1 import (
    admin_pb2_grpc,
    cache_pb2,
    cache_pb2_grpc,
    references_pb2,
    references_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    types_pb2,
)

from tests.conftest import Server, start_server

OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
]


# No audits, no learning: what the verifier thinks probable is served at once.
NO_BUDGET = types_pb2.CacheControl(error_budget=1)


class Client:
    """All services of one address."""

    def __init__(self, address: str, token: str = "") -> None:
        self.channel: Any = grpc.insecure_channel(address, options=OPTIONS)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.router = router_pb2_grpc.RouterStub(self.channel)
        self.cache = cache_pb2_grpc.CacheStub(self.channel)
        self.references = references_pb2_grpc.ReferencesStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)

    def decide(
        self, prompt: str = "", scope: str = "", timeout: float | None = None, **fields: Any
    ) -> router_pb2.DecideResponse:
        request = router_pb2.DecideRequest(prompt=prompt, scope=scope, **fields)
        return self.router.Decide(request, timeout=timeout, metadata=self.metadata)

    def put(self, prompt: str, answer: str, scope: str = "", **fields: Any) -> cache_pb2.PutResponse:
        request = cache_pb2.PutRequest(prompt=prompt, answer=answer, scope=scope, **fields)
        return self.cache.Put(request, metadata=self.metadata)

    def report(
        self, decision: router_pb2.DecideResponse, answer: str = "an answer", **fields: Any
    ) -> router_pb2.ReportResponse:
        given: dict[str, Any] = {
            "decision_id": decision.decision_id,
            "fill_token": decision.plan.fill_token,
            "model": "small",
            "outcome": types_pb2.OUTCOME_OK,
            "answer": answer,
        }
        return self.router.Report(router_pb2.ReportRequest(**given | fields), metadata=self.metadata)

    def review(
        self, decision: router_pb2.DecideResponse, answer: str = "an answer", **fields: Any
    ) -> router_pb2.ReviewResponse:
        first = decision.plan.steps[0].model if decision.plan.steps else ""
        given: dict[str, Any] = {"decision_id": decision.decision_id, "model": first, "answer": answer}
        return self.router.Review(router_pb2.ReviewRequest(**given | fields), metadata=self.metadata)

    def invalidate(self, scope: str = "", **fields: Any) -> cache_pb2.InvalidateResponse:
        return self.cache.Invalidate(cache_pb2.InvalidateRequest(scope=scope, **fields), metadata=self.metadata)

    def answers(self, scope: str = "") -> list[cache_pb2.StoredAnswer]:
        found: list[cache_pb2.StoredAnswer] = []
        token = ""
        while True:
            request = cache_pb2.ListAnswersRequest(scope=scope, page_token=token, page_size=1_000)
            page = self.cache.ListAnswers(request, metadata=self.metadata)
            found += page.answers
            token = page.next_page_token
            if not token:
                return found

    def upsert(self, *references: references_pb2.Reference, scope: str = "") -> references_pb2.UpsertResponse:
        request = references_pb2.UpsertRequest(scope=scope, references=references)
        return self.references.Upsert(request, metadata=self.metadata)

    def raw(self, method: str, content: bytes) -> bytes:
        """Send bytes that need not be a message."""
        sent: bytes = self.channel.unary_unary(f"/waypost.v1.{method}")(content, metadata=self.metadata)
        return sent

    def close(self) -> None:
        self.channel.close()


@dataclass(frozen=True)
class Refusal:
    """What a call was refused with."""

    code: grpc.StatusCode
    text: str
    fields: tuple[str, ...]
    kinds: tuple[str, ...]
    retry_s: float | None


def refusal(call: Callable[[], object]) -> Refusal:
    """Return what a call is refused with; a call that is not refused fails the test."""
    try:
        answered = call()
    except grpc.RpcError as error:
        return to_refusal(error)
    raise AssertionError(f"this was not refused: {str(answered)[:200]}")


def to_refusal(error: Any) -> Refusal:
    """Return what an RpcError tells."""
    fields: list[str] = []
    kinds: list[str] = []
    retry = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        bad, failure = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
        again = error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            assert all(violation.description for violation in bad.field_violations)
            fields += [violation.field for violation in bad.field_violations]
        if detail.Unpack(failure):
            kinds += [violation.type for violation in failure.violations]
        if detail.Unpack(again):
            retry = again.retry_delay.ToNanoseconds() / 1e9
    return Refusal(error.code(), error.details(), tuple(fields), tuple(kinds), retry)


@contextmanager
def serving(
    index: Path, data_dir: Path, settings: str = "", *arguments: str, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run a server of one's own; `settings` is the text of its waypost.toml."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if settings:
        path = data_dir / "waypost.toml"
        path.write_text(settings, encoding="utf-8")
        arguments = ("--config", str(path), *arguments)
    server = start_server(index, data_dir, *arguments, env=env)
    try:
        yield server
    finally:
        server.stop()


def metrics_address(server: Server) -> str:
    """Return where a server publishes its metrics."""
    found = wait_for(lambda: re.search(r'"address": "([^"]+)", "event": "metrics"', "".join(server.log)))
    return str(found[1])


def wait_for(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Look again and again until something is found."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "this never came about"
        time.sleep(0.01)
    return found
