"""How much each scope holds, and who has to go when a write would leave it beyond that.

Keeps what the answers of every scope are worth (`service.cache.worth`) in step with the view. Called by
`service.answers` around each write, and by decisions to count hits.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from index.records import Answer
from index.store import Kind, Record, RecordKey, key_of
from index.view import Entry, View
from service.cache.worth import Worth
from service.settings import CacheSettings

Changes = Mapping[RecordKey, Record | None]
"""What a write puts, and with None what it removes."""


@dataclass(slots=True)
class _Excess:
    """By how much a scope would be beyond its capacity."""

    answers: int
    size: int

    def __bool__(self) -> bool:
        return self.answers > 0 or self.size > 0

    def less(self, size: int) -> bool:
        """Count an answer of so many bytes as gone; return whether one had to go."""
        needed = bool(self)
        if needed:
            self.answers, self.size = self.answers - 1, self.size - size
        return needed


class Capacity:
    """The capacity of all scopes.

    Args:
        view: what is there.
        settings: how much of it there may be.
    """

    def __init__(self, view: View, settings: CacheSettings) -> None:
        self._view, self._settings = view, settings
        self._worth: dict[str, Worth] = {}
        self.evicted = 0

    def use(self, scope: str, entry_id: str) -> None:
        """Count a hit: what is used often is kept."""
        entry = self._view.by_id(scope, entry_id)
        if entry is not None:
            self._worth_of(scope).use(entry)

    def uses(self, answer: Answer) -> int:
        """Return how often an answer was fetched or served since the start."""
        worth, entry = self._worth.get(answer.scope), self._view.by_id(answer.scope, answer.id)
        return worth.uses(entry) if worth is not None and entry is not None else 1

    def unranked(self, changes: Changes) -> list[str]:
        """Return the scopes that have to be ranked before `surplus` can tell who goes from them."""
        beyond = self._beyond(changes)
        return [scope for scope in beyond if not self._worth_of(scope).is_ranked(len(self._view.entries(scope)))]

    def rank(self, scope: str, entries: Iterable[Entry]) -> None:
        """Rank the answers of a scope; on a thread, as it may take a tenth of a second."""
        self._worth_of(scope).rank(entries)

    def surplus(self, changes: Changes) -> list[RecordKey]:
        """Return what has to go so that these changes leave no scope beyond its capacity."""
        surplus: list[RecordKey] = []
        needed = {*changes, *_said(changes)}
        for scope, excess in self._beyond(changes).items():
            worth, changing = self._worth_of(scope), []
            while excess and (entry := worth.least(partial(self._view.by_id, scope))) is not None:
                key = RecordKey(Kind.ANSWER, scope, entry.id)
                if key in needed:
                    changing.append(entry)
                else:
                    surplus.append(key)
                    excess.less(entry.size)
            worth.put_back(changing)
            # More may have come at once than there is room for at all.
            new = (r for r in changes.values() if isinstance(r, Answer) and r.scope == scope)
            surplus += [key_of(record) for record in new if excess.less(record.size)]
        return surplus

    def stay(self, surplus: Iterable[RecordKey]) -> None:
        """Take back that these go: the write failed."""
        for entry in self.known(surplus).values():
            if entry is not None:
                self._worth_of(entry.scope).put_back([entry])

    def known(self, keys: Iterable[RecordKey]) -> dict[RecordKey, Entry | None]:
        """Return the answers of some keys as they are now, for `changed`."""
        return {key: self._view.by_id(key.scope, key.id) for key in keys if key.kind is Kind.ANSWER}

    def changed(self, before: Mapping[RecordKey, Entry | None], evicted: int) -> None:
        """Take note of a write, which the view now shows.

        Args:
            before: what `known` returned before it did.
            evicted: how many answers went to make room.
        """
        self.evicted += evicted
        for key, old in before.items():
            entry = self._view.by_id(key.scope, key.id)
            if entry is not None:
                self._worth_of(key.scope).come(entry, old)
            elif not len(self._view.entries(key.scope)):
                self._worth.pop(key.scope, None)
            elif old is not None:
                self._worth_of(key.scope).go(old)

    def _beyond(self, changes: Changes) -> dict[str, _Excess]:
        """Return by how much each scope would be beyond its capacity after these changes, where it would be."""
        grown: dict[str, _Excess] = {}
        for key, record in changes.items():
            if key.kind is Kind.ANSWER:
                excess = grown.get(key.scope)
                if excess is None:
                    settings = self._settings.of(key.scope)
                    answers = len(self._view.entries(key.scope)) - settings.max_answers
                    size = self._view.size_of(key.scope) - (settings.max_mib << 20)
                    excess = grown[key.scope] = _Excess(answers, size)
                there = self._view.by_id(key.scope, key.id)
                excess.answers += (record is not None) - (there is not None)
                excess.size += (record.size if isinstance(record, Answer) else 0) - (there.size if there else 0)
        return {scope: excess for scope, excess in grown.items() if excess}

    def _worth_of(self, scope: str) -> Worth:
        worth = self._worth.get(scope)
        if worth is None:
            settings = self._settings.of(scope)
            worth = self._worth[scope] = Worth(settings.max_answers, settings.max_mib << 20)
        return worth


def _said(changes: Changes) -> Iterator[RecordKey]:
    """Yield the answers that wordings among the changes are of: with them the wordings would go, too."""
    for key, record in changes.items():
        if isinstance(record, Answer) and record.wording_of:
            yield RecordKey(Kind.ANSWER, key.scope, record.wording_of)
