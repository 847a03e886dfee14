"""A service in this process: hashed words for an encoder, a store in memory, no socket."""

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from index.build import build_index
from index.catalogue import Catalogue, parse_catalogue
from index.encoder import Encoder, HashEncoder
from index.generation import current_generation, load_generation
from index.records import Reference
from index.store import MemoryStore, Store
from index.view import View
from service import operations
from service.answers import Answers
from service.auth import ANYONE, Principal
from service.batcher import Batcher
from service.cache.flights import Flights
from service.cache.keeper import Keeper
from service.cache.semantic import load_judge
from service.decide import Decider
from service.decisions import DecisionLog
from service.lookup import search
from service.metrics import Metrics
from service.operations import Call
from service.runtime import Runtime, learn, teaching
from service.settings import load_settings
from service.spending import Accounts, baseline_of

MODELS = """
fallback = "medium"
[[models]]
id = "small-1"
aliases = ["small"]
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.5
context_window = 8000
latency_ms = 200
tokens_per_s = 200
capabilities = ["json"]
[[models]]
id = "medium-1"
aliases = ["medium"]
input_usd_per_mtok = 1
output_usd_per_mtok = 5
context_window = 100000
latency_ms = 400
tokens_per_s = 100
capabilities = ["json", "tools"]
[[models]]
id = "large-1"
aliases = ["large"]
input_usd_per_mtok = 4
output_usd_per_mtok = 20
context_window = 200000
latency_ms = 800
tokens_per_s = 50
capabilities = ["json", "tools", "vision"]
"""
REFERENCES = [
    Reference("r1", "add two small numbers", "small-1", category="maths"),
    Reference("r2", "prove the hard theorem", "large-1", category="maths"),
    Reference("r3", "write a short poem", "medium-1", category="writing"),
    Reference(
        "r4",
        "summarise this long report",
        scores={"small-1": 0.5, "medium-1": 0.9, "large-1": 0.95},
        costs={"small-1": 0.001, "medium-1": 0.01, "large-1": 0.1},
    ),
]


def catalogue(text: str = MODELS) -> Catalogue:
    return parse_catalogue(text, "models.toml")


def build(root: Path, references: Sequence[Reference] = REFERENCES, models: str = MODELS) -> str:
    """Build an index with hashed words and return the generation's id."""
    return build_index(references, catalogue(models), HashEncoder(), root).generation


_METHODS = {
    f"{service.name}.{method.name}": method
    for file in (admin_pb2, cache_pb2, references_pb2, router_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass
class Service:
    """A loaded service, called as its edge calls it."""

    runtime: Runtime
    principal: Principal = ANYONE
    deadline: float | None = None

    async def call(self, name: str, message: Message) -> Any:
        started = perf_counter()
        deadline = None if self.deadline is None else started + self.deadline
        service, method = name.split(".")
        kind = _METHODS[name]
        operation = operations.of(service, method, GetMessageClass(kind.input_type))
        call = Call(self.runtime, self.principal, started, deadline)
        response = await operation(message.SerializeToString(), call)
        return GetMessageClass(kind.output_type).FromString(response) if isinstance(response, bytes) else response

    async def decide(self, prompt: str = "", scope: str = "", **fields: Any) -> router_pb2.DecideResponse:
        found: router_pb2.DecideResponse = await self.call(
            "Router.Decide", router_pb2.DecideRequest(prompt=prompt, scope=scope, **fields)
        )
        return found

    async def put(self, prompt: str, answer: str, scope: str = "", **fields: Any) -> cache_pb2.PutResponse:
        found: cache_pb2.PutResponse = await self.call(
            "Cache.Put", cache_pb2.PutRequest(prompt=prompt, answer=answer, scope=scope, **fields)
        )
        return found

    async def invalidate(self, scope: str = "", **fields: Any) -> cache_pb2.InvalidateResponse:
        found: cache_pb2.InvalidateResponse = await self.call(
            "Cache.Invalidate", cache_pb2.InvalidateRequest(scope=scope, **fields)
        )
        return found

    async def report(self, decision: router_pb2.DecideResponse, **fields: Any) -> router_pb2.ReportResponse:
        given: dict[str, Any] = {
            "decision_id": decision.decision_id,
            "fill_token": decision.plan.fill_token,
            "model": "small",
            "outcome": types_pb2.OUTCOME_OK,
            "answer": "an answer",
        }
        found: router_pb2.ReportResponse = await self.call("Router.Report", router_pb2.ReportRequest(**given | fields))
        return found

    async def review(
        self, decision: router_pb2.DecideResponse, model: str, answer: str, **fields: Any
    ) -> router_pb2.ReviewResponse:
        request = router_pb2.ReviewRequest(decision_id=decision.decision_id, model=model, answer=answer, **fields)
        found: router_pb2.ReviewResponse = await self.call("Router.Review", request)
        return found

    async def upsert(self, *references: references_pb2.Reference, scope: str = "") -> references_pb2.UpsertResponse:
        found: references_pb2.UpsertResponse = await self.call(
            "References.Upsert", references_pb2.UpsertRequest(scope=scope, references=references)
        )
        return found


@asynccontextmanager
async def running(
    root: Path,
    *,
    encoder: Encoder | None = None,
    store: Store | None = None,
    coin: Callable[[], float] = random.random,
    **tables: Any,
) -> AsyncIterator[Service]:
    """Run a service over the index in `root`, which is built if it is not there."""
    if not (root / "CURRENT").exists():
        build(root)
    tables = {"store": {"data_dir": root}, "journal": {"enabled": False}, **tables}
    # Of hashed words no probability can be told: unless a test says otherwise, cosine and guard decide.
    cache = {"error_budget": 1, "min_probability": 0, "threshold": 0.85, **tables.pop("cache", {})}
    settings = load_settings(None, {"index": {"path": root}, "cache": cache, **tables})
    encoder, store = encoder or HashEncoder(), store or MemoryStore()
    view = View(encoder.digest, encoder.dimensions)
    view.load(store)
    queue = settings.encoder
    batcher = Batcher(
        encoder, search, workers=queue.workers, batch_tokens=queue.batch_tokens, max_queue=queue.max_queue
    )
    generation = load_generation(current_generation(root), encoder.digest)
    answers = Answers(store, view, settings.cache)
    log = DecisionLog(settings.decisions.keep, settings.decisions.keep_mib << 20)
    judge = load_judge(settings.cache, encoder.digest)
    flights = Flights(settings.decisions.keep)
    decider = Decider(settings, generation, answers, batcher, judge, Keeper(judge, coin), log, Metrics(), flights)
    answers.let_go = decider.let_go
    decider.accounts = Accounts(baseline_of(generation, settings.stats.baseline), decider.metrics.registry)
    tutor = await learn(decider, encoder.digest)
    runtime = Runtime(settings, encoder, decider, teaching(decider), time.time(), tutor)
    try:
        yield Service(runtime)
    finally:
        await runtime.close()
