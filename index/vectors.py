"""One partition of vectors and the search among them: the only module that knows FAISS.

A partition holds unit vectors of one encoder that may meet in a search: the answers of one scope and context, the
references of one generation. It is exact while small; above `EXACT_LIMIT` the older vectors move into an HNSW
graph (Malkov & Yashunin, arXiv 1603.09320) and only the newest stay exact. It never stores texts and never decides.
Called by the answer view and by generations; safe to use from several threads.
"""

import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

# Measured with 384 dimensions on one thread: an exact search of 4,096 takes about as long as one in the graph.
EXACT_LIMIT: Final = 4_096
# New vectors wait here, searched exactly, before they move into the graph. Among 100,000, a tail of 1,000 took a fifth
# of each search.
TAIL_LIMIT: Final = 256
# A move holds the lock for as long as the graph takes to link this many: about 4 ms.
_CHUNK: Final = 8
# Above this share of removed vectors the graph is built anew.
_MAX_DEAD: Final = 0.25

_LINKS, _EF_CONSTRUCTION, _EF_SEARCH = 32, 80, 64


class Partition:
    """Unit vectors with their ids, searched by inner product (which is their cosine).

    Args:
        dimensions: length of every vector.
        exact_limit: up to this many vectors the search is exact.
    """

    __slots__ = (
        "_dead",
        "_exact_limit",
        "_graph",
        "_graph_ids",
        "_in_graph",
        "_lock",
        "_tail",
        "dimensions",
    )

    def __init__(self, dimensions: int, exact_limit: int = EXACT_LIMIT) -> None:
        self.dimensions = dimensions
        self._exact_limit = exact_limit
        self._tail: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dimensions))
        self._graph: Any = None  # faiss.IndexHNSWFlat; its stubs do not know what a downcast index can do
        self._graph_ids = array("q")
        self._in_graph: set[int] = set()
        self._dead = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._tail.ntotal) + len(self._in_graph)

    def add(self, ids: Sequence[int] | Ids, vectors: Vectors) -> None:
        """Add vectors; they are found from the next search on.

        Args:
            ids: one int64 each, not in the partition yet.
            vectors: shape (n, dimensions), rows of unit length.
        """
        with self._lock:
            self._tail.add_with_ids(_matrix(vectors, self.dimensions), np.asarray(ids, np.int64))

    def remove(self, ids: Sequence[int] | Ids) -> None:
        """Remove vectors by id; unknown ids are passed over. No later search returns them."""
        wanted = np.asarray(ids, np.int64)
        with self._lock:
            if self._drop_from_tail(wanted) < len(wanted):
                before = len(self._in_graph)
                self._in_graph.difference_update(wanted.tolist())
                self._dead += before - len(self._in_graph)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return cosines and ids of the nearest vectors, best first.

        Args:
            queries: shape (n, dimensions), rows of unit length.
            k: how many for each query, at least 1.

        Returns:
            Two arrays of shape (n, k); where fewer than k exist the id is -1 and the cosine -inf.
        """
        queries = _matrix(queries, self.dimensions)
        _on_one_thread()
        with self._lock:
            scores, ids = self._tail.search(queries, k)
            if self._graph is not None:
                found = [self._search_graph(query[None], k) for query in queries]
                scores = np.concatenate([scores, np.stack([f[0] for f in found])], axis=1)
                ids = np.concatenate([ids, np.stack([f[1] for f in found])], axis=1)
                scores[ids < 0] = -np.inf
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                scores = np.take_along_axis(scores, order, axis=1)
                ids = np.take_along_axis(ids, order, axis=1)
        scores[ids < 0] = -np.inf
        return scores, ids

    def within(self, query: Vectors, min_similarity: float) -> list[int]:
        """Return the ids of all vectors whose cosine to one query is at least `min_similarity`.

        Exact, also above the exact limit: what an operator removes by radius must not depend on a graph.
        """
        query = _matrix(query[None], self.dimensions)
        with self._lock:
            found: list[int] = []
            if self._tail.ntotal:
                flat: Any = faiss.downcast_index(self._tail.index)
                rows = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * self.dimensions)
                near = rows.reshape(-1, self.dimensions) @ query[0] >= min_similarity
                found += faiss.vector_to_array(self._tail.id_map)[near].tolist()
            if self._graph is not None:
                near = self._graph_vectors() @ query[0] >= min_similarity
                nodes = np.flatnonzero(near).tolist()
                found += [i for i in map(self._graph_ids.__getitem__, nodes) if i in self._in_graph]
            return found

    def some(self, count: int) -> tuple[Ids, Vectors]:
        """Return ids and vectors of up to `count` vectors, spread evenly over all."""
        with self._lock:
            tail = faiss.vector_to_array(self._tail.id_map)
            every = len(tail) + len(self._graph_ids)
            ids, vectors = [], []
            for place in np.linspace(0, every - 1, min(count, every)).astype(int).tolist():
                in_tail = place < len(tail)
                node = place if in_tail else place - len(tail)
                row = int(tail[node]) if in_tail else self._graph_ids[node]
                if in_tail or row in self._in_graph:
                    ids.append(row)
                    vectors.append((self._tail.index if in_tail else self._graph).reconstruct(node))
        return np.array(ids, np.int64), np.array(vectors, np.float32).reshape(-1, self.dimensions)

    def maintain(self, chunk: int = _CHUNK) -> bool:
        """Move up to `chunk` vectors into the graph, or rebuild it; True while more is to be done.

        Called again and again from one background thread; searches go on between two calls.
        """
        with self._lock:
            if self._graph is not None and self._dead > _MAX_DEAD * len(self._graph_ids):
                self._unlink()
                return True
            tail = int(self._tail.ntotal)
            limit = self._exact_limit if self._graph is None else min(TAIL_LIMIT, self._exact_limit)
            if tail <= limit:
                return False
            # The newest first: taking them off the end moves nothing in memory.
            first = max(tail - chunk, 0)
            ids = faiss.vector_to_array(self._tail.id_map)[first:]
            self._link(ids, self._tail.index.reconstruct_n(first, tail - first))
            self._drop_from_tail(ids)
            return True

    @classmethod
    def linked(cls, ids: Ids, vectors: Vectors, path: Path | None = None, rows: Ids | None = None) -> "Partition":
        """Return a partition with everything in the graph.

        Args:
            ids: of what to link, shape (n,).
            vectors: what to link, shape (n, dimensions).
            path: a saved graph to start from.
            rows: the id of each of its rows, -1 for those that are gone.

        Raises:
            ValueError: the file is not such a graph.
        """
        partition = cls(vectors.shape[1])
        if path is not None and rows is not None:
            try:
                partition._graph = faiss.read_index(str(path))
            except RuntimeError as error:
                raise ValueError(f"{path}: not a graph that FAISS can read: {error}") from error
            if partition._graph.ntotal != len(rows) or partition._graph.d != partition.dimensions:
                raise ValueError(f"{path}: the graph does not fit its list of rows")
            partition._graph.hnsw.efSearch = _EF_SEARCH
            partition._graph_ids = array("q", rows.tolist())
            partition._in_graph = {row for row in rows.tolist() if row >= 0}
            partition._dead = len(rows) - len(partition._in_graph)
            if partition._dead > _MAX_DEAD * len(rows):
                partition._unlink()
        if len(ids):
            partition._link(ids, _matrix(vectors, partition.dimensions))
        if tail := int(partition._tail.ntotal):  # living vectors of a graph that had to be built anew
            alive = faiss.vector_to_array(partition._tail.id_map)
            partition._link(alive, partition._tail.index.reconstruct_n(0, tail))
            partition._tail.reset()
        return partition

    def save(self, path: Path) -> Ids:
        """Write the graph of a partition made by `linked`; return the id of each row, -1 for those that are gone."""
        with self._lock:
            faiss.write_index(self._graph, str(path))
            return np.asarray([i if i in self._in_graph else -1 for i in self._graph_ids], np.int64)

    def _drop_from_tail(self, ids: Ids) -> int:
        return int(self._tail.remove_ids(faiss.IDSelectorBatch(ids)))

    def _link(self, ids: Ids, vectors: Vectors) -> None:
        _on_one_thread()
        if self._graph is None:
            self._graph = _new_graph(self.dimensions)
        self._graph.add(vectors)
        self._graph_ids.extend(ids.tolist())
        self._in_graph.update(ids.tolist())

    def _search_graph(self, query: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return (k,) cosines and ids from the graph, asking for more until k living ones are found."""
        wanted = k + min(self._dead, k)
        while True:
            wanted = min(wanted, len(self._graph_ids))
            scores, rows = self._graph.search(query, wanted)
            found = [
                (score, self._graph_ids[row])
                for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True)
                if row >= 0 and self._graph_ids[row] in self._in_graph
            ][:k]
            if len(found) >= min(k, len(self._in_graph)) or wanted == len(self._graph_ids):
                found += [(-np.inf, -1)] * (k - len(found))
                return (
                    np.array([score for score, _ in found], np.float32),
                    np.array([i for _, i in found], np.int64),
                )
            wanted *= 2

    def _graph_vectors(self) -> Vectors:
        vectors: Vectors = self._graph.reconstruct_n(0, self._graph.ntotal)
        return vectors

    def _unlink(self) -> None:
        """Put the living vectors of the graph back in front of the tail; maintain() then links them again."""
        alive = [row for row, i in enumerate(self._graph_ids) if i in self._in_graph]
        tail_ids = faiss.vector_to_array(self._tail.id_map)
        tail = self._tail.index.reconstruct_n(0, self._tail.ntotal)
        vectors = np.concatenate([self._graph_vectors()[alive], tail])
        ids = np.concatenate([np.array([self._graph_ids[row] for row in alive], np.int64), tail_ids])
        self._tail = faiss.IndexIDMap(faiss.IndexFlatIP(self.dimensions))
        self._tail.add_with_ids(vectors, ids)
        self._graph, self._graph_ids, self._in_graph, self._dead = None, array("q"), set(), 0


def _on_one_thread() -> None:
    """Keep FAISS from starting threads: queries come from several already, and they would fight for the cores.

    OpenMP keeps this number for each thread by itself, so it is set where it is needed and not once at import.
    """
    faiss.omp_set_num_threads(1)


def _new_graph(dimensions: int) -> faiss.IndexHNSWFlat:
    # In half precision (IndexHNSWSQ) it takes half the memory, but searched no faster in turn with the encoder: 0.99.
    graph = faiss.IndexHNSWFlat(dimensions, _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _EF_CONSTRUCTION
    graph.hnsw.efSearch = _EF_SEARCH
    return graph


def _matrix(vectors: Vectors, dimensions: int) -> Vectors:
    """Return the vectors as FAISS wants them, or raise ValueError where their shape is wrong."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dimensions:  # noqa: PLR2004 - a matrix
        raise ValueError(f"expected vectors of shape (n, {dimensions}), got {matrix.shape}")
    return matrix
