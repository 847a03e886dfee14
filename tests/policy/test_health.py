"""Circuits: they open on failures, let one trial through, close on success; every scope has its own."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import ValidationError

from service.policy.health import Health
from service.policy_settings import HealthSettings
from service.requests import Outcome

FAST = HealthSettings(window=6, least=3, failure_share=0.5, open_s=10)


def failing(health: Health, now: float = 0.0, scope: str = "s", model: str = "m", times: int = 3) -> None:
    for _ in range(times):
        health.reported(scope, model, Outcome.ERROR, None, now)


def test_enough_failures_open_a_circuit_and_time_lets_one_trial_through() -> None:
    health = Health(FAST)
    failing(health, times=2)
    assert not health.avoided("s", 0)
    failing(health, times=1)
    assert list(health.avoided("s", 9.9)) == ["m"]
    assert health.open() == 1
    assert not health.avoided("s", 10), "half-open: it may be tried"
    assert health.chosen("s", "m", 10)
    assert list(health.avoided("s", 10.1)) == ["m"], "by one request only"
    health.reported("s", "m", Outcome.OK, None, 11)
    assert not health.avoided("s", 11)
    assert not health.chosen("s", "m", 11)
    assert health.open() == 0


def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_a_limit() -> None:
    health = Health(FAST)
    failing(health)
    now = 10.0
    for wait in (20, 40, 80, 160, 200, 200):
        assert health.chosen("s", "m", now)
        health.reported("s", "m", Outcome.TIMEOUT, None, now)
        assert health.avoided("s", now + wait - 0.1)
        now += wait
        assert not health.avoided("s", now)


def test_a_trial_that_is_never_reported_is_followed_by_another() -> None:
    health = Health(FAST)
    failing(health)
    assert health.chosen("s", "m", 10)
    assert health.avoided("s", 19.9)
    assert not health.avoided("s", 20)


def test_calls_that_were_under_way_when_it_opened_change_nothing() -> None:
    health = Health(FAST)
    failing(health)
    failing(health, now=5, times=20)
    health.reported("s", "m", Outcome.OK, None, 6)
    assert health.avoided("s", 9.9)
    assert not health.avoided("s", 10)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.ERROR])
def test_a_later_step_is_as_good_a_trial_once_the_time_is_over(outcome: Outcome) -> None:
    health = Health(FAST)
    failing(health)
    health.reported("s", "m", outcome, None, 10)
    assert bool(health.avoided("s", 11)) == (outcome is Outcome.ERROR), "no plan began with it, and yet it is known"


def test_successes_among_failures_keep_it_closed() -> None:
    health = Health(FAST)
    for i in range(60):
        health.reported("s", "m", Outcome.ERROR if i % 4 == 3 else Outcome.OK, None, i)
        assert not health.avoided("s", i)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.REFUSED, Outcome.CANCELLED])
def test_what_is_no_failure_of_the_model_opens_nothing(outcome: Outcome) -> None:
    health = Health(FAST)
    for _ in range(20):
        health.reported("s", "m", outcome, None, 0)
    assert not health.avoided("s", 0)


def test_a_scope_s_reports_do_not_touch_another_s_circuits() -> None:
    health = Health(FAST)
    failing(health, scope="loud", times=50)
    assert list(health.avoided("loud", 1)) == ["m"]
    assert not health.avoided("s", 1)
    assert not health.chosen("s", "m", 1)


def test_calls_that_take_far_longer_than_usual_count_as_failures() -> None:
    health = Health(FAST.model_copy(update={"slow_factor": 5.0}))
    for _ in range(10):
        health.reported("s", "m", Outcome.OK, 1.0, 0)
    for _ in range(2):
        health.reported("s", "m", Outcome.OK, 4.9, 0)
    assert not health.avoided("s", 1)
    for _ in range(3):
        health.reported("s", "m", Outcome.OK, 20.0, 0)
    assert list(health.avoided("s", 1)) == ["m"]


def test_switched_off_it_learns_nothing() -> None:
    health = Health(FAST.model_copy(update={"enabled": False}))
    failing(health, times=50)
    assert not health.avoided("s", 1)


def test_a_circuit_that_could_never_open_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"least \(30\) is above window \(20\)"):
        HealthSettings(least=30)


class Circuits(RuleBasedStateMachine):
    """Any reports at any times: at most one trial at a time, and nobody is left alone for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.health, self.now = Health(FAST), 0.0

    @rule(outcome=st.sampled_from(Outcome), model=st.sampled_from(["a", "b"]), scope=st.sampled_from(["s", "t"]))
    def report(self, outcome: Outcome, model: str, scope: str) -> None:
        self.health.reported(scope, model, outcome, None, self.now)

    @rule(scope=st.sampled_from(["s", "t"]), model=st.sampled_from(["a", "b"]))
    def choose(self, scope: str, model: str) -> None:
        if model not in self.health.avoided(scope, self.now) and self.health.chosen(scope, model, self.now):
            assert model in self.health.avoided(scope, self.now)

    @rule(seconds=st.floats(0.1, 300))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nobody_is_left_alone_for_ever(self) -> None:
        for scope in ("s", "t"):
            assert not self.health.avoided(scope, self.now + 20 * FAST.open_s)
        assert self.health.open() <= 4


Circuits.TestCase.settings = limits(max_examples=60, stateful_step_count=40)
TestCircuits = Circuits.TestCase


@given(st.lists(st.text(max_size=3), max_size=50))
def test_what_is_remembered_is_bounded(scopes: list[str]) -> None:
    health = Health(FAST)
    for scope in scopes:
        failing(health, scope=scope)
    assert health.open() == len(set(scopes))
