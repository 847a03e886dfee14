"""Plans of several models: never dearer than one model as good, and what they promise is what following them gives."""

import math

import numpy as np
import pytest
from hypothesis import given as draw
from hypothesis import strategies as st

from index.generation import score_agreement
from service.requests import Combine, Estimate, Reason, RouteOptions, Shape
from service.routing.cascade import Team, break_even, cheapest, given
from service.routing.choose import Ranking
from service.routing.plan import shaped

MANY = 60
NAMES = tuple(f"m{i}" for i in range(MANY))
probability = st.floats(0.0, 1.0)


def team(separation: float, agreement: float = 0.2, **pairs: float) -> Team:
    table = np.full((MANY, MANY), agreement)
    for pair, value in pairs.items():
        one, other = (NAMES.index(name) for name in pair.split("_"))
        table[one, other] = table[other, one] = value
    np.fill_diagonal(table, 1.0)
    return Team(separation, table, NAMES)


def estimates(*pairs: tuple[float, float], latencies: tuple[float | None, ...] = ()) -> list[Estimate]:
    """Return an estimate for each (quality, cost)."""
    return [
        Estimate(NAMES[i], quality, 0.0, cost, latencies[i] if latencies else None)
        for i, (quality, cost) in enumerate(pairs)
    ]


def ranking(found: list[Estimate]) -> Ranking:
    return Ranking(tuple(sorted(found, key=lambda e: (-e.quality, e.cost_usd))), 0.5, Reason.NEIGHBOURS)


models = st.lists(st.tuples(probability, st.floats(1e-6, 1.0)), min_size=1, max_size=8).map(lambda p: estimates(*p))
separations = st.floats(0.0, 3.0)


@draw(models, separations, st.floats(-1.0, 1.0), probability)
def test_a_cascade_is_never_dearer_than_one_model_that_is_as_good(
    found: list[Estimate], separation: float, agreement: float, wanted: float
) -> None:
    chain, accept_at, quality, cost, _ = cheapest(found, team(separation, agreement), wanted)
    good_enough = [e.cost_usd for e in found if e.quality >= wanted]
    if good_enough:
        assert quality >= wanted - 1e-6
        assert cost <= min(good_enough) + 1e-9
    else:
        assert quality >= max(e.quality for e in found) - 1e-9
    assert len(accept_at) == len(chain) - 1
    assert all(0.0 <= threshold <= 1.0 for threshold in accept_at)
    assert [e.cost_usd for e in chain] == sorted(e.cost_usd for e in chain)
    assert 0.0 <= quality <= 1.0 + 1e-9
    # All steps at once is the most it can cost, the first alone the least.
    assert chain[0].cost_usd - 1e-9 <= cost <= sum(e.cost_usd for e in chain) + 1e-9


@draw(models, separations, probability, probability)
def test_more_quality_never_costs_less(found: list[Estimate], separation: float, one: float, other: float) -> None:
    best = max(e.quality for e in found)
    low, high = sorted((min(one, best), min(other, best)))
    about = team(separation)
    assert cheapest(found, about, low)[3] <= cheapest(found, about, high)[3] + 1e-9


@draw(st.floats(0.05, 0.9), separations, probability)
def test_of_two_models_more_quality_asks_for_a_surer_review(quality: float, separation: float, share: float) -> None:
    found, about = estimates((quality, 0.01), (0.95, 1.0)), team(separation)
    low = cheapest(found, about, quality + share * (0.94 - quality) if quality < 0.94 else quality)
    high = cheapest(found, about, 0.95)
    if low[1] and high[1]:
        assert low[1][0] <= high[1][0] + 1e-9


@draw(models, st.floats(0.1, 3.0), st.floats(1e-4, 10.0))
def test_where_quality_has_a_price_a_cascade_is_worth_at_least_the_best_single_model(
    found: list[Estimate], separation: float, price: float
) -> None:
    _, _, quality, cost, _ = cheapest(found, team(separation), 0.0, price)
    assert quality - cost / price >= max(e.quality - e.cost_usd / price for e in found) - 1e-6


@draw(probability, probability, st.floats(-1.0, 1.0))
def test_conditional_chances_are_chances_and_average_to_the_whole(first: float, second: float, phi: float) -> None:
    right, wrong = given(first, second, phi)
    assert -1e-9 <= right <= 1 + 1e-9
    assert -1e-9 <= wrong <= 1 + 1e-9
    assert first * right + (1 - first) * wrong == pytest.approx(second, abs=1e-9)


@draw(probability, probability, st.floats(0.0, 0.9))
def test_at_break_even_keeping_is_worth_what_going_on_is(quality: float, following: float, phi: float) -> None:
    even = break_even(quality, following, phi)
    right, wrong = given(quality, following, phi)
    assert even * right + (1 - even) * wrong == pytest.approx(even, abs=1e-6)


