"""The file of the decision journal: what was decided and what was reported, oldest first, bounded.

Owns the journal's tables, how its file is opened, read and kept small. It knows rows of plain values and nothing of
decisions; `service.learning.journal` turns one into the other and owns the thread that writes. Unlike the store it is
no promise to anyone: a commit is not synced, so a loss of power may take the last moments with it.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from index.errors import StoreDamagedError, StoreError
from index.sqlite_file import ALWAYS_CHECKED, Lock, check_pages, connect, plain_errors, refuse_incomplete, transaction
from index.sqlite_schema import migrate, version_of

# "WayJ" in the file's header.
APPLICATION_ID: Final = 0x5761794A

# 1. Decisions and what was reported of them. JSON is kept as text of the service's own making; a `prompt` of NULL was
# not to be recorded. `cached` tells decisions that served an answer from those that made a plan.
_DECISIONS_AND_REPORTS = """
CREATE TABLE decision (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    at         REAL    NOT NULL,
    scope      TEXT    NOT NULL,
    generation TEXT    NOT NULL,
    encoder    TEXT    NOT NULL,
    model      TEXT    NOT NULL,
    cached     INTEGER NOT NULL,
    key        BLOB    NOT NULL,
    prompt     TEXT,
    size       INTEGER NOT NULL,
    turns      INTEGER NOT NULL,
    vector     BLOB    NOT NULL,
    request    TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    estimates  TEXT    NOT NULL,
    explained  TEXT    NOT NULL
) STRICT;
CREATE INDEX decision_by_time ON decision (at);

