"""Rows 15a to 15c: a million answers in a hundred scopes: finding among them, starting with them, holding them."""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from waypost.v1 import router_pb2, router_pb2_grpc

from benchmarks.bench import Bench
from benchmarks.measure import Goal, Row, medians
from benchmarks.process import Service
from benchmarks.prompts import generate
from benchmarks.rows.search import recall, spread
from benchmarks.rows.text import ANSWER
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder, encode_texts
from index.records import Answer
from index.sqlite_store import SqliteStore
from index.text import EMPTY_CONTEXT, answer_key
from index.vectors import Partition, Vectors
from service.settings import StoreSettings

_EMBEDDED: Final = 5_000
_SCOPES_AT_ONCE: Final = 10
_ROWS_AT_ONCE: Final = 500
_DECISIONS: Final = 500
_K: Final = 10


def million(bench: Bench) -> list[Row]:
    """Fill a store, then start services on it and decide in all scopes."""
    sizes = bench.sizes
    encoder = OnnxEncoder.load(DEFAULT_ENCODER)
    texts = generate(sizes.each + _DECISIONS, seed=5)
    asked, texts = texts[:_DECISIONS], texts[_DECISIONS:]
    vectors = encode_texts(encoder, [*asked, *texts[:_EMBEDDED]])
    queries, embedded = vectors[:_DECISIONS], vectors[_DECISIONS:]
    work = bench.work / "million"
    started = time.perf_counter()
    count, size = _fill(StoreSettings(data_dir=work / "data").file, texts, embedded, sizes.scopes, encoder.digest)
    filling = time.perf_counter() - started
    with bench.service("none") as service:
        empty = service.memory().rss
    samples = []
    for _ in range(max(sizes.repeats // 2, 2)):
        with Service(bench.starter_index, work) as service:
            samples.append(
                {
                    "ready_s": service.ready_after,
                    "start_cpu_s": service.cpu(),
                    "bytes_each": (service.memory().rss - empty) * 1e6 / count - size / count,
                    "search_ms": _searching(service, asked, sizes.scopes),
                    "bytes_each_after_decisions": (service.memory().rss - empty) * 1e6 / count - size / count,
                }
            )
    seen = {**medians(samples), "text_bytes_each": size / count, "filling_s": filling}
    return [
        Row(
            "15a",
            f"a search among {count:,} answers in {sizes.scopes} scopes, median",
            Goal(2.0, 0.5, "ms"),
            [s["search_ms"] for s in samples],
            {**seen, "recall_at_10": _recall(embedded, queries, sizes.each)},
            "as `timings.search` says, references included; one caller, each decision in another scope",
        ),
        Row(
            "15b",
            f"start until ready with {count:,} answers",
            Goal(20.0, 10.0, "s"),
            [s["ready_s"] for s in samples],
            medians(samples),
            "a new process; the file is in the page cache",
        ),
        Row(
            "15c",
            f"memory for one of {count:,} answers, its prompt's text not counted",
            Goal(2_200.0, 1_500.0, "bytes"),
            [s["bytes_each"] for s in samples],
            medians(samples),
            "resident memory when ready, less that of the same service without answers",
        ),
    ]


def _fill(path: Path, texts: Sequence[str], embedded: Vectors, scopes: int, encoder: str) -> tuple[int, int]:
    """Write an answer to each text in each scope; return how many, and the bytes of their prompts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(path)
    count = size = 0
    for first in range(0, scopes, _SCOPES_AT_ONCE):
        some = range(first, min(first + _SCOPES_AT_ONCE, scopes))
        vectors = {scope: spread(embedded, len(texts), seed=scope) for scope in some}
        for row in range(0, len(texts), _ROWS_AT_ONCE):
            rows = range(row, min(row + _ROWS_AT_ONCE, len(texts)))
            answers = [answer for scope in some for answer in _answers(scope, rows, texts, vectors[scope], encoder)]
            store.write(answers)
            count += len(answers)
            size += sum(len(answer.prompt.encode()) for answer in answers)
    store.close()
    return count, size


def _answers(scope: int, rows: range, texts: Sequence[str], vectors: Vectors, encoder: str) -> Iterator[Answer]:
    name, now = f"tenant-{scope}", time.time()
    for row in rows:
        key = answer_key(name, EMPTY_CONTEXT, texts[row])
        vector, id_ = vectors[row].astype("<f4").tobytes(), key[:16].hex()
        yield Answer(id_, name, key, EMPTY_CONTEXT, texts[row], ANSWER, "small", encoder, vector, now, now + 1e6)


def _searching(service: Service, asked: Sequence[str], scopes: int) -> float:
    """Return the median milliseconds of the searches of decisions all over the scopes."""
    chance, found = random.Random(0), []
    with grpc.insecure_channel(service.address) as channel:
        router = router_pb2_grpc.RouterStub(channel)
        for prompt in asked:
            request = router_pb2.DecideRequest(scope=f"tenant-{chance.randrange(scopes)}", prompt=prompt)
            found.append(router.Decide(request, timeout=60).timings.search.ToMicroseconds() / 1e3)
    return statistics.median(found)


def _recall(embedded: Vectors, queries: Vectors, each: int) -> float:
    """Return the share of the true nearest that a search of one scope finds."""
    vectors = spread(embedded, each, seed=0)
    partition = Partition(vectors.shape[1])
    partition.add(np.arange(len(vectors)), vectors)
    return recall(vectors, queries, partition.search(queries, _K)[1])
