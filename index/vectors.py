"""One partition of vectors and the search among them: the only module that knows FAISS.

A partition holds unit vectors of one encoder that may meet in a search: the answers of one scope and context, the
references of one generation. A search is exact while it is small. Above `EXACT_LIMIT` it takes two passes: the signs
of a fixed random rotation (512 bits for 384 dimensions; Charikar, "Similarity estimation techniques from rounding
algorithms", STOC 2002) tell which vectors are worth comparing, and only these are compared exactly. Nothing is
trained or linked: a vector is found from the moment it is added and gone when it is removed. It never stores texts
and never decides. Called by the answer view and by generations; safe to use from several threads.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

# Measured with 384 dimensions: comparing 1,024 takes .1 ms, as two passes do.
EXACT_LIMIT: Final = 1_024
# How many the first pass leaves to the second. Of 100,000 embeddings it leaves .995 of the 10 nearest; of 12,600 real
# questions of one trade all of the nearest and .998 of the 10; 256 would leave .001 more, for a tenth of the time.
_LEFT: Final = 160
_LEFT_EACH: Final = 8
# Rounding to 16 bits moves a cosine by less than this: a few millionths as a rule.
ROUNDING: Final = 2e-5
# Rows that are worked on at a time. No large products: BLAS starts threads for them that fight for the cores with the
# encoder's, and on a busy machine a product of milliseconds took tenths of a second.
_BLOCK: Final = 1_024
_GROWTH: Final = 1.25
_LEAST_STEP: Final = np.float32(1e-20)  # so that a vector of zeros divides nothing by zero
# Signs of 512 bits that begin where a line of the CPU's cache does are compared an eighth faster.
_LINE: Final = 64


class Partition:
    """Unit vectors with their ids, searched by inner product (which is their cosine).

    Each is kept in 16 bits a dimension, scaled by its largest value: half the memory, with a third of the error that
    half precision has, and read four times as fast.

    Args:
        dimensions: length of every vector.
        exact_limit: up to this many vectors the search is exact.
    """

    __slots__ = (
        "_count",
        "_exact_limit",
        "_ids",
        "_lock",
        "_plain",
        "_room",
        "_scales",
        "_signs",
        "_values",
        "dimensions",
    )

    def __init__(self, dimensions: int, exact_limit: int = EXACT_LIMIT) -> None:
        self.dimensions = dimensions
        self._exact_limit = exact_limit
        self._count = 0  # the arrays below have room for more
        self._ids = np.empty(0, np.int64)
        self._scales = np.empty(0, np.float32)
        self._values = np.empty((0, dimensions), np.int16)
        self._room = np.empty(0, np.uint8)  # where the signs are, from the first line of the cache on
        self._signs = np.empty((0, _bits(dimensions) // 8), np.uint8)
        # Of a small partition, once it was searched: its ids, rising, and what is kept of each vector, in float32.
        self._plain: tuple[Ids, Vectors] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """How many bytes it takes, room for more included."""
        plain = self._plain
        return sum(array.nbytes for array in self._arrays()) + (plain[1].nbytes if plain is not None else 0)

    def add(self, ids: Sequence[int] | Ids, vectors: Vectors) -> None:
        """Add vectors; they are found from the next search on.

        Args:
            ids: one int64 each, not in the partition yet.
            vectors: shape (n, dimensions), rows of unit length.
        """
        vectors = _matrix(vectors, self.dimensions)
        scales, values = _rounded(vectors)
        signs = _signs(vectors)
        with self._lock:
            new = slice(self._count, self._count + len(vectors))
            if new.stop > len(self._ids):
                self._resize(max(new.stop, int(self._count * _GROWTH)))
            self._ids[new], self._scales[new] = ids, scales
            self._values[new], self._signs[new] = values, signs
            self._count, self._plain = new.stop, None

    def remove(self, ids: Sequence[int] | Ids) -> None:
        """Remove vectors by id; unknown ids are passed over. No later search returns them."""
        with self._lock:
            self._plain = None
            gone = np.flatnonzero(np.isin(self._ids[: self._count], np.asarray(ids, np.int64)))
            left = self._count - len(gone)
            # The last ones take the places of those that go: nothing else moves.
            holes = gone[gone < left]
            movers = np.setdiff1d(np.arange(left, self._count), gone, assume_unique=True)
            for array in self._arrays():
                array[holes] = array[movers]
            self._count = left
            if 2 * left < len(self._ids):
                self._resize(left)

    def compact(self) -> None:
        """Give back the room for more."""
        with self._lock:
            self._resize(self._count)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return cosines and ids of the nearest vectors, best first, of equals the one with the lower id.

        Args:
            queries: shape (n, dimensions), rows of unit length.
            k: how many for each query, at least 1.

        Returns:
            Two arrays of shape (n, k); where fewer than k exist the id is -1 and the cosine -inf.
        """
        queries = _matrix(queries, self.dimensions)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        left = max(_LEFT, _LEFT_EACH * k)
        faiss.omp_set_num_threads(1)  # queries come from several threads already; OpenMP keeps this for each of them
        with self._lock:
            if self._count <= self._exact_limit:
                found = min(k, self._count)
                if found:
                    scores[:, :found], ids[:, :found] = self._nearest(queries, found)
                return scores, ids
            for i, query in enumerate(queries):
                near = self._likely(query, left) if self._count > left else None
                cosines = self._cosines(query, near)
                named = self._ids[: self._count] if near is None else self._ids[near]
                if k < len(cosines):  # sorting all takes longer than comparing them did
                    best = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])
                    cosines, named = cosines[best], named[best]
                order = np.lexsort((named, -cosines))[:k]
                scores[i, : len(order)] = cosines[order]
                ids[i, : len(order)] = named[order]
        return scores, ids

    def within(self, query: Vectors, min_similarity: float) -> list[int]:
        """Return the ids of all vectors whose cosine to one query of shape (dimensions,) is at least `min_similarity`.

        All are compared, however many there are: what an operator removes by radius must not be missed. For the same
        reason what lies outside by no more than the rounding belongs to it.
        """
        query = _matrix(query[None], self.dimensions)[0]
        with self._lock:
            near = self._cosines(query, None) >= min_similarity - ROUNDING
            return [int(i) for i in self._ids[: self._count][near]]

    def some(self, count: int) -> tuple[Ids, Vectors]:
        """Return ids and vectors of up to `count` vectors, spread evenly over all."""
        with self._lock:
            places = np.linspace(0, self._count - 1, min(count, self._count)).astype(np.int64)
            return self._ids[places], self._values[places] * self._scales[places, None]

    def _nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return cosines and ids, shape (n, k), of the nearest of a small partition."""
        if self._plain is None:
            order = np.argsort(self._ids[: self._count])
            self._plain = self._ids[order], self._values[order] * self._scales[order, None]
        ids, vectors = self._plain
        scores, places = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
        found = ids[places]
        order = np.lexsort((found, -scores))
        each = np.arange(len(queries))[:, None]
        return scores[each, order], found[each, order]

    def _likely(self, query: Vectors, left: int) -> NDArray[np.int64]:
        """Return the positions of the vectors whose signs differ least from a query's."""
        known = self._signs[: self._count]
        near: NDArray[np.int64] = faiss.knn_hamming(_signs(query[None]), known, left, variant="mc")[1][0]
        return near

    def _cosines(self, query: Vectors, near: NDArray[np.int64] | None) -> Vectors:
        """Return the cosines of a query and the vectors at some positions; None: all."""
        count = self._count if near is None else len(near)
        found = np.empty(count, np.float32)
        for first in range(0, count, _BLOCK):
            block = slice(first, min(first + _BLOCK, count))
            values = self._values[block] if near is None else self._values.take(near[block], axis=0)
            np.vecdot(values.astype(np.float32), query, out=found[block])
        found *= self._scales[:count] if near is None else self._scales[near]
        return found

    def _arrays(self) -> tuple[Ids, Vectors, NDArray[np.int16], NDArray[np.uint8]]:
        return self._ids, self._scales, self._values, self._signs

    def _resize(self, rows: int) -> None:
        # In place: of a large array the kernel moves the pages and copies nothing. No view outlives the lock.
        for array in (self._ids, self._scales, self._values):
            array.resize((rows, *array.shape[1:]), refcheck=False)
        width, before = self._signs.shape[1], -self._room.ctypes.data % _LINE
        self._room.resize(rows * width + _LINE, refcheck=False)
        start, kept = -self._room.ctypes.data % _LINE, min(self._count, rows) * width
        if start != before:
            self._room[start : start + kept] = self._room[before : before + kept].copy()
        self._signs = self._room[start : start + rows * width].reshape(rows, width)


