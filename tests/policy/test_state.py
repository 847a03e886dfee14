"""What the policy remembers is on disk a moment later, and a damaged file costs no more than that memory."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import structlog

from index.errors import StoreError
from service.policy.state import State, damaged


async def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    state = State(tmp_path / "new" / "policy.sqlite3")
    state.start()
    state.put("session", "a", ["large", 1.5])
    state.put("session", "b", ["small", 2])
    state.put("budget", "", [1, 2.0])
    state.put("session", "b", None)
    await state.close()
    again = State(tmp_path / "new" / "policy.sqlite3")
    assert again.load() == {"session": {"a": ["large", 1.5]}, "budget": {"": [1, 2.0]}}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}
    again.put("session", "a", None)
    await again.flush()
    assert again.load() == {"budget": {"": [1, 2.0]}}
    await again.close()


async def test_what_changes_is_written_while_the_service_runs(tmp_path: Path) -> None:
    path = tmp_path / "policy.sqlite3"
    state = State(path)
    state.put("k", "x", 1)
    await state.flush()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT value FROM kept").fetchall() == [("1",)]
    other.close()
    await state.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be one" * 10, b"SQLite format 3\0" + b"x" * 2_000]
)
async def test_a_damaged_file_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.sqlite3"
    path.write_bytes(content)
    state = State(path)
    assert state.load() == {}
    state.put("k", "x", 1)
    await state.close()
    assert (tmp_path / "policy.sqlite3.damaged").read_bytes() == content
    again = State(path)
    assert again.load() == {"k": {"x": 1}}
    await again.close()


@pytest.mark.parametrize("statement", ["DROP TABLE kept", "PRAGMA user_version = 0; CREATE TABLE theirs (a)"])
async def test_a_file_that_is_not_as_it_was_made_is_moved_aside(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "policy.sqlite3"
    await State(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript(statement)
    assert damaged(path)
    state = State(path)
    assert state.load() == {}
    await state.close()
    assert (tmp_path / "policy.sqlite3.damaged").exists()


def rot(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes on the disk where SQLite has no checksum to notice it."""
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))


@pytest.mark.parametrize("new", [b'["larG', b"[\xffabcde", b'["large", 2.5]', b'["large", 1.5}'], ids=repr)
async def test_a_value_that_is_not_as_it_was_written_is_as_good_as_a_damaged_file(tmp_path: Path, new: bytes) -> None:
    path = tmp_path / "policy.sqlite3"
    state = State(path)
    state.put("session", "a", ["large", 1.5])
    await state.close()
    assert damaged(path) == ""
    rot(path, b'["large", 1.5]'[: len(new)], new)
    assert damaged(path) == "a value is not as it was written"
    again = State(path)
    assert again.load() == {}
    await again.close()
    assert (tmp_path / "policy.sqlite3.damaged").exists()


async def test_what_another_version_kept_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "policy.sqlite3"
    state = State(path)
    state.put("k", "x", 1)
    await state.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    again = State(path)
    assert again.load() == {}
    await again.close()


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.sqlite3").mkdir()
    with pytest.raises(StoreError, match=r"policy\.sqlite3 cannot be opened"):
        State(tmp_path / "policy.sqlite3")


async def test_a_disk_that_will_not_write_loses_nothing_that_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path / "policy.sqlite3")
    state.put("k", "x", 1)

    def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(state, "_write", full)
        with structlog.testing.capture_logs() as lines:
            await state.flush()
            await state.flush()
        assert [line["event"] for line in lines] == ["policy_state_not_written"], "said once"
    state.put("k", "y", 2)
    await state.flush()
    assert state.load() == {"k": {"x": 1, "y": 2}}
    await state.close()
