"""Every text of a stream's orders: embedded once, its nearest looked up once, each pair of them judged once.

Orders, budgets and ways to report then differ only in what was stored and learned, which is what they are about. What
comes of it is the same as if each were looked up and judged anew: cosines and judgements of two texts depend on them
alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.encoder import OnnxEncoder, encode_texts
from index.vectors import Vectors
from index.verifier import LEAST_COSINE, Verifier
from index.view import Entry
from index.wording import Prepared
from service.cache.semantic import Judge, Standing
from service.requests import Judged

# Neighbours that are kept of a text; where too few of them are stored, all are looked at.
_KEPT: Final = 512
_BLOCK: Final = 500


class Embedder:
    """The encoder, which remembers every vector."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, one row each."""
        if new := sorted(set(texts) - self._known.keys()):
            self._known.update(zip(new, encode_texts(self.encoder, new), strict=True))
        return np.stack([self._known[text] for text in texts])


class Texts:
    """The texts of all orders of a stream.

    Args:
        texts: each of them, once or more often.
        embed: returns their vectors.
    """

    def __init__(self, texts: Iterable[str], embed: Callable[[Sequence[str]], Vectors]) -> None:
        every = sorted(set(texts))
        self.numbers = {text: number for number, text in enumerate(every)}
        self.vectors = embed(every)
        self._rows, self._cosines = _nearest(self.vectors, min(_KEPT, len(every)))

    def near(self, number: int, stored: NDArray[np.bool_], k: int) -> list[tuple[float, int]]:
        """Return (cosine, number) of the k nearest stored texts that are worth judging, nearest first."""
        rows, cosines = self._rows[number], self._cosines[number]
        there = np.flatnonzero(stored[rows])[:k]
        if len(there) < k and cosines[-1] >= LEAST_COSINE:
            rows = np.flatnonzero(stored)
            cosines = self.vectors[rows] @ self.vectors[number]
            there = np.argsort(-cosines)[:k]
        pairs = zip(cosines[there].tolist(), rows[there].tolist(), strict=True)
        return [(min(cosine, 1.0), row) for cosine, row in pairs if cosine >= LEAST_COSINE]


def _nearest(vectors: Vectors, k: int) -> tuple[NDArray[np.int32], Vectors]:
    rows, cosines = np.empty((len(vectors), k), np.int32), np.empty((len(vectors), k), np.float32)
    for first in range(0, len(vectors), _BLOCK):
        block = slice(first, first + _BLOCK)
        found = vectors[block] @ vectors.T
        near = np.argpartition(-found, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(found, near, 1)
        order = np.argsort(-values, axis=1)
        rows[block], cosines[block] = np.take_along_axis(near, order, 1), np.take_along_axis(values, order, 1)
    return rows, cosines


class RememberingJudge(Judge):
    """Guard and verifier, which judge every two texts once. `asked` is the number of the text that is asked.

    Entries' rows are their texts' numbers. How a candidate stands among the others is left out: an error budget looks
    at votes in its place.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__(Verifier.load(), encoder)
        self.asked = 0
        self._judged: dict[tuple[int, int], tuple[float | None, str]] = {}

    def look(
        self,
        read: Callable[[], Prepared],
        similarity: float,
        entry: Entry,
        stands: Standing,
        floor: float = LEAST_COSINE,
    ) -> Judged:
        """Return what is thought of an entry."""
        pair = min(self.asked, entry.row), max(self.asked, entry.row)
        if pair not in self._judged:
            one = super().look(read, similarity, entry, stands, floor)
            self._judged[pair] = one.probability, one.refused_by
        return Judged(entry, similarity, *self._judged[pair])
