"""What was decided is on disk a moment later, is bounded, and never stands in a decision's way."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, types_pb2

from index.errors import StoreDamagedError, StoreError, StoreFullError
from index.sqlite_journal import DecisionRow, ReportRow, SqliteJournal
from service.errors import NotFound
from service.learning.journal import Journal, restored
from tests.service.kit import Service, running

ON: dict[str, Any] = {"journal": {"enabled": True}}


def row(name: str, at: float = 1.0, scope: str = "a", *, cached: bool = False, filler: int = 0) -> DecisionRow:
    vector = bytes(4 * 8)
    return DecisionRow(
        name, at, scope, "g", "e", "m", int(cached), b"k", None, 1, 1, vector, "{}", "null" + " " * filler, "[]", "{}"
    )


def report(name: str, quality: float | None = None, source: str = "s", model: str = "m", at: float = 1.0) -> ReportRow:
    return ReportRow(name, at, model, "ok", quality, source, None, None, None, None, 0, 0.5)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteJournal]:
    found = SqliteJournal(tmp_path / "journal.sqlite3")
    yield found
    found.close()


def journal_of(service: Service) -> Journal:
    journal = service.runtime.decider.journal
    assert journal is not None
    journal.flush()
    return journal


def test_rows_come_back_latest_first_chosen_and_in_order(file: SqliteJournal) -> None:
    file.append([row("1", 1.0), row("2", 2.0, "b"), row("3", 3.0), row("hit", 4.0, cached=True)], [])
    assert [r.id for r in file.plans(0.0, 10)] == ["1", "2", "3"]
    assert [r.id for r in file.plans(0.0, 2)] == ["2", "3"]
    assert [r.id for r in file.plans(2.0, 10, "a")] == ["3"]
    assert file.decision("2") == row("2", 2.0, "b")
    assert file.decision("9") is None


def test_of_several_reports_by_one_source_on_one_answer_the_last_counts(file: SqliteJournal) -> None:
    file.append([row("1"), row("2")], [report("1", 0.1), report("1", 0.9), report("1", 0.5, "t"), report("2")])
    assert [(d.id, r.quality, r.source) for d, r in file.rated(0.0, 10)] == [("1", 0.9, "s"), ("1", 0.5, "t")]


def test_what_a_source_said_can_be_taken_back_in_its_scope(file: SqliteJournal) -> None:
    file.append([row("1"), row("2", scope="b")], [report("1", 0.1), report("2", 0.1), report("1", 0.4, "t")])
    assert file.forget("a", "s") == 1
    assert [(d.id, r.source) for d, r in file.rated(0.0, 10)] == [("2", "s"), ("1", "t")]


def test_age_and_size_are_bounded(file: SqliteJournal) -> None:
    file.append([row(str(i), float(i), filler=4_000) for i in range(200)], [report(str(i), 0.5) for i in range(200)])
    assert file.prune(before=100.0, max_bytes=1 << 30) == 100
    assert len(file.rated(0.0, 1_000)) == 100
    assert file.prune(before=0.0, max_bytes=200_000)
    left = file.plans(0.0, 1_000)
    assert 30 < len(left) < 50
    assert left[-1].id == "199"
    assert len(file.rated(0.0, 1_000)) == len(left)
    assert file.prune(before=0.0, max_bytes=200_000) == 0
    assert file.prune(before=0.0, max_bytes=1) == len(left)


def test_one_look_is_enough_however_much_was_written_since_the_last(file: SqliteJournal, tmp_path: Path) -> None:
    for start in range(0, 4_000, 500):
        file.append(
            [row(str(start + i), filler=4_000) for i in range(500)], [report(str(start + i)) for i in range(500)]
        )
        file.prune(before=0.0, max_bytes=1_000_000)
    with sqlite3.connect(tmp_path / "journal.sqlite3") as reader:
        pages, free, size = (
            reader.execute(f"PRAGMA {n}").fetchone()[0] for n in ("page_count", "freelist_count", "page_size")
        )
    assert (pages - free) * size <= 1_000_000
    assert pages * size < 4_000_000
    assert file.plans(0.0, 1)[0].id == "3999"


def test_a_file_of_another_program_and_a_newer_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(StoreDamagedError, match="not a journal"):
        SqliteJournal(path)
    newer = tmp_path / "newer.sqlite3"
    SqliteJournal(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreDamagedError, match="newer version"):
        SqliteJournal(newer)
    (tmp_path / "noise.sqlite3").write_bytes(b"no database at all" * 400)
    with pytest.raises(StoreDamagedError):
        SqliteJournal(tmp_path / "noise.sqlite3")


def test_what_is_no_whole_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    SqliteJournal(path).close()
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE report")
    other.close()
    with pytest.raises(StoreDamagedError, match=r"it has no report.* Move journal\.sqlite3"):
        SqliteJournal(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="it must be a file"):
        SqliteJournal(path)


def test_pages_of_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    file = SqliteJournal(path)
    file.append([row(str(i), float(i), filler=4_000) for i in range(20)], [])
    file.close()
    path.write_bytes(path.read_bytes()[:4096] + bytes(path.stat().st_size - 4096))
    with pytest.raises(StoreDamagedError, match=r"is damaged .* Move journal\.sqlite3"):
        SqliteJournal(path)


def test_it_is_read_while_another_process_writes_it(tmp_path: Path, file: SqliteJournal) -> None:
    file.append([row("1")], [])
    with pytest.raises(StoreError, match="held"):
        SqliteJournal(tmp_path / "journal.sqlite3")
    reader = SqliteJournal(tmp_path / "journal.sqlite3", reads_only=True)
    assert [r.id for r in reader.plans(0.0, 10)] == ["1"]
    reader.close()
    with pytest.raises(StoreError, match="no journal is here"):
        SqliteJournal(tmp_path / "nowhere.sqlite3", reads_only=True)


async def test_a_plan_is_restored_as_it_was(tmp_path: Path) -> None:
    async with running(tmp_path, **ON) as service:
        route = types_pb2.RouteControl(deny_models=["large"], max_cost_usd=0.5)
        made = await service.decide("add two small numbers", attributes={"tier": "gold"}, route=route, request_id="r")
        journal = journal_of(service)
        kept = service.runtime.decider.log.get(made.decision_id)
        found = journal.file.decision(made.decision_id)
        assert found is not None
        assert kept is not None
        again = restored(found, service.runtime.decider.generation)
        assert again.request == kept.request
        assert again.prompt.key == kept.prompt.key
        assert (again.plan, again.estimates, again.vector) == (kept.plan, kept.estimates, kept.vector)
        assert again.neighbours == kept.neighbours[:10]


async def test_prompts_are_only_recorded_where_that_is_set(tmp_path: Path) -> None:
    async with running(tmp_path, journal={"enabled": True, "prompts": False}) as service:
        await service.decide("a secret prompt")
        journal_of(service)
    async with running(tmp_path, **ON) as service:
        await service.decide("a secret prompt", cache=types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS))
        assert len(journal_of(service).file.plans(0.0, 10)) == 2
    assert b"secret" not in (tmp_path / "journal.sqlite3").read_bytes()


async def test_exact_hits_are_not_recorded_and_semantic_ones_are_not_replayed(tmp_path: Path) -> None:
    async with running(tmp_path, **ON, cache={"threshold": 0.5}) as service:
        await service.put("how do I reset my password", "so")
        exact = await service.decide("how do I reset my password")
        semantic = await service.decide("how do I reset my password please")
        journal = journal_of(service)
        assert journal.file.decision(exact.decision_id) is None
        found = journal.file.decision(semantic.decision_id)
        assert found is not None
        assert found.cached
        assert journal.file.plans(0.0, 10) == []


async def test_a_full_disk_stops_no_decision_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, **ON) as service:
        journal = journal_of(service)

        def full(*_: object) -> None:
            raise StoreFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(journal.file, "append", full)
            made = await service.decide("add two small numbers")
            await service.report(made, quality=0.5)
            journal.flush()
            assert journal.dropped == 2
        after = await service.decide("add two small numbers, once more")
        journal.flush()
        assert journal.file.decision(after.decision_id) is not None


async def test_explain_and_late_reports_survive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, **ON) as service:
        made = await service.decide("add two small numbers", explain=True)
    async with running(tmp_path, **ON) as service:
        request = admin_pb2.ExplainRequest(decision_id=made.decision_id)
        explained = await service.call("Admin.Explain", request)
        assert explained.plan.steps == made.plan.steps
        assert explained.explanation.estimates == made.explanation.estimates
        assert explained.explanation.neighbours[0].prompt == made.explanation.neighbours[0].prompt
        await service.report(made, fill_token="", quality=1.0)
        [(decision, rated)] = journal_of(service).file.rated(time.time() - 60, 10)
        assert (decision.id, rated.model, rated.quality) == (made.decision_id, "small-1", 1.0)
        with pytest.raises(NotFound):
            await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id="f" * 24))
