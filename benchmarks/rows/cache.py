"""Rows 12 to 14b: what the cache adds to a decision, on a hit and where candidates are near but not served."""

import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Final

import grpc
from waypost.v1 import router_pb2, router_pb2_grpc

from benchmarks.bench import Bench
from benchmarks.load import Load
from benchmarks.measure import Goal, Row, medians
from benchmarks.process import Service
from benchmarks.prompts import write
from benchmarks.rows.hits import store
from index.records import Answer
from index.store import Change, key_of
from index.text import EMPTY_CONTEXT, answer_key
from index.verifier import Verifier
from index.view import Entry, View
from service.cache.semantic import Judge, reading
from service.requests import Prompt

CALLERS: Final = 64
_AT_ONCE: Final = 16
_COSINE: Final = 0.93
# Near to any prompt; some say the same, some do not, and each is compared to the end or refused by another check.
_WORDINGS: Final = (
    "please {}", "{} thank you", "hello, {}", "could you tell me: {}", "{} (in 2019)", "{} or not?", "never {}",
    "{} in Norway",
)  # fmt: skip


def exact(bench: Bench) -> list[Row]:
    """Row 12: the slowest exact hits, as the service itself measures them."""
    prompts = bench.prompts[: bench.sizes.stored]
    samples = []
    with bench.service("exact") as service:
        store(service, "hot", prompts)
        asked = list(islice(cycle(prompts), bench.sizes.hits))
        _totals(service, asked[: len(prompts)])
        for _ in range(bench.sizes.repeats):
            cuts = statistics.quantiles(_totals(service, asked), n=100)
            samples.append({"p50_ms": cuts[49], "p99_ms": cuts[98]})
    return [
        Row(
            "12",
            "an exact hit inside the process, 99th percentile",
            Goal(0.2, 0.1, "ms"),
            [s["p99_ms"] for s in samples],
            medians(samples),
            f"from the request's arrival to its response, as `timings.total` says; {_AT_ONCE} under way",
        )
    ]


def verify(bench: Bench) -> list[Row]:
    """Row 13: guard and verifier over as many candidates as a decision looks at."""
    verifier = Verifier.load()
    judge = Judge(verifier, verifier.encoder)
    prompts = bench.prompts[: bench.sizes.stored]
    cases = [(Prompt(prompt, b""), _near(prompt, verifier.encoder)) for prompt in prompts]
    samples = []
    for _ in range(bench.sizes.repeats + 1):
        seconds = []
        for prompt, near in cases:
            started = time.perf_counter()
            judge.judge(reading(prompt), near)
            seconds.append(time.perf_counter() - started)
        samples.append(
            {"p50_ms": 1e3 * statistics.median(seconds), "p99_ms": 1e3 * sorted(seconds)[-len(seconds) // 100]}
        )
    samples = samples[1:]  # the first one reads the candidates
    judged = [found for prompt, near in cases for found in judge.judge(reading(prompt), near)]
    return [
        Row(
            "13",
            f"guard and verifier over {len(_WORDINGS)} candidates, median",
            Goal(0.3, 0.15, "ms"),
            [s["p50_ms"] for s in samples],
            {**medians(samples), "share_refused": sum(bool(found.refused_by) for found in judged) / len(judged)},
            "the prompt is read anew, the candidates have been read before; one thread",
        )
    ]


def throughput(bench: Bench) -> list[Row]:
    """Rows 14a and 14b: the same prompts with and without a look at the answers stored, none of which is served."""
    # No answer is as certain as this budget asks for, so both sides plan.
    with bench.service("near", env={"WAYPOST_CACHE__ERROR_BUDGET": "1e-6"}) as service:
        cold = bench.prompts[: bench.sizes.cold]
        stored = sorted(set(bench.many) - set(cold))
        store(service, "like", stored)
        like = _on_and_off(bench, service, "like", cold)
        prompts = bench.prompts[: bench.sizes.cold // 4]
        store(service, "near", [form.format(prompt) for prompt in prompts for form in _WORDINGS])
        near = _on_and_off(bench, service, "near", prompts)
    title = "cold decisions/s with search among answers, guard and verifier ÷ without"
    return [
        _row("14a", f"{title}, {len(stored):,} answers to prompts of the same kind", like),
        _row("14b", f"{title}, {len(_WORDINGS)} answers to wordings of each prompt", near),
    ]


def _on_and_off(bench: Bench, service: Service, scope: str, prompts: Sequence[str]) -> list[dict[str, float]]:
    file = write(bench.work / f"{scope}.jsonl", prompts)
    on, off = (
        Load(CALLERS, bench.sizes.cold, file, scope=scope, loop=True, mode=mode) for mode in ("default", "exact_only")
    )
    on.on(service)
    off.on(service)
    found = _share_with_candidate(service, scope, prompts[:200])
    samples = []
    for _ in range(bench.sizes.repeats):
        looked, not_looked = on.on(service), off.on(service)
        if looked.outcomes["plan"] != looked.requests:
            raise SystemExit(f"not all were plans: {looked.outcomes}")
        samples.append(
            {
                "with_per_s": looked.per_second,
                "without_per_s": not_looked.per_second,
                "with_cpu_ms": looked.cpu_per_request,
                "without_cpu_ms": not_looked.cpu_per_request,
                "share_with_candidate": found,
            }
        )
    return samples


def _row(number: str, title: str, samples: Sequence[dict[str, float]]) -> Row:
    ratios = [s["with_per_s"] / s["without_per_s"] for s in samples]
    note = f"CACHE_MODE_DEFAULT ÷ CACHE_MODE_EXACT_ONLY, nothing served; {CALLERS} callers"
    return Row(number, title, Goal(0.92, 0.97), ratios, medians(samples), note)


def _totals(service: Service, prompts: Sequence[str]) -> list[float]:
    """Return the milliseconds the service took for each of some exact hits."""
    found = []
    with grpc.insecure_channel(service.address) as channel:
        router = router_pb2_grpc.RouterStub(channel)
        for first in range(0, len(prompts), _AT_ONCE):
            some = prompts[first : first + _AT_ONCE]
            calls = [router.Decide.future(router_pb2.DecideRequest(scope="hot", prompt=prompt)) for prompt in some]
            for call in calls:
                response = call.result(timeout=60)
                if response.WhichOneof("outcome") != "answer":
                    raise SystemExit("not all were exact hits")
                found.append(response.timings.total.ToMicroseconds() / 1e3)
    return found


def _share_with_candidate(service: Service, scope: str, prompts: Sequence[str]) -> float:
    with grpc.insecure_channel(service.address) as channel:
        router = router_pb2_grpc.RouterStub(channel)
        asked = [router_pb2.DecideRequest(scope=scope, prompt=prompt) for prompt in prompts]
        return statistics.fmean(router.Decide(one, timeout=60).plan.HasField("candidate") for one in asked)


def _near(prompt: str, encoder: str) -> list[tuple[float, Entry]]:
    view = View(encoder, 1)
    for form in _WORDINGS:
        key = answer_key("a", EMPTY_CONTEXT, form.format(prompt))
        vector = b"\x00\x00\x80\x3f"  # [1.0]
        answer = Answer(key.hex(), "a", key, EMPTY_CONTEXT, form.format(prompt), "", "m", encoder, vector, 0.0)
        view.apply([Change(0, key_of(answer), answer)])
    return [(_COSINE, entry) for entry in view.entries("a")]
