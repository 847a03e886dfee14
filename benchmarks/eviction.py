"""What is left in a full scope: GDSF, as the service does it, against LRU, LFU and oldest first, on a synthetic trace.

    python -m benchmarks.eviction [--requests 300000] [--seed 0]

The trace is made to look like prompts to a shared assistant: popularity is Zipf's (exponent 0.9 over 50,000 prompts), a
tenth of the prompts changes its popularity every 20,000 requests (what is asked drifts), a third of the requests are
asked once and never again, answers have log-normal lengths (median 1,200 bytes, 99th percentile about 40 kB), and what
one cost is by its length and by the model that gave it (three prices, a hundredfold apart, the dearest for a tenth).
Every policy sees the same requests with the same capacity. Reported: the share of requests that were hits, and the
share of the cost that hits saved, which is what eviction is for.
"""

import argparse
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from index.view import Entry
from service.cache.worth import Worth

_PROMPTS, _EXPONENT, _DRIFT_EVERY, _DRIFTING, _ONCE = 50_000, 0.9, 20_000, 0.1, 1 / 3
_MEDIAN_BYTES, _SPREAD = 1_200, 1.5
# USD for a byte of answer: 0.3, 3 and 30 USD for a million tokens, four bytes to a token.
_PRICES, _SHARES = (0.75e-7, 0.75e-6, 0.75e-5), (0.6, 0.3, 0.1)


class Policy(Protocol):
    """One way to choose who goes."""

    def hit(self, entry: Entry) -> None:
        """Take note of a hit."""

    def come(self, entry: Entry) -> None:
        """Take note of a new answer."""

    def victim(self, kept: dict[str, Entry]) -> Entry:
        """Return who has to go."""


class Oldest:
    """Who came first goes first; LRU where a hit counts as coming again."""

    def __init__(self, *, renew: bool) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()
        self._renew = renew

    def hit(self, entry: Entry) -> None:
        """Take note of a hit."""
        if self._renew:
            self._order.move_to_end(entry.id)

    def come(self, entry: Entry) -> None:
        """Take note of a new answer."""
        self._order[entry.id] = None

    def victim(self, kept: dict[str, Entry]) -> Entry:
        """Return who has to go."""
        return kept[self._order.popitem(last=False)[0]]


class LeastFrequent:
    """Who was used least often goes first, of equals the one that came first. Counts are kept of what went, too."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._heap: list[tuple[int, int, str]] = []

    def hit(self, entry: Entry) -> None:
        """Take note of a hit."""
        self._uses[entry.id] += 1

    def come(self, entry: Entry) -> None:
        """Take note of a new answer."""
        self._uses[entry.id] += 1
        heapq.heappush(self._heap, (self._uses[entry.id], entry.row, entry.id))

    def victim(self, kept: dict[str, Entry]) -> Entry:
        """Return who has to go."""
        while True:
            uses, row, name = heapq.heappop(self._heap)
            entry = kept.get(name)
            if entry is None or entry.row != row:
                continue
            if self._uses[name] == uses:
                return entry
            heapq.heappush(self._heap, (self._uses[name], row, name))


class Gdsf:
    """The service's own."""

    def __init__(self, max_answers: int, max_bytes: int) -> None:
        self._worth = Worth(max_answers, max_bytes)
        self._worth.rank([])

    def hit(self, entry: Entry) -> None:
        """Take note of a hit."""
        self._worth.use(entry)

    def come(self, entry: Entry) -> None:
        """Take note of a new answer."""
        self._worth.come(entry)

    def victim(self, kept: dict[str, Entry]) -> Entry:
        """Return who has to go."""
        entry = self._worth.least(kept.get)
        assert entry is not None  # noqa: S101 - something is kept
        self._worth.go(entry)
        return entry


def trace(requests: int, seed: int) -> tuple[Sequence[int], Sequence[int], Sequence[float]]:
    """Return which prompt each request is, and the bytes and cost (USD) of each prompt's answer."""
    chance = np.random.default_rng(seed)
    weights = np.arange(1, _PROMPTS + 1) ** -_EXPONENT
    weights /= weights.sum()
    prompt_of_rank = chance.permutation(_PROMPTS)
    asked = np.empty(requests, np.int64)
    for first in range(0, requests, _DRIFT_EVERY):
        size = min(_DRIFT_EVERY, requests - first)
        asked[first : first + size] = prompt_of_rank[chance.choice(_PROMPTS, size, p=weights)]
        moved = chance.choice(_PROMPTS, int(_PROMPTS * _DRIFTING), replace=False)
        prompt_of_rank[moved] = prompt_of_rank[chance.permutation(moved)]
    once = chance.random(requests) < _ONCE
    asked[once] = _PROMPTS + np.arange(int(once.sum()))
    sizes = np.exp(chance.normal(np.log(_MEDIAN_BYTES), _SPREAD, _PROMPTS + int(once.sum()))).astype(int) + 50
    costs = sizes * chance.choice(_PRICES, len(sizes), p=_SHARES)
    return asked.tolist(), sizes.tolist(), costs.tolist()


def play(
    asked: Sequence[int], sizes: Sequence[int], costs: Sequence[float], policy: Policy, max_answers: int, max_bytes: int
) -> tuple[float, float]:
    """Return the share of requests that were hits, and the share of the cost that these saved."""
    kept: dict[str, Entry] = {}
    size, hits, saved = 0, 0, 0.0
    for row, prompt in enumerate(asked, 1):
        name = str(prompt)
        entry = kept.get(name)
        if entry is not None:
            hits, saved = hits + 1, saved + entry.cost_usd
            policy.hit(entry)
            continue
        entry = Entry(
            name, row, "s", b"", b"", 0.0, 0.0, "m", (), False, "", cost_usd=costs[prompt], size=sizes[prompt]
        )
        while kept and (len(kept) >= max_answers or size + entry.size > max_bytes):
            gone = policy.victim(kept)
            del kept[gone.id]
            size -= gone.size
        kept[name] = entry
        size += entry.size
        policy.come(entry)
    return hits / len(asked), saved / sum(costs[prompt] for prompt in asked)


def compare(requests: int, seed: int) -> list[tuple[str, str, float, float]]:
    """Return (capacity, policy, hits, saved) for each policy, where the number is short and where bytes are."""
    asked, sizes, costs = trace(requests, seed)
    found = []
    for capacity, max_answers, max_bytes in (
        ("2,000 answers", 2_000, 1 << 40),
        ("10,000 answers", 10_000, 1 << 40),
        ("8 MiB", 1 << 40, 8 << 20),
        ("32 MiB", 1 << 40, 32 << 20),
    ):
        policies: dict[str, Callable[[], Policy]] = {
            "oldest first": lambda: Oldest(renew=False),
            "LRU": lambda: Oldest(renew=True),
            "LFU": LeastFrequent,
            "GDSF": lambda a=max_answers, b=max_bytes: Gdsf(a, b),  # type: ignore[misc]
        }
        for name, make in policies.items():
            found.append((capacity, name, *play(asked, sizes, costs, make(), max_answers, max_bytes)))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.requests:,} requests, seed {given.seed}\n")
    print("| Capacity | Policy | Hits | Cost saved |\n|---|---|---|---|")
    for capacity, name, hits, saved in compare(given.requests, given.seed):
        print(f"| {capacity} | {name} | {hits:.1%} | {saved:.1%} |")


if __name__ == "__main__":
    main()