CREATE TABLE report (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    decision      TEXT    NOT NULL,
    at            REAL    NOT NULL,
    model         TEXT    NOT NULL,
    outcome       TEXT    NOT NULL,
    quality       REAL,
    source        TEXT    NOT NULL,
    cost_usd      REAL,
    latency_s     REAL,
    input_tokens  INTEGER,
    output_tokens INTEGER,
    wrong         INTEGER NOT NULL,
    expected      REAL
) STRICT;
CREATE INDEX report_by_decision ON report (decision);
"""
STEPS: Final = (_DECISIONS_AND_REPORTS,)
# When the file has grown too large, so much goes that this share of its bound is free again.
_SHED: Final = 0.1


class DecisionRow(NamedTuple):
    """One decision; times in seconds since the epoch, `vector` little-endian float32, the last four JSON."""

    id: str
    at: float
    scope: str
    generation: str
    encoder: str
    model: str
    cached: int
    key: bytes
    prompt: str | None
    size: int
    turns: int
    vector: bytes
    request: str
    outcome: str
    estimates: str
    explained: str


class ReportRow(NamedTuple):
    """One report; None is what the caller did not say. `expected` is the quality estimated before anything learned."""

    decision: str
    at: float
    model: str
    outcome: str
    quality: float | None
    source: str
    cost_usd: float | None
    latency_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    wrong: int
    expected: float | None


_DECISION: Final = ", ".join(DecisionRow._fields)
_REPORT: Final = ", ".join(ReportRow._fields)
_INSERT_DECISION: Final = f"INSERT OR REPLACE INTO decision ({_DECISION}) VALUES ({', '.join('?' * 16)})"  # noqa: S608
_INSERT_REPORT: Final = f"INSERT INTO report ({_REPORT}) VALUES ({', '.join('?' * 12)})"  # noqa: S608


class SqliteJournal:
    """A journal in the SQLite file `path`, which is made, with its folder, if it is not there.

    Args:
        path: the file.
        reads_only: look at a journal that a service may be writing; nothing is made or locked.

    Raises:
        StoreDamagedError: the file is damaged, of another program or of a newer version.
        StoreFullError: there is none yet, or one of an older version, and the disk would not take it.
        StoreError: another process writes it, or it cannot be opened.
    """

    def __init__(self, path: Path, *, reads_only: bool = False) -> None:
        self._path = path.resolve()
        self._writing = threading.Lock()
        self._reads_only = reads_only
        with plain_errors(self._path), contextlib.ExitStack() as undo:
            if reads_only:
                if not self._path.is_file():
                    raise StoreError(f"{path}: no journal is here: name the data folder of a service that keeps one")
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                undo.callback((lock := Lock(self._path)).release)
                self._lock = lock
                self._path.touch(0o600)
            self._writer = connect(self._path, reads_only=reads_only)
            undo.callback(self._writer.close)
            self._check()
            if not reads_only:
                self._writer.execute("PRAGMA journal_mode = WAL")
                self._writer.execute("PRAGMA synchronous = NORMAL")
                if not version_of(self._writer):  # a new one; else nothing is written, which a full disk would not take
                    self._writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                migrate(self._writer, STEPS)
                refuse_incomplete(self._writer, self._path, STEPS)
            undo.pop_all()

    def append(self, decisions: Sequence[DecisionRow], reports: Sequence[ReportRow]) -> None:
        """Write rows, all or none.

        Raises:
            StoreFullError: the disk would not take them.
            StoreError: the file cannot be written.
        """
        with self._writing, plain_errors(self._path), transaction(self._writer) as connection:
            connection.executemany(_INSERT_DECISION, decisions)
            connection.executemany(_INSERT_REPORT, reports)

    def prune(self, before: float, max_bytes: int) -> int:
        """Forget decisions older than a time, and the oldest of all until the file holds no more; return how many."""
        with self._writing, plain_errors(self._path), transaction(self._writer) as connection:
            gone = _forget(connection, "at < ?", before)
            while (held := self._bytes(connection)) > max_bytes:
                (count,) = connection.execute("SELECT count(*) FROM decision").fetchone()
                if not count:
                    break
                surplus = max(1, int(count * (1 - (1 - _SHED) * max_bytes / held)))
                gone += _forget(connection, "seq IN (SELECT seq FROM decision ORDER BY seq LIMIT ?)", surplus)
        return gone

    def decision(self, decision_id: str) -> DecisionRow | None:
        """Return one decision, if it is there."""
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {_DECISION} FROM decision WHERE id = ?",  # noqa: S608 - constants
                (decision_id,),
            ).fetchone()
        return DecisionRow._make(row) if row else None

    def plans(self, since: float, limit: int, scope: str = "") -> list[DecisionRow]:
        """Return the latest decisions that made a plan, oldest first.

        Args:
            since: seconds since the epoch.
            limit: the most of them.
            scope: only its; "": of all.
        """
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT {_DECISION} FROM decision "  # noqa: S608 - constants
                "WHERE at >= ? AND NOT cached AND (? = '' OR scope = ?) ORDER BY seq DESC LIMIT ?",
                (since, scope, scope, limit),
            ).fetchall()
        return [DecisionRow._make(row) for row in reversed(rows)]

    def rated(self, since: float, limit: int, scope: str = "") -> list[tuple[DecisionRow, ReportRow]]:
        """Return the latest reports that name a quality, each with its decision, oldest first: as `plans`.

        Of several by one source on one model's answer to one decision the last counts.
        """
        ours = ", ".join(f"d.{name}" for name in DecisionRow._fields)
        theirs = ", ".join(f"r.{name}" for name in ReportRow._fields)
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT {ours}, {theirs} FROM report r JOIN decision d ON d.id = r.decision "  # noqa: S608 - constants
                "WHERE r.seq IN (SELECT max(seq) FROM report WHERE quality IS NOT NULL AND at >= ? "
                "GROUP BY decision, model, source) AND (? = '' OR d.scope = ?) ORDER BY r.seq DESC LIMIT ?",
                (since, scope, scope, limit),
            ).fetchall()
        split = len(DecisionRow._fields)
        return [(DecisionRow._make(row[:split]), ReportRow._make(row[split:])) for row in reversed(rows)]

    def forget(self, scope: str, source: str) -> int:
        """Take back what a source said of quality in a scope; return how many reports that were."""
        with self._writing, plain_errors(self._path), transaction(self._writer) as connection:
            return connection.execute(
                "UPDATE report SET quality = NULL WHERE source = ? AND quality IS NOT NULL "
                "AND decision IN (SELECT id FROM decision WHERE scope = ?)",
                (source, scope),
            ).rowcount

    def close(self) -> None:
        """Close the file and let go of it."""
        with self._writing:
            self._writer.close()
            if not self._reads_only:
                self._lock.release()

    def _check(self) -> None:
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        version = version_of(self._writer)
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and (tables or version or self._reads_only):
            raise StoreDamagedError(f"{self._path} is not a journal of decisions: move it away, or choose another path")
        if version > len(STEPS):
            raise StoreDamagedError(
                f"{self._path} was written by a newer version (layout {version}; this one knows {len(STEPS)}): "
                "upgrade, or move it away and start without what it recorded"
            )
        if not self._reads_only and self._path.stat().st_size <= ALWAYS_CHECKED:
            check_pages(self._writer, self._path)

    @staticmethod
    def _bytes(connection: sqlite3.Connection) -> int:
        """Return how much the file holds, without what is free in it."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of its own: reading is rare, and must not wait for a write."""
        with plain_errors(self._path), contextlib.closing(connect(self._path, reads_only=True)) as connection:
            yield connection


def _forget(connection: sqlite3.Connection, which: str, value: float) -> int:
    """Delete decisions and all reports that are of none; return how many decisions that were."""
    gone = connection.execute(f"DELETE FROM decision WHERE {which}", (value,)).rowcount  # noqa: S608 - constants
    if gone:
        # By the index, one by one: a list of all that are left would take memory that is not given back.
        connection.execute(
            "DELETE FROM report WHERE NOT EXISTS (SELECT 1 FROM decision WHERE decision.id = report.decision)"
        )
    return gone
