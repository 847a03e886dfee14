"""Goals that are followed: a share of strong models whatever the traffic, a budget that lasts for the month."""

import calendar
import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.pacing import Budget, StrongShare

MONTH = float(calendar.timegm((2026, 4, 1, 0, 0, 0)))
DAY = 86_400.0
END = MONTH + 30 * DAY


def shares(share: StrongShare, gains: Iterator[float] | list[float]) -> list[bool]:
    chosen = []
    for gain in gains:
        strong = share.strong(gain)
        share.follow(gain, strong=strong)
        chosen.append(strong)
    return chosen


@given(st.floats(0, 1), st.lists(st.floats(-1, 1), max_size=50), st.lists(st.floats(-1, 1), min_size=1, max_size=300))
def test_the_share_is_met_in_the_long_run_whatever_comes(target: float, known: list[float], gains: list[float]) -> None:
    share = StrongShare(target, known)
    began = share.threshold
    chosen = shares(share, gains)
    # Beyond this the threshold would lie outside of all gains, however narrow their spread.
    assert abs(sum(chosen) - target * len(gains)) <= (1 + abs(began)) / (0.05 * 0.01) + 1


def test_the_share_is_met_when_gains_come_in_steps() -> None:
    for target in (0.1, 0.5, 0.9):
        chosen = shares(StrongShare(target, []), [0.5, -0.4] * 1_000)
        assert sum(chosen[500:]) / 1_500 == pytest.approx(target, abs=0.02)


def test_the_threshold_begins_where_the_references_put_it() -> None:
    rng = random.Random(1)
    gains = [rng.gauss(0.1, 0.2) for _ in range(2_000)]
    for target in (0.1, 0.3, 0.8):
        chosen = shares(StrongShare(target, gains), [rng.gauss(0.1, 0.2) for _ in range(2_000)])
        assert sum(chosen[:200]) / 200 == pytest.approx(target, abs=0.08)
        assert sum(chosen) / 2_000 == pytest.approx(target, abs=0.02)


def test_the_threshold_follows_traffic_that_gains_more_than_the_references() -> None:
    rng = random.Random(2)
    share = StrongShare(0.3, [rng.gauss(0, 0.1) for _ in range(500)])
    shares(share, [rng.gauss(0.3, 0.1) for _ in range(600)])
    chosen = shares(share, [rng.gauss(0.3, 0.1) for _ in range(2_000)])
    assert sum(chosen) / 2_000 == pytest.approx(0.3, abs=0.02)


def test_the_share_is_met_where_most_prompts_gain_all_there_is_and_others_come_in_runs() -> None:
    rng = random.Random(4)
    share = StrongShare(0.3, [rng.uniform(-0.8, 0.95) for _ in range(400)])
    gains: list[float] = []
    while len(gains) < 2_000:
        gains += [0.9965] * rng.randrange(1, 46) + [rng.uniform(-1, 0.2) for _ in range(rng.randrange(6))]
    assert sum(shares(share, gains)) / len(gains) == pytest.approx(0.3, abs=0.03)


def test_what_is_strong_for_other_reasons_does_not_pile_up() -> None:
    share = StrongShare(0.3, [0.0, 0.2])
    for _ in range(100_000):
        share.follow(0.1, strong=True)
    assert share.threshold < 1.1
    chosen = shares(share, [0.0, 0.2] * 1_000)
    assert sum(chosen[-200:]) > 20


def test_those_that_gain_most_are_sent_to_the_strong_models() -> None:
    rng = random.Random(3)
    gains = [rng.random() for _ in range(2_000)]
    chosen = shares(StrongShare(0.25, gains), gains)
    strong = [gain for gain, taken in zip(gains, chosen, strict=True) if taken]
    weak = [gain for gain, taken in zip(gains, chosen, strict=True) if not taken]
    assert sum(strong) / len(strong) > sum(weak) / len(weak) + 0.4
    assert min(strong) > 0.6


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_none_and_all_are_kept_exactly(target: float) -> None:
    assert set(shares(StrongShare(target, [0.1, 0.2]), [-1.0, 0.0, 1.0] * 20)) == {bool(target)}


