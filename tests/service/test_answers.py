"""Writing while serving: durable before it is acknowledged, gone before its removal is acknowledged."""

import asyncio
import gc
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs
from waypost.v1 import admin_pb2, types_pb2

from index.errors import StoreDamagedError, StoreError, StoreFullError
from index.records import Answer, LiveReference, Reference
from index.sqlite_store import SqliteStore
from index.store import Kind, MemoryStore, Record, RecordKey
from index.text import EMPTY_CONTEXT, answer_key
from index.view import View
from service import answers as answers_module
from service.answers import Answers
from service.settings import CacheSettings
from tests.e2e.history import History
from tests.service.kit import Service, running

VECTOR = b"\0\0\x80?" + bytes(28)


class SlowStore(MemoryStore):
    """Takes its time now and then, waits where it is told to, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.writes: list[tuple[int, int]] = []
        self.failures: list[Exception] = []
        self.refuses = ""
        self._chance = random.Random(0)

    def write(self, puts: Sequence[Record], deletes: Sequence[RecordKey] = ()) -> int:
        if puts or deletes:
            self.begun.set()
            self.gate.wait(10)
            time.sleep(self._chance.choice([0, 0, 0.0005, 0.002]))
            self.writes.append((len(puts), len(deletes)))
            if self.failures:
                raise self.failures.pop(0)
            if any(isinstance(put, Answer) and put.id == self.refuses for put in puts):
                raise StoreError("this one cannot be stored")
        last = super().write(puts, deletes)
        # What is read meanwhile comes from a store that is ahead of the view.
        time.sleep(self._chance.choice([0, 0, 0.0005, 0.002]) if puts or deletes else 0)
        return last


def answer(
    name: str, content: str = "", *, scope: str = "a", stored_at: float = 1.0, expires_at: float = 0.0
) -> Answer:
    key = answer_key(scope, EMPTY_CONTEXT, name)
    return Answer(name, scope, key, EMPTY_CONTEXT, name, content, "m", "e", VECTOR, stored_at, expires_at)


def key(name: str, scope: str = "a") -> RecordKey:
    return RecordKey(Kind.ANSWER, scope, name)


@asynccontextmanager
async def opened(store: MemoryStore, max_answers: int = 1_000) -> AsyncIterator[Answers]:
    view = View("e", 8)
    view.load(store)
    answers = Answers(store, view, CacheSettings(max_answers=max_answers))
    try:
        yield answers
    finally:
        await answers.close()


def fetched(answers: Answers, name: str) -> str:
    entry = answers.view.by_id("a", name)
    assert entry is not None
    found = answers.fetch(entry)
    return "" if found is None else found.content


async def until_begun(store: SlowStore) -> None:
    await asyncio.to_thread(store.begun.wait, 10)
    store.begun.clear()


async def test_nothing_is_visible_before_it_is_stored_and_all_is_when_it_is_acknowledged() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        store.gate.clear()
        put = asyncio.ensure_future(answers.put(answer("x", "content")))
        await until_begun(store)
        assert answers.view.by_id("a", "x") is None
        store.gate.set()
        assert (await put)[1] is False
        assert fetched(answers, "x") == "content"


async def test_what_was_asked_for_during_a_write_goes_into_the_next_one_together() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        store.gate.clear()
        first = asyncio.ensure_future(answers.put(answer("first")))
        await until_begun(store)
        others = [asyncio.ensure_future(answers.put(answer(f"x{i}"))) for i in range(50)]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(first, *others)
        assert store.writes == [(1, 0), (50, 0)]


async def test_a_caller_that_goes_away_takes_nothing_back() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        store.gate.clear()
        put = asyncio.ensure_future(answers.put(answer("x")))
        await until_begun(store)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        store.gate.set()
        await answers.put(answer("y"))
        assert answers.view.by_id("a", "x") is not None


@pytest.mark.parametrize(
    "error", [StoreFullError("full"), StoreDamagedError("damaged"), StoreError("no"), OSError("no")]
)
async def test_a_failed_write_is_told_changes_nothing_and_the_next_one_works(error: Exception) -> None:
    store = SlowStore()
    async with opened(store) as answers:
        await answers.put(answer("x", "old"))
        store.failures = [error]
        with pytest.raises(type(error)):
            await answers.put(answer("x", "new"))
        assert fetched(answers, "x") == "old"
        await answers.put(answer("x", "new"))
        await answers.remove([key("x")])
        assert answers.view.by_id("a", "x") is None


async def test_one_record_that_cannot_be_stored_fails_alone() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        store.gate.clear()
        first = asyncio.ensure_future(answers.put(answer("first")))
        await until_begun(store)
        store.refuses = "x3"
        puts = [asyncio.ensure_future(answers.put(answer(f"x{i}"))) for i in range(6)]
        await asyncio.sleep(0)
        store.gate.set()
        done = await asyncio.gather(first, *puts, return_exceptions=True)
        assert [isinstance(one, StoreError) for one in done] == [False] * 4 + [True] + [False] * 2
        assert answers.view.count("a")[0] == 6


async def test_the_order_of_one_record_s_changes_is_kept_within_a_write() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        store.gate.clear()
        first = asyncio.ensure_future(answers.put(answer("first")))
        await until_begun(store)
        steps = [
            answers.put(answer("x", "1")),
            answers.remove([key("x")]),
            answers.put(answer("y", "1")),
            answers.put(answer("y", "2")),
            answers.remove([key("z")]),
            answers.put(answer("z", "1")),
        ]
        tasks = [asyncio.ensure_future(step) for step in steps]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(first, *tasks)
        found = store.get(Kind.ANSWER, "a", ["x", "y", "z"])
        assert {name: record.content for name, record in found.items() if isinstance(record, Answer)} == {
            "y": "2",
            "z": "1",
        }
        assert {entry.id for entry in answers.view.entries("a")} == {"first", "y", "z"}


async def test_expired_answers_are_swept_and_only_these() -> None:
    store = SlowStore()
    store.write([answer("old", expires_at=2.0), answer("young", expires_at=time.time() + 3600), answer("for ever")])
    async with opened(store) as answers:
        await answers.sweep()
        assert {entry.id for entry in answers.view.entries("a")} == {"young", "for ever"}
        assert set(store.get(Kind.ANSWER, "a", ["old", "young", "for ever"])) == {"young", "for ever"}
        await answers.sweep()


@pytest.mark.parametrize("together", [True, False], ids=["in one write", "in two"])
async def test_an_answer_that_is_renewed_while_its_old_self_is_swept_stays(together: bool) -> None:  # noqa: FBT001
    store = SlowStore()
    store.write([answer("x", expires_at=2.0)])
    async with opened(store) as answers:
        store.gate.clear()
        store.begun.clear()
        first = asyncio.ensure_future(answers.put(answer("first" if together else "x", "new")))
        await until_begun(store)
        tasks = [first]
        if together:
            tasks.append(asyncio.ensure_future(answers.put(answer("x", "new"))))
            await asyncio.sleep(0)
        sweep = asyncio.ensure_future(answers.sweep())
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(*tasks, sweep)
        assert answers.view.by_id("a", "x") is not None, "an acknowledged answer is gone"
        assert store.get(Kind.ANSWER, "a", ["x"])


async def test_the_text_of_an_answer_that_was_removed_or_replaced_is_not_even_kept_in_memory() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        for name in ("removed", "replaced", "kept"):
            await answers.put(answer(name, "secret"))
            assert fetched(answers, name) == "secret"
        await answers.remove([key("removed")])
        await answers.put(answer("replaced", "new"))
        await answers.put_references([LiveReference("a", Reference("kept", "p", "m"), "e", VECTOR)])
        assert [remembered.id for remembered in answers._recent.values()] == ["kept"]
        assert fetched(answers, "replaced") == "new"


async def test_an_answer_that_was_served_leaves_no_text_behind_when_it_is_removed(tmp_path: Path) -> None:
    text = "a text that nobody else has said"
    async with running(tmp_path, store=SqliteStore(tmp_path / "store.sqlite3")) as service:
        await service.put("where is it", text)
        decision = await service.decide("where is it")
        assert decision.answer.content == text
        explained = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert explained.answer.entry_id == decision.answer.entry_id
        await service.invalidate(all=True)
        gc.collect()
        held = [one for one in gc.get_objects() if isinstance(one, Answer)]
        assert not [one for one in held if text in one.content]


class UnreadableStore(SlowStore):
    """Finds nothing of what it holds any more."""

    def get(self, kind: Kind, scope: str, ids: Sequence[str]) -> dict[str, Record]:
        raise StoreDamagedError(f"{kind} {scope} {ids} is damaged")


@pytest.mark.parametrize(("every", "lines"), [(0.0, 5), (1e9, 1)])
async def test_answers_that_cannot_be_read_are_all_counted_and_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, every: float, lines: int
) -> None:
    monkeypatch.setattr(answers_module, "_COMPLAIN_EVERY_S", every)
    async with opened(UnreadableStore()) as answers:
        await answers.put(answer("one", "text"))
        [entry] = answers.view.entries("a")
        with capture_logs() as logged:
            assert [answers.fetch(entry) for _ in range(5)] == [None] * 5
        assert answers.unreadable == 5
        assert [line["event"] for line in logged] == ["answer_unreadable"] * lines
        monkeypatch.setattr(answers_module, "_COMPLAIN_EVERY_S", 0.0)
        with capture_logs() as logged:
            answers.fetch(entry)
        assert logged[0]["unsaid"] == 5 - lines


async def test_a_wording_does_not_outlive_the_answer_it_was_confirmed_for() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        await answers.put(answer("said", "old"))
        store.gate.clear()
        store.begun.clear()
        other = asyncio.create_task(answers.put(answer("other", "x")))
        await asyncio.to_thread(store.begun.wait, 10)
        # Both of these wait for the write under way, and go into the next one together.
        both = asyncio.gather(
            answers.put(replace(answer("wording"), wording_of="said")), answers.put(answer("said", "new"))
        )
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(other, both)
        assert answers.view.exact("a", answer("wording").key) is None
        assert not store.get(Kind.ANSWER, "a", ("wording",))


async def test_what_becomes_a_wording_takes_its_own_wordings_with_it() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        for name in ("first", "second"):
            await answers.put(answer(name, f"the {name}"))
        await answers.put(replace(answer("wording"), wording_of="second"))
        await answers.put(replace(answer("second"), wording_of="first"))
        assert fetched(answers, "second") == "the first"
        assert answers.view.by_id("a", "wording") is None
        # Nor does a wording come to be one of a wording.
        await answers.put(replace(answer("wording"), wording_of="second"))
        assert answers.view.by_id("a", "wording") is None
        assert not store.get(Kind.ANSWER, "a", ("wording",))


async def test_what_is_wrong_is_served_no_more_though_the_disk_is_full_and_goes_when_it_is_not() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        await answers.put(answer("said", "wrong"))
        await answers.put(replace(answer("wording"), wording_of="said"))
        store.failures = [StoreFullError("full")]
        with pytest.raises(StoreFullError):
            await answers.quarantine(key("said"))
        assert not answers.view.entries("a")
        assert store.get(Kind.ANSWER, "a", ("said",))
        await answers.sweep()
        assert not store.get(Kind.ANSWER, "a", ("said", "wording"))


async def test_what_is_put_right_while_the_wrong_one_waits_for_its_removal_stays() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        await answers.put(answer("said", "wrong"))
        store.failures = [StoreFullError("full")]
        with pytest.raises(StoreFullError):
            await answers.quarantine(key("said"))
        await answers.put(answer("said", "right"))
        await answers.sweep()
        assert fetched(answers, "said") == "right"


async def test_an_answer_that_becomes_a_wording_is_never_served_without_text() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        for name in ("first", "second"):
            await answers.put(answer(name, f"the {name}"))
        entry = answers.view.by_id("a", "second")
        assert entry is not None
        # As between the store's write and the view's.
        store.write([replace(answer("second"), wording_of="first")])
        assert answers.fetch(entry) is None


async def test_what_leaves_room_makes_nobody_go() -> None:
    store = SlowStore()
    async with opened(store, 3) as answers:
        for name in "abc":
            await answers.put(answer(name))
        store.gate.clear()
        store.begun.clear()
        first = asyncio.ensure_future(answers.put(answer("elsewhere", scope="b")))
        await until_begun(store)
        tasks = [asyncio.ensure_future(answers.remove([key("c")])), asyncio.ensure_future(answers.put(answer("d")))]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(first, *tasks)
        assert {entry.id for entry in answers.view.entries("a")} == {"a", "b", "d"}


async def test_closing_finishes_what_was_begun() -> None:
    store = SlowStore()
    async with opened(store) as answers:
        puts = [asyncio.ensure_future(answers.put(answer(f"x{i}"))) for i in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*puts)


# ---- many callers at once --------------------------------------------------------------------------------------

KEYS = [f"alpha{i} beta{i} gamma{i}" for i in range(6)]


async def churn(service: Service, history: History, seed: int, steps: int) -> None:
    """Put, look up and remove answers at random."""
    chance = random.Random(seed)
    for step in range(steps):
        name = chance.choice(KEYS)
        start = history.now()
        action = chance.random()
        if action < 0.3:
            version = f"{seed}.{step}"
            await service.put(name, version, "s", source_tags=[name], model=name)
            history.put(name, version, start)
        elif action < 0.9:
            text = name if chance.random() < 0.5 else name.replace(" ", " " * chance.randint(2, 9))  # the same vector
            decision = await service.decide(text, "s")
            history.looked_up(name, decision.answer.content, start)
        else:
            condition, meant = chance.choice(
                [
                    ({"all": True}, KEYS),
                    ({"source_tags": [name]}, [name]),
                    ({"model": name}, [name]),
                    ({"radius": {"prompt": name, "min_similarity": 0.99}}, [name]),
                    ({"older_than": Duration(nanos=1)}, KEYS),
                    ({"all": True, "dry_run": True}, []),
                ]
            )
            await service.invalidate("s", **condition)  # type: ignore[arg-type]
            history.removed(meant, start)


async def test_what_was_removed_or_replaced_is_never_served_again_whoever_else_writes(tmp_path: Path) -> None:
    history = History()
    async with running(tmp_path, store=SlowStore()) as service:
        await asyncio.gather(*(churn(service, history, seed, 120) for seed in range(16)))
    hits, misses = history.check()
    assert hits > 200
    assert misses > 50


async def test_the_history_check_sees_a_stale_answer_and_a_lost_one() -> None:
    stale = History()
    stale.put("k", "1", stale.now())
    stale.removed(["k"], stale.now())
    stale.looked_up("k", "1", stale.now())
    with pytest.raises(AssertionError, match="after its removal"):
        stale.check()
    lost = History()
    lost.put("k", "1", lost.now())
    lost.looked_up("k", "", lost.now())
    with pytest.raises(AssertionError, match="acknowledged and not found"):
        lost.check()
    replaced = History()
    replaced.put("k", "1", replaced.now())
    replaced.put("k", "2", replaced.now())
    replaced.looked_up("k", "1", replaced.now())
    with pytest.raises(AssertionError, match="after another"):
        replaced.check()


async def test_a_fill_that_could_not_be_written_may_be_tried_again(tmp_path: Path) -> None:
    store = SlowStore()
    async with running(tmp_path, store=store) as service:
        decision = await service.decide("a question")
        store.failures = [StoreFullError("full")]
        with pytest.raises(StoreFullError):
            await service.report(decision, answer="yes")
        assert (await service.decide("a question")).WhichOneof("outcome") == "plan"
        assert (await service.report(decision, answer="yes")).stored
        assert (await service.decide("a question")).answer.content == "yes"


async def test_a_fill_never_brings_back_what_a_wrong_report_removed(tmp_path: Path) -> None:
    async with running(tmp_path, store=SlowStore()) as service:
        decision = await service.decide("a question")
        await service.report(decision, answer="wrong")
        hit = await service.decide("a question")
        await service.report(hit, answer_wrong=True, model="", outcome=types_pb2.OUTCOME_UNSPECIFIED, answer="")
        assert (await service.decide("a question")).WhichOneof("outcome") == "plan"
