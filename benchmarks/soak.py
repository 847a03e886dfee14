"""`python -m benchmarks.soak`: full load for minutes, with everything that changes a service going on beside it.

Callers decide; others store, report, upsert and delete references, invalidate, and switch generations. It fails where
a call fails that should not have, where memory keeps growing, or where the journal outgrows its bound. Writes a CSV of
memory and counts over time.
"""

import argparse
import asyncio
import csv
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from waypost.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    cache_pb2,
    cache_pb2_grpc,
    references_pb2,
    references_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    types_pb2,
)

from benchmarks.bench import Bench, write_references
from benchmarks.process import Service
from benchmarks.prompts import generate, starter_prompts
from benchmarks.rows.text import ANSWER

_CALLERS: Final = 32
_EVERY_S: Final = 1.0
_SCOPES: Final = ("one", "two", "three")
# Full queues and decisions that another writer just used up are answers, not failures.
_EXPECTED: Final = frozenset({"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "NOT_FOUND"})
# After the caches have filled, memory may grow by so much in an hour, in MB.
_SLOPE_LIMIT: Final = 60.0
# The first part of the run fills all that is bounded: the record of decisions, flights, the allocator's pools, SQLite's
# cache. Smaller bounds are reached sooner; the journal's is what 8,000 decisions take.
_WARM_UP: Final = 0.5
_JOURNAL_MIB: Final = 32
_SMALL: Final = {"WAYPOST_DECISIONS__KEEP": "4000", "WAYPOST_JOURNAL__MAX_MIB": str(_JOURNAL_MIB)}
# What comes between two looks at the journal's size, as a share of its bound here.
_BETWEEN: Final = 0.5


@dataclass(slots=True)
class Soak:
    """One run: what is sent, and what came of it."""

    service: Service
    generations: Sequence[str]
    prompts: Sequence[str]
    until: float
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float, float, int]] = field(default_factory=list)
    """(seconds since the start, RSS and PSS in MB, decisions so far)"""

    @property
    def on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.until

    async def run(self) -> None:
        """Do everything at once until the time is over."""
        async with grpc.aio.insecure_channel(self.service.address) as channel:
            tasks: list[Awaitable[None]] = [self._decide(channel, number) for number in range(_CALLERS)]
            tasks += [self._again(every, change(channel, self)) for every, change in _CHANGES]
            await asyncio.gather(self._watch(), *tasks)

    async def call(self, name: str, answer: Awaitable[Any]) -> Any:
        """Await a call, count it, and return its response; None where it failed."""
        try:
            response = await answer
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            self.counts[f"{name} {code}"] += 1
            if code not in _EXPECTED:
                self.failures[f"{name} {code}: {error.details()}"] += 1
            return None
        self.counts[name] += 1
        return response

    async def _decide(self, channel: grpc.aio.Channel, number: int) -> None:
        """Be a caller: decide, and report what the model would have answered."""
        router, rng = router_pb2_grpc.RouterStub(channel), random.Random(number)
        while self.on:
            request = router_pb2.DecideRequest(scope=rng.choice(_SCOPES), prompt=rng.choice(self.prompts))
            decision = await self.call("Decide", router.Decide(request, timeout=30))
            if decision is None:
                continue
            report = router_pb2.ReportRequest(decision_id=decision.decision_id)
            if decision.WhichOneof("outcome") == "answer":
                self.counts["hits"] += 1
                if rng.random() < 0.01:
                    report.answer_wrong = True
                    await self.call("Report", router.Report(report, timeout=30))
            elif rng.random() < 0.3 and decision.plan.steps:
                report.fill_token, report.model = decision.plan.fill_token, decision.plan.steps[0].model
                report.outcome, report.answer = types_pb2.OUTCOME_OK, ANSWER
                await self.call("Report", router.Report(report, timeout=30))

    async def _again(self, every: float, changes: Iterator[Awaitable[Any]]) -> None:
        """Make one change after another, with pauses."""
        for change in changes:
            await change
            await asyncio.sleep(every)
            if not self.on:
                break

    async def _watch(self) -> None:
        """Write memory down, again and again."""
        started = time.monotonic()
        while self.on:
            memory = self.service.memory()
            self.memory.append((time.monotonic() - started, memory.rss, memory.pss, self.counts["Decide"]))
            await asyncio.sleep(_EVERY_S)


Changes = Callable[["grpc.aio.Channel", Soak], Iterator[Awaitable[Any]]]


def _puts(channel: grpc.aio.Channel, soak: Soak) -> Iterator[Awaitable[Any]]:
    cache, rng = cache_pb2_grpc.CacheStub(channel), random.Random(1)
    while True:
        scope, prompt = rng.choice(_SCOPES), rng.choice(soak.prompts)
        request = cache_pb2.PutRequest(scope=scope, prompt=prompt, answer=ANSWER, model="small")
        request.source_tags.append(f"tag-{rng.randrange(20)}")
        yield soak.call("Put", cache.Put(request, timeout=30))


def _upserts(channel: grpc.aio.Channel, soak: Soak) -> Iterator[Awaitable[Any]]:
    references, rng = references_pb2_grpc.ReferencesStub(channel), random.Random(2)
    while True:
        some = [
            references_pb2.Reference(id=f"live-{rng.randrange(200)}", prompt=prompt, best_model="small")
            for prompt in rng.sample(list(soak.prompts), 5)
        ]
        unique = list({reference.id: reference for reference in some}.values())
        scope = rng.choice(_SCOPES)
        yield soak.call("Upsert", references.Upsert(references_pb2.UpsertRequest(scope=scope, references=unique)))
        ids = [f"live-{rng.randrange(200)}" for _ in range(5)]
        yield soak.call("Delete", references.Delete(references_pb2.DeleteRequest(scope=scope, ids=ids)))


