"""Which answers of a scope are worth least, when there is no more room for all of them.

GreedyDual-Size-Frequency (L. Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy", HP Laboratories, HPL-98-69, 1998): an answer is worth its uses times what a use saves, for the room it takes;
and everyone starts at the worth of who went last, so that what was popular once does not stay for ever. Room is
the share of the scope's capacity, in number or in bytes, that an answer takes: where answers are many and small it is
their number that is short, and size should not count.

Owns nothing but these numbers; `service.cache.capacity` asks who goes, and tells of uses and of who came and went. What
was used is forgotten with a restart. `benchmarks/eviction.py` compares it with LRU and LFU.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from index.view import Entry

# What an answer is taken to save where nobody said: a small model's call.
LEAST_SAVED_USD: Final = 1e-5

_Ranked = tuple[float, int, str]  # worth when it was ranked, row, id


class Worth:
    """What the answers of one scope are worth.

    Args:
        max_answers: how many the scope may hold.
        max_bytes: how many bytes of text it may hold.
    """

    def __init__(self, max_answers: int, max_bytes: int) -> None:
        self._per_answer, self._per_byte = 1 / max_answers, 1 / max_bytes
        self._floor = 0.0
        self._used: dict[int, tuple[int, float]] = {}  # by row, of those that were used: how often, worth since then
        self._taken: dict[int, float] = {}  # by row, of those that were taken out of the ranking: their worth
        self._ranking: list[_Ranked] | None = None  # a heap; made when it is first needed

    def is_ranked(self, answers: int) -> bool:
        """Return whether `rank` was called, and the ranking of so many answers is not full of such as are gone."""
        return self._ranking is not None and len(self._ranking) <= 2 * answers + 1_000

    def use(self, entry: Entry) -> None:
        """Count a hit."""
        uses = self.uses(entry) + 1
        self._used[entry.row] = (uses, self._floor + uses * self._gain(entry))

    def uses(self, entry: Entry) -> int:
        """Return how often an answer was fetched or served, as far as is known."""
        return self._used.get(entry.row, (1, 0.0))[0]

    def come(self, entry: Entry, before: Entry | None = None) -> None:
        """Take in a new answer; it is as popular as the one it replaces."""
        if before is not None and before.row in self._used:
            uses = self._used.pop(before.row)[0]
            self._used[entry.row] = (uses, self._floor + uses * self._gain(entry))
        if self._ranking is not None:
            heapq.heappush(self._ranking, (self._worth(entry), entry.row, entry.id))

    def go(self, entry: Entry) -> None:
        """Forget an answer that was removed."""
        self._used.pop(entry.row, None)
        self._floor = max(self._floor, self._taken.pop(entry.row, 0.0))

    def rank(self, entries: Iterable[Entry]) -> None:
        """Rank all answers. Takes a tenth of a second for 100,000; nothing may come while it runs, uses may."""
        ranking = [(self._worth(entry), entry.row, entry.id) for entry in entries]
        heapq.heapify(ranking)
        self._ranking = ranking

    def least(self, find: Callable[[str], Entry | None]) -> Entry | None:
        """Take the answer that is worth least out of the ranking, None where none is left.

        Args:
            find: returns the answer of an id, as it is now.
        """
        while self._ranking:
            worth, row, entry_id = heapq.heappop(self._ranking)
            entry = find(entry_id)
            if entry is None or entry.row != row:
                continue  # removed, or replaced
            now = self._used.get(row, (1, worth))[1]
            if now > worth:
                heapq.heappush(self._ranking, (now, row, entry_id))
                continue
            self._taken[row] = worth
            return entry
        return None

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Rank those of some answers again that were taken out: they stay after all."""
        if self._ranking is not None:
            for entry in entries:
                if entry.row in self._taken:
                    heapq.heappush(self._ranking, (self._taken.pop(entry.row), entry.row, entry.id))

    def _worth(self, entry: Entry) -> float:
        used = self._used.get(entry.row)
        return used[1] if used is not None else self._floor + self._gain(entry)

    def _gain(self, entry: Entry) -> float:
        room = max(self._per_answer, entry.size * self._per_byte)
        return max(entry.cost_usd, LEAST_SAVED_USD) / room
