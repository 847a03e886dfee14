"""Row 5: exact hits, against an echo in the same process."""

import statistics
from collections.abc import Sequence
from typing import Final

import grpc
from waypost.v1 import cache_pb2, cache_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

from benchmarks.bench import Bench
from benchmarks.echo_server import rpc
from benchmarks.load import Load
from benchmarks.measure import Goal, Row, medians
from benchmarks.process import Service
from benchmarks.prompts import write
from benchmarks.rows.text import ANSWER

CALLERS: Final = 64
_AT_ONCE: Final = 32


def exact(bench: Bench) -> list[Row]:
    """Measure hits and echoes in turn."""
    hot = write(bench.work / "hot.jsonl", bench.prompts[: bench.sizes.stored])
    samples = []
    with bench.service("hits", echo=True) as service:
        asked, answered = store(service, "hot", bench.prompts[: bench.sizes.stored])
        hits = Load(CALLERS, bench.sizes.hits, hot=hot, hit_ratio=1.0, scope="hot")
        echo = Load(CALLERS, bench.sizes.hits, echo=rpc(answered), payload=asked)
        hits.on(service)
        echo.on(service)
        for _ in range(bench.sizes.repeats):
            hit, plain = hits.on(service), echo.on(service)
            if hit.outcomes["exact_hit"] != hit.requests:
                raise SystemExit(f"not all were exact hits: {hit.outcomes}")
            samples.append(
                {
                    "hits_per_s": hit.per_second,
                    "echoes_per_s": plain.per_second,
                    "hit_cpu_ms": hit.cpu_per_request,
                    "echo_cpu_ms": plain.cpu_per_request,
                    "hit_p50_ms": hit.p50,
                    "hit_p99_ms": hit.p99,
                }
            )
    return [
        Row(
            "5",
            "exact hits/s ÷ echoes/s of the same process",
            Goal(0.7, 0.9),
            [s["hits_per_s"] / s["echoes_per_s"] for s in samples],
            medians(samples),
            f"{CALLERS} callers; requests of {asked} and responses of {answered} bytes on both sides",
        )
    ]


def store(service: Service, scope: str, prompts: Sequence[str]) -> tuple[int, int]:
    """Store an answer to each prompt; return the mean size of a request for one and of the response, in bytes."""
    with grpc.insecure_channel(service.address) as channel:
        cache, router = cache_pb2_grpc.CacheStub(channel), router_pb2_grpc.RouterStub(channel)
        for first in range(0, len(prompts), _AT_ONCE):
            calls = [
                cache.Put.future(cache_pb2.PutRequest(scope=scope, prompt=prompt, answer=ANSWER, model="small"))
                for prompt in prompts[first : first + _AT_ONCE]
            ]
            for call in calls:
                call.result(timeout=60)
        control = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_DEFAULT)
        sizes = []
        for prompt in prompts[:100]:
            request = router_pb2.DecideRequest(scope=scope, prompt=prompt, cache=control)
            sizes.append((request.ByteSize(), router.Decide(request, timeout=60).ByteSize()))
    asked, answered = zip(*sizes, strict=True)
    return round(statistics.fmean(asked)), round(statistics.fmean(answered))
