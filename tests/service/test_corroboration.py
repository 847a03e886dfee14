"""Where several tokens share a scope, an answer stays its writer's own until a model told another one the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from waypost.v1 import admin_pb2, cache_pb2, references_pb2, router_pb2, types_pb2

from index.store import MemoryStore
from service.auth import Principal, writer
from service.settings import AuthSettings, TokenSettings
from tests.service.kit import Service, running

TOKENS = {
    name: {"token": f"token-of-{name}-0123456789", "scopes": scopes, "admin": name == "boss"}
    for name, scopes in {"ann": ["shop"], "bob": ["shop", "lab"], "eve": ["shop"], "boss": ["*"]}.items()
}
REFRESH = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_REFRESH)


@asynccontextmanager
async def shared(root: Path, store: MemoryStore | None = None, **cache: Any) -> AsyncIterator[dict[str, Service]]:
    """Run a service; yield it as each holder of a token sees it."""
    async with running(root, store=store or MemoryStore(), auth={"tokens": TOKENS}, cache=cache) as service:
        yield {
            name: Service(service.runtime, Principal(name, frozenset(t["scopes"]), admin=bool(t["admin"])))  # type: ignore[call-overload]
            for name, t in TOKENS.items()
        }


async def tell(service: Service, prompt: str, answer: str) -> router_pb2.ReportResponse:
    return await service.report(await service.decide(prompt, "shop", cache=REFRESH), answer=answer)


async def seen(service: Service, prompt: str) -> str:
    return (await service.decide(prompt, "shop")).answer.content


async def test_an_answer_is_its_writer_s_own_at_first(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        assert (await tell(by["ann"], "a question", "yes")).stored
        for prompt in ("a question", "A question"):
            assert await seen(by["ann"], prompt) == "yes"
            for other in ("bob", "eve", "boss"):
                decision = await by[other].decide(prompt, "shop", explain=True)
                assert decision.plan.steps
                assert not decision.plan.HasField("candidate"), "not even a hint that somebody stored it"


@pytest.mark.parametrize("other", ["if x:\n  a()\nb()", "IF x:\n  a()\n  b()", "if x: a() b()"])
async def test_the_same_words_in_other_case_or_spacing_are_another_answer(tmp_path: Path, other: str) -> None:
    async with shared(tmp_path) as by:
        await tell(by["ann"], "a question", "if x:\n  a()\n  b()")
        await tell(by["eve"], "a question", other)
        assert await seen(by["ann"], "a question") == "if x:\n  a()\n  b()"
        assert not await seen(by["bob"], "a question")


async def test_what_became_everyone_s_is_of_one_type_and_goes_with_the_tags_of_all_who_told_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        told: dict[str, dict[str, Any]] = {
            "ann": {"source_tags": ["doc:1"]},
            "eve": {"content_type": "text/html"},
            "bob": {"source_tags": ["doc:2"]},
        }
        for name, fields in told.items():
            decision = await by[name].decide("a question", "shop", cache=REFRESH)
            await by[name].report(decision, answer="<b>yes</b>", **fields)
            assert bool(await seen(by["boss"], "a question")) == (name == "bob")
        assert (await by["boss"].decide("a question", "shop")).answer.content_type == "text/plain"
        assert (await by["bob"].invalidate("shop", source_tags=["doc:1"])).removed == 1
        assert not await seen(by["bob"], "a question")


async def test_another_s_equal_answer_makes_it_everyone_s(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await tell(by["ann"], "a question", "Yes,\r\nof course. \n")
        done = await tell(by["bob"], "a question", "Yes,\nof course.")
        for name in by:
            for prompt in ("a question", "A question"):
                assert await seen(by[name], prompt) == "Yes,\nof course."
        (stored,) = await listed(by["eve"])
        assert (stored.entry_id, stored.private_to) == (done.entry_id, "")


async def test_an_answer_that_differs_stays_beside_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await tell(by["eve"], "a question", "Yes. Send your password to eve.")
        await tell(by["ann"], "a question", "Yes.")
        assert [await seen(by[name], "a question") for name in ("eve", "ann", "bob")] == [
            "Yes. Send your password to eve.",
            "Yes.",
            "",
        ]
        await tell(by["bob"], "a question", "Yes.")
        assert [await seen(by[name], "a question") for name in ("eve", "ann", "bob", "boss")] == [
            "Yes. Send your password to eve.",
            "Yes.",
            "Yes.",
            "Yes.",
        ]


async def test_the_same_one_saying_it_twice_is_no_second_one(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        for _ in range(3):
            await tell(by["eve"], "a question", "wrong")
        await by["eve"].put("a question", "wrong", "shop")
        assert await seen(by["ann"], "a question") == ""
        assert len(await listed(by["eve"])) == 1


async def test_who_stored_a_shared_answer_anew_does_not_change_it_for_others(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await by["boss"].put("a question", "right", "shop")
        assert await seen(by["ann"], "a question") == "right"
        await tell(by["eve"], "a question", "wrong")
        assert await seen(by["ann"], "a question") == "right"
        assert await seen(by["eve"], "a question") == "wrong"
        await tell(by["ann"], "a question", "right")
        assert await seen(by["bob"], "a question") == "right"


async def test_a_listing_shows_nobody_another_s_own_answers(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await tell(by["ann"], "a question", "yes")
        await by["boss"].put("another", "no", "shop")
        assert [one.content for one in await listed(by["ann"])] == ["yes", "no"]
        assert [one.content for one in await listed(by["eve"])] == ["no"]
        assert [(one.content, one.private_to) for one in await listed(by["boss"])] == [("yes", "ann"), ("no", "")]
        ids = [one.entry_id for one in await listed(by["boss"])]
        assert [one.content for one in await listed(by["eve"], ids)] == ["no"]


async def test_nobody_waits_for_an_answer_that_would_be_another_s_own(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await by["ann"].decide("a question", "shop")
        waits = {"cache": types_pb2.CacheControl(wait=Duration(seconds=60))}
        async with asyncio.timeout(30):
            assert (await by["bob"].decide("a question", "shop", **waits)).plan.fill_token


async def test_each_waits_for_its_own_kind_and_all_for_what_is_everyone_s(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        plans = {name: await by[name].decide("a question", "shop") for name in ("ann", "bob")}
        waits = {"cache": types_pb2.CacheControl(wait=Duration(seconds=30))}
        asked = {n: asyncio.ensure_future(by[n].decide("a question", "shop", **waits)) for n in ("ann", "bob")}
        async with asyncio.timeout(30):
            while by["ann"].runtime.decider.flights.waiting < 2:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.001)
            await by["ann"].report(plans["ann"], answer="yes")
            assert (await asked["ann"]).answer.content == "yes"
            assert not asked["bob"].done()
            await by["boss"].put("a question", "for all", "shop")
            assert (await asked["bob"]).answer.content == "for all"


async def test_it_stays_so_over_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    store.close = lambda: None  # type: ignore[method-assign]
    async with shared(tmp_path, store) as by:
        await tell(by["ann"], "a question", "yes")
    async with shared(tmp_path, store) as by:
        assert await seen(by["ann"], "A question") == "yes"
        assert await seen(by["bob"], "a question") == ""
        await tell(by["bob"], "a question", "yes")
        assert await seen(by["eve"], "a question") == "yes"


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    async with shared(tmp_path, corroborate=False) as by:
        await tell(by["ann"], "a question", "yes")
        assert await seen(by["bob"], "a question") == "yes"


async def test_what_is_removed_is_removed_for_everyone(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        await tell(by["ann"], "a question", "yes")
        await tell(by["bob"], "another question", "no")
        for fields in ({"all": True}, {"radius": {"prompt": "a question", "min_similarity": 0.9}}):
            seen_by = {
                name: await by[name].invalidate("shop", dry_run=True, **fields) for name in ("eve", "ann", "boss")
            }
            assert not seen_by["eve"].removed, "a dry run would tell what others asked"
            assert seen_by["ann"].removed == len(seen_by["ann"].entry_ids) == 1
            assert seen_by["boss"].removed == (2 if "all" in fields else 1)
        gone = await by["eve"].invalidate("shop", all=True)
        assert (gone.removed, list(gone.entry_ids)) == (0, [])
        assert [await seen(by[name], "a question") for name in by] == [""] * len(by)
        view = by["ann"].runtime.decider.answers.view
        assert (view.answers, view.size, view._scopes) == (0, 0, {})


@pytest.mark.parametrize(
    ("name", "scope", "expected"),
    [("ann", "shop", "ann"), ("bob", "shop", "bob"), ("bob", "lab", ""), ("boss", "shop", ""), ("boss", "lab", "")],
)
def test_a_scope_of_one_token_and_its_administrators_is_not_shared(name: str, scope: str, expected: str) -> None:
    tokens = {holder: TokenSettings.model_validate(token) for holder, token in TOKENS.items()}
    settings = AuthSettings(tokens=tokens)
    principal = Principal(name, frozenset(tokens[name].scopes), tokens[name].admin)
    assert writer(settings, principal, scope) == expected
    assert writer(AuthSettings(), principal, scope) == ""


async def listed(service: Service, ids: list[str] | None = None) -> list[cache_pb2.StoredAnswer]:
    page = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest(scope="shop", entry_ids=ids or []))
    return list(page.answers)


async def test_what_one_principal_says_of_candidates_changes_nothing_for_another(tmp_path: Path) -> None:
    budget = types_pb2.CacheControl(error_budget=0.05)
    async with shared(tmp_path, error_budget=0.05) as by:
        await by["boss"].put("is the warranty valid for 2 years", "yes", "shop")
        lied = 0
        for years in range(3, 63):
            decision = await by["eve"].decide(f"is the warranty valid for {years} years", "shop", cache=budget)
            if decision.HasField("plan"):
                await by["eve"].report(decision, fill_token="", candidate_equivalent=True)
                lied += 1
        assert 18 <= lied < 60, "she has convinced herself"
        for years in range(63, 83):
            plan = (await by["bob"].decide(f"is the warranty valid for {years} years", "shop", cache=budget)).plan
            assert plan.candidate.refused_by == "numbers_differ"
        accounts = [len((await stats(by[name])).budgets) for name in ("eve", "bob", "ann", "boss")]
        assert accounts == [1, 1, 0, 2]


async def stats(service: Service) -> admin_pb2.GetStatsResponse:
    found: admin_pb2.GetStatsResponse = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope="shop"))
    return found


async def test_nobody_takes_back_what_another_s_sources_taught(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        for name in ("bob", "eve"):
            decision = await by[name].decide("add two numbers", "shop")
            await by[name].report(decision, fill_token="", quality=0.5, quality_source="judge")
        request = references_pb2.DeleteRequest(scope="shop", sources=["judge"])
        for name, reports in (("eve", 1), ("eve", 0), ("ann", 0), ("boss", 1)):
            assert (await by[name].call("References.Delete", request)).reports == reports, name


async def test_calls_that_one_principal_says_failed_take_a_model_from_nobody_else(tmp_path: Path) -> None:
    async with shared(tmp_path) as by:
        best = (await by["eve"].decide("add two numbers", "shop")).plan.steps[0].model
        for _ in range(20):
            decision = await by["eve"].decide("add two numbers", "shop", cache=REFRESH)
            await by["eve"].report(decision, fill_token="", model=best, outcome=types_pb2.OUTCOME_ERROR)
        plans = {name: (await by[name].decide("add two numbers", "shop")).plan for name in by}
        led = {name for name, plan in plans.items() if plan.steps[0].model == best}
        assert led == {"ann", "bob", "boss"}
