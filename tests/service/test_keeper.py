"""What is served under an error budget, what goes to a model instead, and what its answers teach."""

import asyncio
import json
from dataclasses import replace
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, cache_pb2, router_pb2, types_pb2

from index.guard import CHECKS
from index.store import MemoryStore
from index.vectors import Vectors
from service.cache.keeper import AUDITED, OVER_BUDGET
from service.errors import Overloaded
from tests.service.kit import REFERENCES, Service, build, running

BASE = "what is the capital of the country"
WORDS = ("blue", "whale", "garden", "copper", "violin", "harbour")
ORDERS = [" ".join(words) for words in permutations(WORDS)]  # all have the same vector


def budget(share: float) -> types_pb2.CacheControl:
    return types_pb2.CacheControl(error_budget=share)


async def teach(service: Service, scope: str = "", *, times: int = 60, **fields: object) -> None:
    """Ask in ever new ways for what is stored, and report the same answer each time."""
    await service.put(ORDERS[0], "an answer", scope)
    for prompt in islice(ORDERS, 1, times + 1):
        decision = await service.decide(prompt, scope, cache=budget(0.05))
        if decision.WhichOneof("outcome") == "plan":
            await service.report(decision, fill_token="", candidate_equivalent=True, **fields)


async def stats(service: Service, scope: str = "default") -> admin_pb2.GetStatsResponse:
    found: admin_pb2.GetStatsResponse = await service.call("Admin.GetStats", admin_pb2.GetStatsRequest(scope=scope))
    return found


def error_of(decision: router_pb2.DecideResponse) -> float:
    return 1 - (decision.plan.candidate.p_correct or decision.answer.p_correct)


async def test_a_likely_hit_nobody_vouches_for_goes_to_a_model(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        stored = await service.put(ORDERS[0], "an answer")
        plan = (await service.decide(ORDERS[1])).plan
        assert plan.candidate.entry_id == stored.entry_id
        assert plan.candidate.refused_by == OVER_BUDGET
        assert 0 < plan.candidate.p_correct < 0.9


async def test_the_same_words_are_served_without_any_verdict_unless_an_audit_says_otherwise(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.01}, coin=lambda: 0.99) as service:
        await service.put("How do I reset my  password?", "an answer")
        hit = await service.decide("how do I reset my password")
        assert (hit.answer.content, hit.answer.match) == ("an answer", types_pb2.MATCH_SEMANTIC)
    async with running(root, cache={"error_budget": 0.01}, coin=lambda: 0.0) as service:
        await service.put("How do I reset my  password?", "an answer")
        refused = []
        for spaces in range(1, 25):
            plan = await service.decide(f"how{' ' * spaces}do I reset my password")
            refused.append(plan.plan.candidate.refused_by)
            await service.report(plan, fill_token="", candidate_equivalent=False)
        assert refused[0] == AUDITED
        assert refused[-1] == OVER_BUDGET


async def test_when_answers_change_what_was_learned_is_a_guess_again(root: Path) -> None:
    coins = iter([0.0] * 204 + [0.99])
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: next(coins)) as service:
        await teach(service, times=200)
        plans = [await service.decide(prompt) for prompt in islice(ORDERS, 300, 304)]
        assert {plan.plan.candidate.refused_by for plan in plans} == {AUDITED}
        for plan in plans:
            await service.report(plan, fill_token="", candidate_equivalent=False)
        keeper = service.runtime.decider.keeper
        assert keeper.changes == 1
        assert keeper.scope("default").learner.taught <= 2
        last = await service.decide(ORDERS[305])
        assert last.plan.candidate.refused_by == OVER_BUDGET


ALIKE = ("pay 30 euros at the river bank", "at the river bank pay 40 euros")  # the same words but for a number


async def waited(service: Service, unknown: int) -> None:
    for _ in range(200):
        if service.runtime.decider.keeper.verdicts["unknown"] == unknown:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(service.runtime.decider.keeper.verdicts)


async def test_answers_that_change_to_some_worded_alike_are_served_no_more_though_nobody_says_so(root: Path) -> None:
    """Verdicts are by the texts alone: equal ones, and from the change on such of which nobody can tell."""
    coins = iter([0.0] * 203 + [0.99] * 100)
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: next(coins)) as service:
        await service.put(ORDERS[0], ALIKE[0])
        for prompt in islice(ORDERS, 1, 201):
            await service.report(await service.decide(prompt), answer=ALIKE[0])
        keeper = service.runtime.decider.keeper
        assert keeper.verdicts["right"] > 100
        for number, prompt in enumerate(islice(ORDERS, 300, 303), 1):
            decision = await service.decide(prompt)
            assert decision.plan.candidate.refused_by == AUDITED
            report = await service.report(decision, answer=ALIKE[1])
            await waited(service, number)
            await service.invalidate(entry_ids=[report.entry_id])  # so that nothing but the verdict speaks against it
        assert keeper.changes == 1
        for prompt in islice(ORDERS, 305, 400):
            plan = (await service.decide(prompt)).plan
            assert plan.candidate.refused_by == OVER_BUDGET


