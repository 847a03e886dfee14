"""What simpler caches would have done with the same calls: exact hits only, or everything above a fixed cosine.

Both answer from what is stored in the same scope and context, store what a model answered, and forget it when its time
is over. With every threshold tried, the best is known in hindsight, which nobody has while serving.
"""

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors

Flags = NDArray[np.bool_]
THRESHOLDS: Final = tuple(step / 100 for step in range(60, 100))
_NEAREST: Final = 256
_BLOCK: Final = 500
_NOT_THERE: Final = -2.0


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """What there is to answer, in order.

    `keys`: of an exact hit. `places`: calls of one place (scope and context) may share answers. `same`: whether the
    answer to one call is right for another (None: nobody can tell). `lapses`: when the answer to each is no longer
    valid (0: never), and `at` when each comes; () where nothing lapses.
    """

    keys: Sequence[Hashable]
    places: Sequence[int]
    same: Callable[[int, int], bool | None]
    at: Sequence[float] = ()
    lapses: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """Which calls were answered, which of these by the same prompt, and which wrongly or perhaps wrongly."""

    hits: Flags
    exact: Flags
    wrong: Flags
    unknown: Flags

    @property
    def doubtful(self) -> Flags:
        """Which were answered, and not known to be answered right."""
        return self.wrong | self.unknown


class Nearest:
    """The nearest of the calls that are stored, from a table of each call's neighbours among those before it.

    Args:
        vectors: of the prompts, in order; equal prompts have equal vectors.
        places: only calls of the same are neighbours; None: all are.
        progress: called with the calls just looked at.
    """

    def __init__(
        self, vectors: Vectors, places: Sequence[int] | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        n, k = len(vectors), min(_NEAREST, len(vectors))
        self._vectors = vectors
        self._of = np.asarray(places if places is not None else np.zeros(n), np.int64)
        self._rows, self._cosines = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        for first in range(0, n, _BLOCK):
            last = min(first + _BLOCK, n)
            width = max(last, k)
            cosines = vectors[first:last] @ vectors[:width].T
            later = np.arange(width)[None] >= np.arange(first, last)[:, None]
            cosines[later | (self._of[first:last, None] != self._of[None, :width])] = _NOT_THERE
            near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            values = np.take_along_axis(cosines, near, 1)
            order = np.argsort(-values, axis=1)
            self._rows[first:last] = np.take_along_axis(near, order, 1)
            self._cosines[first:last] = np.take_along_axis(values, order, 1)
            progress(last - first)

    def of(self, call: int, stored: Flags) -> tuple[float, int] | None:
        """Return cosine and number of the nearest stored call before this one, None without any."""
        there = stored[self._rows[call]] & (self._cosines[call] > _NOT_THERE)
        if there.any():
            first = int(there.argmax())
            return float(self._cosines[call, first]), int(self._rows[call, first])
        if self._cosines[call, -1] <= _NOT_THERE:  # all there are were looked at
            return None
        left = np.flatnonzero(stored[:call] & (self._of[:call] == self._of[call]))
        if not len(left):
            return None
        cosines = self._vectors[left] @ self._vectors[call]
        return float(cosines.max()), int(left[cosines.argmax()])


Rule = Callable[[float, int], bool]
"""Whether to serve, by the cosine and the number of the nearest."""
Told = Callable[[float, int, bool | None], bool]
"""Takes in whether the nearest would have been right; returns whether the call is stored."""


def play(calls: Calls, nearest: Nearest | None, serve: Rule, told: Told = lambda *_: True) -> Played:
    """Return what a rule does with calls; without `nearest` only the same prompt is found."""
    n = len(calls)
    stored, hits, same, wrong, unknown = (np.zeros(n, np.bool_) for _ in range(5))
    exact: dict[Hashable, int] = {}
    alive: list[tuple[float, int]] = []

    def answered(call: int, by: int) -> None:
        right = calls.same(call, by)
        hits[call], wrong[call], unknown[call] = True, right is False, right is None

    for call in range(n):
        while alive and alive[0][0] <= calls.at[call]:
            _, gone = heapq.heappop(alive)
            stored[gone] = False
            if exact.get(calls.keys[gone]) == gone:
                del exact[calls.keys[gone]]
        if (known := exact.get(calls.keys[call])) is not None:
            answered(call, known)
            same[call] = True
            continue
        found, keep = (nearest.of(call, stored) if nearest is not None else None), True
        if found is not None:
            if serve(*found):
                answered(call, found[1])
                continue
            keep = told(*found, calls.same(call, found[1]))
        exact[calls.keys[call]] = call
        stored[call] = keep
        if calls.lapses and calls.lapses[call]:
            heapq.heappush(alive, (calls.lapses[call], call))
    return Played(hits, same, wrong, unknown)


def above(threshold: float) -> Rule:
    """Return the rule that serves what is at least so near."""
    return lambda cosine, _: cosine >= threshold


def exact_only(calls: Calls) -> Played:
    """Return what a cache does that finds nothing but the same prompt."""
    return play(calls, None, lambda *_: False)


def every_threshold(
    calls: Calls, nearest: Nearest, progress: Callable[[int], None] = lambda _: None
) -> list[tuple[float, Played]]:
    """Return what each of `THRESHOLDS` does."""
    found = []
    for threshold in THRESHOLDS:
        found.append((threshold, play(calls, nearest, above(threshold))))
        progress(1)
    return found


def best_within(tried: Sequence[tuple[float, Played]], budget: float) -> tuple[float, Played] | None:
    """Return the threshold that answers most of those whose answers are right but for a share of all calls."""
    kept = (one for one in tried if one[1].doubtful.mean() <= budget)
    return max(kept, key=lambda one: int(one[1].hits.sum()), default=None)