def spent(
    budget: Budget, arrivals: Iterator[float], dear: Callable[[random.Random], float]
) -> list[tuple[float, float]]:
    """Serve everyone by the price in force: a cheap model for 0.001 USD, or a dear one; return (when, cost)."""
    rng, out = random.Random(4), []
    for now in arrivals:
        gain, cost = rng.random() * 0.3, dear(rng)
        budget.turn(now)
        taken = cost if gain > (cost - 0.001) / budget.willingness_to_pay else 0.001
        budget.spend(taken, now)
        out.append((now, taken))
    return out


def steady(every: float, first: float = MONTH, last: float = END) -> Iterator[float]:
    return itertools.takewhile(lambda t: t < last, itertools.count(first, every))


def by_day(every: float) -> Iterator[float]:
    return (t for t in steady(every) if 8 <= (t % DAY) / 3_600 < 18)


@pytest.mark.parametrize("arrivals", [lambda: steady(120), lambda: by_day(60)], ids=["steady", "by day"])
@pytest.mark.parametrize("dear", [lambda _: 0.05, lambda rng: 0.02 * rng.paretovariate(2)], ids=["even", "heavy tail"])
def test_a_budget_lasts_for_the_month_and_is_used(
    arrivals: Callable[[], Iterator[float]], dear: Callable[[random.Random], float]
) -> None:
    requests = sum(1 for _ in arrivals())
    usd = requests * 0.012  # far from enough for the dear model, far more than the cheap one takes
    served = spent(Budget(usd, None, 0.02), arrivals(), dear)
    assert 0.9 * usd <= sum(cost for _, cost in served) <= 1.02 * usd
    by_half = sum(cost for when, cost in served if when < MONTH + 15 * DAY)
    assert 0.35 * usd <= by_half <= 0.65 * usd, "evenly"
    last = [cost for when, cost in served if when > END - 2 * DAY]
    assert max(last) > 0.001, "the last days are not starved"


def test_more_than_is_worth_its_price_is_never_paid() -> None:
    budget = Budget(1e9, 0.01, 0.02)
    served = spent(budget, steady(3_600), lambda _: 0.05)
    assert budget.willingness_to_pay == pytest.approx(0.01)
    assert {cost for _, cost in served} == {0.001}


def test_with_nothing_left_only_cost_counts_until_the_next_month() -> None:
    budget = Budget(1.0, None, 0.02)
    budget.spend(2.0, MONTH)
    for now in (MONTH + 1, END - 1):
        budget.turn(now)
        assert budget.willingness_to_pay < 1e-9
    budget.turn(END)
    assert budget.willingness_to_pay > 1e-9
    assert budget.state.usd == 0


def test_what_was_spent_is_corrected_and_kept() -> None:
    budget = Budget(10.0, None, 0.02)
    for i in range(100):
        budget.spend(0.01, MONTH + i)
    budget.correct(0.5)
    assert budget.state.usd == pytest.approx(1.5)
    again = Budget(10.0, None, 0.02)
    again.state = budget.state
    again.turn(MONTH + 200)
    assert again.willingness_to_pay == budget.willingness_to_pay
    late = Budget(10.0, None, 0.02)
    late.state = budget.state
    late.turn(END + 5)
    assert late.state.usd == 0, "another month"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), max_size=60), st.floats(1e-3, 1e6))
def test_any_costs_and_pauses_leave_a_price(traffic: list[tuple[float, float]], usd: float) -> None:
    budget, now = Budget(usd, None, 0.01), MONTH
    for cost, pause in traffic:
        now += pause
        budget.turn(now)
        assert 0 < budget.willingness_to_pay < float("inf")
        budget.spend(cost, now)
        assert budget.state.usd >= 0
