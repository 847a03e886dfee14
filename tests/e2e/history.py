"""What several callers did at once, and whether it can be told as one story."""

import itertools
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Done:
    """Something that happened between two moments."""

    start: int
    end: int


@dataclass
class History:
    """Puts, removals and lookups of some keys, each with the moments between which it happened.

    `versions` of a key are unique. A lookup that found nothing has no version.
    """

    clock: "itertools.count[int]" = field(default_factory=itertools.count)
    puts: dict[str, dict[str, Done]] = field(default_factory=lambda: defaultdict(dict))
    removals: dict[str, list[Done]] = field(default_factory=lambda: defaultdict(list))
    lookups: list[tuple[str, str, Done]] = field(default_factory=list)

    def now(self) -> int:
        return next(self.clock)

    def put(self, key: str, version: str, start: int) -> None:
        self.puts[key][version] = Done(start, self.now())

    def removed(self, keys: Collection[str], start: int) -> None:
        done = Done(start, self.now())
        for key in keys:
            self.removals[key].append(done)

    def looked_up(self, key: str, version: str, start: int) -> None:
        self.lookups.append((key, version, Done(start, self.now())))

    def check(self) -> tuple[int, int]:
        """Raise AssertionError where a lookup contradicts what was acknowledged; return counts of hits and misses."""
        hits = 0
        for key, version, looked in self.lookups:
            if version:
                hits += 1
                self._check_hit(key, version, looked)
            else:
                self._check_miss(key, looked)
        return hits, len(self.lookups) - hits

    def _check_hit(self, key: str, version: str, looked: Done) -> None:
        put = self.puts[key].get(version)
        assert put is not None, f"{key} was answered with {version!r}, which nobody put there"
        assert put.start < looked.end
        for gone in self.removals[key]:
            assert not put.end < gone.start < gone.end < looked.start, f"{key}: {version} was served after its removal"
        for other in self.puts[key].values():
            assert not put.end < other.start < other.end < looked.start, f"{key}: {version} was served after another"

    def _check_miss(self, key: str, looked: Done) -> None:
        # A lookup by meaning may pass over an answer in the moment in which it is replaced: that costs a model call.
        if any(put.start < looked.end and looked.start < put.end for put in self.puts[key].values()):
            return
        for version, put in self.puts[key].items():
            if put.end < looked.start:
                excused = any(gone.end > put.start and gone.start < looked.end for gone in self.removals[key])
                assert excused, f"{key}: {version} was acknowledged and not found"
