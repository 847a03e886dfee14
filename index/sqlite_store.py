"""The store in one SQLite file: survives kill -9, a full disk and the loss of power.

Owns when connections are used and what one transaction does. Writes take turns on one connection;
reads have as many as there are threads reading at once, and never wait for a write. It never
searches or expires anything. `index/store.py` says what it promises, `index/sqlite_file.py` how the
file is opened, `index/sqlite_schema.py` what is in it. The service opens one and closes it.
"""

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from index import sqlite_rows
from index.errors import StoreError
from index.records import Answer
from index.sqlite_file import Lock, connect, damaged, open_file, plain_errors, transaction
from index.store import (
    TOMBSTONES_KEPT,
    Change,
    Kind,
    Record,
    RecordKey,
    check_storable,
    last_of_each,
)

_DELETE = {
    Kind.ANSWER: "DELETE FROM answer WHERE scope = ? AND id = ?",
    Kind.REFERENCE: "DELETE FROM reference WHERE scope = ? AND id = ?",
}


class SqliteStore:
    """A store in the SQLite file `path`, which is made, with its folder, if it is not there.

    Beside the file lie its log (`-wal`, `-shm`: back up all of them, or use `sqlite3 .backup`) and
    a lock. The file system must be local. Deleted records are overwritten with zeros; the file does
    not shrink, but what became free in it is used again.

    Args:
        path: The file.
        tombstones: How many deletions the feed remembers.

    Raises:
        StoreDamagedError: The file is damaged, not a store, or of a newer version.
        StoreFullError: There is no file yet and the disk would not take one.
        StoreError: Another process holds the store, or the file may not be opened.
    """

    def __init__(self, path: Path, *, tombstones: int = TOMBSTONES_KEPT) -> None:
        self._path = path.resolve()
        self._tombstones_kept = tombstones
        self._writing = threading.Lock()
        self._idle: deque[sqlite3.Connection] = deque()  # readers
        self._closed = False
        with plain_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self._path)
            with contextlib.ExitStack() as undo:
                undo.callback(self._lock.release)
                self._writer = open_file(self._path)
                undo.callback(self._writer.close)
                self._tombstones = _count_tombstones(self._writer)
                undo.pop_all()

    def write(self, puts: Sequence[Record], deletes: Sequence[RecordKey] = ()) -> int:
        """Apply all deletes and then all puts, or nothing: see `Store.write`."""
        last = last_of_each(puts)
        try:
            with self._writing, plain_errors(self._path):
                self._check_open()
                with transaction(self._writer) as connection:
                    (seq,) = connection.execute("SELECT seq FROM counter").fetchone()
                    gone = _delete(connection, (key for key in deletes if key not in last))
                    _bury(connection, seq, gone)
                    _dig_up(connection, last)
                    _delete(connection, last)
                    _insert(connection, seq + len(gone), last.values())
                    seq += len(gone) + len(last)
                    connection.execute("UPDATE counter SET seq = ?", (seq,))
                    tombstones = self._prune(connection, self._tombstones + len(gone))
                self._tombstones = tombstones
        except UnicodeEncodeError as error:
            for record in last.values():
                check_storable(record)
            raise StoreError(f"a key to delete cannot be in any store: {error}") from None
        return int(seq)

    def get(self, kind: Kind, scope: str, ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of one scope that are there, by id."""
        statement, record_of = sqlite_rows.GET[kind], sqlite_rows.RECORD_OF[kind]
        found: dict[str, Record] = {}
        with self._reading() as connection:
            if len(ids) > 1:  # one statement has a snapshot of its own
                connection.execute("BEGIN")
            for id_ in ids:
                row = connection.execute(statement, (scope, id_)).fetchone()
                if row is not None:
                    found[id_] = record_of(row)
        return found

    def scan(self, kind: Kind, scope: str, *, after: int = 0, limit: int = 100) -> list[Change]:
        """Return live records of one scope by when they were last written: see `Store.scan`."""
        with self._reading() as connection:
            rows = connection.execute(sqlite_rows.SCAN[kind], (scope, after, max(limit, 0))).fetchall()
            return [sqlite_rows.CHANGE_OF[kind](row) for row in rows]

    def changes(self, since: int, limit: int = 1000, *, contents: bool = True) -> list[Change]:
        """Return each record's latest state, in order, past `since`: see `Store.changes`."""
        found: list[Change] = []
        with self._reading() as connection:
            connection.execute("BEGIN")
            for statement, change_of in sqlite_rows.FEEDS[contents]:
                found += map(change_of, connection.execute(statement, (since, max(limit, 0))).fetchall())
        found.sort(key=attrgetter("seq"))  # three runs that are in order already
        return found[: max(limit, 0)]

    def close(self) -> None:
        """Fold the log into the file, close it and let go of it."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            try:
                self._close_idle()
                self._writer.close()
            finally:
                self._lock.release()

    def _prune(self, connection: sqlite3.Connection, tombstones: int) -> int:
        """Forget the oldest deletions if there may be too many, and return how many are left.

        Both numbers are upper bounds: a tombstone that goes when its record comes back is not
        counted until there is something to prune.
        """
        # The slack spreads the cost, which is that of counting them, over thousands of deletions.
        if tombstones <= self._tombstones_kept * 1.1:
            return tombstones
        connection.execute(
            "DELETE FROM tombstone WHERE seq <= (SELECT seq FROM tombstone ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (self._tombstones_kept,),
        )
        return _count_tombstones(connection)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with plain_errors(self._path):
            self._check_open()
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self._path, reads_only=True)
            try:
                yield connection
            except UnicodeEncodeError as error:
                raise StoreError(f"this cannot be in any store: {error}") from None
            except (ValueError, TypeError) as error:
                raise damaged(self._path, str(error)) from error
            finally:
                if connection.in_transaction:
                    connection.rollback()
                self._idle.append(connection)
                if self._closed:
                    self._close_idle()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


def _delete(connection: sqlite3.Connection, keys: Iterable[RecordKey]) -> list[RecordKey]:
    """Delete records and return which of them were there."""
    cursor = connection.cursor()
    gone = []
    for key in keys:
        cursor.execute(_DELETE[key.kind], (key.scope, key.id))
        if cursor.rowcount:
            gone.append(key)
    return gone


def _bury(connection: sqlite3.Connection, seq: int, gone: Iterable[RecordKey]) -> None:
    """Leave a tombstone for each of the deleted records, numbered on from `seq`."""
    connection.executemany(
        "INSERT INTO tombstone (seq, kind, scope, id) VALUES (?, ?, ?, ?)",
        ((number, key.kind, key.scope, key.id) for number, key in enumerate(gone, seq + 1)),
    )


def _dig_up(connection: sqlite3.Connection, keys: Iterable[RecordKey]) -> None:
    """Remove the tombstones of records that come back."""
    connection.executemany(
        "DELETE FROM tombstone WHERE kind = ? AND scope = ? AND id = ?",
        ((key.kind, key.scope, key.id) for key in keys),
    )


def _insert(connection: sqlite3.Connection, seq: int, records: Iterable[Record]) -> None:
    """Insert records that are not there, numbered on from `seq`."""
    answers, contents, references = [], [], []
    for number, record in enumerate(records, seq + 1):
        if isinstance(record, Answer):
            answer, content = sqlite_rows.rows_of_answer(number, record)
            answers.append(answer)
            contents.append(content)
        else:
            references.append(sqlite_rows.row_of_reference(number, record))
    connection.executemany(sqlite_rows.INSERT_ANSWER, answers)
    connection.executemany(sqlite_rows.INSERT_CONTENT, contents)
    connection.executemany(sqlite_rows.INSERT_REFERENCE, references)


def _count_tombstones(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM tombstone").fetchone()[0])
