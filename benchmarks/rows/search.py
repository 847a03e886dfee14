"""Row 8: the search in one large scope, against encoding."""

import statistics
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench
from benchmarks.measure import Goal, Row, medians
from benchmarks.prompts import generate
from index import DEFAULT_ENCODER
from index.encoder import OnnxEncoder, encode_texts
from index.vectors import Partition, Vectors

_K: Final = 10
_QUERIES: Final = 500
_TOKENS: Final = 32
_BATCH: Final = 1_000


def search(bench: Bench) -> list[Row]:
    """Fill a partition, then search and encode in turn, on one thread."""
    encoder = OnnxEncoder.load(DEFAULT_ENCODER)
    texts = generate(min(20_000, bench.sizes.vectors) + _QUERIES, seed=2)
    embedded = encode_texts(encoder, texts)
    queries, vectors = embedded[:_QUERIES], spread(embedded[_QUERIES:], bench.sizes.vectors)
    partition = Partition(encoder.dimensions)
    started = time.perf_counter()
    for first in range(0, len(vectors), _BATCH):
        some = vectors[first : first + _BATCH]
        partition.add(np.arange(first, first + len(some)), some)
    adding = time.perf_counter() - started
    tokens = encoder.tokenise([_of_length(encoder, texts)])
    samples = []
    for _ in range(bench.sizes.repeats):
        searching, encoding = [], []
        for query in queries:
            searching.append(_timed(lambda query=query: partition.search(query[None], _K)))
            encoding.append(_timed(lambda: encoder.encode(tokens)))
        samples.append(
            {
                "search_us": 1e6 * statistics.median(searching),
                "encode_us": 1e6 * statistics.median(encoding),
            }
        )
    found = partition.search(queries, _K)[1]
    seen = {
        **medians(samples),
        "recall_at_10": recall(vectors, queries, found),
        "adding_s": adding,
        "bytes_each": partition.nbytes / len(vectors),
    }
    return [
        Row(
            "8",
            f"a search among {len(vectors):,} answers of one scope ÷ encoding a prompt of {_TOKENS} tokens",
            Goal(0.15, 0.08),
            [s["search_us"] / s["encode_us"] for s in samples],
            seen,
            f"{_K} nearest, one thread; embeddings of {len(texts) - _QUERIES:,} prompts, and of mixtures of them",
        )
    ]


def spread(embedded: Vectors, count: int, seed: int = 0) -> Vectors:
    """Return `count` unit vectors that lie as embeddings do: the given ones, moved along differences of others.

    Unlike noise added to them, this stays where embeddings are: in few of the dimensions, in clusters.
    """
    rng = np.random.default_rng(seed)
    extra = max(count - len(embedded), 0)
    one, other, third = (rng.integers(len(embedded), size=extra) for _ in range(3))
    step = rng.uniform(0.2, 0.6, size=(extra, 1)).astype(np.float32)
    moved = embedded[one] + step * (embedded[other] - embedded[third])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return np.ascontiguousarray(np.concatenate([embedded, moved])[:count], np.float32)


def recall(vectors: Vectors, queries: Vectors, found: NDArray[np.int64]) -> float:
    """Return the share of the true nearest that were found."""
    k = found.shape[1]
    scores = queries @ vectors.T
    true = np.argpartition(-scores, k, axis=1)[:, :k]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


def _of_length(encoder: OnnxEncoder, texts: list[str]) -> str:
    return next(text for text in texts if len(encoder.tokenise([text])[0]) == _TOKENS)


def _timed(what: object) -> float:
    started = time.perf_counter()
    what()  # type: ignore[operator]
    return time.perf_counter() - started
