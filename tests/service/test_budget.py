"""The account of one error budget: the bound holds, and moves what is served."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache.budget import Action, Ledger, upper_factor

TAUGHT = 1_000
BUDGETS = st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.3])


def stream(ledger: Ledger, requests: int, seed: int, *, off: float = 1.0, missing: float = 0.0) -> tuple[int, float]:
    """Run made-up hits with the model off by a factor; return wrong answers served, and the bound's least slack."""
    chance = random.Random(seed)
    wrong, expected, slack = 0, 0.0, float("inf")
    for _ in range(requests):
        ledger.request()
        if chance.random() < 0.3:
            continue  # nothing near
        error = min(chance.lognormvariate(-4.0, 2.0), 1.0)
        is_wrong = chance.random() < min(error * off, 1.0)
        action, _ = ledger.decide(error, chance.random(), TAUGHT)
        if action is Action.SERVE:
            wrong += is_wrong
            expected += min(error * off, 1.0)
            slack = min(slack, ledger.bound - expected)
        elif action is Action.AUDIT and chance.random() >= missing:
            ledger.audited(error, wrong=is_wrong)
        elif action is Action.EXPLORE and chance.random() >= missing:
            ledger.explored(error, wrong=is_wrong)
    return wrong, slack


@pytest.mark.parametrize(("off", "missing"), [(1.0, 0.0), (2.0, 0.0), (1.0, 1 / 3)])
def test_the_bound_holds_at_all_times_in_19_of_20_streams(off: float, missing: float) -> None:
    broken = 0
    for seed in range(40):
        _, slack = stream(Ledger(0.02), 3_000, seed, off=off, missing=missing)
        broken += slack < 0
    assert broken <= 2


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("off", [0.5, 1.0, 3.0])
def test_the_budget_holds_whether_the_model_is_right_or_too_sure(budget: float, off: float) -> None:
    over = 0
    for seed in range(20):
        wrong, _ = stream(Ledger(budget), 4_000, seed, off=off)
        over += wrong > budget * 4_000
    assert over <= 1


def test_most_of_the_budget_is_used_where_there_is_use_for_it() -> None:
    wrong = sum(stream(Ledger(0.02), 10_000, seed)[0] for seed in range(3)) / 3
    assert 0.3 * 200 <= wrong <= 200


def test_the_confidence_sequence_covers_the_factor_however_audits_are_chosen() -> None:
    """Verdicts come for the riskiest only, and as long as it looks good: whoever peeks cannot fool it."""
    missed = 0
    for seed in range(100):
        chance, wrong, expected, covered = random.Random(seed), 0, 0.0, True
        for _ in range(150):
            error = 0.3 * chance.random() ** 2
            if error < 0.05 and wrong > expected:
                continue
            wrong += chance.random() < 1.5 * error
            expected += error
            covered &= upper_factor(wrong, expected) >= 1.5
        missed += not covered
    assert missed <= 0.05 * 100


@given(st.integers(0, 200), st.floats(0.01, 200), st.floats(0.01, 50))
def test_more_wrong_verdicts_raise_the_factor_and_more_expected_ones_lower_it(
    wrong: int, expected: float, more: float
) -> None:
    now = upper_factor(wrong, expected)
    assert upper_factor(wrong + 1, expected) >= now >= upper_factor(wrong, expected + more)
    assert now >= wrong / expected
    assert upper_factor(wrong, expected, 0.99) >= now


def broken(budget: float = 0.02) -> Ledger:
    """Return an account that served, and was told by audits that it was too much."""
    ledger = Ledger(budget)
    stream(ledger, 2_000, seed=1)
    while not ledger.broken:
        ledger.audited(0.01, wrong=True)
    return ledger


def test_what_a_broken_account_explores_and_could_bear_otherwise_mends_its_bound() -> None:
    ledger = broken()
    before, risk = ledger.window, 4 * ledger.threshold
    factors = [ledger.factor]
    while ledger.broken:
        assert ledger.decide(risk, 0.0, TAUGHT)[0] is Action.EXPLORE
        ledger.explored(risk, wrong=False)
        factors.append(ledger.factor)
        assert factors[-1] < factors[-2]
    assert (ledger.window.verdicts, ledger.window.wrong) == (before.verdicts, before.wrong), "no audits were made"
    ledger.explored(risk, wrong=True)
    assert ledger.factor > factors[-1]


def test_what_no_account_would_serve_tells_nothing_of_what_is_served() -> None:
    ledger = broken()
    factor = ledger.factor
    for error in (0.3, 0.9):
        ledger.explored(error, wrong=False)
        ledger.explored(error, wrong=True)
    assert ledger.factor == factor


def test_once_answers_have_changed_what_was_seen_before_speaks_for_the_model_no_longer() -> None:
    """It may still speak against it: what was wrong is not forgotten by that."""
    ledger = Ledger(0.02)
    stream(ledger, 4_000, seed=1, off=0.3)
    confident = ledger.factor
    ledger.changed()
    assert ledger.factor > confident
    assert ledger.factor == Ledger(0.02).factor
    for _ in range(5):
        ledger.audited(0.02, wrong=True)
        ledger.explored(0.02, wrong=True)
    worse = ledger.factor
    ledger.changed()
    assert ledger.factor == worse


