"""What the SQLite store does beyond the contract, and what may go wrong while it is used."""

import random
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index import sqlite_rows, sqlite_schema
from index.errors import StoreDamagedError, StoreError, StoreFullError
from index.sqlite_file import transaction
from index.sqlite_store import SqliteStore
from index.store import Kind, key_of
from tests.index.sqlite import answer, fill, here

PAGE = sqlite_schema.PAGE_SIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


# What is read and written


def test_a_write_is_synced_and_readers_do_not_see_half_of_it(store: SqliteStore) -> None:
    (synchronous,) = store._writer.execute("PRAGMA synchronous").fetchone()
    (mode,) = store._writer.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, mode) == (2, "wal")


def test_what_was_deleted_is_no_longer_in_the_file(path: Path) -> None:
    secret = "my secret is mellon " * 1000
    with closing(SqliteStore(path)) as store:
        store.write([answer("a", secret), answer("b")])
        store.write([], [key_of(answer("a"))])
    assert b"mellon" not in path.read_bytes()


def test_the_feed_without_contents_never_looks_at_them_and_sorts_nothing(
    store: SqliteStore,
) -> None:
    for contents, statements in sqlite_rows.FEEDS.items():
        for statement, _ in statements:
            plan = str(store._writer.execute(f"EXPLAIN QUERY PLAN {statement}", (0, 1)).fetchall())
            assert ("answer_content" in plan) <= contents
            assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("kind", Kind)
def test_scan_reads_only_its_scope_in_order(store: SqliteStore, kind: Kind) -> None:
    statement = f"EXPLAIN QUERY PLAN {sqlite_rows.SCAN[kind]}"
    plan = str(store._writer.execute(statement, ("acme", 0, 9)).fetchall())
    assert f"{kind}_by_scope (scope=? AND rowid>?)" in plan
    assert "TEMP B-TREE" not in plan


def test_many_deletions_are_one_write(store: SqliteStore) -> None:
    answers = [answer(f"{number}") for number in range(5000)]
    store.write(answers)
    last = store.write([], [key_of(one) for one in answers])
    assert last == 10_000
    assert {change.record for change in store.changes(0, 20_000)} == {None}
    assert store._writer.execute("SELECT count(*) FROM answer_content").fetchone() == (0,)


def test_a_reader_is_used_again_and_all_are_closed_at_the_end(path: Path) -> None:
    store = SqliteStore(path)
    store.write([answer("a")])
    for _ in range(5):
        assert here(store, "a")
    assert len(store._idle) == 1
    with store._reading() as busy:
        store.close()
        busy.execute("SELECT 1").fetchone()
    with pytest.raises(sqlite3.ProgrammingError):
        busy.execute("SELECT 1")


def test_reads_do_not_wait_for_a_write(store: SqliteStore) -> None:
    store.write([answer("a")])
    with store._writing, transaction(store._writer) as connection:
        connection.execute("DELETE FROM answer")
        assert here(store, "a")
        assert len(store.changes(0)) == 1
    assert not here(store, "a")


# Damage, and other programs


@pytest.mark.parametrize("seed", range(20))
def test_damage_that_comes_later_is_an_error_and_never_an_answer(path: Path, seed: int) -> None:
    fill(path)
    chance = random.Random(seed)
    with closing(SqliteStore(path)) as store:
        with path.open("r+b") as file:
            for page in range(1, path.stat().st_size // PAGE):
                file.seek(page * PAGE)
                file.write(chance.randbytes(64))
        store._writer.execute("PRAGMA shrink_memory")  # forget the pages that opening checked
        for call in (
            lambda: here(store, "0100"),
            lambda: store.changes(0),
            lambda: store.scan(Kind.ANSWER, "acme"),
            lambda: store.write([answer("0100")]),
        ):
            with pytest.raises(StoreDamagedError, match=r"is damaged .* restore a backup"):
                call()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM answer_content",
        "UPDATE answer_content SET chunks = '[\"'",
        "UPDATE answer_content SET chunks = '5'",
        "UPDATE answer SET source_tags = ''",
        "UPDATE answer SET prompt = CAST(x'80' AS TEXT)",
    ],
)
def test_a_row_that_makes_no_sense_is_damage(store: SqliteStore, damage: str) -> None:
    store.write([answer("a")])
    store._writer.execute(damage)
    with pytest.raises(StoreDamagedError, match="is damaged"):
        here(store, "a")


def test_a_program_that_holds_the_file_is_waited_for_and_then_named_as_the_cause(
    store: SqliteStore, path: Path
) -> None:
    store._writer.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="held by another program"):
            store.write([answer("a")])
        other.execute("ROLLBACK")
    store.write([answer("a")])


# A disk that would not take it


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room(
    store: SqliteStore,
) -> None:
    last = store.write([answer("a")])
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError, match="make room on the disk"):
        store.write([answer("b"), answer("c", "long" * 100_000)], [key_of(answer("a"))])
    assert here(store, "a")
    assert not here(store, "b")
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.write([answer("b")]) > last
    assert here(store, "b")


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [200_000, 1_000_000, 9_000_000])
def test_a_write_that_the_system_refuses_halfway_loses_nothing(
    path: Path, room: int, limit_files: Callable[[int], None]
) -> None:
    store = SqliteStore(path)
    limit_files(room)
    written = 0

    def write_until_it_is_refused() -> None:
        nonlocal written
        while True:
            store.write([answer(f"{written}a", "said " * 20_000), answer(f"{written}b")])
            written += 1

    with pytest.raises(StoreFullError, match="make room"):
        write_until_it_is_refused()
    assert written
    for _ in range(2):
        assert len(store.changes(0)) == 2 * written
        store.close()
        store = SqliteStore(path)
    limit_files(resource.RLIM_INFINITY)
    store.write([answer("next")])
    assert len(store.changes(0)) == 2 * written + 1
    store.close()


def test_a_store_for_which_there_is_no_room_is_not_made(path: Path, limit_files: Callable[[int], None]) -> None:
    limit_files(10_000)
    with pytest.raises(StoreFullError):
        SqliteStore(path)
    assert not path.exists()
    limit_files(resource.RLIM_INFINITY)
    SqliteStore(path).close()


def test_a_disk_that_becomes_read_only_loses_nothing(store: SqliteStore) -> None:
    store.write([answer("a")])
    store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreFullError, match="make it writable"):
        store.write([answer("b")], [key_of(answer("a"))])
    assert here(store, "a")
