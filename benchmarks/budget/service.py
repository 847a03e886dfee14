"""Streams through a running server, over its socket, with the real encoder and the real store.

Every order is a scope of its own, of one server; nothing that is learned crosses scopes. Many orders run at once, each
in its own sequence: every request is a Decide, every plan is followed by a Report with the right answer.
"""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from waypost.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

from benchmarks.budget.seeded import SEED
from benchmarks.budget.streams import Run, Stream, World, outcome
from benchmarks.process import Service
from index.build import build_index
from index.catalogue import load_catalogue
from index.encoder import OnnxEncoder
from index.records import Reference

ROOT: Final = Path(__file__).resolve().parents[2]
_REFERENCES: Final = [Reference("a", "add two numbers", "small"), Reference("b", "prove a theorem", "large")]


def play(
    streams: Sequence[Stream], budget: float, world: World, seeds: Sequence[int], encoder: OnnxEncoder
) -> list[Run]:
    """Return what a fresh server does with streams, all at once.

    Each one's seed says what its callers get wrong; the first one's, which coins the server throws: of one stream alone
    all is the same again.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build_index(_REFERENCES, load_catalogue(ROOT / "reference_prompts" / "models.toml"), encoder, index)
        env = {"WAYPOST_JOURNAL__ENABLED": "false", SEED: str(seeds[0])}
        with Service(index, Path(folder) / "work", module="benchmarks.budget.seeded", env=env) as server:
            return asyncio.run(_all(server.socket, streams, budget, world, seeds))


async def _all(address: str, streams: Sequence[Stream], budget: float, world: World, seeds: Sequence[int]) -> list[Run]:
    async with grpc.aio.insecure_channel(address) as channel:
        pairs = zip(streams, seeds, strict=True)
        return await asyncio.gather(*(_one(channel, stream, budget, world, seed) for stream, seed in pairs))


async def _one(channel: Any, stream: Stream, budget: float, world: World, seed: int) -> Run:
    router, admin = router_pb2_grpc.RouterStub(channel), admin_pb2_grpc.AdminStub(channel)
    scope, chance = f"order-{seed}", random.Random(seed)
    hits, wrong = [False] * len(stream), [False] * len(stream)
    said: dict[str, str] = {}  # what each stored answer is about, by its entry
    cache = types_pb2.CacheControl(error_budget=budget)
    for place, (prompt, about) in enumerate(zip(stream.prompts, stream.answers, strict=True)):
        decision = await router.Decide(router_pb2.DecideRequest(prompt=prompt, scope=scope, cache=cache))
        if decision.WhichOneof("outcome") == "answer":
            hits[place], wrong[place] = True, decision.answer.content.split(" | ")[0] != about
            continue
        candidate = decision.plan.candidate.entry_id
        if candidate and chance.random() < world.missing:
            continue
        equivalent = None
        if candidate and not world.unsaid:
            equivalent = (said[candidate] == about) != (chance.random() < world.flipped)
        report = router_pb2.ReportRequest(
            decision_id=decision.decision_id,
            fill_token=decision.plan.fill_token,
            model=decision.plan.steps[0].model,
            outcome=types_pb2.OUTCOME_OK,
            answer=f"{about} | {place}" if world.own_words else about,
            finish_reason="stop",
            candidate_equivalent=equivalent,
        )
        done = await router.Report(report)
        said.setdefault(done.entry_id, about)
    stats: Any = await admin.GetStats(admin_pb2.GetStatsRequest(scope=scope))
    account = stats.budgets[0]
    return Run(outcome(hits, wrong), 100 * account.audits / len(stream), 100 * account.error_bound)
