"""Whatever a service keeps of what it is asked has a bound, which is reached and not exceeded."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waypost.v1 import admin_pb2, types_pb2

from index import lexicon, view
from index.build import build_index
from index.encoder import HashEncoder
from index.generation import set_current
from index.records import Reference
from index.sqlite_journal import SqliteJournal
from index.store import TOMBSTONES_KEPT
from index.tokens import LONGEST
from index.verifier import Verifier
from index.view import Entry
from service import answers, decide, lessons, metrics, repeats, reports, reviews, runtime, settings, spending
from service.cache import flights, keeper, semantic
from service.cache import scope as scopes
from service.cache.keeper import Keeper
from service.cache.semantic import Judge, reading
from service.decisions import DecisionLog
from service.learning import drift, journal, online
from service.learning.heads import Sample
from service.learning.journal import Journal
from service.learning.online import Learner
from service.policy import health, policy, state
from service.requests import Decision, Judged, Prompt, Request, Timings, Voters
from service.routing import feedback
from service.settings import JournalSettings, LearningSettings
from tests.conftest import ROOT
from tests.service.kit import REFERENCES, build, catalogue, running


def entry(row: int, prompt: str) -> Entry:
    return Entry(str(row), row, "s", b"k", b"c", 0.0, 0.0, "m", (), truncated=False, prompt=prompt)


def decision(name: str, text: str = "x", scope: str = "a") -> Decision:
    return Decision(name, Request(scope, text), Prompt(text, b"k", size=len(text)), "g", 0.0, Timings())


def sample(number: int, text: str = "") -> Sample:
    return Sample(float(number), "m", "s", np.full(4, 0.5, np.float32), 0.5, 0.5, 0.7, str(number), "g", 1, text, 0)


def new_judge() -> Judge:
    verifier = Verifier.load()
    return Judge(verifier, verifier.encoder)


def look(judge: Judge, *entries: Entry) -> None:
    judge.judge(reading(Prompt("how do I pay", b"")), [(0.9, one) for one in entries])


def test_prompts_that_stay_read_are_the_latest_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_KEPT", 2)
    judge = new_judge()
    first, second, third = (entry(row, f"how do I pay {row} times") for row in (1, 2, 3))
    look(judge, first, second)
    look(judge, first, third)
    assert {row for row, _ in judge._prepared} == {1, 3}


async def test_the_prompt_of_a_removed_or_replaced_answer_does_not_stay_read(tmp_path: Path) -> None:
    build(tmp_path)
    async with running(tmp_path) as service:
        read = service.runtime.decider.judge._prepared
        for prompt in ("how do I pay by card", "how do I pay by bank"):
            await service.put(prompt, "an answer")
        await service.decide("how do I pay by bank card")
        assert {text for _, text in read} == {"how do I pay by card", "how do I pay by bank"}
        await service.put("how do I pay by card", "another answer")
        assert {text for _, text in read} == {"how do I pay by bank"}
        await service.invalidate(all=True)
        assert not read


def test_remembered_decisions_are_bounded_in_number_and_in_text() -> None:
    log = DecisionLog(keep=3, keep_bytes=1_000)
    for i in range(9):
        log.add(decision(str(i)))
    assert [one.id for one in log.all()] == ["6", "7", "8"]
    near = decision("near")
    near.judged = (Judged(entry(1, "y" * 600), 0.9, None, ""),)
    log.add(near)
    assert [one.id for one in log.all()] == ["near"], "the prompts of the answers it looked at count too"


async def test_a_decision_holds_on_to_no_generation_that_is_not_served_any_more(tmp_path: Path) -> None:
    many = [Reference(f"r{i}", f"add the numbers {i} and {i + 1}", "small-1") for i in range(50)]
    first = build_index(many, catalogue(), HashEncoder(), tmp_path).generation
    second = build_index(REFERENCES, catalogue(), HashEncoder(), tmp_path).generation
    set_current(tmp_path, first)
    async with running(tmp_path) as service:
        made = await service.decide("add the numbers 3 and 4")
        before = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=made.decision_id))
        await service.runtime.activate(second)
        after = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=made.decision_id))
        assert len(before.explanation.neighbours) > runtime._EXPLAINED
        near = list(before.explanation.neighbours)[: runtime._EXPLAINED]
        assert [(n.reference_id, n.weight) for n in after.explanation.neighbours] == [
            (n.reference_id, pytest.approx(n.weight)) for n in near
        ]
        (kept,) = service.runtime.decider.log.all()
        assert isinstance(kept.voters, Voters)
        assert len(kept.voters.references) == runtime._EXPLAINED


async def test_a_decision_that_is_reviewed_for_ever_tells_of_the_latest_reviews(tmp_path: Path) -> None:
    build(tmp_path)
    async with running(tmp_path) as service:
        made = await service.decide("add two small numbers", route=types_pb2.RouteControl(pin_model="small-1"))
        for i in range(3 * reviews._NOTED):
            await service.review(made, "small-1", f"answer {i}", score=i / 100)
        (kept,) = service.runtime.decider.log.all()
        assert sum(stage == "review" for stage, _ in kept.notes) == reviews._NOTED


def test_reports_of_scopes_that_made_room_are_not_counted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "_MAX_SCOPES", 2)
    monkeypatch.setattr(online, "_MAX_SAMPLES", 25)
    learner = Learner(LearningSettings(keep=100))
    for scope in range(8):
        learner.take(str(scope), [sample(10 * scope + i) for i in range(10)])
        held = {name: len(samples) for name, samples in learner.samples()}
        assert len(learner) == sum(held.values())
        assert held[str(scope)] == 10, "and so others are not shed for them"
    assert sorted(held) == ["6", "7"]


def test_a_report_keeps_no_long_prompt() -> None:
    learner = Learner(LearningSettings())
    learner.take("a", [sample(1, "x" * online._LONGEST_TEXT), sample(2, "x" * (online._LONGEST_TEXT + 1))])
    [(_, samples)] = learner.samples()
    assert [len(one.text) for one in samples] == [online._LONGEST_TEXT, 0]


def test_a_scope_that_made_room_is_not_kept_on_the_disk_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_MAX_SCOPES", 2)
    kept = Keeper(new_judge())
    for scope in ("a", "b"):
        kept.count(scope, 0.01)
    states = dict(kept.changed())
    kept.count("c", 0.01)
    changed = dict(kept.changed())
    newest = changed.pop("c")
    assert newest is not None
    assert list(changed.values()) == [None]
    again = Keeper(new_judge())
    again.restore(states | {"c": newest})
    assert list(dict(again.changed()).values()) == [None], "more than there is room for was kept once"


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Journal]:
    """A journal whose thread takes nothing."""
    found = Journal(SqliteJournal(tmp_path / "journal.sqlite3"), JournalSettings(), "e")
    with found._flushing:
        yield found
    found.close()


@pytest.mark.parametrize(("name", "most", "kept"), [("_WAITING", 3, 3), ("_WAITING_BYTES", 1_000, 2)])
def test_decisions_that_wait_for_the_disk_are_bounded_in_number_and_in_text(
    monkeypatch: pytest.MonkeyPatch, stuck: Journal, name: str, most: int, kept: int
) -> None:
    monkeypatch.setattr(journal, name, most)
    for i in range(10):
        stuck.decided(decision(str(i), "x" * 100))
    assert (len(stuck._waiting), stuck.dropped) == (kept, 10 - kept)


def test_of_many_budgets_the_accounts_that_are_used_stay() -> None:
    kept = scopes.ScopeKeeper()
    used = kept.ledger(0.01)
    for number in range(2 * scopes._MAX_BUDGETS):
        kept.ledger(0.1 + number / 1_000)
        assert kept.ledger(0.01) is used
    assert len(kept.ledgers) == scopes._MAX_BUDGETS


def test_words_too_long_to_be_any_are_looked_up_and_not_remembered() -> None:
    word = "x" * lexicon._LONGEST
    for known in (lexicon.stem, lexicon.weight, lexicon.partners):
        assert known(word + "s") is not None
    assert lexicon.stem("cards") == lexicon.stem("card")
    assert lexicon.weight(word + "y") == lexicon.weight(word) == 1.0


def test_the_bounds_in_the_documentation_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("## What is kept in memory")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE))
    for what, figures in STATED.items():
        stated = {int(figure.replace(",", "")) for figure in re.findall(r"\d[\d,]*", rows[what])}
        assert set(figures) <= stated, f"{what}: {figures} are not in {rows[what]!r}"
    assert set(rows) - set(STATED) - {"What", "---"} == SET


MIB = 1 << 20
# What operators cannot set. The rows that are not here name the setting.
STATED: dict[str, tuple[Any, ...]] = {
    "answers served lately": (answers._RECENT_BYTES // MIB,),
    "requests that were exact hits lately, with what was sent": (repeats._MOST_BYTES // MIB,),
    "answers that remembered decisions served, without their text": (decide._MOST_BARE,),
    "prompts of near answers, as they were read": (semantic._KEPT, LONGEST),
    "words that were looked up": (lexicon._REMEMBERED, lexicon._LONGEST),
    "what verdicts say": (keeper._MAX_SCOPES, scopes._MAX_RECORDS, scopes._MAX_BUDGETS),
    "verdicts for which answers are still to be compared": (lessons._MOST_WAITING,),
    "reports of quality": (online._MAX_SCOPES, online._MAX_SAMPLES, drift._MAX_CELLS),
    "how reviewers' scores are to be read": (feedback._MAX_SCOPES,),
    "counts for `GetStats`": (metrics._MAX_SCOPES, spending._MAX_SCOPES, spending._MAX_ARMS),
    "settings of a scope": (settings._MAX_SCOPES,),
    "circuits of models": (health._MAX_CIRCUITS,),
    "rows for the journal": (journal._WAITING, journal._WAITING_BYTES // MIB),
    "rows for the policy's file": (state._MOST,),
    "callers that wait for another's answer": (flights.MAX_WAITING,),
    "names that answers share": (view._SHARED,),
    "deletions in the store's feed, on the disk": (TOMBSTONES_KEPT,),
    "generations": (policy._KEPT, runtime._EXPLAINED),
    "further wordings of an answer": (reports._MOST_WORDINGS,),
}
SET = {
    "cached answers",
    "live references",
    "decisions",
    "answers that are being fetched",
    "conversations",
    "prompts that wait for an encoder",
}