def _bits(dimensions: int) -> int:
    """Return how many signs are kept: a power of two, for the rotation, and what FAISS compares fastest."""
    return max(512, 1 << (dimensions - 1).bit_length())


@lru_cache
def _rotation(dimensions: int) -> tuple[Vectors, Vectors, Vectors]:
    """Return -1 or 1 for each dimension, always the same, and parts of two Hadamard matrices: together the rotation.

    The dimensions stand in rows, as many as the second matrix is wide, with zeros behind the last.
    """
    left, right = np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)
    while left.size * right.size < _bits(dimensions) ** 2:
        left, right = right, np.block([[left, left], [left, -left]])
    rows = -(-dimensions // len(right))
    flips = np.zeros(rows * len(right), np.float32)
    flips[:dimensions] = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), dimensions)
    return flips.reshape(rows, -1), np.ascontiguousarray(left[:, :rows]), right


def _signs(vectors: Vectors) -> NDArray[np.uint8]:
    """Return the packed signs of the rotated vectors, shape (n, bits / 8).

    The rotation flips some dimensions and applies the Hadamard transform (Ailon and Chazelle, "Approximate nearest
    neighbors and the fast Johnson-Lindenstrauss transform", STOC 2006) as two small products: far less work than one.
    """
    flips, left, right = _rotation(vectors.shape[1])
    if missing := flips.size - vectors.shape[1]:
        vectors = np.pad(vectors, ((0, 0), (0, missing)))
    signs = np.empty((len(vectors), len(left) * len(right) // 8), np.uint8)
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        rotated = left @ (block.reshape(-1, *flips.shape) * flips) @ right
        signs[first : first + len(block)] = np.packbits((rotated > 0).reshape(len(block), -1), axis=1)
    return signs


def _rounded(vectors: Vectors) -> tuple[Vectors, NDArray[np.int16]]:
    """Return scales of shape (n,) and values of shape (n, dimensions) whose product is nearly the vectors.

    The scales are such that a vector's product with what is kept of it is what it was: 1, and not nearly so.
    """
    steps = np.abs(vectors).max(axis=1, initial=_LEAST_STEP) / np.float32(np.iinfo(np.int16).max)
    values = np.rint(vectors / steps[:, None])
    kept = np.maximum(np.vecdot(values, vectors), _LEAST_STEP)
    return np.vecdot(vectors, vectors) / kept, values.astype(np.int16)


def _matrix(vectors: Vectors, dimensions: int) -> Vectors:
    """Return the vectors as rows of float32, or raise ValueError where their shape is wrong."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dimensions:  # noqa: PLR2004 - a matrix
        raise ValueError(f"expected vectors of shape (n, {dimensions}), got {matrix.shape}")
    return matrix