async def test_an_answer_nobody_can_tell_of_teaches_nothing_where_nothing_is_known_of_such(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        await teach(service, times=10)
        kept, account = service.runtime.decider.keeper.scope("default"), (await stats(service)).budgets[0]
        taught = kept.learner.state()
        decision = await service.decide(ORDERS[-1])
        assert decision.plan.candidate.refused_by == OVER_BUDGET

        async def full(_: str) -> Vectors:
            raise Overloaded(0.1)

        service.runtime.lessons._embed = full  # as unknown as two answers that are somewhat alike
        await service.report(decision, answer="another answer")
        await waited(service, 1)
        assert kept.learner.state() == taught
        after = (await stats(service)).budgets[0]
        assert (after.verdicts, after.wrong) == (account.verdicts, account.wrong)


async def test_verdicts_teach_until_it_is_served(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        await teach(service)
        served = await service.decide(ORDERS[-1])
        assert served.answer.content == "an answer"
        assert served.answer.match == types_pb2.MATCH_SEMANTIC
        assert served.answer.p_correct > 0.9
        account = (await stats(service)).budgets[0]
        assert account.error_budget == 0.05
        assert account.requests == 61
        assert account.served > 0
        assert 0 < account.error_bound <= 0.05
        assert account.threshold > 0


async def test_an_audit_is_a_plan_with_the_candidate_it_is_about(root: Path) -> None:
    coins = [0.99]
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: coins[0]) as service:
        await teach(service)
        coins[0] = 0.0
        decision = await service.decide(ORDERS[-1])
        assert decision.plan.candidate.refused_by == AUDITED
        assert decision.plan.candidate.p_correct > 0.9
        assert decision.plan.fill_token
        assert decision.plan.steps
        before = (await stats(service)).budgets[0]
        await service.report(decision, candidate_equivalent=False, fill_token="")
        after = (await stats(service)).budgets[0]
        assert (after.audits, after.verdicts - before.verdicts, after.wrong - before.wrong) == (1, 1, 1)
        assert after.error_bound > before.error_bound


async def test_what_the_caller_says_of_the_candidate_counts_more_than_the_texts(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        verdicts = service.runtime.decider.keeper.verdicts
        for said in (False, True):
            await service.put(ORDERS[0], "an answer")
            decision = await service.decide(ORDERS[1])
            await service.report(decision, answer="an answer", candidate_equivalent=said, fill_token="")
        assert verdicts == {"right": 1, "wrong": 1, "unknown": 0}


@pytest.mark.parametrize(
    ("stored", "answer", "verdict"),
    [
        ("an answer", "  an answer\n", "right"),
        ("north of the river bank", "of the river bank north", "right"),
        ("pay 30 euros at the river bank", "at the river bank pay 40 euros", "unknown"),
        ("north of the river bank today", "north of the river side soon", "unknown"),
        ("north of the river bank", "call customer service tomorrow", "wrong"),
    ],
)
async def test_without_a_word_from_the_caller_the_answers_are_compared(
    root: Path, stored: str, answer: str, verdict: str
) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        verdicts = service.runtime.decider.keeper.verdicts
        await service.put(ORDERS[0], stored)
        decision = await service.decide(ORDERS[1])
        await service.report(decision, answer=answer)
        for _ in range(200):
            if sum(verdicts.values()):
                break
            await asyncio.sleep(0.01)
        assert verdicts == {"right": 0, "wrong": 0, "unknown": 0} | {verdict: 1}


async def test_a_decision_teaches_once_and_a_failed_call_nothing(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        verdicts = service.runtime.decider.keeper.verdicts
        await service.put(ORDERS[0], "an answer")
        decision = await service.decide(ORDERS[1])
        await service.report(decision, outcome=types_pb2.OUTCOME_ERROR, answer="", fill_token="")
        assert sum(verdicts.values()) == 0
        await service.report(decision, fill_token="")
        assert sum(verdicts.values()) == 0, "without the token it may be a step that was given up"
        await service.report(decision)
        await service.report(decision, fill_token="", candidate_equivalent=True)
        assert verdicts["right"] == 1


async def test_a_served_answer_that_was_wrong_is_gone_at_once_and_held_against_the_account(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        await teach(service)
        served = await service.decide(ORDERS[-1])
        before = served.answer.p_correct
        reported = router_pb2.ReportRequest(decision_id=served.decision_id, answer_wrong=True)
        assert (await service.call("Router.Report", reported)).removed == 1
        assert (await service.decide(ORDERS[-1])).WhichOneof("outcome") == "plan"
        assert (await service.decide(ORDERS[0])).WhichOneof("outcome") == "plan"
        assert (await service.call("Router.Report", reported)).removed == 0
        assert (await stats(service)).budgets[0].complaints == 1, "of one decision however often it is said"
        await service.put(ORDERS[0], "an answer")
        again = await service.decide(ORDERS[-1])
        assert error_of(again) > 1 - before, "the answer's record and its region remember"


async def test_a_budget_of_0_serves_exact_hits_only_and_of_1_all_that_no_check_refuses(root: Path) -> None:
    async with running(root) as service:
        await service.put(ORDERS[0], "an answer")
        assert (await service.decide(ORDERS[0], cache=budget(0))).answer.content == "an answer"
        assert not (await service.decide(ORDERS[1], cache=budget(0))).plan.HasField("candidate")
        assert (await service.decide(ORDERS[1], cache=budget(1))).answer.content == "an answer"
        assert not (await stats(service)).budgets


async def test_a_scope_may_have_a_budget_of_its_own_and_a_request_too(root: Path) -> None:
    scopes = {"strict": {"error_budget": 0}, "free:*": {"error_budget": 1}}
    async with running(root, cache={"error_budget": 0.02, "scopes": scopes}) as service:
        for scope in ("strict", "free:a", "other"):
            await service.put(ORDERS[0], "an answer", scope)
            await service.decide(ORDERS[1], scope)
        assert not (await stats(service, "strict")).budgets
        assert not (await stats(service, "free:a")).budgets
        await service.decide(ORDERS[1], "other", cache=budget(0.03))
        assert [one.error_budget for one in (await stats(service, "other")).budgets] == [0.02, 0.03]


NUMBERED = "please show me the state of my order number {} as of today"


async def numbered(service: Service, equivalent: bool, scope: str = "", *, times: int = 80) -> list[str]:  # noqa: FBT001
    """Ask for ever other numbers than what is stored has; return what each candidate was refused by, "" if served."""
    await service.put(NUMBERED.format(0), "an answer", scope)
    found = []
    for number in range(1, times + 1):
        decision = await service.decide(NUMBERED.format(number), scope, cache=budget(0.05))
        found.append(decision.plan.candidate.refused_by)
        if decision.WhichOneof("outcome") == "plan":
            await service.report(decision, fill_token="", candidate_equivalent=equivalent)
    return found


async def test_a_check_is_a_veto_until_a_scope_has_told_often_enough_that_it_is_mistaken(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        refused = await numbered(service, equivalent=True)
        assert set(refused[:18]) == {"numbers_differ"}, "nothing is served against it from a cold start"
        assert "numbers_differ" not in refused[18:]
        assert refused[-1] == "", "from then on the budget decides"
        served = await service.decide(NUMBERED.format(999), cache=budget(0.05), explain=True)
        assert "numbers_differ is outweighed by this scope's verdicts" in [n.note for n in served.explanation.notes]
        other = await service.decide(NUMBERED.format(999), "other", cache=budget(0.05))
        assert not other.plan.HasField("candidate")


async def test_once_nothing_speaks_against_a_prompt_no_other_of_its_answer_is_compared(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        for prompt in (f"{ORDERS[0]} 7", *ORDERS[:3]):
            await service.put(prompt, "an answer")
        found = await service.decide(ORDERS[5], explain=True)
        why = [note.note.partition("refused: ")[2].split(" ")[0] for note in found.explanation.notes]
        refused = list(filter(None, why))  # nearest first
        passed = refused.index(OVER_BUDGET)
        assert set(refused[:passed]) <= set(CHECKS)
        assert "unneeded" in refused
        assert refused[passed + 1 :] == ["unneeded"] * (3 - passed)
        assert found.plan.candidate.refused_by == OVER_BUDGET


async def test_a_check_that_is_right_stays_a_veto_however_much_else_is_learned(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        assert set(await numbered(service, equivalent=False)) == {"numbers_differ"}
        await teach(service)
        assert (await service.decide(NUMBERED.format(99))).plan.candidate.refused_by == "numbers_differ"


async def test_no_verdict_outweighs_what_the_caller_does_not_want(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        await numbered(service, equivalent=True)
        old = types_pb2.CacheControl(error_budget=0.05)
        old.max_age.nanos = 1
        refused = await service.decide(NUMBERED.format(999), cache=old)
        assert refused.plan.candidate.refused_by == "too_old"


async def test_what_verdicts_say_of_checks_goes_on_after_a_restart(root: Path) -> None:
    kept: dict[str, object] = {}
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        service.runtime.lessons.keep({}, lambda _, key, value: kept.update({key: value}))
        await numbered(service, equivalent=True)
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        service.runtime.lessons.keep(json.loads(json.dumps(kept)), lambda *_: None)
        assert "numbers_differ" not in await numbered(service, equivalent=True, times=3)


async def test_a_category_may_have_a_smaller_budget_than_its_scope_but_no_request_is_overruled(tmp_path: Path) -> None:
    build(tmp_path, [replace(reference, category="maths") for reference in REFERENCES])
    categories = {"maths": {"error_budget": 0.002}}
    async with running(tmp_path, cache={"error_budget": 0.05, "categories": categories}) as service:
        maths = REFERENCES[0].prompt
        await service.decide(maths)
        assert [one.error_budget for one in (await stats(service)).budgets] == [0.002]
        await service.decide(maths, cache=budget(0.03))
        await service.put(maths, "an answer")
        await service.decide(maths)
        assert {one.error_budget: one.requests for one in (await stats(service)).budgets} == {
            0.002: 1,
            0.03: 1,
            0.05: 1,
        }


async def test_a_category_with_a_budget_of_0_is_hit_exactly_only(tmp_path: Path) -> None:
    build(tmp_path, [replace(reference, category="maths") for reference in REFERENCES])
    categories = {"maths": {"error_budget": 0}}
    async with running(tmp_path, cache={"error_budget": 1, "categories": categories}) as service:
        await service.put(REFERENCES[0].prompt, "an answer")
        near = await service.decide(f"{REFERENCES[0].prompt}?", explain=True)
        assert not near.plan.HasField("candidate")
        assert [one.note for one in near.explanation.notes if one.stage == "verify"] == [
            "the error budget is 0, that of the category 'maths'",
            "no semantic hit is looked for: no_error_budget",
        ]
        exactly = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_EXACT_ONLY)
        asked = await service.decide(f"{REFERENCES[0].prompt}?", explain=True, cache=exactly)
        assert "no semantic hit is looked for: not_asked_for" in [one.note for one in asked.explanation.notes]
        assert (await service.decide(REFERENCES[0].prompt)).answer.content == "an answer"


async def test_what_one_scope_learned_changes_nothing_in_another(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        await service.put(ORDERS[0], "an answer", "b")
        before = error_of(await service.decide(ORDERS[1], "b"))
        await teach(service, "a")
        assert error_of(await service.decide(ORDERS[-1], "a")) < before
        assert error_of(await service.decide(ORDERS[2], "b")) == before
        assert (await stats(service, "b")).budgets[0].requests == 2


async def test_requests_that_may_not_be_served_do_not_earn_any_budget(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        for mode in (types_pb2.CACHE_MODE_BYPASS, types_pb2.CACHE_MODE_REFRESH, types_pb2.CACHE_MODE_EXACT_ONLY):
            await service.decide(BASE, cache=types_pb2.CacheControl(mode=mode))
        assert not (await stats(service)).budgets
        await service.decide(BASE)
        await service.put(BASE, "yes")
        await service.decide(BASE)
        assert (await stats(service)).budgets[0].requests == 2


async def test_answers_that_are_the_same_vote_together_and_others_against_them(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        for prompt, answer in [(ORDERS[1], "north"), (ORDERS[2], " north "), (ORDERS[3], "south")]:
            await service.put(prompt, answer)
        both = await service.decide(ORDERS[4])
        listed = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())
        named = {found.entry_id: found.content.strip() for found in listed.answers}
        assert named[both.plan.candidate.entry_id] == "north"
        assert (await service.decide(ORDERS[0], "elsewhere")).WhichOneof("outcome") == "plan"


# ---- wordings ------------------------------------------------------------------------------------------------


async def confirmed(service: Service, prompt: str, *, answer: str = "an answer", **fields: object) -> str:
    """Ask something near, report an answer; return the entry that has it."""
    decision = await service.decide(prompt)
    done = await service.report(decision, answer=answer, **fields)
    assert done.stored
    found: str = done.entry_id
    return found


async def test_a_confirmed_wording_is_another_key_of_the_same_answer_and_goes_with_it(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        view = service.runtime.decider.answers.view
        stored = await service.put(ORDERS[0], "an answer")
        assert await confirmed(service, ORDERS[1]) == stored.entry_id
        hit = (await service.decide(ORDERS[1])).answer
        assert (hit.content, hit.match, hit.entry_id) == ("an answer", types_pb2.MATCH_EXACT, stored.entry_id)
        listed = await service.call("Cache.ListAnswers", cache_pb2.ListAnswersRequest())
        assert [found.entry_id for found in listed.answers] == [stored.entry_id]
        assert (await stats(service)).answers == 1
        assert (await service.invalidate(entry_ids=[stored.entry_id])).removed == 1
        for prompt in ORDERS[:2]:
            assert (await service.decide(prompt)).WhichOneof("outcome") == "plan"
        assert not view.entries("default")


async def test_a_new_answer_to_the_prompt_leaves_no_wording_of_the_old_one(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}) as service:
        await service.put(ORDERS[0], "an answer")
        await confirmed(service, ORDERS[1])
        await service.put(ORDERS[0], "a new answer")
        assert (await service.decide(ORDERS[1])).WhichOneof("outcome") == "plan"
        await service.put(ORDERS[1], "its own")
        assert (await service.decide(ORDERS[1])).answer.content == "its own"


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({}, "an answer"),
        ({"answer": "words of its own"}, "words of its own"),
        ({"source_tags": ["other"]}, "an answer"),
    ],
)
async def test_what_is_not_sure_or_lapses_otherwise_keeps_its_own_answer(
    root: Path, fields: dict[str, Any], content: str
) -> None:
    async with running(root, cache={"error_budget": 0.01}) as service:
        stored = await service.put(ORDERS[0], "an answer")
        own = await confirmed(service, ORDERS[1], **({"candidate_equivalent": True} | fields))
        assert own != stored.entry_id, "a caller's word about something so doubtful is not enough"
        assert (await service.decide(ORDERS[1])).answer.content == content
        view = service.runtime.decider.answers.view
        assert len({entry.meaning for entry in view.entries("default")}) == 1, "but the two vote together"


async def test_one_answer_has_so_many_wordings_and_no_more(root: Path) -> None:
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.0) as service:
        stored = await service.put(ORDERS[0], "an answer")
        entries = [await confirmed(service, prompt) for prompt in ORDERS[1:100] if await missed(service, prompt)]
        assert entries.count(stored.entry_id) == 64
        assert len(set(entries)) > 1


async def missed(service: Service, prompt: str) -> bool:
    return (await service.decide(prompt)).WhichOneof("outcome") == "plan"


async def test_wordings_survive_a_restart(root: Path) -> None:
    store = Unclosed()
    async with running(root, store=store, cache={"error_budget": 0.05}) as service:
        stored = await service.put(ORDERS[0], "an answer")
        await confirmed(service, ORDERS[1])
    async with running(root, store=store, cache={"error_budget": 0.05}) as service:
        assert (await service.decide(ORDERS[1])).answer.entry_id == stored.entry_id
        await service.invalidate(all=True)
    assert store.changes(0, 10)[-1].record is None
    assert all(change.record is None for change in store.changes(0, 10))


class Unclosed(MemoryStore):
    """Survives the service that uses it."""

    def close(self) -> None:
        return


async def test_what_was_learned_goes_on_after_a_restart(root: Path) -> None:
    kept: dict[str, object] = {}
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        service.runtime.lessons.keep({}, lambda kind, key, value: kept.update({f"{kind}/{key}": value}))
        await teach(service)
        before, account = error_of(await service.decide(ORDERS[-1])), (await stats(service)).budgets[0]
    assert list(kept) == ["cache/default"]
    states = {"default": json.loads(json.dumps(kept["cache/default"]))}
    async with running(root, cache={"error_budget": 0.05}, coin=lambda: 0.99) as service:
        service.runtime.lessons.keep(states, lambda *_: None)
        await service.put(ORDERS[0], "an answer")
        assert error_of(await service.decide(ORDERS[-1], cache=budget(0.05))) == pytest.approx(before, abs=0.01)
        again = (await stats(service)).budgets[0]
        assert again.requests == account.requests + 1
        assert again.error_bound == pytest.approx(account.error_bound, rel=0.3)