@pytest.mark.parametrize("wanted", [0.8, 0.86, 0.9])
@pytest.mark.parametrize("agreement", [0.0, 0.3])
def test_what_a_cascade_promises_is_what_following_it_gives(wanted: float, agreement: float) -> None:
    """Answers are drawn with the stated agreement, reviews with the stated accuracy, and the plan is followed."""
    random, many, separation = np.random.default_rng(5), 200_000, 1.5
    found = estimates((0.6, 0.01), (0.75, 0.1), (0.9, 1.0))
    chain, accept_at, quality, cost, _ = cheapest(found, team(separation, agreement), wanted)
    right = random.random(many) < chain[0].quality
    prior = np.full(many, chain[0].quality)
    open_, kept, paid = np.ones(many, np.bool_), np.zeros(many), np.full(many, chain[0].cost_usd)
    for i, threshold in enumerate(accept_at):
        evidence = random.normal(np.where(right, separation / 2, -separation / 2))
        p = 1 / (1 + np.exp(-(np.log(prior / (1 - prior)) + separation * evidence)))
        kept[open_ & (p >= threshold)] = right[open_ & (p >= threshold)]
        open_ &= p < threshold
        paid[open_] += chain[i + 1].cost_usd
        if_right, if_wrong = given(chain[i].quality, chain[i + 1].quality, agreement)
        right = random.random(many) < np.where(right, if_right, if_wrong)
        prior = np.full(many, right[open_].mean())
    kept[open_] = right[open_]
    assert len(chain) > 1
    assert kept.mean() == pytest.approx(quality, abs=0.005)
    assert paid.mean() == pytest.approx(cost, rel=0.02)


def test_a_review_that_cannot_tell_makes_no_cascade() -> None:
    plan = shaped(ranking(estimates((0.6, 0.01), (0.9, 1.0))), RouteOptions(shape=Shape.CASCADE), team(0.0))
    assert plan.shape is Shape.SINGLE
    assert [step.model for step in plan.steps] == ["m1"]


def test_a_cascade_goes_from_cheap_to_strong_and_says_when_to_stop() -> None:
    found = estimates((0.7, 0.001), (0.9, 1.0), (0.95, 5.0), (0.3, 9.0))
    plan = shaped(ranking(found), RouteOptions(shape=Shape.CASCADE), team(2.0))
    assert plan.shape is Shape.CASCADE
    assert plan.steps[0].model == "m0"
    assert plan.quality >= 0.95 - 1e-9
    assert plan.cost_usd < 5.0
    assert len(plan.accept_at) == len(plan.priors) - 1
    assert plan.together == 1


def test_sixty_models_are_thinned_out_to_those_worth_a_look() -> None:
    random = np.random.default_rng(1)
    found = estimates(*zip(random.random(MANY).tolist(), random.random(MANY).tolist(), strict=True))
    chain, _, quality, _, _ = cheapest(found, team(1.0), max(e.quality for e in found))
    assert quality >= max(e.quality for e in found) - 1e-9
    assert len(chain) <= 3


@pytest.mark.parametrize("shape", [Shape.CASCADE, Shape.SPECULATIVE, Shape.ENSEMBLE])
def test_a_quality_out_of_reach_says_what_is_in_reach(shape: Shape) -> None:
    found = estimates((0.5, 0.01), (0.6, 1.0), latencies=(0.1, 1.0))
    plan = shaped(ranking(found), RouteOptions(shape=shape, min_quality=0.99), team(0.3))
    assert plan.steps == ()
    assert plan.reason is Reason.CONSTRAINED
    assert plan.infeasible[0].startswith("min_quality 0.99: the best")


@pytest.mark.parametrize("shape", [Shape.CASCADE, Shape.SPECULATIVE, Shape.ENSEMBLE])
def test_one_model_alone_is_a_single_plan(shape: Shape) -> None:
    plan = shaped(ranking(estimates((0.5, 0.01))), RouteOptions(shape=shape), team(1.0))
    assert (plan.shape, len(plan.steps), plan.together) == (Shape.SINGLE, 1, 1)


@pytest.mark.parametrize("shape", list(Shape))
def test_without_a_feasible_model_there_are_no_steps(shape: Shape) -> None:
    none = Ranking((), 0.0, Reason.CONSTRAINED, ("deny_models excludes all",))
    plan = shaped(none, RouteOptions(shape=shape), team(1.0))
    assert (plan.steps, plan.infeasible) == ((), ("deny_models excludes all",))


