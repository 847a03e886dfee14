"""Rows 7a and 7b: decisions a second against the lookups of two libraries, with the same encoder.

They run in their own process and are called directly; Waypost is called over gRPC. All know the same prompts and are
asked the same ones: half of them known, half of them new.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.load import Load
from benchmarks.measure import Goal, Row, medians
from benchmarks.process import Worker
from benchmarks.prompts import generate, write
from benchmarks.rows.hits import store
from index import DEFAULT_ENCODER

CALLERS: Final = 8
_GOAL: Final = Goal(3.0, 6.0)
# A peer called from several threads may be faster or slower with threads of its libraries' own: it gets the better.
_THREADS: Final[Sequence[Mapping[str, str]]] = ({}, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
_HOW: Final = "no --peers PYTHON was given: see benchmarks/peers/requirements.txt"


def gptcache(bench: Bench) -> list[Row]:
    """Row 7a: looking an answer up."""
    return [_against(bench, "7a", "GPTCache 0.1.44", "gptcache", "lookups")]


def semantic_router(bench: Bench) -> list[Row]:
    """Row 7b: finding a route."""
    return [_against(bench, "7b", "semantic-router 1.1.1", "semantic_router", "routes")]


def _against(bench: Bench, number: str, peer: str, module: str, what: str) -> Row:
    known = bench.sizes.references
    title = f"decisions/s ÷ {what}/s of {peer}, {known:,} entries"
    if bench.peers is None:
        return Row(number, title, _GOAL, skipped=_HOW)
    if problem := missing(bench.peers, module):
        return Row(number, title, _GOAL, skipped=problem)
    half = bench.sizes.lookups // 2
    fresh = [prompt for prompt in generate(known + half, seed=4) if prompt not in set(bench.many)][:half]
    repeated = bench.many[:: max(known // half, 1)][:half]
    files = {
        "known": write(bench.work / "known.jsonl", bench.many),
        "new": write(bench.work / "peers-new.jsonl", fresh),
        "hot": write(bench.work / "peers-hot.jsonl", repeated),
        "mixed": write(bench.work / "mixed.jsonl", [p for pair in zip(repeated, fresh, strict=False) for p in pair]),
    }
    samples = []
    with (
        bench.service(f"against-{module}", bench.big_index) as service,
        _fastest(bench.peers, module, files) as worker,
    ):
        store(service, "peers", bench.many)
        # As many as the peer gets would be over too soon to be measured.
        load = Load(CALLERS, 4 * bench.sizes.lookups, files["new"], files["hot"], 0.5, "peers", loop=True)
        cold = Load(CALLERS, 2 * bench.sizes.lookups, files["new"], scope="peers", loop=True)
        load.on(service)
        for _ in range(bench.sizes.repeats):
            seen, theirs = load.on(service), worker.ask(do="lookup", prompts=str(files["mixed"]), callers=CALLERS)
            new = cold.on(service)
            samples.append(
                {
                    "decisions_per_s": seen.per_second,
                    f"{what}_per_s": theirs["lookups"] / theirs["wall"],
                    "decision_cpu_ms": seen.cpu_per_request,
                    "peer_cpu_ms": 1e3 * theirs["cpu"] / theirs["lookups"],
                    "share_cached": (seen.outcomes["exact_hit"] + seen.outcomes["semantic_hit"]) / seen.requests,
                    "peer_share_found": theirs["found"] / theirs["lookups"],
                    "ratio_with_new_prompts_only": new.per_second * theirs["wall"] / theirs["lookups"],
                }
            )
    return Row(
        number,
        title,
        _GOAL,
        [s["decisions_per_s"] / s[f"{what}_per_s"] for s in samples],
        medians(samples),
        f"{CALLERS} callers; half of the prompts known, half new; {known:,} answers in one scope and {known:,} "
        f"references, against {known:,} entries. {peer} is called in its own process, Waypost over gRPC with the load "
        "generator on the same cores; both use the same int8 encoder. The peer's "
        "libraries have one thread or their default, whichever is faster",
    )


def _fastest(python: Path, module: str, files: Mapping[str, Path]) -> Worker:
    """Return the peer, filled, with the threading it is faster with."""
    rates: list[tuple[float, Worker]] = []
    for env in _THREADS:
        # Without overrides of BLAS' choice of kernels, which make some machines' numpy slower than it is.
        worker = Worker([str(python), "-m", f"benchmarks.peers.{module}_bench"], env, without="OPENBLAS_")
        worker.ask(do="fill", prompts=str(files["known"]), encoder=str(DEFAULT_ENCODER))
        seen = worker.ask(do="lookup", prompts=str(files["mixed"]), callers=CALLERS)
        rates.append((seen["lookups"] / seen["wall"], worker))
    rates.sort(key=lambda pair: pair[0])
    for _, slower in rates[:-1]:
        slower.close()
    return rates[-1][1]


def missing(python: Path, module: str) -> str:
    """Return what to say where an environment has no such module, "" where it has."""
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return f"{python} has no {module}: see benchmarks/peers/requirements.txt" if done.returncode else ""
