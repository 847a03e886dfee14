"""Who asks the very same again is spared the reading: nothing but that may be different."""

from pathlib import Path

import pytest
from waypost.v1 import router_pb2, types_pb2

from index.records import Answer
from service import repeats
from service.auth import Principal
from service.errors import Forbidden
from service.repeats import Repeat, Repeats
from service.requests import Prompt, Request
from tests.service.kit import Service, catalogue, running

ASKED = router_pb2.DecideRequest(prompt="When do you open?", scope="shop").SerializeToString()


def known(service: Service) -> Repeats:
    return service.runtime.decider.repeats


def is_known(service: Service, raw: bytes = ASKED) -> bool:
    found = known(service)
    return found.get("anyone", raw, service.runtime.decider.generation.catalogue) is not None


async def test_the_answer_is_the_same_and_the_decision_another(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("When do you open?", "At nine.", "shop", content_type="text/plain", model="small")
        read = await service.decide("When do you open?", "shop", explain=True)
        first = await service.decide("When do you open?", "shop")
        assert is_known(service)
        second = await service.decide("When do you open?", "shop")
        assert first.answer == second.answer == read.answer
        assert second.answer.content == "At nine."
        assert (second.generation, second.degraded) == (read.generation, types_pb2.DEGRADED_NONE)
        assert second.timings.total.nanos
        assert len({read.decision_id, first.decision_id, second.decision_id}) == 3
        decider = service.runtime.decider
        assert decider.metrics.scope("shop").exact_hits == 3
        kept = decider.log.get(second.decision_id)
        assert kept is not None
        assert kept.hit is not None
        assert (kept.request.text, kept.hit.answer.content) == ("When do you open?", "")


async def test_what_is_removed_or_replaced_is_neither_served_nor_remembered(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("When do you open?", "At nine.", "shop")
        for _ in range(2):
            await service.decide("When do you open?", "shop")
        await service.put("When do you open?", "At ten.", "shop")
        assert not is_known(service)
        for _ in range(2):
            assert (await service.decide("When do you open?", "shop")).answer.content == "At ten."
        await service.invalidate("shop", all=True)
        assert not is_known(service)
        assert (await service.decide("When do you open?", "shop")).plan.steps


async def test_a_plan_is_made_where_the_answer_lapsed_and_a_stale_one_is_called_so(tmp_path: Path) -> None:
    async with running(tmp_path, cache={"ttl_s": 100, "ttl_jitter": 0, "stale_s": 100}) as service:
        clock = service.runtime.decider.answers.clock
        await service.put("When do you open?", "At nine.", "shop")
        for _ in range(2):
            assert not (await service.decide("When do you open?", "shop")).answer.stale
        clock._last += 150
        assert (await service.decide("When do you open?", "shop")).plan.steps  # this one fetches it
        assert (await service.decide("When do you open?", "shop")).answer.stale
        clock._last += 150
        assert (await service.decide("When do you open?", "shop")).plan.steps


async def test_the_same_bytes_from_another_caller_are_read_for_that_caller(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("When do you open?", "At nine.", "shop")
        await service.decide("When do you open?", "shop")
        assert is_known(service)
        other = Service(service.runtime, Principal("other", frozenset({"elsewhere"}), admin=False))
        with pytest.raises(Forbidden):
            await other.decide("When do you open?", "shop")


async def test_what_is_asked_past_the_cache_or_has_an_id_is_not_remembered(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.put("When do you open?", "At nine.", "shop")
        await service.decide("When do you open?", "shop", request_id="7")
        bypass = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
        await service.decide("When do you open?", "shop", cache=bypass)
        await service.decide("Where are you?", "shop")
        assert not known(service)._known


def repeat(size: int, key: bytes = b"k") -> Repeat:
    answer = Answer("1", "s", key, b"c", "", "", "m", "e", b"", 0.0)
    return Repeat(Request("s", "x"), Prompt("x", key), answer, b"x" * size)


def test_nothing_is_known_of_another_catalogue() -> None:
    found, first, second = Repeats(), catalogue(), catalogue()
    assert found.get("a", b"raw", first) is None
    found.keep("a", b"raw", repeat(1))
    assert found.get("a", b"raw", first) is not None
    assert found.get("b", b"raw", first) is None
    assert found.get("a", b"raw", second) is None


def test_more_than_there_is_room_for_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MOST_BYTES", 100)
    found, models = Repeats(), catalogue()
    found.get("a", b"", models)
    for number in range(9):
        found.keep("a", b"%d" % number, repeat(10, b"%d" % number))
    assert len(found._known) == 9
    found.keep("a", b"9", repeat(10))
    assert set(found._known) == {("a", b"9")}
    found.keep("a", b"large", repeat(100))
    assert set(found._known) == {("a", b"9")}
