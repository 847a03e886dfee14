"""What policy and cache remember across restarts: small values by kind and key, in one SQLite file beside the record.

The event loop only marks what has changed; a thread writes it, about once a second. What a crash loses is that second.
A file that cannot be read, or of which anything is not as it was written, is moved aside: it holds nothing that does
not come again. SQLite has no checksums of contents, so every value has one of its own.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from index.errors import StoreError
from index.sqlite_file import disk_would_not

_log = structlog.get_logger("waypost")
_FORMAT: Final = 2
_EVERY_S: Final = 1.0
# Our own statements are right: what is an error in them is a table that is not as we made it.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_MOST: Final = 100_000  # changes that wait; more only come while the disk is full

Values = Mapping[str, Mapping[str, Any]]
"""Kind → key → value."""


class _Damage(Exception):  # noqa: N818 - what was found, not what went wrong
    """A value is not as it was written."""


class State:
    """The file.

    Args:
        path: of the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed: dict[tuple[str, str], Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = threading.Lock()
        self._refused = False
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _open(path)
        except (sqlite3.Error, _Damage) as error:
            if isinstance(error, sqlite3.Error) and disk_would_not(error):
                self._file = _without_room(path, error)
                return
            if not _is_damage(error):
                raise StoreError(f"{path} cannot be opened: {error}; see that its folder can be written") from error
            aside = path.with_name(f"{path.name}.damaged")
            _log.warning("policy_state_damaged", path=str(path), moved_to=str(aside), why=str(error))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(aside)
            self._file = _open(path)

    def load(self) -> Values:
        """Return everything that is kept."""
        found: dict[str, dict[str, Any]] = {}
        for kind, key, value in _rows(self._file):
            found.setdefault(kind, {})[key] = json.loads(value)
        return found

    def put(self, kind: str, key: str, value: Any) -> None:
        """Have a value kept (None: no longer); it must not be changed afterwards."""
        if len(self._changed) < _MOST or (kind, key) in self._changed:
            self._changed[kind, key] = value

    def start(self) -> None:
        """Write what changes from now on, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write the rest and close the file."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush()
        with self._writing:
            self._file.close()

    async def flush(self) -> None:
        """Write what has changed."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        try:
            await asyncio.shield(asyncio.to_thread(self._write, changed))
        except sqlite3.Error as error:
            if not self._refused:  # said once: on a full disk, a line a second would be the last thing it needs
                _log.warning("policy_state_not_written", path=str(self._path), why=str(error))
            self._changed = changed | self._changed
            self._refused = True
        else:
            self._refused = False

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    def _write(self, changed: Mapping[tuple[str, str], Any]) -> None:
        kept = [_row(kind, key, json.dumps(value)) for (kind, key), value in changed.items() if value is not None]
        gone = [pair for pair, value in changed.items() if value is None]
        with self._writing, self._file:
            self._file.executemany("INSERT OR REPLACE INTO kept (kind, key, value, crc32) VALUES (?, ?, ?, ?)", kept)
            self._file.executemany("DELETE FROM kept WHERE kind = ? AND key = ?", gone)


def damaged(path: Path) -> str:
    """Return why a file is no such state and would be put aside, "" where it is one or not there; changes nothing.

    Raises:
        StoreError: it cannot be looked at.
    """
    if not path.exists():
        return ""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            if _format(file) == _FORMAT:
                _check(file)
    except (sqlite3.Error, _Damage) as error:
        if _is_damage(error):
            return str(error)
        raise StoreError(f"{path} cannot be opened: {error}; see that it can be read") from error
    return ""


def _is_damage(error: sqlite3.Error | _Damage) -> bool:
    return isinstance(error, _Damage) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _row(kind: str, key: str, value: str) -> tuple[str, str, str, int]:
    """Return a row of the table, with the checksum of all of it."""
    return kind, key, value, zlib.crc32(f"{kind}\0{key}\0{value}".encode())


def _rows(file: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Yield kind, key and value of everything that is kept; raises _Damage at one that is not as it was written."""
    file.text_factory = lambda raw: raw.decode(errors="replace")
    for kind, key, value, crc32 in file.execute("SELECT kind, key, value, crc32 FROM kept"):
        if _row(kind, key, value)[-1] != crc32:
            raise _Damage("a value is not as it was written")
        yield kind, key, value


def _format(file: sqlite3.Connection) -> int:
    """Return which version of Waypost a file is of, 0 for a new one; raises _Damage where it is of none."""
    (found,) = file.execute("PRAGMA user_version").fetchone()
    if not found and file.execute("SELECT count(*) FROM sqlite_schema WHERE name != 'kept'").fetchone()[0]:
        raise _Damage("it belongs to another program")
    return int(found)


def _check(file: sqlite3.Connection) -> None:
    """Raise _Damage where anything is not as it was written."""
    for _ in _rows(file):
        pass


def _open(path: Path) -> sqlite3.Connection:
    """Return the file, made where it is not there, and read once: all of it is sound."""
    with contextlib.suppress(OSError):  # what is wrong shows below; conversations are their callers' own affair
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return _ready(sqlite3.connect(path, check_same_thread=False))


def _without_room(path: Path, why: sqlite3.Error) -> sqlite3.Connection:
    """Return the file where it can be read without the memory that SQLite shares on disk, else one that is nowhere."""
    try:
        file = sqlite3.connect(path, check_same_thread=False)
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        return _ready(file)
    except (sqlite3.Error, _Damage):
        _log.warning("policy_state_not_opened", path=str(path), why=f"{why}: make room on the disk, then restart")
        return _ready(sqlite3.connect(":memory:", check_same_thread=False))


def _ready(file: sqlite3.Connection) -> sqlite3.Connection:
    """Return an open file with its table; nothing is written where that is there, which a full disk would not take."""
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        found = _format(file)
        if found not in (0, _FORMAT):  # of another version of Waypost: what it kept comes again
            file.execute("DROP TABLE IF EXISTS kept")
        if found != _FORMAT:
            file.execute(
                "CREATE TABLE IF NOT EXISTS kept (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, "
                "crc32 INTEGER NOT NULL, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID"
            )
            file.execute(f"PRAGMA user_version = {_FORMAT}")
        _check(file)
    except BaseException:
        file.close()
        raise
    return file
