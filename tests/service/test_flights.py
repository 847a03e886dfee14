"""Single-flight: of many that miss an answer at once one fetches it, and nobody waits longer than it asked for."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import router_pb2, types_pb2

from index.errors import StoreFullError
from index.store import MemoryStore
from service.cache import flights as module
from tests.service.kit import Service, running
from tests.service.test_answers import SlowStore

PROMPT, SAME, OTHER = "where is my parcel now", "now where is my parcel", "how do I bake bread"
BROKEN = {"outcome": types_pb2.OUTCOME_ERROR, "answer": ""}


def waiting(seconds: float = 30, **options: Any) -> dict[str, Any]:
    wait = Duration()
    wait.FromMilliseconds(int(seconds * 1_000))
    return {"cache": types_pb2.CacheControl(wait=wait, **options)}


def ask(service: Service, prompts: Sequence[str], **fields: Any) -> list["asyncio.Task[router_pb2.DecideResponse]"]:
    fields = {**waiting(), **fields}
    return [asyncio.ensure_future(service.decide(prompt, **fields)) for prompt in prompts]


async def until_waiting(service: Service, number: int) -> None:
    async with asyncio.timeout(30):
        while service.runtime.decider.flights.waiting != number:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)


async def plan_of(asked: Sequence["asyncio.Task[router_pb2.DecideResponse]"]) -> router_pb2.DecideResponse:
    """Return the one plan there is among those that are done."""
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    (plan,) = (one.result() for one in asked if one.done())
    assert plan.plan.fill_token
    return plan


async def test_of_a_thousand_callers_one_gets_the_plan_and_the_others_its_answer(service: Service) -> None:
    asked = ask(service, [PROMPT] * 1_000)
    await until_waiting(service, 999)
    plan = await plan_of(asked)
    await service.report(plan, answer="on its way")
    answered = await asyncio.gather(*asked)
    assert sum(one.answer.content == "on its way" for one in answered) == 999
    assert all(one.timings.HasField("wait") for one in answered if one.HasField("answer"))
    assert all(not one.HasField("plan") for one in answered if one.HasField("answer"))
    assert (service.runtime.decider.flights.waiting, len(service.runtime.decider.flights)) == (0, 0)


async def test_who_means_the_same_gets_the_answer_as_a_semantic_hit(service: Service) -> None:
    asked = ask(service, [PROMPT])
    plan = await plan_of(asked)
    late = ask(service, [SAME] * 5)
    await until_waiting(service, 5)
    await service.report(plan, answer="on its way")
    for one in await asyncio.gather(*late):
        assert (one.answer.content, one.answer.match) == ("on its way", types_pb2.MATCH_SEMANTIC)
        assert one.answer.matched_prompt == PROMPT


async def test_where_what_came_is_to_be_audited_one_of_those_who_wait_does_it_for_all(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.01}, coin=lambda: 0.0) as service:
        plan = await service.decide("How do I reset my  password?")
        late = ask(service, ["how do I reset my password"] * 20)
        await until_waiting(service, 20)
        await service.report(plan, answer="in the settings")
        audit = await plan_of(late)
        assert audit.plan.candidate.refused_by == "audited"
        await service.report(audit, answer="in the settings")
        answered = await asyncio.gather(*late)
        assert sum(one.answer.content == "in the settings" for one in answered) == 19


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": OTHER},
        {"prompt": f"{PROMPT} 7"},
        {"prompt": PROMPT, "scope": "another"},
        {"prompt": PROMPT, "context": types_pb2.AnswerContext(system_prompt="another")},
        {"prompt": PROMPT, "route": types_pb2.RouteControl(pin_model="large")},
        {"prompt": SAME, **waiting(mode=types_pb2.CACHE_MODE_EXACT_ONLY)},
        {"prompt": PROMPT, **waiting(mode=types_pb2.CACHE_MODE_REFRESH)},
        {"prompt": PROMPT, **waiting(0)},
        {"prompt": PROMPT, "cache": types_pb2.CacheControl()},
    ],
    ids=["prompt", "number", "scope", "context", "model", "exact only", "refresh", "wait of 0", "no wait"],
)
async def test_who_could_not_use_the_answer_does_not_wait_for_it(service: Service, fields: dict[str, Any]) -> None:
    await service.decide(f"{PROMPT}", route=types_pb2.RouteControl(pin_model="small"))
    async with asyncio.timeout(20):
        decision = await service.decide(**{**waiting(), **fields})
    assert decision.plan.steps
    assert decision.plan.fill_token


@pytest.mark.parametrize("how", ["error", "refused", "empty", "without token", "disk"])
async def test_when_the_holder_fails_the_first_who_waits_takes_over_and_the_others_get_its_answer(
    root: Path, how: str
) -> None:
    store = SlowStore()
    async with running(root, store=store) as service:
        asked = ask(service, [PROMPT] * 20)
        await until_waiting(service, 19)
        plan = await plan_of(asked)
        asked = [one for one in asked if not one.done()]
        if how == "disk":
            store.failures = [StoreFullError("full")]
            with pytest.raises(StoreFullError):
                await service.report(plan)
        else:
            fields: dict[str, dict[str, Any]] = {
                "error": BROKEN,
                "refused": {"finish_reason": "length"},
                "empty": {"answer": " "},
                "without token": {"fill_token": ""},
            }
            assert not (await service.report(plan, **fields[how])).stored
        second = await plan_of(asked)
        await until_waiting(service, 18)
        assert second.decision_id != plan.decision_id
        await service.report(second, answer="at last")
        assert sum(one.answer.content == "at last" for one in await asyncio.gather(*asked)) == 18


async def test_a_lease_that_lapses_lets_the_next_one_fetch(root: Path) -> None:
    async with running(root, cache={"lease_s": 0.2}) as service:
        asked = ask(service, [PROMPT] * 10)
        await until_waiting(service, 9)
        dead = await plan_of(asked)
        left = [one for one in asked if not one.done()]
        plan = await plan_of(left)
        assert plan.decision_id != dead.decision_id
        await service.report(plan, answer="at last")
        answered = await asyncio.gather(*left)
        assert sum(one.answer.content == "at last" for one in answered) == 8


async def test_nobody_waits_longer_than_asked_and_who_gave_up_fetches_for_the_others(service: Service) -> None:
    await service.decide(PROMPT)
    short, (patient,) = ask(service, [PROMPT] * 3, **waiting(0.1)), ask(service, [PROMPT])
    plans = await asyncio.gather(*short)
    assert all(one.plan.fill_token for one in plans)
    assert not patient.done()
    await service.report(plans[-1], answer="mine was quicker")
    assert (await patient).answer.content == "mine was quicker"


async def test_a_deadline_is_honoured_while_waiting(root: Path) -> None:
    async with running(root) as service:
        await service.decide(PROMPT)
        service.deadline = 0.3
        started = time.perf_counter()
        decision = await service.decide(PROMPT, **waiting(60))
        assert decision.plan.steps
        assert time.perf_counter() - started < 60, "it did not wait for as long as it might have without a deadline"
        took = decision.timings.total.seconds + decision.timings.total.nanos / 1e9
        assert took < 0.3 * 0.95 or not decision.timings.HasField("wait")


async def test_a_caller_that_goes_away_holds_nobody_up(service: Service) -> None:
    plan = await service.decide(PROMPT)
    asked = ask(service, [PROMPT] * 10)
    await until_waiting(service, 10)
    for one in asked[:9]:
        one.cancel()
    await until_waiting(service, 1)
    await service.report(plan, answer="yes")
    assert (await asked[9]).answer.content == "yes"


async def test_an_answer_that_was_put_ends_the_wait(service: Service) -> None:
    await service.decide(PROMPT)
    asked = ask(service, [PROMPT, SAME])
    await until_waiting(service, 2)
    await service.put(PROMPT, "warmed")
    assert {one.answer.content for one in await asyncio.gather(*asked)} == {"warmed"}


async def test_an_answer_that_may_not_be_served_after_all_leaves_everyone_a_plan(service: Service) -> None:
    plan = await service.decide(PROMPT)
    asked = ask(service, [PROMPT] * 3, route=types_pb2.RouteControl(deny_models=["large"]))
    await until_waiting(service, 3)
    await service.report(plan, model="large")
    assert all(one.plan.fill_token for one in await asyncio.gather(*asked))


async def test_nobody_waits_within_a_batch(service: Service) -> None:
    request = router_pb2.DecideRequest(prompt=PROMPT, **waiting(60))
    async with asyncio.timeout(30):
        batch = router_pb2.DecideBatchRequest(requests=[request] * 5)
        found = await service.call("Router.DecideBatch", batch)
    assert all(one.response.plan.fill_token for one in found.results)


async def test_when_the_service_ends_everyone_gets_a_plan(service: Service) -> None:
    await service.decide(PROMPT)
    asked = ask(service, [PROMPT] * 50)
    await until_waiting(service, 50)
    service.runtime.decider.flights.close()
    assert all(one.plan.steps for one in await asyncio.gather(*asked))
    async with asyncio.timeout(10):
        assert (await service.decide(PROMPT, **waiting())).plan.steps


async def test_flights_and_those_who_wait_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(root, store=MemoryStore(), decisions={"keep": 5}) as service:
        for i in range(20):
            await service.decide(f"question of its own {i}")
        flights = service.runtime.decider.flights
        assert len(flights) == 5
        assert sum(map(len, flights._near.values())) == len(flights._by_key) == 5
        monkeypatch.setattr(module, "MAX_WAITING", 2)
        asked = ask(service, ["question of its own 19"] * 6)
        done, left = await asyncio.wait(asked, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert service.runtime.decider.flights.waiting <= 2
        flights.close()
        await asyncio.gather(*left)