def test_what_was_served_before_answers_changed_keeps_its_bound() -> None:
    """That nobody knows how far the model is off now says nothing of it; what is served next is bounded as at first."""
    ledger = Ledger(0.02)
    stream(ledger, 4_000, seed=1, off=0.3)
    bound, confident = ledger.bound, ledger.factor
    ledger.changed()
    assert ledger.bound == pytest.approx(bound)
    assert not ledger.broken
    ledger.decide(0.001, 0.999, TAUGHT)
    assert ledger.factor > confident
    assert ledger.bound == pytest.approx(bound + ledger.factor * max(0.001, 0.02 / 10))


def test_what_was_served_before_answers_changed_is_held_against_the_account_as_long_as_the_rest() -> None:
    ledger = Ledger(0.02)
    stream(ledger, 4_000, seed=1)
    ledger.changed()
    bound = ledger.bound
    for requests in (20_000, 20_001):
        assert ledger.bound == pytest.approx(bound)
        for _ in range(requests):
            ledger.request()
    assert ledger.bound == 0


@pytest.mark.parametrize("off", [1.0, 3.0])
def test_the_bound_holds_at_all_times_whether_answers_did_change_or_not(off: float) -> None:
    """Also where the model is as good as it was, and notices it twice."""
    missed = 0
    for seed in range(40):
        ledger = Ledger(0.02)
        wrong, _ = stream(ledger, 2_000, seed)
        for again in (1, 2):
            ledger.changed()
            more, _ = stream(ledger, 1_000, seed + 100 * again, off=off)
            wrong += more
            missed += wrong > ledger.bound
    assert missed <= 2


def test_before_much_was_learned_only_audits_count() -> None:
    ledger = Ledger(0.02)
    for _ in range(20):
        ledger.request()
        ledger.decide(0.001, 0.9, taught=0)
        ledger.explored(0.001, wrong=True)
    assert ledger.factor == Ledger(0.02).factor


@given(BUDGETS, st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_before_much_was_learned_only_what_is_near_certain_is_served(budget: float, error: float, coin: float) -> None:
    ledger = Ledger(budget)
    for _ in range(100):
        ledger.request()
    action, chance = ledger.decide(error, coin, taught=0)
    assert action is Action.EXPLORE or max(error, budget / 10) <= budget / ledger.factor
    assert 0 < chance <= 1


@given(BUDGETS, st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), max_size=300), st.integers(0, 99))
def test_what_a_broken_account_serves_is_near_certain(
    budget: float, hits: list[tuple[float, bool, bool]], seed: int
) -> None:
    ledger, chance = Ledger(budget), random.Random(seed)
    for error, wrong, reported in hits:
        ledger.request()
        broken = ledger.broken
        action, _ = ledger.decide(error, chance.random(), TAUGHT)
        if action is Action.SERVE and reported and wrong:
            ledger.complained()
        if action is Action.AUDIT and reported:
            ledger.audited(error, wrong=wrong)
        if broken and action is not Action.EXPLORE:
            assert max(error, budget / 10) <= budget / 4


def test_serving_shrinks_at_once_when_audits_come_back_wrong() -> None:
    ledger = Ledger(0.02)
    stream(ledger, 3_000, 1)
    before = ledger.threshold
    for _ in range(20):
        ledger.audited(0.02, wrong=True)
    assert ledger.broken
    assert ledger.threshold < before / 4
    assert ledger.decide(before, 0.999, TAUGHT)[0] is Action.EXPLORE


def test_the_bound_is_never_below_what_was_complained_of() -> None:
    ledger = Ledger(0.01)
    ledger.request()
    for _ in range(5):
        ledger.complained()
    assert ledger.bound >= 5
    assert ledger.broken


def test_the_riskier_a_hit_the_oftener_it_is_audited() -> None:
    ledger = Ledger(0.02)
    stream(ledger, 5_000, 2)
    chances = [ledger.decide(share * ledger.threshold, 0.999, TAUGHT)[1] for share in (0.01, 0.3, 1.0)]
    assert chances == sorted(chances)
    assert 0 < chances[0] < chances[-1] <= 0.5


def test_old_errors_are_forgotten_after_two_blocks() -> None:
    ledger = Ledger(0.01)
    for _ in range(30):
        ledger.complained()
    assert (ledger.broken, ledger.window.complaints) == (True, 30)
    for _ in range(40_001):
        ledger.request()
    assert (ledger.broken, ledger.window.complaints) == (False, 0)
    assert 20_000 <= ledger.window.requests <= 40_000


def test_an_account_goes_on_where_it_was() -> None:
    ledger, again = Ledger(0.02), Ledger(0.02)
    stream(ledger, 2_000, 3)
    ledger.changed()
    stream(ledger, 1_000, 3)
    again.restore(json.loads(json.dumps(ledger.state())))
    assert again.window == ledger.window
    assert again.bound == pytest.approx(ledger.bound)
    left, right = stream(ledger, 1_000, 4), stream(again, 1_000, 4)
    assert left[0] == pytest.approx(right[0], abs=3)
