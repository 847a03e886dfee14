"""The search stage: what is near an embedded prompt among answers and references, and what these let one expect.

Runs on the encoder's worker threads, right after the embedding, so that it costs no further hand-over. It reads
partitions, which lock for themselves, and nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from index.estimator import NEIGHBOURS, Expected, Neighbours
from index.generation import Generation
from index.vectors import Ids, Partition, Vectors

# How many cached answers are looked at: the nearest may have expired or be refused by a check.
ANSWERS: Final = 8

Near = list[tuple[float, int]]
"""(cosine, row), nearest first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What to search for one prompt; None leaves a part out.

    `text` is the prompt, `base` the column of the model that gains are compared with; `own` are answers that only this
    caller may be served.
    """

    answers: Partition | None
    generation: Generation | None
    live: Partition | None
    text: str = ""
    base: int = 0
    own: Partition | None = None


NO_SEARCH: Final = Ask(None, None, None)
"""Only the vector is wanted."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was near: of the answers' partition, of the scope's live references, and of the generation.

    `rows` and `similarities` (k,) are the generation's, nearest first; `expected` is predicted from them.
    """

    answers: Near
    live: Near
    rows: Ids
    similarities: Vectors
    expected: Expected | None


_NO_ROWS: Final = np.empty(0, np.int64)
_NO_SIMILARITIES: Final = np.empty(0, np.float32)
NOTHING_FOUND: Final = Found([], [], _NO_ROWS, _NO_SIMILARITIES, None)


def search(asks: Sequence[Ask], vectors: Vectors) -> list[Found]:
    """Return what is near each prompt.

    Args:
        asks: one for each prompt.
        vectors: shape (len(asks), dimensions), rows of unit length.
    """
    together: dict[tuple[int, int], list[int]] = {}
    for i, ask in enumerate(asks):
        together.setdefault((id(ask.generation), ask.base), []).append(i)
    known: list[tuple[Ids, Vectors, Expected | None]] = [(_NO_ROWS, _NO_SIMILARITIES, None)] * len(asks)
    for places in together.values():
        if (generation := asks[places[0]].generation) is not None:
            for i, one in zip(places, _predict(generation, [asks[i] for i in places], vectors[places]), strict=True):
                known[i] = one
    return [
        Found(
            _answers(ask, vector),
            _near(ask.live, vector, NEIGHBOURS) if ask.live is not None else [],
            *found,
        )
        for ask, vector, found in zip(asks, vectors, known, strict=True)
    ]


def _predict(generation: Generation, asks: Sequence[Ask], vectors: Vectors) -> Iterator[tuple[Ids, Vectors, Expected]]:
    """Return rows and cosines of each prompt's nearest references, and what they let one expect."""
    similarities, rows = generation.partition.search(vectors, min(NEIGHBOURS, len(generation.references)))
    near = Neighbours.gather(rows, similarities, generation.experience)
    predicted = generation.estimator.predict(vectors, [ask.text for ask in asks], near, asks[0].base)
    return zip(rows, similarities, predicted.each(), strict=True)


def _answers(ask: Ask, query: Vectors) -> Near:
    near = _near(ask.answers, query, ANSWERS) if ask.answers is not None else []
    if ask.own is None:
        return near
    return sorted(near + _near(ask.own, query, ANSWERS), reverse=True)[:ANSWERS]


def _near(partition: Partition, query: Vectors, k: int) -> Near:
    scores, rows = partition.search(query[None], max(1, min(k, len(partition))))
    return [(score, row) for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True) if row >= 0]
