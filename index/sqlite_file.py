"""The file of the SQLite store: held by one process, sound when opened, and its errors in words.

Owns the lock beside the file, making a new file, refusing one that is damaged or not ours, how
connections are set up, and what SQLite's errors mean. It knows nothing of records. Called by
`index/sqlite_store.py` and `index/sqlite_journal.py`.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from index import sqlite_schema
from index.errors import StoreDamagedError, StoreError, StoreFullError, StoreHeldError

_MAGIC = b"SQLite format 3\0"
_HEADER = 100  # bytes of a database header

# STRICT tables.
_OLDEST_SQLITE = (3, 37, 0)

# How long to wait for another program, such as a backup, that holds the file.
_BUSY_S = 5.0

# A file up to this size is checked at every opening, a larger one only if it was not closed in
# order: quick_check reads every page, 3 GB/s of them from memory but no faster than the disk
# after a reboot. So 0.1 s in the first case, and in the second, about 1 s for a million answers.
ALWAYS_CHECKED = 256 * 2**20

# A big deletion may blow up the log; what is above this is given back at the next checkpoint.
_WAL_KEPT = 64 * 2**20

_DISK_WOULD_NOT = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,  # also a quota or a limit on the size of files
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what is done within, all or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have done so itself, for instance when the disk is full.
        if connection.in_transaction:
            connection.rollback()
        raise


class Lock:
    """One process holds the store at a time; the kernel lets go for a process that dies."""

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        # The file stays for ever: to remove it would let two processes lock two different ones.
        self._fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._hold(path)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let go of the store."""
        os.close(self._fd)

    def _hold(self, path: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            raise StoreHeldError(
                f"{path} is held by {f'process {holder}' if holder else 'another process'}: "
                "a store belongs to one process at a time. Stop that one, or give this one a store "
                "of its own"
            ) from None
        with contextlib.suppress(OSError):  # only a message needs it, and a full disk may not take it
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)


def open_file(path: Path) -> sqlite3.Connection:
    """Return the writing connection to a sound store of the newest layout; makes a missing one.

    The caller holds the lock.

    Raises:
        StoreDamagedError: The file is damaged, not a store, or of a newer version.
    """
    if not path.exists():
        _create(path)
    _refuse_foreign(path)
    log = _beside(path, "-wal")
    closed_in_order = not log.exists() or log.stat().st_size == 0
    connection = connect(path)
    try:
        _refuse_newer(connection, path)
        if closed_in_order:
            _refuse_cut_short(connection, path)
        if not closed_in_order or path.stat().st_size <= ALWAYS_CHECKED:
            check_pages(connection, path)
        _use_log(connection, path)
        sqlite_schema.migrate(connection, sqlite_schema.STEPS)
        refuse_incomplete(connection, path, sqlite_schema.STEPS)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path, *, reads_only: bool = False) -> sqlite3.Connection:
    """Return a connection, to be used by one thread at a time."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,  # transactions are begun where they are meant
        check_same_thread=False,  # the store sees to it
    )
    try:
        # No memory mapping: a read error must be an error, not the end of the process.
        settings = ["mmap_size = 0"]
        if reads_only:
            settings += ["query_only = ON"]
        else:
            settings += [
                "synchronous = FULL",  # syncs the log at each commit: survives loss of power
                "foreign_keys = ON",
                # What was deleted is overwritten in the file, since prompts may be personal: a
                # third slower when 100,000 answers go at once, no difference to other writes.
                "secure_delete = ON",
                f"journal_size_limit = {_WAL_KEPT}",
            ]
        for setting in settings:
            connection.execute(f"PRAGMA {setting}").close()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into errors that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    except UnicodeDecodeError as error:  # in the text of an error that quotes what is no longer UTF-8
        raise damaged(path, "it holds text that is not UTF-8") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}:
            raise StoreFullError(f"{path} cannot be written: {error}") from error
        raise StoreError(f"{path} cannot be opened: {error}") from error


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    # Our own statements are right, so what SQLite calls an error in them is a table that is not as we made it. A column
    # that is no longer UTF-8 is noticed by Python, without a code.
    unsound = primary in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    if unsound or (code is None and "decode" in str(error)):
        return damaged(path, str(error))
    if disk_would_not(error):
        return StoreFullError(
            f"{path} cannot be written ({error}): make room on the disk, or make it writable. "
            "Nothing of this write was kept, and nothing older is lost"
        )
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"{path} is held by another program for more than {_BUSY_S:g} s")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened ({error}): it must be a file that may be read and written")
    return StoreError(f"{path}: {error}")


def disk_would_not(error: sqlite3.Error) -> bool:
    """Return whether the disk would not take a write: it is full, or may not be written."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY} or code in _DISK_WOULD_NOT


