"""The load generator for machines without Go: takes the same flags and prints the same JSON, but costs more CPU.

python -m benchmarks.python_load -address 127.0.0.1:50051 -prompts prompts.jsonl -callers 8 -requests 1000
"""

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from waypost.v1 import router_pb2, types_pb2

from benchmarks.prompts import read

_DECIDE: Final = "/waypost.v1.Router/Decide"
_PROCESSES: Final = 2


@dataclass(slots=True)
class Measured:
    """What one process saw. Latencies in seconds."""

    elapsed: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


def main(arguments: Sequence[str] | None = None) -> None:
    """Put the load on and print what came of it."""
    options = _parse(arguments)
    if not options.address.startswith(("127.0.0.1:", "localhost:", "[::1]:", "unix:")):
        raise SystemExit("only loopback addresses and unix sockets: this is a test tool")
    parts = min(_PROCESSES, options.callers)
    with multiprocessing.get_context("spawn").Pool(parts) as pool:
        results = pool.starmap(_part, [(options, part, parts) for part in range(parts)])
    latencies = sorted(itertools.chain.from_iterable(result.latencies for result in results))
    errors = sum((result.errors for result in results), Counter())
    outcomes = sum((result.outcomes for result in results), Counter())
    elapsed = max(result.elapsed for result in results)
    named = {name: outcomes[name] for name in ("plan", "exact_hit", "semantic_hit", "degraded")}
    print(
        json.dumps(
            {
                "requests": len(latencies) + errors.total(),
                "errors": errors,
                "elapsed_s": elapsed,
                "per_second": len(latencies) / elapsed,
                "latency_ms": {f"p{share}": 1e3 * _percentile(latencies, share / 100) for share in (50, 90, 95, 99)},
                "client_cpu_s": sum(result.cpu for result in results),
                "outcomes": named if options.method == "decide" else None,
            }
        )
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.python_load", description=__doc__)
    parser.add_argument("-address", default="127.0.0.1:50051")
    for name, default in (("callers", 1), ("requests", 0), ("deadline", 5_000), ("payload", 200)):
        parser.add_argument(f"-{name}", type=int, default=default)
    for name, seconds in (("duration", 60.0), ("hit-ratio", 0.0)):
        parser.add_argument(f"-{name}", type=float, default=seconds)
    for name, text in (("method", "decide"), ("rpc", ""), ("scope", "benchmark"), ("mode", "default")):
        parser.add_argument(f"-{name}", default=text)
    for name in ("prompts", "hot"):
        parser.add_argument(f"-{name}", type=Path)
    for name in ("loop", "json"):
        parser.add_argument(f"-{name}", action="store_true")
    return parser.parse_args(arguments)


def _part(options: argparse.Namespace, part: int, parts: int) -> Measured:
    return asyncio.run(_run(options, part, parts))


async def _run(options: argparse.Namespace, part: int, parts: int) -> Measured:
    """Be some of the callers, with every `parts`-th request."""
    requests = itertools.islice(_requests(options), part, options.requests or None, parts)
    seen, method = Measured(), _DECIDE if options.method == "decide" else options.rpc
    async with grpc.aio.insecure_channel(options.address) as channel:
        await channel.channel_ready()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        before, started = os.times(), time.perf_counter()

        async def caller() -> None:
            for request in requests:
                begun = time.perf_counter()
                if begun - started > options.duration:
                    return
                try:
                    response = await call(request, timeout=options.deadline / 1e3 or None)
                except grpc.aio.AioRpcError as error:
                    seen.errors[error.code().name] += 1
                    continue
                seen.latencies.append(time.perf_counter() - begun)
                if options.method == "decide":
                    _count(seen.outcomes, response)

        callers = len(range(part, options.callers, parts))
        await asyncio.gather(*(caller() for _ in range(callers)))
        seen.elapsed, after = time.perf_counter() - started, os.times()
    seen.cpu = after.user + after.system - before.user - before.system
    return seen


def _requests(options: argparse.Namespace) -> Iterator[bytes]:
    """Yield serialised requests: hot ones spread evenly among the cold, as the Go generator does it."""
    if options.method != "decide":
        yield from itertools.repeat(random.Random(1).randbytes(options.payload))
    cold = _serialised(options.prompts, options) if options.prompts else []
    hot = itertools.cycle(_serialised(options.hot, options)) if options.hot else iter(())
    fresh = itertools.cycle(cold) if options.loop else iter(cold)
    for i in itertools.count():
        is_hot = math.floor((i + 1) * options.hit_ratio) > math.floor(i * options.hit_ratio)
        request = next(hot if is_hot else fresh, None)
        if request is None:
            return
        yield request


def _serialised(path: Path, options: argparse.Namespace) -> list[bytes]:
    cache = types_pb2.CacheControl(mode=types_pb2.CacheMode.Value(f"CACHE_MODE_{options.mode.upper()}"))
    return [
        router_pb2.DecideRequest(scope=options.scope, prompt=prompt, cache=cache).SerializeToString()
        for prompt in read(path)
    ]


def _count(outcomes: Counter[str], raw: Any) -> None:
    response = router_pb2.DecideResponse.FromString(raw)
    if response.WhichOneof("outcome") == "plan":
        outcomes["plan"] += 1
    else:
        outcomes["exact_hit" if response.answer.match == types_pb2.MATCH_EXACT else "semantic_hit"] += 1
    outcomes["degraded"] += response.degraded > types_pb2.DEGRADED_NONE


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0


if __name__ == "__main__":
    main()
