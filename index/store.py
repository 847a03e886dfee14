"""The record of answers and references: what every store promises, and a store in memory.

Owns the `Store` protocol, its feed of changes and what its values mean. It never searches, decides
what expires, or looks into a vector: a view over the feed does that, and can be rebuilt from it at
any time. The cache, the live references and the views over them call it.
`tests/contract/test_store.py` is the same promise as tests; every store passes it.
"""

import dataclasses
import enum
import itertools
import json
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from index.errors import StoreError
from index.records import Answer, LiveReference

Record = Answer | LiveReference

# Deletions a feed remembers. A tail reads within seconds and a rebuild from 0 needs none, so this
# many is hours of the heaviest invalidation; at about 100 bytes each they stay near 10 MB.
TOMBSTONES_KEPT = 100_000


class Kind(enum.StrEnum):
    """What a record is."""

    ANSWER = "answer"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The identity of a record: ids are unique within a kind and scope."""

    kind: Kind
    scope: str
    id: str


@dataclass(frozen=True, slots=True)
class Change:
    """The latest state of one record, and when it came about; a `record` of None was deleted."""

    seq: int
    key: RecordKey
    record: Record | None


def key_of(record: Record) -> RecordKey:
    """Return the identity of a record."""
    if isinstance(record, Answer):
        return RecordKey(Kind.ANSWER, record.scope, record.id)
    return RecordKey(Kind.REFERENCE, record.scope, record.reference.id)


class Store(Protocol):
    """The record of answers and references. Safe to call from any thread.

    Every change takes the next number of one sequence over all kinds and scopes, which only grows:
    a number is not used again after a deletion, a failed write or a restart, and some may be
    skipped. Text may hold any character (also NUL) but half of a surrogate pair, and numbers must
    be finite: what is not so is refused. A mapping comes back as a dict.

    Every method raises `StoreDamagedError` when what is stored turns out not to be sound, and
    `StoreError` after `close`.
    """

    def write(self, puts: Sequence[Record], deletes: Sequence[RecordKey] = ()) -> int:
        """Apply all deletes and then all puts, or nothing; what it did is durable when it returns.

        A put replaces the record of the same key; of several with one key in `puts` the last
        counts. Deleting what is not there is no error and no change.

        Returns:
            The sequence number of the last change that was ever made; 0 for a store that was never
            written to.

        Raises:
            StoreFullError: The disk is full or read-only. Nothing was written; all that was there
                before still is.
            StoreError: A record cannot be stored, or another program holds the store. Nothing was
                written.
        """

    def get(self, kind: Kind, scope: str, ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of one scope that are there, by id."""

    def scan(self, kind: Kind, scope: str, *, after: int = 0, limit: int = 100) -> list[Change]:
        """Return live records of one scope in the order they were last written, past `after`.

        A record that is replaced moves to the end, so paging by the last `seq` misses nothing that
        stays.
        """

    def changes(self, since: int, limit: int = 1000, *, contents: bool = True) -> list[Change]:
        """Return each record's latest state over all kinds and scopes, in order, past `since`.

        From 0 it yields every live record, so a view is rebuilt from it. Deletions are part of it,
        but only the newest `TOMBSTONES_KEPT` are sure to be remembered: who falls further behind
        than that must start again from an empty view and 0, and should anyway `get` what it found
        before using it.

        Args:
            since: The `seq` of the last change already seen.
            limit: The most changes to return; fewer come back only when there are no more.
            contents: False leaves `Answer.content` and `Answer.chunks` empty, without reading them.
        """

    def close(self) -> None:
        """Release everything; nothing can be called afterwards but `close`."""