def test_of_two_started_at_once_the_sooner_comes_first() -> None:
    found = estimates((0.8, 0.5), (0.9, 1.0), (0.85, 0.4), latencies=(0.2, 2.0, 3.0))
    plan = shaped(ranking(found), RouteOptions(shape=Shape.SPECULATIVE), team(2.0))
    assert plan.shape is Shape.SPECULATIVE
    assert [step.model for step in plan.steps[:2]] == ["m0", "m1"]
    assert plan.together == 2
    assert len(plan.accept_at) == 1
    assert plan.cost_usd == pytest.approx(1.5)


@pytest.mark.parametrize("shape", [Shape.SPECULATIVE, Shape.ENSEMBLE])
def test_a_wanted_quality_that_one_model_reaches_is_feasible_in_every_shape(shape: Shape) -> None:
    found = estimates((0.95, 0.1), (0.8, 0.05), (0.98, 1.0))
    cheap_first = Ranking(tuple(found), 0.5, Reason.NEIGHBOURS)
    plan = shaped(cheap_first, RouteOptions(shape=shape, min_quality=0.97), team(2.0))
    assert any(step.quality >= 0.97 for step in plan.steps)
    assert plan.infeasible == ()
    assert plan.reason is Reason.CONSTRAINED
    (said,) = shaped(cheap_first, RouteOptions(shape=shape, min_quality=1.0), team(2.0)).infeasible
    assert "is expected to reach 0.98" in said


def test_two_started_at_once_keep_the_limit_of_cost_together() -> None:
    found = estimates((0.8, 0.5), (0.9, 1.0), latencies=(0.2, 2.0))
    for limit, shape in ((1.5, Shape.SPECULATIVE), (1.4, Shape.SINGLE)):
        options = RouteOptions(shape=Shape.SPECULATIVE, max_cost_usd=limit)
        assert shaped(ranking(found), options, team(2.0)).shape is shape


def test_an_ensemble_prefers_who_fails_elsewhere() -> None:
    found = estimates((0.9, 1.0), (0.85, 1.0), (0.85, 1.0), (0.8, 1.0))
    about = team(1.0, 0.1, m0_m1=0.99, m0_m2=0.99, m1_m2=0.99)
    plan = shaped(ranking(found), RouteOptions(shape=Shape.ENSEMBLE), about)
    assert plan.shape is Shape.ENSEMBLE
    assert plan.combine is Combine.WEIGHTED_VOTE
    assert plan.together == len(plan.steps) == 3
    assert {"m0", "m3"} < {step.model for step in plan.steps}


@pytest.mark.parametrize("others", [(0.4, 0.3), (1e-6, 1e-6), (0.5, 0.0)])
def test_who_is_most_likely_wrong_has_no_vote(others: tuple[float, float]) -> None:
    found = estimates((0.9, 1.0), *((quality, 0.1) for quality in others))
    plan = shaped(ranking(found), RouteOptions(shape=Shape.ENSEMBLE), team(1.0, 0.5))
    assert (plan.shape, plan.together) == (Shape.SINGLE, 1)


def test_two_cannot_outvote_each_other_so_reviews_decide() -> None:
    found = estimates((0.9, 1.0), (0.85, 1.0), (0.8, 1.0))
    plan = shaped(ranking(found), RouteOptions(shape=Shape.ENSEMBLE, max_cost_usd=2.5), team(1.0))
    assert (len(plan.steps), plan.combine) == (2, Combine.BEST_REVIEWED)


def test_an_ensemble_has_no_more_members_than_are_worth_their_price() -> None:
    found = estimates((0.8, 1.0), (0.79, 1.0), (0.78, 1.0))
    sizes = []
    for price in (1.0, 20.0, 100.0, 1e9):
        options = RouteOptions(shape=Shape.ENSEMBLE, willingness_to_pay=price)
        sizes.append(shaped(ranking(found), options, team(1.0, 0.0)).together)
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[-1] == 3


def test_agreement_is_the_correlation_of_scores_where_both_are_known() -> None:
    random = np.random.default_rng(3)
    one = (random.random(4_000) < 0.6).astype(np.float32)
    scores = np.stack([one, one, 1 - one, (random.random(4_000) < 0.5).astype(np.float32)], axis=1)
    scores[::2, 3] = math.nan
    found = score_agreement(scores)
    assert found[0, 1] == pytest.approx(1.0, abs=0.01)
    assert found[0, 2] == pytest.approx(-1.0, abs=0.01)
    assert abs(found[0, 3]) < 0.06


def test_agreement_of_models_never_seen_together_is_none() -> None:
    scores = np.array([[1.0, math.nan], [math.nan, 1.0], [0.0, math.nan]], np.float32)
    assert score_agreement(scores)[0, 1] == 0.0
    assert not np.isnan(score_agreement(np.full((3, 2), 1.0, np.float32))).any()
