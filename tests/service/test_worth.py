"""What goes when a scope is full: what is worth least, and never what was acknowledged last."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.eviction import compare
from index.errors import StoreFullError
from index.view import Entry
from service.cache.worth import Worth
from tests.service.kit import Service, running
from tests.service.test_answers import SlowStore, answer, key, opened, until_begun


def entry(name: str, row: int, cost: float = 1.0, size: int = 1_000) -> Entry:
    return Entry(name, row, "s", b"", b"", 0.0, 0.0, "m", (), truncated=False, prompt="", cost_usd=cost, size=size)


def order(worth: Worth, entries: list[Entry]) -> list[str]:
    """Return the ids in the order in which they would go."""
    left = {e.id: e for e in entries}
    gone = []
    while (least := worth.least(left.get)) is not None:
        gone.append(left.pop(least.id).id)
        worth.go(least)
    return gone


def ranked(entries: list[Entry], max_answers: int = 10, max_bytes: int = 10**9) -> Worth:
    worth = Worth(max_answers, max_bytes)
    worth.rank(entries)
    return worth


def test_the_cheap_the_large_and_the_unused_go_first() -> None:
    by_cost = [entry("dear", 1, cost=9), entry("cheap", 2, cost=1)]
    assert order(ranked(by_cost), by_cost) == ["cheap", "dear"]
    by_size = [entry("large", 1, size=9_000), entry("small", 2, size=1_000)]
    assert order(ranked(by_size, max_bytes=10_000), by_size) == ["large", "small"]
    same = [entry("used", 1), entry("unused", 2), entry("young", 3)]
    worth = ranked(same)
    worth.use(same[0])
    assert order(worth, same) == ["unused", "young", "used"]


def test_size_does_not_count_where_the_number_is_short() -> None:
    entries = [entry("first", 1, size=1), entry("second", 2, size=9_000)]
    assert order(ranked(entries, max_bytes=10**9), entries) == ["first", "second"]


def test_what_was_popular_once_goes_in_the_end() -> None:
    old = entry("old", 1)
    worth = ranked([old])
    for _ in range(5):
        worth.use(old)
    kept, went = {"old": old}, []
    for row in range(2, 100):
        young = entry(f"young {row}", row)
        kept[young.id] = young
        worth.come(young)
        if len(kept) > 3:
            least = worth.least(kept.get)
            assert least is not None
            went.append(kept.pop(least.id).id)
            worth.go(least)
    assert "old" in went
    assert went.index("old") > 5


def test_an_answer_that_replaces_a_popular_one_is_as_popular() -> None:
    old, other = entry("popular", 1), entry("other", 2)
    worth = ranked([old, other])
    worth.use(old)
    new = entry("popular", 3)
    worth.come(new, old)
    worth.go(old)
    assert worth.uses(new) == 2
    assert order(worth, [new, other]) == ["other", "popular"]


def test_a_ranking_that_is_full_of_what_is_gone_is_made_anew() -> None:
    worth = ranked([])
    for row in range(2_000):
        worth.come(entry("x", row))
    assert not worth.is_ranked(1)
    worth.rank([entry("x", 1_999)])
    assert worth.is_ranked(1)


def test_on_a_drifting_trace_more_cost_is_saved_than_by_lru_lfu_and_oldest_first() -> None:
    saved: dict[str, dict[str, float]] = {}
    for capacity, policy, _, share in compare(60_000, 1):
        saved.setdefault(capacity, {})[policy] = share
    assert len(saved) == 4
    for shares in saved.values():
        assert max(shares, key=lambda policy: shares[policy]) == "GDSF"


async def test_a_hit_and_a_dear_answer_outlive_what_came_later(tmp_path: Path) -> None:
    async with running(tmp_path, cache={"max_answers": 4}) as service:
        decision = await service.decide("a dear question")
        await service.report(decision, answer="dear", usage={"cost_usd": 1.0})
        await service.put("a popular question", "popular")
        for i in range(6):
            assert (await service.decide("a popular question")).answer.content == "popular"
            await service.put(f"question {i}", str(i))
        assert await kept(service) == {"dear", "popular", "4", "5"}


async def test_a_scope_is_never_beyond_its_bytes(tmp_path: Path) -> None:
    half = "x" * (512 << 10)
    async with running(tmp_path, cache={"max_mib": 16}) as service:
        view = service.runtime.decider.answers.view
        for i in range(3):
            await asyncio.gather(*(service.put(f"question {i} {j}", half) for j in range(20)))
            assert view.size_of("default") <= 16 << 20
        assert view.count("default")[0] == 31
        await service.put("in chunks", "", chunks=[half])
        assert view.count("default")[0] == 30, "chunks are kept beside the answer"
        await service.invalidate(all=True)
        assert view.size == view.size_of("default") == 0


async def test_each_scope_has_its_own_capacity(tmp_path: Path) -> None:
    scopes = {"small:*": {"max_answers": 2}}
    async with running(tmp_path, cache={"scopes": scopes}) as service:
        for scope in ("small:a", "small:b", "large"):
            for i in range(5):
                await service.put(f"question {i}", "yes", scope)
        view = service.runtime.decider.answers.view
        assert [view.count(scope)[0] for scope in ("small:a", "small:b", "large")] == [2, 2, 5]


async def test_who_should_have_gone_goes_the_next_time_when_the_write_failed() -> None:
    store = SlowStore()
    async with opened(store, 2) as answers:
        for name in "ab":
            await answers.put(answer(name))
        store.failures = [StoreFullError("full")]
        with pytest.raises(StoreFullError):
            await answers.put(answer("c"))
        assert {e.id for e in answers.view.entries("a")} == {"a", "b"}
        await answers.put(answer("d"))
        assert {e.id for e in answers.view.entries("a")} == {"b", "d"}
        assert answers.capacity.evicted == 1


async def test_uses_while_the_ranking_is_made_are_not_lost() -> None:
    store = SlowStore()
    async with opened(store, 3) as answers:
        for name in "abc":
            await answers.put(answer(name))
        store.gate.clear()
        store.begun.clear()
        put = asyncio.ensure_future(answers.put(answer("d")))
        await until_begun(store)  # "a" is on its way out
        answers.capacity.use("a", "b")
        store.gate.set()
        await put
        await answers.put(answer("e"))
        assert {e.id for e in answers.view.entries("a")} == {"b", "d", "e"}
        await answers.remove([key("b")])
        assert answers.capacity._worth["a"]._used == {}


async def kept(service: Service) -> set[str]:
    view = service.runtime.decider.answers.view
    found = [service.runtime.decider.answers.fetch(e) for e in view.entries("default")]
    return {one.content for one in found if one is not None}


async def test_an_answer_does_not_go_to_make_room_for_its_own_wordings(tmp_path: Path) -> None:
    async with running(tmp_path, cache={"max_answers": 4}) as service:
        await service.put("which day is it", "Monday", wordings=[f"wording {i} of the same" for i in range(9)])
        assert (await service.decide("which day is it")).answer.content == "Monday"
        assert (await service.decide("wording 8 of the same")).answer.content == "Monday"
        assert len(service.runtime.decider.answers.view.entries("default")) == 4