def _invalidations(channel: grpc.aio.Channel, soak: Soak) -> Iterator[Awaitable[Any]]:
    cache, rng = cache_pb2_grpc.CacheStub(channel), random.Random(3)
    # Each scope in turn: with chance alone one would now and then grow for a minute, and memory with it.
    for emptied in itertools.cycle(_SCOPES):
        by_tag = cache_pb2.InvalidateRequest(scope=rng.choice(_SCOPES), source_tags=[f"tag-{rng.randrange(20)}"])
        yield soak.call("Invalidate", cache.Invalidate(by_tag, timeout=30))
        by_radius = cache_pb2.InvalidateRequest(scope=rng.choice(_SCOPES))
        by_radius.radius.prompt, by_radius.radius.min_similarity = rng.choice(soak.prompts), 0.8
        yield soak.call("Invalidate", cache.Invalidate(by_radius, timeout=30))
        everything = cache_pb2.InvalidateRequest(scope=emptied, all=True)
        yield soak.call("Invalidate", cache.Invalidate(everything, timeout=30))


def _switches(channel: grpc.aio.Channel, soak: Soak) -> Iterator[Awaitable[Any]]:
    admin = admin_pb2_grpc.AdminStub(channel)
    while True:
        for generation in soak.generations:
            request = admin_pb2.ActivateGenerationRequest(generation=generation)
            yield soak.call("ActivateGeneration", admin.ActivateGeneration(request, timeout=30))
            yield soak.call("GetStats", admin.GetStats(admin_pb2.GetStatsRequest(), timeout=30))


# Seconds between two changes of a kind.
_CHANGES: Final[Sequence[tuple[float, Changes]]] = (
    (0.02, _puts),
    (0.2, _upserts),
    (2.0, _invalidations),
    (3.0, _switches),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="20 seconds; memory is not judged")
    parser.add_argument("--output", type=Path, default=Path("var/soak"), help="folder for soak.csv and the log")
    options = parser.parse_args(arguments)
    seconds = 20.0 if options.quick else 60 * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="waypost-soak-") as work:
        bench = Bench(Path(work))
        soak, code = _soak(bench, seconds)
        log = (Path(work) / "soak" / "service.log").read_text(encoding="utf-8")
        journal = (Path(work) / "soak" / "data" / "journal.sqlite3").stat().st_size / (1 << 20)
    _write(options.output, soak, log)
    problems = [f"{text} ({count} times)" for text, count in soak.failures.items()]
    problems += [f"the service logged an error: {line}" for line in log.splitlines() if '"level": "error"' in line][:5]
    problems += [f"the service ended with {code}"] if code else []
    if journal > (1 + _BETWEEN) * _JOURNAL_MIB:
        problems.append(f"the journal holds {journal:.0f} MiB, its bound is {_JOURNAL_MIB}")
    slope = growth(soak.memory)
    if not options.quick and slope > _SLOPE_LIMIT:
        problems.append(f"memory grows by {slope:.1f} MB an hour, more than {_SLOPE_LIMIT:.0f}")
    first, last = soak.memory[0], soak.memory[-1]
    print(f"{last[0]:.0f} s: {dict(sorted(soak.counts.items()))}")
    print(f"RSS {first[1]:.0f} → {last[1]:.0f} MB, after the first {_WARM_UP:.0%} {slope:+.1f} MB an hour")
    print(f"journal {journal:.0f} MiB of {_JOURNAL_MIB}")
    if problems:
        raise SystemExit("\n".join(problems))


def _soak(bench: Bench, seconds: float) -> tuple[Soak, int]:
    first = _generation(bench.starter_index)
    fewer = write_references(bench.work / "fewer.jsonl", starter_prompts()[:300])
    second = _generation(bench.build(fewer, bench.starter_index)[0])
    service = bench.service("soak", env=_SMALL)
    try:
        soak = Soak(service, (first, second), generate(5_000, seed=6), time.monotonic() + seconds)
        asyncio.run(soak.run())
    finally:
        code = service.stop()
    return soak, code


def growth(memory: Sequence[tuple[float, float, float, int]]) -> float:
    """Return how fast RSS grew after the warm-up, in MB an hour: the least-squares slope."""
    rest = [(at, rss) for at, rss, _, _ in memory if at >= _WARM_UP * memory[-1][0]]
    mean_at, mean_rss = (sum(values) / len(rest) for values in zip(*rest, strict=True))
    spread = sum((at - mean_at) ** 2 for at, _ in rest)
    return 3_600 * sum((at - mean_at) * (rss - mean_rss) for at, rss in rest) / spread if spread else 0.0


def _generation(index: Path) -> str:
    return (index / "CURRENT").read_text(encoding="utf-8").strip()


def _write(folder: Path, soak: Soak, log: str) -> None:
    with (folder / "soak.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("seconds", "rss_mb", "pss_mb", "decisions"))
        rows.writerows((round(at, 1), round(rss, 1), round(pss, 1), count) for at, rss, pss, count in soak.memory)
    (folder / "service.log").write_text(log, encoding="utf-8")


if __name__ == "__main__":
    main()
