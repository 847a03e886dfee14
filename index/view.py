"""The view of a store that lookups are made in: keys and vectors of every record that can be served now.

Holds no answers' texts, only what finds and judges them; can be rebuilt from the store's feed at any time. All
of it is read and changed on one thread, but for the partitions, which lock for themselves. It never writes to the
store and never decides.
"""

import sys
from collections.abc import Callable, Collection, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np

from index.records import Answer, LiveReference, Reference
from index.store import Change, Kind, Record, RecordKey, Store, key_of
from index.tokens import LONGEST
from index.vectors import Partition, Vectors

T = TypeVar("T", bound=Hashable)
Place = tuple[bytes, str]
"""Whose answers meet in a search: those of one context, and of everyone ("") or of one principal."""

_PAGE = 5_000
# Scopes, contexts, models and lists of tags that are kept once: more than that are not much alike.
_SHARED: Final = 100_000
_SAMPLE: Final = 100
# Of a large dictionary, an item takes 24 bytes in the table, a third of which stays empty, and up to 16 in the index.
_DICT_SLOT: Final = 52


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a cached answer without its text.

    `row` is its id inside the partition; `prompt` is what is compared with other prompts: the beginning where it is
    longer than anyone reads, "" where it is only ever hit exactly; `meaning` is the same where the answer is.
    `wording_of` names the entry whose answer this is another prompt for, "" where it has one of its own.
    """

    id: str
    row: int
    scope: str
    key: bytes
    context: bytes
    stored_at: float
    expires_at: float
    model: str
    source_tags: tuple[str, ...]
    truncated: bool
    prompt: str
    meaning: bytes = b""
    wording_of: str = ""
    cost_usd: float = 0.0
    size: int = 0
    private_to: str = ""

    @property
    def answer_id(self) -> str:
        """The id of the entry that has the answer."""
        return self.wording_of or self.id

    def alive(self, now: float) -> bool:
        """Return whether it can still be served at a time (seconds since the epoch)."""
        return not self.expires_at or now < self.expires_at


@dataclass(slots=True)
class ScopeView:
    """Everything of one scope. Nothing here is ever looked at for another scope."""

    by_key: dict[bytes, Entry] = field(default_factory=dict)
    private: dict[bytes, dict[str, Entry]] = field(default_factory=dict)  # by key, then by whom they are for
    by_id: dict[str, Entry] = field(default_factory=dict)
    by_row: dict[int, Entry] = field(default_factory=dict)
    partitions: dict[Place, Partition] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)
    reference_rows: dict[int, Reference] = field(default_factory=dict)
    reference_partition: Partition | None = None
    wordings: dict[str, set[str]] = field(default_factory=dict)
    size: int = 0


class View:
    """All scopes, for one encoder: records embedded by another are only ever hit exactly.

    Args:
        encoder_digest: of the encoder whose vectors may meet here.
        dimensions: length of its vectors.
    """

    def __init__(self, encoder_digest: str, dimensions: int) -> None:
        self._encoder_digest = encoder_digest
        self._dimensions = dimensions
        self._scopes: dict[str, ScopeView] = {}
        self._shared: dict[Hashable, Any] = {}
        self._next_row = 0
        self.answers = 0
        self.size = 0
        self.youngest = 0.0
        self.live_references = 0

    def load(self, store: Store, progress: Callable[[int], None] = lambda _: None) -> list[RecordKey]:
        """Take in the store's whole feed, into a view that is empty; return the records that another encoder embedded.

        A page is read while the last one is taken in.
        """
        stale: list[RecordKey] = []
        early: list[Record] = []  # wordings of answers that were stored again after them
        with ThreadPoolExecutor(1, "feed") as reader:
            ahead = reader.submit(store.changes, 0, _PAGE, contents=False)
            while page := ahead.result():
                ahead = reader.submit(store.changes, page[-1].seq, _PAGE, contents=False)
                records = [change.record for change in page if change.record is not None]
                stale += [key_of(record) for record in records if record.encoder != self._encoder_digest]
                # The feed names no record twice: there is nothing to take out.
                wordings = [record for record in records if isinstance(record, Answer) and record.wording_of]
                self._add(record for record in records if not (isinstance(record, Answer) and record.wording_of))
                known = [one for one in wordings if self.by_id(one.scope, one.wording_of) is not None]
                self._add(known)
                if len(known) < len(wordings):
                    early += (one for one in wordings if self.by_id(one.scope, one.wording_of) is None)
                progress(len(page))
        self._add(early)
        for scope in self._scopes.values():
            for partition in scope.partitions.values():
                partition.compact()
        return stale

    def apply(self, changes: Iterable[Change]) -> None:
        """Make the view agree with changes of the store; of several for one record the last counts.

        Vectors leave and enter partition by partition: one at a time, many removals would each walk all of it.
        """
        latest = {change.key: change.record for change in changes}
        gone: dict[tuple[str, Place | None], list[int]] = {}
        for key in latest:
            place, row = self._forget(key)
            if row:
                gone.setdefault((key.scope, place), []).append(row)
        for (scope, place), rows in gone.items():
            self._remove_vectors(self._scopes[scope], place, rows)
        self._add(record for record in latest.values() if record is not None)
        for key in latest:
            self._drop_empty(key.scope)

    def _add(self, records: Iterable[Record]) -> None:
        new: dict[int, tuple[Partition, list[int], list[bytes]]] = {}
        for record in records:
            partition, row = self._add_answer(record) if isinstance(record, Answer) else self._add_reference(record)
            if partition is not None:
                _, rows, vectors = new.setdefault(id(partition), (partition, [], []))
                rows.append(row)
                vectors.append(record.vector)
        for partition, rows, vectors in new.values():
            partition.add(rows, np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(rows), -1))

    def exact(self, scope: str, key: bytes, private_to: str = "") -> Entry | None:
        """Return the entry with this very key, alive or not: a principal's own where there is one, else everyone's."""
        view = self._scopes.get(scope)
        if view is None:
            return None
        own = view.private[key].get(private_to) if private_to and key in view.private else None
        return own or view.by_key.get(key)

    def all_of(self, scope: str, key: bytes) -> list[Entry]:
        """Return all entries with this very key, whomever they are for."""
        view = self._scopes.get(scope)
        if view is None:
            return []
        shared = view.by_key.get(key)
        return [*([shared] if shared else []), *view.private.get(key, {}).values()]

    def by_id(self, scope: str, entry_id: str) -> Entry | None:
        """Return the entry of this id in this scope."""
        view = self._scopes.get(scope)
        return view.by_id.get(entry_id) if view else None

    def wordings(self, scope: str, entry_id: str) -> Collection[str]:
        """Return the ids of the further prompts that have an entry's answer."""
        view = self._scopes.get(scope)
        return view.wordings.get(entry_id, ()) if view else ()

    def entry_at(self, scope: str, row: int) -> Entry | None:
        """Return the entry a search of this scope's partitions found, unless it was removed meanwhile."""
        view = self._scopes.get(scope)
        return view.by_row.get(row) if view else None

    def reference_at(self, scope: str, row: int) -> Reference | None:
        """Return the live reference a search of this scope found, unless it was removed meanwhile."""
        view = self._scopes.get(scope)
        return view.reference_rows.get(row) if view else None

    def answer_partition(self, scope: str, context: bytes, private_to: str = "") -> Partition | None:
        """Return where the answers of one scope and context are searched: everyone's, or a principal's own."""
        view = self._scopes.get(scope)
        return view.partitions.get((context, private_to)) if view else None

    def reference_partition(self, scope: str) -> Partition | None:
        """Return where the live references of one scope are searched, if there are any."""
        view = self._scopes.get(scope)
        return view.reference_partition if view and view.references else None

    def has_reference(self, scope: str, reference_id: str) -> bool:
        """Return whether a live reference of this id is in this scope."""
        view = self._scopes.get(scope)
        return view is not None and reference_id in view.references

    def references_of(self, scope: str, sources: Collection[str]) -> list[str]:
        """Return the ids of a scope's live references that come from one of these sources."""
        view = self._scopes.get(scope) if sources else None
        return [r.id for r in view.reference_rows.values() if r.source in sources] if view is not None else []

    def entries(self, scope: str) -> Collection[Entry]:
        """Return a scope's entries, oldest first: a live view, not to be kept over a change."""
        view = self._scopes.get(scope)
        return view.by_id.values() if view else ()

    def near(self, scope: str, vector: Vectors, min_similarity: float) -> frozenset[str]:
        """Return the ids of all answers whose prompt is within a cosine of a vector of shape (dimensions,).

        Answers that are only hit exactly have no vector here: `service.cache.radius` looks for those.
        """
        view = self._scopes.get(scope)
        if view is None:
            return frozenset()
        rows = (row for p in view.partitions.values() for row in p.within(vector, min_similarity))
        return frozenset(view.by_row[row].id for row in rows if row in view.by_row)

    def count(self, scope: str) -> tuple[int, int]:
        """Return how many answers and live references a scope holds."""
        view = self._scopes.get(scope)
        if view is None:
            return 0, 0
        return len(view.by_id) - sum(map(len, view.wordings.values())), len(view.references)

    def size_of(self, scope: str) -> int:
        """Return the bytes of the texts of a scope's answers."""
        view = self._scopes.get(scope)
        return view.size if view else 0

    def memory_per_answer(self) -> int:
        """Return about how many bytes of memory an answer takes here, on the average, its texts not counted."""
        vectors = sum(p.nbytes for view in self._scopes.values() for p in view.partitions.values())
        firsts = (next(iter(view.by_id.values()), None) for view in islice(self._scopes.values(), _SAMPLE))
        known = [_memory(entry) for entry in firsts if entry is not None]
        return round(vectors / self.answers + sum(known) / len(known)) if known else 0

    def expired(self, now: float, stale_s: Callable[[str], float] = lambda _: 0.0) -> list[RecordKey]:
        """Return the answers whose time has passed.

        Args:
            now: seconds since the epoch.
            stale_s: how long those of a scope are kept beyond it, in seconds.
        """
        return [
            RecordKey(Kind.ANSWER, scope, entry.id)
            for scope, view in self._scopes.items()
            for then in (now - stale_s(scope),)
            for entry in view.by_id.values()
            if not entry.alive(then)
        ]

    def _forget(self, key: RecordKey) -> tuple[Place | None, int]:
        """Take a record out of all but its partition.

        Returns the answer's place (None for a reference) and the row to remove from the partition, 0 for none.
        """
        scope = self._scopes.get(key.scope)
        if scope is None:
            return None, 0
        if key.kind is Kind.REFERENCE:
            row = scope.references.pop(key.id, 0)
            self.live_references -= bool(row)
            return None, row if scope.reference_rows.pop(row, None) else 0
        entry = scope.by_id.pop(key.id, None)
        if entry is None:
            return None, 0
        if entry.wording_of:
            _discard(scope.wordings, entry.wording_of, entry.id)
        self.answers -= not entry.wording_of
        scope.size -= entry.size
        self.size -= entry.size
        if not entry.private_to:
            if scope.by_key.get(entry.key) is entry:
                del scope.by_key[entry.key]
        elif scope.private.get(entry.key, {}).pop(entry.private_to, None) and not scope.private[entry.key]:
            del scope.private[entry.key]
        return (entry.context, entry.private_to), entry.row if scope.by_row.pop(entry.row, None) else 0

    def _remove_vectors(self, scope: ScopeView, place: Place | None, rows: list[int]) -> None:
        partition = scope.reference_partition if place is None else scope.partitions[place]
        if partition is not None:
            partition.remove(rows)
            if place is not None and not len(partition):
                del scope.partitions[place]

    def _drop_empty(self, name: str) -> None:
        """Give back what a scope without records would hold on to."""
        scope = self._scopes.get(name)
        if scope is not None and not scope.by_id and not scope.references:
            del self._scopes[name]

    def _scope(self, name: str) -> ScopeView:
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = ScopeView()
        return scope

    def _one(self, value: T) -> T:
        """Return the value that is equal to this one and was there before: answers share most of these."""
        if len(self._shared) > _SHARED:
            self._shared.clear()
        known: T = self._shared.setdefault(value, value)
        return known

    def _add_answer(self, answer: Answer) -> tuple[Partition | None, int]:
        scope = self._scope(answer.scope)
        self._next_row += 1
        near = bool(answer.vector) and not answer.truncated and answer.encoder == self._encoder_digest
        entry = Entry(
            id=answer.id,
            row=self._next_row,
            scope=self._one(answer.scope),
            key=answer.key,
            context=self._one(answer.context),
            stored_at=answer.stored_at,
            expires_at=answer.expires_at,
            model=self._one(answer.model),
            source_tags=self._one(answer.source_tags),
            truncated=answer.truncated,
            prompt=answer.prompt[: LONGEST + 1] if near else "",
            meaning=answer.meaning or answer.id.encode(),
            cost_usd=answer.cost_usd,
            size=answer.size,
            private_to=self._one(answer.private_to),
        )
        if answer.wording_of:
            said = scope.by_id.get(answer.wording_of)
            if said is None or said.wording_of:  # without its answer there is nothing to serve
                return None, 0
            entry = replace(
                said,
                id=entry.id,
                row=entry.row,
                key=entry.key,
                truncated=entry.truncated,
                prompt=entry.prompt,
                wording_of=said.id,
                size=entry.size,
            )
            scope.wordings.setdefault(said.id, set()).add(entry.id)
        scope.by_id[entry.id] = entry
        if entry.private_to:
            scope.private.setdefault(entry.key, {})[entry.private_to] = entry
        else:
            scope.by_key[entry.key] = entry
        scope.size += entry.size
        self.size += entry.size
        self.youngest = max(self.youngest, entry.stored_at)
        self.answers += not entry.wording_of
        if not near:
            return None, 0
        scope.by_row[entry.row] = entry
        place = (entry.context, entry.private_to)
        if place not in scope.partitions:
            scope.partitions[place] = Partition(self._dimensions)
        return scope.partitions[place], entry.row

    def _add_reference(self, live: LiveReference) -> tuple[Partition | None, int]:
        scope = self._scope(live.scope)
        self._next_row += 1
        scope.references[live.reference.id] = self._next_row
        self.live_references += 1
        if live.encoder != self._encoder_digest:
            return None, 0
        scope.reference_rows[self._next_row] = live.reference
        if scope.reference_partition is None:
            scope.reference_partition = Partition(self._dimensions)
        return scope.reference_partition, self._next_row


def _memory(entry: Entry) -> int:
    """Return about how many bytes an entry takes with its places in the dictionaries of its scope."""
    parts = (entry, entry.id, entry.row, entry.key, entry.stored_at, entry.expires_at, entry.cost_usd, entry.meaning)
    return sum(map(sys.getsizeof, (*parts, entry.prompt))) + 3 * _DICT_SLOT


def _discard(sets: dict[str, set[str]], key: str, value: str) -> None:
    """Take a value out of one of several sets, which goes when it is empty."""
    values = sets.get(key, set())
    values.discard(value)
    if not values:
        sets.pop(key, None)
