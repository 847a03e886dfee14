"""The view: agrees with its store whatever happens, scope by scope."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.records import Answer, LiveReference, Reference
from index.store import Change, Kind, MemoryStore, Record, RecordKey, key_of
from index.text import EMPTY_CONTEXT, answer_key
from index.vectors import Vectors
from index.view import View

D = 8
ENCODER = "this"


def vector(*values: float) -> Vectors:
    """Return a unit vector that begins with some values."""
    raw = np.zeros(D, np.float32)
    raw[: len(values)] = values
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


def answer(
    scope: str = "a",
    text: str = "hello",
    *,
    at: Vectors | None = None,
    context: bytes = EMPTY_CONTEXT,
    encoder: str = ENCODER,
    stored_at: float = 100.0,
    expires_at: float = 0.0,
    truncated: bool = False,
) -> Answer:
    key = answer_key(scope, context, text)
    raw = (vector(1) if at is None else at).tobytes()
    return Answer(
        key[:16].hex(),
        scope,
        key,
        context,
        text,
        "content",
        "m",
        encoder,
        raw,
        stored_at,
        expires_at,
        truncated=truncated,
    )


def live(scope: str = "a", name: str = "r", *, at: Vectors | None = None, encoder: str = ENCODER) -> LiveReference:
    raw = (vector(1) if at is None else at).tobytes()
    return LiveReference(scope, Reference(name, f"prompt {name}", "m"), encoder, raw)


def put(*records: Record) -> Iterator[Change]:
    return (Change(0, key_of(record), record) for record in records)


def gone(*keys: RecordKey) -> Iterator[Change]:
    return (Change(0, key, None) for key in keys)


@pytest.fixture
def view() -> View:
    return View(ENCODER, D)


def found(view: View, scope: str, context: bytes, query: Vectors) -> set[str]:
    partition = view.answer_partition(scope, context)
    if partition is None:
        return set()
    _, rows = partition.search(query[None], 50)
    entries = (view.entry_at(scope, row) for row in rows[0].tolist() if row >= 0)
    return {entry.id for entry in entries if entry is not None}


def test_an_answer_is_found_by_key_by_id_and_by_its_vector(view: View) -> None:
    one = answer()
    view.apply(put(one))
    entry = view.exact("a", one.key)
    assert entry is not None
    assert entry is view.by_id("a", one.id)
    assert entry.id == one.id
    assert found(view, "a", EMPTY_CONTEXT, vector(1)) == {one.id}
    assert view.count("a") == (1, 0)


def test_nothing_is_found_in_another_scope_or_context(view: View) -> None:
    one = answer()
    view.apply(put(one, live()))
    assert view.exact("b", one.key) is None
    assert view.by_id("b", one.id) is None
    assert view.answer_partition("b", EMPTY_CONTEXT) is None
    assert view.answer_partition("a", b"x" * 16) is None
    assert view.reference_partition("b") is None
    assert view.reference_at("b", 2) is None
    assert not view.has_reference("b", "r")
    assert view.near("b", vector(1), -1) == frozenset()
    assert list(view.entries("b")) == []
    assert view.count("b") == (0, 0)


def test_a_row_of_one_scope_is_nobody_in_another(view: View) -> None:
    view.apply(put(answer("a"), answer("b"), live("a"), live("b")))
    rows = {scope: next(iter(view.entries(scope))).row for scope in "ab"}
    assert view.entry_at("a", rows["b"]) is None
    assert view.entry_at("b", rows["a"]) is None
    assert view.entry_at("a", rows["a"]) is not None


def test_a_replaced_answer_is_found_once_and_at_its_new_place(view: View) -> None:
    view.apply(put(answer(at=vector(1))))
    view.apply(put(answer(at=vector(0, 1), stored_at=200.0)))
    assert view.count("a") == (1, 0)
    assert view.answers == 1
    assert view.near("a", vector(1), 0.9) == frozenset()
    assert len(view.near("a", vector(0, 1), 0.9)) == 1
    assert [entry.stored_at for entry in view.entries("a")] == [200.0]


@pytest.mark.parametrize(
    "one",
    [
        answer(truncated=True),
        answer(encoder="another"),
        dataclasses.replace(answer(), vector=b""),
    ],
    ids=["truncated", "of another encoder", "without a vector"],
)
def test_an_answer_that_may_not_be_compared_is_only_hit_exactly(view: View, one: Answer) -> None:
    view.apply(put(one))
    assert view.exact("a", one.key) is not None
    assert view.answer_partition("a", EMPTY_CONTEXT) is None
    assert view.near("a", vector(1), -1) == frozenset()
    view.apply(gone(key_of(one)))
    assert view.exact("a", one.key) is None
    assert view.answers == 0


def test_a_reference_of_another_encoder_is_there_but_does_not_vote(view: View) -> None:
    view.apply(put(live(encoder="another")))
    assert view.has_reference("a", "r")
    assert view.reference_partition("a") is None or len(view.reference_partition("a") or ()) == 0
    view.apply(gone(RecordKey(Kind.REFERENCE, "a", "r")))
    assert view.live_references == 0


def test_a_reference_comes_and_goes(view: View) -> None:
    view.apply(put(live(at=vector(1)), live(name="s", at=vector(0, 1))))
    partition = view.reference_partition("a")
    assert partition is not None
    _, rows = partition.search(vector(1)[None], 1)
    reference = view.reference_at("a", int(rows[0, 0]))
    assert reference is not None
    assert reference.id == "r"
    view.apply(gone(RecordKey(Kind.REFERENCE, "a", "r")))
    _, rows = partition.search(vector(1)[None], 5)
    assert [view.reference_at("a", row) for row in rows[0].tolist() if row >= 0] == [live(name="s").reference]
    view.apply(gone(RecordKey(Kind.REFERENCE, "a", "s")))
    assert view.reference_partition("a") is None
    assert view.live_references == 0


def test_what_is_unknown_is_removed_without_a_word(view: View) -> None:
    view.apply(gone(RecordKey(Kind.ANSWER, "nobody", "x")))
    view.apply(put(answer()))
    view.apply(gone(RecordKey(Kind.ANSWER, "a", "x")))
    view.apply(gone(RecordKey(Kind.REFERENCE, "a", answer().id)))
    assert view.answers == 1


def test_an_answer_lives_until_just_before_it_expires(view: View) -> None:
    view.apply(put(answer(text="for ever"), answer(text="short", expires_at=150.0)))
    short = view.exact("a", answer(text="short").key)
    assert short is not None
    assert short.alive(149.999)
    assert not short.alive(150.0)
    assert view.expired(149.0) == []
    assert view.expired(150.0) == [RecordKey(Kind.ANSWER, "a", short.id)]


def test_entries_are_listed_oldest_first_and_a_replaced_one_last(view: View) -> None:
    view.apply(put(*(answer(text=text) for text in "xyz")))
    view.apply(put(answer(text="x", stored_at=200.0)))
    assert [entry.key for entry in view.entries("a")] == [answer(text=text).key for text in "yzx"]


def test_a_radius_covers_every_context_of_its_scope(view: View) -> None:
    one, other, far = answer(text="1"), answer(text="2", context=b"c" * 16), answer(text="3", at=vector(0, 1))
    view.apply(put(one, other, far, answer("b")))
    assert view.near("a", vector(1), 0.99) == {one.id, other.id}
    assert view.near("a", vector(1), -1.0) == {one.id, other.id, far.id}


def test_loading_names_what_another_encoder_embedded() -> None:
    store = MemoryStore()
    store.write([answer(), answer(text="old", encoder="another"), live(), live(name="old", encoder="another")])
    view = View(ENCODER, D)
    stale = view.load(store)
    assert {(key.kind, key.id) for key in stale} == {
        (Kind.ANSWER, answer(text="old").id),
        (Kind.REFERENCE, "old"),
    }
    assert (view.answers, view.live_references) == (2, 2)


@pytest.mark.parametrize("page", [1, 2, 100])
def test_a_wording_is_there_after_loading_though_its_answer_was_stored_again(
    monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("index.view._PAGE", page)
    store = MemoryStore()
    said, wording = answer(text="hello"), answer(text="hi there", at=vector(0, 1))
    store.write([said])
    store.write([dataclasses.replace(wording, wording_of=said.id, content="")])
    store.write([said])
    view = View(ENCODER, D)
    view.load(store)
    entry = view.exact("a", wording.key)
    assert entry is not None
    assert entry.answer_id == said.id
    assert list(view.wordings("a", said.id)) == [wording.id]
    assert found(view, "a", EMPTY_CONTEXT, vector(0, 1)) == {said.id, wording.id}


def test_loading_takes_in_every_page_and_keeps_once_what_answers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.view._PAGE", 3)
    store = MemoryStore()
    store.write([answer(text=str(i), context=bytes(16)) for i in range(8)])
    store.write([live(name=str(i)) for i in range(4)], [key_of(answer(text="5", context=bytes(16)))])
    view, seen = View(ENCODER, D), list[int]()
    view.load(store, seen.append)
    assert seen == [3, 3, 3, 3]
    assert view.count("a") == (7, 4)
    assert len(view.near("a", vector(1), 0.9)) == 7
    assert len({id(entry.context) for entry in view.entries("a")}) == 1


SCOPES = ["a", "ab", "b"]
RECORDS = st.one_of(
    st.builds(
        answer,
        st.sampled_from(SCOPES),
        st.sampled_from(["x", "y", "bx", "z"]),
        at=st.sampled_from([vector(1), vector(0, 1), vector(1, 1)]),
        context=st.sampled_from([EMPTY_CONTEXT, b"c" * 16]),
        encoder=st.sampled_from([ENCODER, ENCODER, "another"]),
        truncated=st.sampled_from([False, False, True]),
    ),
    st.builds(
        live, st.sampled_from(SCOPES), st.sampled_from(["x", "y"]), encoder=st.sampled_from([ENCODER, "another"])
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(RECORDS, max_size=4), st.lists(RECORDS, max_size=2)), max_size=8))
def test_a_view_that_was_kept_up_is_that_of_the_store(batches: list[tuple[list[Record], list[Record]]]) -> None:
    store, kept = MemoryStore(), View(ENCODER, D)
    for puts, deletes in batches:
        since = store.write([])
        store.write(puts, [key_of(record) for record in deletes])
        kept.apply(store.changes(since))
    fresh = View(ENCODER, D)
    fresh.load(store)
    records = [change.record for change in store.changes(0) if change.record is not None]
    for view in (kept, fresh):
        assert view.answers == sum(isinstance(record, Answer) for record in records)
        assert view.live_references == len(records) - view.answers
        for scope in SCOPES:
            answers = [r for r in records if isinstance(r, Answer) and r.scope == scope]
            assert [entry.id for entry in view.entries(scope)] == [r.id for r in answers]
            for record in answers:
                entry = view.exact(scope, record.key)
                assert entry is not None
                assert (entry.id, entry.scope, entry.context) == (record.id, scope, record.context)
            for context in (EMPTY_CONTEXT, b"c" * 16):
                comparable = {
                    r.id for r in answers if r.context == context and r.encoder == ENCODER and not r.truncated
                }
                assert found(view, scope, context, vector(1)) == comparable
