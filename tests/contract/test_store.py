"""What every store promises. A further store is one more line in `BACKENDS`."""

import dataclasses
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from index.errors import StoreError
from index.records import Answer, LiveReference, Message, Reference
from index.sqlite_store import SqliteStore
from index.store import Change, Kind, MemoryStore, Record, RecordKey, Store, key_of

MANY = 10_000


@dataclass(frozen=True)
class Backend:
    """How a store is opened on a folder (or what stands for one), remembering so many deletions."""

    open: Callable[[Path, int], Store]
    survives: bool


BACKENDS: Mapping[str, Backend] = {
    "memory": Backend(lambda _folder, kept: MemoryStore(tombstones=kept), survives=False),
    "sqlite": Backend(lambda folder, kept: SqliteStore(folder / "store.db", tombstones=kept), survives=True),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture
def store(backend: Backend, tmp_path: Path) -> Iterator[Store]:
    store = backend.open(tmp_path, MANY)
    yield store
    store.close()


def answer(id_: str = "a", *, scope: str = "acme", content: str = "42", chunks: tuple[str, ...] = ()) -> Answer:
    return Answer(
        id=id_,
        scope=scope,
        key=b"\0" * 32,
        context=b"\xff" * 16,
        prompt="What is six times seven?",
        content=content,
        model="small",
        encoder="e" * 64,
        vector=bytes(range(256)) * 6,
        stored_at=1_760_000_000.25,
        chunks=chunks,
    )


def reference(id_: str = "r", *, scope: str = "acme", best_model: str = "small") -> LiveReference:
    return LiveReference(
        scope=scope,
        reference=Reference(id=id_, prompt="Prove it.", best_model=best_model),
        encoder="e" * 64,
        vector=b"\x01\x02\x03\x04",
    )


def rebuilt(store: Store, *, page: int = 1000) -> list[Change]:
    """Return the whole feed, read page by page."""
    feed: list[Change] = []
    while got := store.changes(feed[-1].seq if feed else 0, page):
        feed += got
    return feed


def states(changes: list[Change]) -> list[tuple[RecordKey, Record | None]]:
    return [(change.key, change.record) for change in changes]


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.write([]) == 0
    assert store.get(Kind.ANSWER, "acme", ["a"]) == {}
    assert store.scan(Kind.ANSWER, "acme") == []
    assert store.changes(0) == []


WHOLE: list[Record] = [
    answer(),
    dataclasses.replace(
        answer("whole"),
        content="Ünïcödé 👩‍🚀 \0 NUL \N{BOM} \uffff \r\n",
        chunks=("Ünï", "", "\0", "c'ödé\"\\"),
        source_tags=("doc:1", "tag, with comma", "\0"),
        expires_at=1_760_000_000.125,
        content_type="application/json",
        truncated=True,
        cost_usd=0.0125,
        size=2**40,
        private_to="shop\0",
    ),
    dataclasses.replace(answer("\0id\0", scope="\0"), prompt="", content="", model="", vector=b""),
    answer("", scope=""),
    answer("big", content="word " * 838_861, chunks=("word ",) * 1000),
    reference(),
    LiveReference(
        scope="ä\0",
        reference=Reference(
            id="whole",
            prompt="\0",
            scores={"small": 0.25, "gr\0ß": 1.0},
            costs={"small": 1e-9},
            messages=(Message("user", "Hi\0"), Message("assistant", "Ho 🦉")),
            category="maths",
            source="survey",
            note="not sure",
        ),
        encoder="",
        vector=b"",
    ),
]


@pytest.mark.parametrize("record", WHOLE, ids=lambda record: repr(key_of(record).id))
def test_a_record_comes_back_as_it_was_put(store: Store, record: Record) -> None:
    store.write([record])
    key = key_of(record)
    assert store.get(key.kind, key.scope, [key.id]) == {key.id: record}
    assert states(store.scan(key.kind, key.scope)) == [(key, record)]
    assert states(store.changes(0)) == [(key, record)]


def test_what_an_answer_means_and_is_a_wording_of_comes_back(store: Store) -> None:
    said = dataclasses.replace(answer(), meaning=b"\0" * 16)
    wording = dataclasses.replace(answer("b", content=""), wording_of="a")
    store.write([said, wording])
    assert store.get(Kind.ANSWER, "acme", ["a", "b"]) == {"a": said, "b": wording}
    assert states(store.changes(0)) == [(key_of(said), said), (key_of(wording), wording)]


def test_times_and_vectors_come_back_to_the_bit(store: Store) -> None:
    record = dataclasses.replace(answer(), stored_at=0.1 + 0.2, expires_at=1e308, vector=b"\0\xff")
    store.write([record])
    assert store.get(Kind.ANSWER, "acme", ["a"])["a"] == record


def test_get_finds_only_what_is_in_that_scope_and_of_that_kind(store: Store) -> None:
    store.write([answer("x"), reference("x"), answer("x", scope="other", content="theirs")])
    assert store.get(Kind.ANSWER, "acme", ["x", "y", "x"]) == {"x": answer("x")}
    assert store.get(Kind.REFERENCE, "acme", ["x"]) == {"x": reference("x")}
    assert store.get(Kind.REFERENCE, "other", ["x"]) == {}
    assert store.get(Kind.ANSWER, "acm", ["x"]) == {}
    assert store.get(Kind.ANSWER, "acme", []) == {}


def test_every_change_has_a_higher_number(store: Store) -> None:
    first = store.write([answer("a"), reference("r")])
    second = store.write([answer("b")])
    third = store.write([], [key_of(answer("b"))])
    seqs = [change.seq for change in store.changes(0)]
    assert 0 < seqs[0] < seqs[1] == first < second < third == seqs[2]
    assert store.write([]) == third
    assert store.write([answer("c")]) > third


def test_a_replaced_record_moves_to_the_end(store: Store) -> None:
    store.write([answer("a"), answer("b"), answer("c")])
    last = store.write([answer("a", content="43")])
    assert [change.key.id for change in store.scan(Kind.ANSWER, "acme")] == ["b", "c", "a"]
    assert [change.key.id for change in store.changes(0)] == ["b", "c", "a"]
    assert store.changes(last - 1) == [Change(last, key_of(answer("a")), answer("a", content="43"))]


def test_putting_the_same_again_is_a_change(store: Store) -> None:
    before = store.write([answer("a"), answer("b")])
    assert store.write([answer("a")]) > before
    assert [change.key.id for change in store.changes(0)] == ["b", "a"]


def test_of_several_puts_of_one_record_the_last_counts(store: Store) -> None:
    store.write([answer("a", content="1"), answer("b"), answer("a", content="2")])
    assert states(store.changes(0)) == [
        (key_of(answer("b")), answer("b")),
        (key_of(answer("a")), answer("a", content="2")),
    ]


def test_a_deleted_record_is_gone_and_the_feed_says_so(store: Store) -> None:
    before = store.write([answer("a"), reference("a"), answer("b")])
    last = store.write([], [key_of(answer("a"))])
    assert store.get(Kind.ANSWER, "acme", ["a"]) == {}
    assert [change.key.id for change in store.scan(Kind.ANSWER, "acme")] == ["b"]
    assert store.get(Kind.REFERENCE, "acme", ["a"]) == {"a": reference("a")}
    assert store.changes(before) == [Change(last, key_of(answer("a")), None)]


def test_a_record_that_comes_back_leaves_no_deletion_in_the_feed(store: Store) -> None:
    store.write([answer("a")])
    store.write([], [key_of(answer("a"))])
    store.write([answer("a")])
    assert states(store.changes(0)) == [(key_of(answer("a")), answer("a"))]


def test_deleting_what_is_not_there_is_no_change(store: Store) -> None:
    last = store.write([answer("a")])
    unknown = [RecordKey(Kind.ANSWER, "acme", "z"), RecordKey(Kind.REFERENCE, "acme", "a")]
    assert store.write([], unknown) == last
    gone = store.write([], [key_of(answer("a"))] * 2)
    assert store.write([], [key_of(answer("a"))]) == gone
    assert [change.seq for change in store.changes(0)] == [gone]


def test_deletes_happen_before_puts(store: Store) -> None:
    store.write([answer("a")])
    store.write([answer("a", content="43")], [key_of(answer("a"))])
    assert states(store.changes(0)) == [(key_of(answer("a")), answer("a", content="43"))]


def test_scan_pages_through_one_scope_and_kind(store: Store) -> None:
    for number in range(7):
        store.write([answer(f"{number}"), answer("x", scope="other"), reference(f"{number}")])
    after, pages = 0, []
    while page := store.scan(Kind.ANSWER, "acme", after=after, limit=3):
        pages.append([change.key.id for change in page])
        after = page[-1].seq
    assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert len(store.scan(Kind.REFERENCE, "acme")) == 7
    assert len(store.scan(Kind.ANSWER, "other")) == 1
    assert store.scan(Kind.ANSWER, "nobody") == []


def test_scan_and_feed_return_nothing_for_a_limit_of_nothing(store: Store) -> None:
    store.write([answer()])
    assert store.scan(Kind.ANSWER, "acme", limit=0) == []
    assert store.changes(0, 0) == []


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_the_feed_is_the_same_in_pages_of_any_size(store: Store, page: int) -> None:
    for number in range(5):
        store.write([reference(f"{number}"), answer(f"{number}"), answer("x", scope="other")])
        store.write([], [key_of(answer(f"{number // 2}"))])
    feed = rebuilt(store, page=page)
    assert [change.seq for change in feed] == sorted({change.seq for change in feed})
    assert feed == store.changes(0)
    assert {change.key.id for change in feed if change.record is None} == {"0", "1", "2"}


def test_the_feed_can_leave_out_what_answers_say(store: Store) -> None:
    said = answer("a", content="long", chunks=("lo", "ng"))
    store.write([said, reference()])
    store.write([answer("b")])
    store.write([], [key_of(answer("b"))])
    assert [change.record for change in store.changes(0, contents=False)] == [
        dataclasses.replace(said, content="", chunks=()),
        reference(),
        None,
    ]
    assert store.get(Kind.ANSWER, "acme", ["a"]) == {"a": said}


UNSTORABLE = [
    answer("bad", content="half \ud83d"),
    answer("bad", chunks=("\udc00",)),
    answer("\ud83d"),
    answer("bad", scope="\udc00"),
    dataclasses.replace(answer("bad"), stored_at=float("nan")),
    dataclasses.replace(answer("bad"), expires_at=float("inf")),
    reference("bad", best_model="\ud83d"),
    LiveReference("acme", Reference("bad", "p", scores={"small": float("nan")}), "e", b""),
]


@pytest.mark.parametrize("bad", UNSTORABLE, ids=range(len(UNSTORABLE)))
def test_a_write_that_fails_in_the_middle_leaves_nothing(store: Store, bad: Record) -> None:
    last = store.write([answer("a"), reference("r")])
    before = store.changes(0)
    with pytest.raises(StoreError, match="cannot be stored"):
        store.write(
            [answer("a", content="43"), answer("b"), bad, reference("q")],
            [key_of(reference("r"))],
        )
    assert store.changes(0) == before
    assert store.write([]) == last
    assert store.write([answer("b")]) > last


def test_a_closed_store_refuses_everything_but_closing(store: Store) -> None:
    store.write([answer()])
    store.close()
    store.close()
    for call in (
        lambda: store.write([]),
        lambda: store.get(Kind.ANSWER, "acme", ["a"]),
        lambda: store.scan(Kind.ANSWER, "acme"),
        lambda: store.changes(0),
    ):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_only_the_newest_deletions_are_remembered(backend: Backend, tmp_path: Path) -> None:
    kept = 20
    store = backend.open(tmp_path, kept)
    store.write([answer("stays")])
    for number in range(100):
        store.write([answer(f"{number}")])
        last = store.write([], [key_of(answer(f"{number}"))])
    feed = store.changes(0)
    assert [change.key.id for change in feed if change.record is not None] == ["stays"]
    dead = [change.key.id for change in feed if change.record is None]
    assert dead == [f"{number}" for number in range(100)][-len(dead) :]
    assert kept <= len(dead) <= kept * 1.1
    assert feed[-1].seq == last
    assert store.write([answer("next")]) > last
    store.close()


@pytest.mark.parametrize("backend", [name for name, backend in BACKENDS.items() if backend.survives], indirect=True)
def test_a_store_that_survives_is_the_same_when_opened_again(backend: Backend, tmp_path: Path) -> None:
    store = backend.open(tmp_path, MANY)
    store.write([*WHOLE, answer("newest")])
    last = store.write([], [key_of(answer("newest"))])
    before = store.changes(0)
    store.close()
    store = backend.open(tmp_path, MANY)
    assert store.changes(0) == before
    assert store.write([]) == last
    assert store.write([answer("next")]) > last
    store.close()


def test_eight_threads_write_and_read_at_once(store: Store) -> None:
    threads, rounds = 8, 25
    seqs: list[list[int]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(thread: int) -> None:
        start.wait()
        for number in range(rounds):
            mark = f"{thread}.{number}"
            pair = [answer("left", content=mark), answer("right", content=mark)]
            seqs[thread].append(store.write([answer(mark), *pair], [key_of(answer(mark[::-1]))]))
            seen = store.get(Kind.ANSWER, "acme", ["left", "right"])
            left, right = seen["left"], seen["right"]
            assert isinstance(left, Answer)
            assert isinstance(right, Answer)
            assert left.content == right.content, "half a write was seen"
            store.scan(Kind.ANSWER, "acme", after=seqs[thread][-1] - 5)
            last = [change.seq for change in store.changes(seqs[thread][-1] - 1)]
            assert last == sorted(last)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()
    assert all(mine == sorted(mine) for mine in seqs)
    assert len(set(itertools.chain(*seqs))) == threads * rounds
    feed = store.changes(0)
    assert feed[-1].seq == max(itertools.chain(*seqs))
    assert feed[-2].key.id == "left"
    assert feed[-1].key.id == "right"
    assert rebuilt(store, page=17) == feed


def test_a_tail_of_the_feed_misses_nothing_while_others_write(store: Store) -> None:
    view: dict[RecordKey, Record] = {}
    done = threading.Event()

    def tail() -> None:
        since, at_end = 0, False
        while not at_end:
            at_end = done.is_set()
            while page := store.changes(since, 7):
                since = page[-1].seq
                for change in page:
                    if change.record is None:
                        view.pop(change.key, None)
                    else:
                        view[change.key] = change.record

    def work(thread: int) -> None:
        for number in range(40):
            record = answer(f"{(thread + number) % 11}", content=f"{thread}.{number}")
            store.write([record], [RecordKey(Kind.ANSWER, "acme", f"{number % 13}")])

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(tail)
        for writer in [pool.submit(work, thread) for thread in range(4)]:
            writer.result()
        done.set()
        reader.result()
    assert view == {c.key: c.record for c in store.changes(0) if c.record is not None}


SCOPES, IDS = ("acme", "other"), ("1", "2", "\0")
TEXT = st.text(max_size=8)
KEYS = st.builds(RecordKey, st.sampled_from(Kind), st.sampled_from(SCOPES), st.sampled_from(IDS))


@st.composite
def records(draw: st.DrawFn) -> Record:
    key = draw(KEYS)
    vector = draw(st.binary(max_size=8))
    if key.kind is Kind.REFERENCE:
        named = st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2)
        messages = st.tuples(st.builds(Message, TEXT, TEXT)) | st.just(())
        facts = Reference(
            key.id,
            draw(TEXT),
            draw(TEXT),
            draw(named),
            draw(named),
            draw(messages),
            note=draw(TEXT),
        )
        return LiveReference(key.scope, facts, draw(TEXT), vector)
    return dataclasses.replace(
        answer(key.id, scope=key.scope, content=draw(TEXT)),
        vector=vector,
        stored_at=draw(st.floats(allow_nan=False, allow_infinity=False)),
        chunks=tuple(draw(st.lists(TEXT, max_size=3))),
        source_tags=tuple(draw(st.lists(TEXT, max_size=3))),
        truncated=draw(st.booleans()),
    )


class Behaviour(RuleBasedStateMachine):
    """A store beside the simplest thing that does the same: states in the order they came about."""

    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[RecordKey, Record | None] = {}
        self.last = 0

    @initialize()
    def begin(self) -> None:
        self.store = self.backend.open(Path(self.folder.name), MANY)

    @rule(puts=st.lists(records(), max_size=4), deletes=st.lists(KEYS, max_size=4))
    def write(self, puts: list[Record], deletes: list[RecordKey]) -> None:
        changed = {key_of(record) for record in puts}
        for key in dict.fromkeys(deletes):
            if key not in changed and self.model.get(key) is not None:
                del self.model[key]
                self.model[key] = None
                changed.add(key)
        for record in puts:
            self.model.pop(key_of(record), None)
            self.model[key_of(record)] = record
        seq = self.store.write(puts, deletes)
        assert (seq > self.last) if changed else (seq == self.last)
        self.last = seq

    @precondition(lambda self: self.backend.survives)
    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = self.backend.open(Path(self.folder.name), MANY)

    @rule(page=st.integers(1, 5))
    def read_in_pages(self, page: int) -> None:
        assert states(rebuilt(self.store, page=page)) == list(self.model.items())

    @rule(key=KEYS)
    def get(self, key: RecordKey) -> None:
        there = {
            id_: record for id_ in IDS if (record := self.model.get(RecordKey(key.kind, key.scope, id_))) is not None
        }
        assert self.store.get(key.kind, key.scope, IDS) == there

    @rule(key=KEYS, limit=st.integers(1, 4))
    def scan(self, key: RecordKey, limit: int) -> None:
        there = [
            (known, record)
            for known, record in self.model.items()
            if record is not None and (known.kind, known.scope) == (key.kind, key.scope)
        ]
        assert states(self.store.scan(key.kind, key.scope, limit=limit)) == there[:limit]

    @invariant()
    def the_feed_is_the_model(self) -> None:
        feed = self.store.changes(0)
        assert states(feed) == list(self.model.items())
        assert (feed[-1].seq if feed else 0) <= self.last

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


def test_any_sequence_of_calls_does_what_the_model_does(backend: Backend) -> None:
    class OfThisStore(Behaviour):
        pass

    OfThisStore.backend = backend
    run_state_machine_as_test(OfThisStore, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
