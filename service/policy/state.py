"""What policy and cache remember across restarts: small values by kind and key, in one SQLite file beside the record.

The event loop only marks what has changed; a thread writes it, about once a second. What a crash loses is that second.
A file that cannot be read is moved aside: it holds nothing that does not come again.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from index.errors import StoreError

_log = structlog.get_logger("waypost")
_FORMAT: Final = 1
_EVERY_S: Final = 1.0
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MOST: Final = 100_000  # changes that wait; more only come while the disk is full

Values = Mapping[str, Mapping[str, Any]]
"""Kind → key → value."""


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
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _open(path)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF not in _DAMAGED:
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
        for kind, key, value in self._file.execute("SELECT kind, key, value FROM kept"):
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
            _log.warning("policy_state_not_written", path=str(self._path), why=str(error))
            self._changed = changed | self._changed

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    def _write(self, changed: Mapping[tuple[str, str], Any]) -> None:
        kept = [(kind, key, json.dumps(value)) for (kind, key), value in changed.items() if value is not None]
        gone = [pair for pair, value in changed.items() if value is None]
        with self._writing, self._file:
            self._file.executemany("INSERT OR REPLACE INTO kept (kind, key, value) VALUES (?, ?, ?)", kept)
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
            file.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            return str(error)
        raise StoreError(f"{path} cannot be opened: {error}; see that it can be read") from error
    return ""


def _open(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # what is wrong shows below; conversations are their callers' own affair
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    file = sqlite3.connect(path, check_same_thread=False)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found not in (0, _FORMAT):  # of another version of Waypost: what it kept comes again
            file.execute("DROP TABLE IF EXISTS kept")
        file.execute(f"PRAGMA user_version = {_FORMAT}")
        file.execute(
            "CREATE TABLE IF NOT EXISTS kept (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, "
            "PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID"
        )
        file.execute("SELECT count(*) FROM kept").fetchone()
    except BaseException:
        file.close()
        raise
    return file
