"""The policy in whole decisions: rules before the cache, weights in their order, all of it explained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waypost.v1 import admin_pb2, references_pb2, types_pb2

from service.errors import PreconditionFailed
from service.policy import language
from service.requests import Reason
from service.routing.choose import Known
from tests.policy.kit import TIERED
from tests.service.kit import REFERENCES, Service, build, running

EASY, HARD, MIXED = "add two small numbers", "prove the hard theorem", "write a long report"
# With few references only the least similarity tells that "make it shorter" is like none.
EVERYTHING: dict[str, Any] = {"routing": {"evidence": 0, "min_similarity": 0.25}, "learning": {"enabled": False}}
BYPASS = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build(folder, models=TIERED)
    return folder


def rules(*them: dict[str, Any]) -> dict[str, Any]:
    return {"policy": {"rules": [{"name": f"rule {i}", **one} for i, one in enumerate(them)]}}


async def test_a_rule_pins_limits_and_is_told(root: Path) -> None:
    critical = {"name": "critical", "when": 'attributes.flow == "checkout"', "pin": "large"}
    cheap = {"name": "cheap", "when": 'scope == "cheap"', "tier": "small"}
    async with running(root, **EVERYTHING, **rules(critical, cheap)) as service:
        pinned = await service.decide(EASY, explain=True, attributes={"flow": "checkout"})
        assert [step.model for step in pinned.plan.steps] == ["large-1"]
        assert (pinned.plan.reason, pinned.explanation.rule) == (types_pb2.REASON_PINNED, "critical")
        limited = await service.decide(HARD, "cheap", explain=True)
        assert [step.model for step in limited.plan.steps] == ["small-1"]
        assert (limited.plan.reason, limited.explanation.rule) == (types_pb2.REASON_CONSTRAINED, "cheap")
        free = await service.decide(EASY, explain=True)
        assert (free.plan.steps[0].model, free.explanation.rule) == ("small-1", "")
        explained = await service.call("Admin.Explain", admin_pb2.ExplainRequest(decision_id=pinned.decision_id))
        assert explained.explanation.rule == "critical"


@pytest.mark.parametrize("asks", [True, False])
async def test_what_knows_languages_is_loaded_before_anyone_must_wait_for_it_or_never(root: Path, asks: bool) -> None:  # noqa: FBT001
    language._identifier.cache_clear()
    rule = {"when": 'language == "de"' if asks else "turns > 2", "tier": "large"}
    async with running(root, **rules(rule)):
        assert language._identifier.cache_info().currsize == asks


async def test_a_rule_and_the_request_that_leave_nothing_are_both_named(root: Path) -> None:
    async with running(root, **rules({"name": "top", "tier": "large"})) as service:
        decision = await service.decide(HARD, route=types_pb2.RouteControl(deny_models=["large"]))
        assert not decision.plan.steps
        assert decision.plan.infeasible[0].startswith("rule 'top' (tier large) excludes 2 of 3 models; without it:")
        assert any(line.startswith("deny_models excludes 1 of 3") for line in decision.plan.infeasible)


async def test_a_rule_keeps_a_request_from_the_cache(root: Path) -> None:
    private = {"when": 'attributes.private == "yes"', "cache": "bypass"}
    async with running(root, **rules(private)) as service:
        await service.put(EASY, "cached")
        assert (await service.decide(EASY)).answer.content == "cached"
        kept = await service.decide(EASY, attributes={"private": "yes"})
        assert kept.plan.steps
        assert not kept.plan.fill_token


async def test_an_answer_of_a_model_that_a_rule_excludes_is_not_served(root: Path) -> None:
    gold = {"when": 'attributes.tier == "gold"', "min_tier": "medium"}
    async with running(root, **rules(gold)) as service:
        await service.put(EASY, "from the small one", model="small")
        assert (await service.decide(EASY)).answer.content == "from the small one"
        assert (await service.decide(EASY, attributes={"tier": "gold"})).plan.steps


async def test_a_rule_may_look_at_the_category_of_the_nearest_references(root: Path) -> None:
    maths = {"name": "maths", "when": 'category == "maths"', "tier": "medium"}
    writing = {"name": "writing", "when": 'category == "writing" && turns == 1', "pin": "small"}
    async with running(root, **EVERYTHING, **rules(maths, writing)) as service:
        seen = []
        for prompt in (EASY, "write a short poem"):
            # Few references: those of one category stand alone.
            await service.upsert(
                *(
                    references_pb2.Reference(
                        id=f"{prompt} {i}",
                        prompt=f"{prompt} {'!' * i}",
                        best_model="large",
                        category="maths" if prompt == EASY else "writing",
                    )
                    for i in range(1, 12)
                )
            )
            decision = await service.decide(prompt, explain=True)
            seen.append((decision.explanation.rule, {step.model for step in decision.plan.steps}))
        assert seen == [("maths", {"medium-1"}), ("writing", {"small-1"})]


@pytest.mark.parametrize(
    ("first", "models"),
    [
        ({"when": "turns == 1", "tier": "large", "stop": True}, {"large-1"}),
        ({"when": "turns == 1", "pin": "large"}, {"large-1"}),
        ({"when": "turns == 2", "tier": "large", "stop": True}, {"medium-1"}),
    ],
)
async def test_rules_before_the_search_go_first(root: Path, first: dict[str, Any], models: set[str]) -> None:
    late = {"when": 'category == "maths" || category != "maths"', "pin": "medium"}
    async with running(root, **EVERYTHING, **rules(first, late)) as service:
        own = types_pb2.RouteControl(pin_model="small")
        for route in (types_pb2.RouteControl(), own) if "pin" in first or first["when"] == "turns == 2" else (None,):
            decision = await service.decide(EASY, route=route)
            assert {step.model for step in decision.plan.steps} == models


@pytest.mark.parametrize(
    ("asked", "rule", "scope", "everywhere", "model"),
    [
        (1e-9, 1e9, 1e9, 1e9, "small-1"),
        (None, 1e-9, 1e9, 1e9, "small-1"),
        (None, None, 1e-9, 1e9, "small-1"),
        (None, None, None, 1e-9, "small-1"),
        (1e9, 1e-9, 1e-9, 1e-9, "large-1"),
        (None, None, None, None, "large-1"),
    ],
)
async def test_the_request_s_weight_comes_before_rule_scope_and_settings(
    root: Path, asked: float | None, rule: float | None, scope: float | None, everywhere: float | None, model: str
) -> None:
    policy: dict[str, Any] = {"willingness_to_pay": everywhere, "scopes": {"shop": {"willingness_to_pay": scope}}}
    if rule:
        policy["rules"] = [{"name": "r", "willingness_to_pay": rule}]
    async with running(root, **EVERYTHING, policy=policy) as service:
        route = types_pb2.RouteControl(willingness_to_pay=asked) if asked else None
        assert (await service.decide(HARD, "shop", route=route)).plan.steps[0].model == model


async def test_time_can_be_weighed_against_quality(root: Path) -> None:
    async with running(root, **EVERYTHING, policy={"latency_weight": 0.5}) as service:
        assert (await service.decide(HARD)).plan.steps[0].model == "small-1"


async def test_a_generation_that_the_policy_does_not_fit_is_not_activated(tmp_path: Path) -> None:
    first = build(tmp_path, REFERENCES[:3], models=TIERED)
    async with running(tmp_path, **rules({"tier": "large"})) as service:
        other = build(tmp_path, REFERENCES[:3], models=TIERED.replace('tier = "large"\n', ""))
        with pytest.raises(PreconditionFailed, match="the catalogue has no tier 'large'"):
            await service.runtime.activate(other)
        assert service.runtime.decider.generation.id == first
        same = build(tmp_path, REFERENCES[:2], models=TIERED)
        await service.runtime.activate(same)
        assert (await service.decide(EASY)).plan.steps[0].model == "large-1"


# ---- goals -------------------------------------------------------------------------------------------------------


async def test_a_share_of_strong_models_is_followed(root: Path) -> None:
    policy = {"target_strong_share": 0.3, "strong": ["large"]}
    async with running(root, policy=policy) as service:
        prompts = [EASY, HARD] * 300
        plans = [(await service.decide(prompt, cache=BYPASS, explain=True)) for prompt in prompts]
        strong = [d.plan.steps[0].model == "large-1" for d in plans]
        assert sum(strong[300:]) / 300 == pytest.approx(0.3, abs=0.05)
        assert not any(s for s, prompt in zip(strong, prompts, strict=True) if prompt == EASY)
        (note,) = [n for n in plans[-1].explanation.notes if n.note.startswith("share:")]
        assert "threshold" in note.note
        share = next(iter(service.runtime.decider.policy._ready.values())).shares[""]
        before = share.threshold
        for _ in range(5):
            only = types_pb2.RouteControl(allow_models=["large"])
            assert (await service.decide(HARD, cache=BYPASS, route=only)).plan.steps[0].model == "large-1"
        assert share.threshold == before, "where there was no choice nothing is counted"
        own = await service.decide(HARD, route=types_pb2.RouteControl(willingness_to_pay=1e-9))
        assert own.plan.steps[0].model == "small-1", "the request's own price holds"


@pytest.mark.parametrize(("share", "model", "why"), [(0, "medium-1", "is below"), (1, "large-1", "reaches")])
async def test_a_share_of_all_or_nothing_is_explained_truly(root: Path, share: int, model: str, why: str) -> None:
    policy = {"target_strong_share": share, "strong": ["large"]}
    async with running(root, **EVERYTHING, policy=policy) as service:
        for text in (EASY, HARD, MIXED):
            decision = await service.decide(text, explain=True, route=types_pb2.RouteControl(deny_models=["small"]))
            assert decision.plan.steps[0].model == model
            (note,) = (n.note for n in decision.explanation.notes if n.note.startswith("share: "))
            assert note.endswith(f"of a strong model {why} the threshold {'-' * share}inf")


async def test_a_budget_that_is_spent_leaves_the_cheapest_and_counts_reports(root: Path) -> None:
    policy = {"scopes": {"shop": {"monthly_budget_usd": 1.0}}}
    async with running(root, **EVERYTHING, policy=policy) as service:
        first = await service.decide(HARD, "shop", explain=True)
        assert first.plan.steps[0].model == "large-1"
        assert any(n.note.startswith("budget: 0.00 USD spent") for n in first.explanation.notes)
        spent = service.runtime.decider.policy.spent_usd
        assert spent() == pytest.approx(first.plan.steps[0].cost_usd)
        await service.report(first, fill_token="", model="large", usage=types_pb2.Usage(cost_usd=0.25))
        assert spent() == pytest.approx(0.25)
        await service.report(first, fill_token="", model="medium", usage=types_pb2.Usage(cost_usd=0.75))
        assert spent() == pytest.approx(1.0)
        assert (await service.decide(HARD, "shop", cache=BYPASS)).plan.steps[0].model == "small-1"
        assert (await service.decide(HARD, "other", cache=BYPASS)).plan.steps[0].model == "large-1"


async def test_a_budget_that_is_spent_holds_for_conversations_too(root: Path) -> None:
    async with running(root, **EVERYTHING, policy={"monthly_budget_usd": 1.0}) as service:
        first = await service.decide(HARD, conversation_id="c", cache=BYPASS)
        assert first.plan.steps[0].model == "large-1"
        await service.report(first, fill_token="", model="large", usage=types_pb2.Usage(cost_usd=2))
        for text in ("make it shorter", HARD):
            found = await service.decide(text, conversation_id="c", cache=BYPASS)
            assert found.plan.steps[0].model == "small-1"
        vote = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_ENSEMBLE)
        found = await service.decide(HARD, conversation_id="c", cache=BYPASS, route=vote)
        assert [step.with_previous for step in found.plan.steps].count(True) == 0


# ---- conversations -----------------------------------------------------------------------------------------------


async def test_a_conversation_escalates_and_stays(root: Path) -> None:
    async with running(root, **EVERYTHING) as service:

        async def turn(text: str, conversation: str = "c", scope: str = "") -> Any:
            return await service.decide(text, scope, conversation_id=conversation, explain=True)

        assert (await turn(EASY)).plan.steps[0].model == "small-1"
        assert (await turn(HARD)).plan.steps[0].model == "large-1"
        follow = await turn("make it shorter")
        assert follow.plan.steps[0].model == "large-1"
        assert "session: stays with large-1" in follow.explanation.notes[-1].note
        for conversation, scope in (("d", ""), ("c", "other"), ("", "")):
            assert (await turn("make it shorter", conversation, scope)).plan.steps[0].model == "medium-1"


async def test_an_answer_from_a_later_step_moves_the_conversation_up(root: Path) -> None:
    async with running(root, **EVERYTHING) as service:
        first = await service.decide(EASY, conversation_id="c")
        assert [step.model for step in first.plan.steps] == ["small-1", "medium-1", "large-1"]
        await service.report(first, fill_token="", model="small", outcome=types_pb2.OUTCOME_ERROR)
        await service.report(first, model="large")
        assert (await service.decide("and now?", conversation_id="c")).plan.steps[0].model == "large-1"


async def test_a_conversation_of_cascades_keeps_what_the_cascade_is_measured_by(root: Path) -> None:
    async with running(root, **EVERYTHING) as service:
        shape = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_CASCADE)
        first = await service.decide(HARD, conversation_id="c", route=shape)
        await service.report(first, fill_token="", model=first.plan.steps[0].model)
        follow = await service.decide("make it shorter", conversation_id="c", route=shape, explain=True)
        assert "large-1" in {step.model for step in follow.plan.steps}
        assert any("stays with large-1" in n.note for n in follow.explanation.notes)


async def test_a_budget_is_charged_for_all_that_a_plan_starts(root: Path) -> None:
    async with running(root, **EVERYTHING, policy={"monthly_budget_usd": 100.0}) as service:
        shape = types_pb2.RouteControl(shape=types_pb2.PLAN_SHAPE_SPECULATIVE)
        plan = (await service.decide(MIXED, route=shape)).plan
        assert plan.shape == types_pb2.PLAN_SHAPE_SPECULATIVE
        started = plan.steps[:2]
        assert [step.with_previous for step in started] == [False, True]
        assert service.runtime.decider.policy.spent_usd() == pytest.approx(sum(s.cost_usd for s in started))


async def test_pins_and_switched_off_sessions_leave_conversations_alone(root: Path) -> None:
    async with running(root, **EVERYTHING) as service:
        await service.decide(EASY, conversation_id="c", route=types_pb2.RouteControl(pin_model="large"))
        assert len(service.runtime.decider.policy.sessions) == 0
    async with running(root, **EVERYTHING, policy={"session": {"enabled": False}}) as service:
        await service.decide(HARD, conversation_id="c")
        assert (await service.decide("make it shorter", conversation_id="c")).plan.steps[0].model == "medium-1"


# ---- experiments -------------------------------------------------------------------------------------------------

ARMS = [{"name": "as is", "share": 0.5}, {"name": "frugal", "share": 0.5, "willingness_to_pay": 1e-9}]


async def test_arms_are_dealt_by_unit_and_do_what_they_ask(root: Path) -> None:
    policy = {"experiments": [{"name": "price", "arms": ARMS, "scopes": ["shop"]}]}
    async with running(root, **EVERYTHING, policy=policy) as service:
        seen = set()
        for i in range(100):
            route = types_pb2.RouteControl(experiment_unit=f"user {i}")
            one, other = [await service.decide(HARD, "shop", route=route, cache=BYPASS, explain=True) for _ in range(2)]
            assert one.explanation.experiment_arm == other.explanation.experiment_arm
            model = "small-1" if one.explanation.experiment_arm == "price/frugal" else "large-1"
            assert one.plan.steps[0].model == other.plan.steps[0].model == model
            seen.add(one.explanation.experiment_arm)
            quality = 0.2 if model == "small-1" else 0.9
            await service.report(one, fill_token="", model=model, quality=quality, usage=types_pb2.Usage(cost_usd=0.5))
        assert seen == {"price/as is", "price/frugal"}
        elsewhere = await service.decide(HARD, "other", explain=True)
        assert elsewhere.explanation.experiment_arm == ""
        pinned = await service.decide(HARD, "shop", route=types_pb2.RouteControl(pin_model="large"), explain=True)
        assert pinned.explanation.experiment_arm == ""
        results = service.runtime.decider.policy.results
        experiment = service.runtime.settings.policy.experiments[0]
        good, bad = results.arms["price/as is"], results.arms["price/frugal"]
        assert good.decisions + bad.decisions == 200
        assert good.quality.count + bad.quality.count == 100
        assert results.bounds(experiment)["as is"][1] == pytest.approx(0.9)
        assert results.best(experiment) == "as is"


async def test_a_shadow_arm_is_decided_but_not_served(root: Path) -> None:
    shadow = {"name": "frugal", "share": 1.0, "willingness_to_pay": 1e-9, "shadow": True}
    async with running(root, **EVERYTHING, policy={"experiments": [{"name": "try", "arms": [shadow]}]}) as service:
        decision = await service.decide(HARD, explain=True)
        assert decision.plan.steps[0].model == "large-1"
        assert decision.explanation.experiment_arm == "try/frugal"
        assert "shadow arm try/frugal would take small-1" in decision.explanation.notes[-1].note
        result = service.runtime.decider.policy.results.arms["try/frugal"]
        assert (result.decisions, result.changed) == (1, 1)
        assert result.cost_change_usd < 0


async def test_arms_can_be_compared_by_outcomes_too(root: Path) -> None:
    policy = {"experiments": [{"name": "e", "metric": "ok", "arms": [{"name": "a", "share": 1.0}]}]}
    async with running(root, policy=policy) as service:
        for outcome in (types_pb2.OUTCOME_OK, types_pb2.OUTCOME_ERROR):
            decision = await service.decide(EASY, cache=BYPASS)
            for _ in range(2):
                await service.report(decision, fill_token="", outcome=outcome)
        result = service.runtime.decider.policy.results.arms["e/a"]
        assert (result.quality.count, result.quality.mean) == (2, 0.5)


# ---- exploration, health -----------------------------------------------------------------------------------------


async def test_what_is_explored_has_its_propensity(root: Path) -> None:
    policy = {"exploration": {"share": 1.0, "within": 1.0}}
    async with running(root, **EVERYTHING, policy=policy) as service:
        decisions = [await service.decide(MIXED, cache=BYPASS, explain=True) for _ in range(60)]
        assert len({d.plan.steps[0].model for d in decisions}) > 1
        for decision in decisions:
            kept = service.runtime.decider.log.get(decision.decision_id)
            assert kept is not None
            assert 0 < kept.trace.propensity < 1
            assert f"with probability {kept.trace.propensity:.4f}" in decision.explanation.notes[-1].note
        pinned = await service.decide(EASY, route=types_pb2.RouteControl(pin_model="large"))
        assert pinned.plan.steps[0].model == "large-1"


async def test_a_model_that_fails_is_left_alone_in_its_scope_and_tried_again(root: Path) -> None:
    policy = {"health": {"window": 4, "least": 2, "open_s": 0.05}}
    async with running(root, **EVERYTHING, policy=policy) as service:
        for _ in range(2):
            decision = await service.decide(HARD, cache=BYPASS)
            assert decision.plan.steps[0].model == "large-1"
            await service.report(decision, fill_token="", model="large", outcome=types_pb2.OUTCOME_ERROR)
        open_, elsewhere = await service.decide(HARD, explain=True), await service.decide(HARD, "other")
        assert "large-1" not in {step.model for step in open_.plan.steps}
        assert open_.plan.reason == types_pb2.REASON_CONSTRAINED
        assert open_.explanation.notes[0].note == "health: the circuit of large-1 is open"
        assert elsewhere.plan.steps[0].model == "large-1"
        assert service.runtime.decider.policy.open_circuits() == 1
        pinned = await service.decide(HARD, route=types_pb2.RouteControl(pin_model="large"))
        assert pinned.plan.steps[0].model == "large-1", "rather a model in bad health than none"
        await service.report(pinned, fill_token="", model="large")
        assert (await service.decide(HARD)).plan.steps[0].model == "large-1"
        assert service.runtime.decider.policy.open_circuits() == 0


async def test_deployments_share_calls_and_stand_in_for_each_other(tmp_path: Path) -> None:
    twin = TIERED[TIERED.index('[[models]]\nid = "large-1"') :]
    twin = twin.replace("large-1", "large-2").replace('aliases = ["large"]\n', "")
    models = (TIERED + twin).replace('tier = "large"', 'tier = "large"\ngroup = "large"')
    build(tmp_path, REFERENCES[:3], models=models)
    async with running(tmp_path, **EVERYTHING) as service:
        plans = [(await service.decide(HARD, cache=BYPASS)).plan for _ in range(60)]
        firsts = [plan.steps[0].model for plan in plans]
        assert 15 <= firsts.count("large-2") <= 45
        assert all({s.model for s in plan.steps[:2]} == {"large-1", "large-2"} for plan in plans)
        assert len({round(plan.steps[0].quality, 9) for plan in plans}) == 1
        same = types_pb2.RouteControl(experiment_unit="user 1")
        assert len({(await service.decide(HARD, route=same)).plan.steps[0].model for _ in range(10)}) == 1


# ---- replays -----------------------------------------------------------------------------------------------------


def remembered(service: Service) -> tuple[object, ...]:
    """Return all that deciding leaves behind in the policy."""
    policy = service.runtime.decider.policy
    shares = [share.threshold for ready in policy._ready.values() for share in ready.shares.values()]
    return len(policy.sessions), policy.spent_usd(), policy.open_circuits(), shares, repr(policy.results.arms)


async def test_a_replay_goes_by_the_policy_and_leaves_nothing_behind(root: Path) -> None:
    policy = {
        "rules": [{"name": "gold", "when": 'attributes.tier == "gold"', "pin": "large"}],
        "experiments": [{"name": "flag", "scopes": ["lab"], "arms": [{"name": "on", "share": 1.0, "tier": "medium"}]}],
        "scopes": {"shop": {"monthly_budget_usd": 5.0}, "share": {"target_strong_share": 0.5}},
        "exploration": {"share": 1.0, "within": 1.0},
    }
    async with running(root, **EVERYTHING, policy=policy) as service:
        await service.decide(EASY, "rules", attributes={"tier": "gold"})
        await service.decide(EASY, "lab", conversation_id="c")
        for scope in ("shop", "share"):
            await service.decide(HARD, scope)
        before = remembered(service)
        generation = service.runtime.decider.generation
        again = []
        for decision in service.runtime.decider.log.all():
            asked = decision.trace.asked
            assert asked is not None
            known = Known(decision.estimates, 0.5, Reason.NEIGHBOURS)
            copy = replace(decision, request=asked)
            again.append(service.runtime.decider.policy.preview(copy, known, generation, 100.0)[0])
            assert again[-1] == service.runtime.decider.policy.preview(copy, known, generation, 100.0)[0]
        assert remembered(service) == before
        assert [ranking.models[0].model for ranking in again][:2] == ["large-1", "medium-1"]
        assert again[0].reason is Reason.PINNED