class MemoryStore:
    """A store that ends with the process: for tests, and for a cache that need not survive.

    Args:
        tombstones: How many deletions the feed remembers.
    """

    def __init__(self, *, tombstones: int = TOMBSTONES_KEPT) -> None:
        self._tombstones_kept = tombstones
        self._lock = threading.Lock()
        self._latest: dict[RecordKey, Change] = {}
        self._log: list[Change] = []  # by seq; holds superseded changes until it is compacted
        self._seq = 0
        self._tombstones = 0
        self._closed = False

    def write(self, puts: Sequence[Record], deletes: Sequence[RecordKey] = ()) -> int:
        """Apply all deletes and then all puts, or nothing: see `Store.write`."""
        last = last_of_each(puts)
        for record in last.values():
            check_storable(record)
        with self._lock:
            self._check_open()
            for key in dict.fromkeys(deletes):
                held = self._latest.get(key)
                if key not in last and held is not None and held.record is not None:
                    self._append(key, None)
            for key, record in last.items():
                self._append(key, record)
            self._forget()
            return self._seq

    def get(self, kind: Kind, scope: str, ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of one scope that are there, by id."""
        with self._lock:
            self._check_open()
            found = ((id_, self._latest.get(RecordKey(kind, scope, id_))) for id_ in ids)
            return {id_: held.record for id_, held in found if held and held.record is not None}

    def scan(self, kind: Kind, scope: str, *, after: int = 0, limit: int = 100) -> list[Change]:
        """Return live records of one scope by when they were last written: see `Store.scan`."""
        with self._lock:
            self._check_open()
            wanted = (
                change
                for change in self._current(after)
                if change.record is not None and change.key.scope == scope and change.key.kind == kind
            )
            return list(itertools.islice(wanted, max(limit, 0)))

    def changes(self, since: int, limit: int = 1000, *, contents: bool = True) -> list[Change]:
        """Return each record's latest state, in order, past `since`: see `Store.changes`."""
        with self._lock:
            self._check_open()
            found = list(itertools.islice(self._current(since), max(limit, 0)))
        return found if contents else [_without_contents(change) for change in found]

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._latest.clear()
            self._log.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _append(self, key: RecordKey, record: Record | None) -> None:
        self._seq += 1
        before = self._latest.pop(key, None)
        if before is not None and before.record is None:
            self._tombstones -= 1
        if record is None:
            self._tombstones += 1
        change = Change(self._seq, key, record)
        self._latest[key] = change
        self._log.append(change)

    def _current(self, after: int) -> Iterator[Change]:
        start = bisect_right(self._log, after, key=lambda change: change.seq)
        for change in itertools.islice(self._log, start, None):
            if self._latest.get(change.key) is change:
                yield change

    def _forget(self) -> None:
        # Both bounds leave slack, so that the cost is spread over the writes between two prunings.
        if self._tombstones > self._tombstones_kept * 1.1:
            gone = [key for key, change in self._latest.items() if change.record is None]
            for key in gone[: len(gone) - self._tombstones_kept]:
                del self._latest[key]
            self._tombstones = self._tombstones_kept
        if len(self._log) > 2 * len(self._latest) + 1000:
            self._log = list(self._latest.values())


def last_of_each(puts: Sequence[Record]) -> dict[RecordKey, Record]:
    """Return what of `puts` will be there at the end, in order; for whoever implements a store."""
    last: dict[RecordKey, Record] = {}
    for record in puts:
        key = key_of(record)
        last.pop(key, None)
        last[key] = record
    return last


def check_storable(record: Record) -> None:
    """Raise `StoreError` for half of a surrogate pair, or a number that is not finite."""
    try:
        json.dumps(record, default=_plain, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise unstorable(key_of(record), error) from None


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    raise TypeError(type(value).__name__)


def unstorable(key: RecordKey, why: object) -> StoreError:
    """Return the error for a record that no store can hold."""
    return StoreError(f"the {key.kind} {key.id!r} of scope {key.scope!r} cannot be stored: {why}")


def _without_contents(change: Change) -> Change:
    if not isinstance(change.record, Answer):
        return change
    return dataclasses.replace(change, record=dataclasses.replace(change.record, content="", chunks=()))
