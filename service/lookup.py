"""The search stage: what is near an embedded prompt among cached answers and references.

Runs on the encoder's worker threads, right after the embedding, so that it costs no further hand-over. It reads
partitions, which lock for themselves, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from index.generation import Generation
from index.vectors import Partition, Vectors

# How many cached answers are looked at: the nearest may have expired or be refused by a check.
ANSWERS: Final = 8

Near = list[tuple[float, int]]
"""(cosine, row), nearest first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What to search for one prompt; None leaves a part out."""

    answers: Partition | None
    generation: Generation | None
    live: Partition | None
    neighbours: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was near: rows of the answers' partition, of the generation, and of the scope's live references."""

    answers: Near
    references: Near
    live: Near


NOTHING_FOUND: Final = Found([], [], [])


def search(asks: Sequence[Ask], vectors: Vectors) -> list[Found]:
    """Return what is near each prompt.

    Args:
        asks: one for each prompt.
        vectors: shape (len(asks), dimensions), rows of unit length.
    """
    shared: dict[int, list[int]] = {}
    for i, ask in enumerate(asks):
        if ask.generation is not None:
            shared.setdefault(id(ask.generation), []).append(i)
    references: list[Near] = [[] for _ in asks]
    for rows in shared.values():
        generation, k = asks[rows[0]].generation, max(asks[i].neighbours for i in rows)
        if generation is not None:
            for i, near in zip(rows, _near(generation.partition, vectors[rows], k), strict=True):
                references[i] = near
    return [
        Found(
            _near(ask.answers, vector[None], ANSWERS)[0] if ask.answers is not None else [],
            references[i],
            _near(ask.live, vector[None], ask.neighbours)[0] if ask.live is not None else [],
        )
        for i, (ask, vector) in enumerate(zip(asks, vectors, strict=True))
    ]


def _near(partition: Partition, queries: Vectors, k: int) -> list[Near]:
    scores, rows = partition.search(queries, max(1, min(k, len(partition))))
    return [
        [(score, row) for score, row in zip(s, r, strict=True) if row >= 0]
        for s, r in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