def damaged(path: Path, what: str) -> StoreDamagedError:
    """Return the error for a store that is not sound, and say what can be done."""
    return StoreDamagedError(
        f"{path} is damaged ({what}). Move {path.name}, {path.name}-wal and {path.name}-shm away "
        "together, keep them, and restore a backup; or start without: a new one is made, and fills again"
    )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _create(path: Path) -> None:
    """Make an empty store, whole from the first moment it has its name.

    So a file that is empty or half there was damaged later, and is never taken for a new one.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, _OLDEST_SQLITE))} or newer is needed"
        )
    refuse_log_alone(path)
    new = _beside(path, ".new")
    for leftover in (new, _beside(new, "-wal"), _beside(new, "-shm"), _beside(new, "-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with contextlib.closing(connect(new)) as connection:
        connection.execute(f"PRAGMA page_size = {sqlite_schema.PAGE_SIZE}")
        connection.execute(f"PRAGMA application_id = {sqlite_schema.APPLICATION_ID}")
        sqlite_schema.migrate(connection, sqlite_schema.STEPS)
        _use_log(connection, path)
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refuse_log_alone(path: Path) -> None:
    """Raise StoreDamagedError where a missing file's log is there: SQLite would play it into a new one."""
    log = _beside(path, "-wal")
    if log.exists() and log.stat().st_size > 0:
        raise damaged(path, f"{path.name} is missing, but its log {log.name} is there")


def _refuse_foreign(path: Path) -> None:
    """Look at the header before SQLite does, which might change what is not ours."""
    elsewhere = "Choose another path for the store, or move this away"
    if not path.is_file():
        raise StoreDamagedError(f"{path} is not a file. {elsewhere}")
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER and _MAGIC.startswith(header[: len(_MAGIC)]):
        raise damaged(path, "it is cut short" if header else "it is empty")
    if not header.startswith(_MAGIC):
        raise StoreDamagedError(f"{path} is not a store: it is no SQLite database. {elsewhere}")
    application = int.from_bytes(header[68:72], "big")
    if application != sqlite_schema.APPLICATION_ID:
        raise StoreDamagedError(f"{path} belongs to another program (application id {application:#x}). {elsewhere}")


def _refuse_cut_short(connection: sqlite3.Connection, path: Path) -> None:
    # SQLite notices when whole pages are missing, but would fill up half of one with zeros.
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page_size:
        raise damaged(path, "it is cut short")


def _use_log(connection: sqlite3.Connection, path: Path) -> None:
    # Not only for a new file: other programs can switch it off, and then a write keeps out reads.
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path} cannot have a write-ahead log: put it on a local file system")


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    version = sqlite_schema.version_of(connection)
    if version > sqlite_schema.NEWEST:
        raise StoreDamagedError(
            f"{path} was written by a newer version (layout {version}; this one knows "
            f"{sqlite_schema.NEWEST}): upgrade, or restore a backup from before the upgrade"
        )


def refuse_incomplete(connection: sqlite3.Connection, path: Path, steps: Sequence[str]) -> None:
    """Raise StoreDamagedError where a file that took all steps of its layout has not what they make."""
    if gone := sqlite_schema.missing(connection, steps):
        raise damaged(path, f"it has no {', '.join(gone[:3])}")


def check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Read every page; raise StoreDamagedError where one is not sound."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(path, found.replace("\n", " "))
