"""The file of the SQLite store: how it is made, held, checked and brought up to date."""

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from index import sqlite_file, sqlite_schema
from index.errors import StoreDamagedError, StoreError
from index.records import Answer
from index.sqlite_store import SqliteStore
from index.store import Kind
from tests.index.sqlite import answer, fill, here

ROOT = Path(__file__).parents[2]
PAGE = sqlite_schema.PAGE_SIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_new_store_is_made_with_its_folder_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    with closing(SqliteStore(path)) as store:
        store.write([answer("a")])
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert {file.name for file in path.parent.iterdir()} == {"store.db", "store.db.lock"}


def test_a_path_through_a_link_is_the_same_store(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    fill(link, 1)
    with closing(SqliteStore(path)) as store:
        assert here(store, "0000")
        with pytest.raises(StoreError, match="is held by process"):
            SqliteStore(link)


def test_the_log_is_switched_on_again_if_another_program_switched_it_off(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    with closing(SqliteStore(path)) as store:
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert here(store, "0000")


# The lock


def test_a_store_is_held_by_one_at_a_time(path: Path) -> None:
    with (
        closing(SqliteStore(path)),
        pytest.raises(StoreError, match=f"is held by process {os.getpid()}: "),
    ):
        SqliteStore(path)
    SqliteStore(path).close()


def test_the_lock_ends_with_the_process_that_holds_it(path: Path) -> None:
    script = """
import sys
from pathlib import Path
from index.sqlite_store import SqliteStore
from index.store import Kind
store = SqliteStore(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""
    with python(script, path) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"is held by process {holder.pid}: "):
            SqliteStore(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        SqliteStore(path).close()


def test_a_store_that_could_not_be_opened_is_not_held(path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(StoreDamagedError):
        SqliteStore(path)
    path.unlink()
    SqliteStore(path).close()


# Files that are no sound store


def database_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (name)")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.touch(), "it is empty"),
    "text": (lambda path: path.write_text("[settings]\n"), "is no SQLite database"),
    "long text": (lambda path: path.write_text("[settings]\n" * 999), "is no SQLite database"),
    "only a header": (lambda path: path.write_bytes(b"SQLite format 3\0\0\0"), "it is cut short"),
    "another program's": (database_of_another_program, "belongs to another program"),
}


@pytest.mark.parametrize(("make", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_a_store_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreDamagedError, match=message) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert "ove" in str(caught.value), "it says what to do: move it away, or choose another path"
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_store_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {sqlite_schema.NEWEST + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreDamagedError, match=r"newer version .* upgrade"):
        SqliteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [0, 1, 50, 99, 100, 1000, PAGE, PAGE + 1, 10 * PAGE, -PAGE, -1])
def test_a_file_that_was_cut_short_is_noticed(path: Path, left: int) -> None:
    fill(path)
    os.truncate(path, left if left >= 0 else path.stat().st_size + left)
    with pytest.raises(StoreDamagedError, match=r"Move .* away .* restore a backup"):
        SqliteStore(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_page_of_garbage_is_noticed(path: Path, seed: int) -> None:
    fill(path)
    chance = random.Random(seed)
    with path.open("r+b") as file:
        page = chance.randrange(path.stat().st_size // PAGE)
        file.seek(page * PAGE + (100 if page == 0 else 0))
        file.write(bytes(PAGE // 2) if seed % 2 else chance.randbytes(PAGE // 2))
    with pytest.raises(StoreDamagedError, match="is damaged"):
        SqliteStore(path)


def test_bits_that_fell_over_in_the_schema_are_told_as_damage(path: Path) -> None:
    fill(path, 1)
    sound, refused = path.read_bytes(), 0
    schema = sound.rindex(b"CREATE TABLE", 0, PAGE), sound.index(b"STRICT", 0, PAGE)
    for seed in range(60):
        chance = random.Random(seed)
        broken = bytearray(sound)
        broken[chance.randrange(min(schema), PAGE)] ^= chance.choice((1, 0x80, 0xFF))
        path.write_bytes(broken)
        try:
            with closing(SqliteStore(path)) as store:
                store.changes(0)
        except StoreDamagedError:
            refused += 1
    assert refused > 10, "most of these bytes matter"


@pytest.mark.parametrize(
    ("taken", "named"),
    [("DROP TABLE reference", "reference"), ("ALTER TABLE answer RENAME COLUMN meaning TO sense", "answer.meaning")],
)
def test_a_store_without_a_part_of_it_is_refused_when_it_is_opened(path: Path, taken: str, named: str) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute(taken)
    with pytest.raises(StoreDamagedError, match=f"it has no .*{named}"):
        SqliteStore(path)


def test_a_log_without_its_file_is_not_played_into_a_new_one(path: Path, tmp_path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        store.write([answer("a")])
        orphan = tmp_path / "orphan.db-wal"
        shutil.copy(f"{path}-wal", orphan)
    with pytest.raises(StoreDamagedError, match=r"is missing, but its log orphan\.db-wal is there"):
        SqliteStore(tmp_path / "orphan.db")


def test_a_log_that_was_cut_anywhere_loses_only_its_end(path: Path, tmp_path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        for number in range(40):
            store.write([answer(f"{number}a", "said " * 2000), answer(f"{number}b")])
        file, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    torn = tmp_path / "torn.db"
    counts = []
    for length in sorted({*random.Random(7).sample(range(len(log)), 30), len(log)}):
        torn.write_bytes(file)
        Path(f"{torn}-wal").write_bytes(log[:length])
        with closing(SqliteStore(torn)) as store:
            ids = [change.key.id for change in store.changes(0)]
        assert ids == [f"{number // 2}{'ab'[number % 2]}" for number in range(len(ids))]
        assert len(ids) % 2 == 0
        counts.append(len(ids))
    assert counts == sorted(counts)
    assert counts[-1] == 80


def test_a_large_file_is_only_checked_if_it_was_not_closed_in_order(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(sqlite_file, "ALWAYS_CHECKED", 0)
    monkeypatch.setattr(sqlite_file, "check_pages", lambda _connection, path: checked.append(path))
    fill(path, 1)
    unclean = tmp_path / "unclean.db"
    with closing(SqliteStore(path)) as store:
        store.write([answer("a")])
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{unclean}{suffix}")
    assert checked == []
    with closing(SqliteStore(unclean)) as store:
        assert here(store, "a")
    assert checked == [unclean]


# Making and changing the layout


@pytest.mark.parametrize("suffix", [".new", ".new-wal", ".new-journal"])
def test_what_is_left_of_a_making_that_was_cut_short_does_no_harm(path: Path, suffix: str) -> None:
    Path(f"{path}{suffix}").write_bytes(os.urandom(5000))
    with closing(SqliteStore(path)) as store:
        store.write([answer("a")])
        assert here(store, "a")


def test_an_older_store_takes_the_steps_it_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 3)
    steps = (*sqlite_schema.STEPS, "ALTER TABLE answer ADD COLUMN colour TEXT;")
    monkeypatch.setattr(sqlite_schema, "STEPS", steps)
    monkeypatch.setattr(sqlite_schema, "NEWEST", len(steps))
    with closing(SqliteStore(path)) as store:
        assert here(store, "0002")
        assert sqlite_schema.version_of(store._writer) == len(steps)
        assert store._writer.execute("SELECT colour FROM answer LIMIT 1").fetchone() == (None,)


def test_answers_of_the_first_version_get_their_size_and_are_everyone_s(path: Path) -> None:
    fill(path, 0)
    with closing(sqlite3.connect(path)) as old:
        for column in ("meaning", "wording_of", "cost_usd", "size", "private_to"):
            old.execute(f"ALTER TABLE answer DROP COLUMN {column}")
        facts = "'s', 'i', x'01', x'02', 'm', 'e', 1.0, 0.0, 'text/plain', '[]', 0, x'', 'é'"
        old.execute(f"INSERT INTO answer VALUES (1, {facts})")  # noqa: S608
        old.execute("INSERT INTO answer_content VALUES (1, 'three', '[\"th\", \"ree\"]')")
        old.execute("UPDATE counter SET seq = 1")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    with closing(SqliteStore(path)) as store:
        (found,) = store.get(Kind.ANSWER, "s", ["i"]).values()
        assert isinstance(found, Answer)
        assert (found.size, found.cost_usd, found.private_to) == (2 + 5 + 5, 0.0, "")


def test_a_step_that_fails_leaves_the_store_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 3)
    with monkeypatch.context() as newer:
        steps = (*sqlite_schema.STEPS, "DELETE FROM answer; SELECT no FROM such;")
        newer.setattr(sqlite_schema, "STEPS", steps)
        newer.setattr(sqlite_schema, "NEWEST", len(steps))
        with pytest.raises(StoreError, match="no such table"):
            SqliteStore(path)
    with closing(SqliteStore(path)) as store:
        assert here(store, "0002")
