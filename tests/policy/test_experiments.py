"""Experiments: dealing is fixed and fair, results may be looked at at any time."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.policy.experiments import Results, deal, fraction, unit_of
from service.policy.sequences import ConfidenceSequence
from service.policy_settings import Arm, Experiment
from service.requests import Prompt, RouteOptions
from tests.policy.kit import problems, request


def experiment(*shares: float, name: str = "test", **fields: object) -> Experiment:
    arms = tuple(Arm(name=f"arm {i}", share=share) for i, share in enumerate(shares))
    return Experiment(name=name, arms=arms, **fields)  # type: ignore[arg-type]


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_unit_is_always_dealt_to_the_same_arm(scope: str, unit: str) -> None:
    one = experiment(0.3, 0.3)
    assert deal(one, scope, unit) == deal(experiment(0.3, 0.3), scope, unit)
    assert 0 <= fraction(scope, unit) < 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(0, 10_000))
def test_arms_get_their_shares(parts: list[int], seed: int) -> None:
    shares = [part / (sum(parts) + 2) for part in parts]
    dealt = Counter(arm.name if (arm := deal(experiment(*shares), "s", f"{seed}-{i}")) else "" for i in range(3_000))
    for i, share in enumerate(shares):
        assert dealt[f"arm {i}"] / 3_000 == pytest.approx(share, abs=0.05)
    assert dealt[""] / 3_000 == pytest.approx(1 - sum(shares), abs=0.05)


def test_experiments_and_scopes_are_dealt_independently() -> None:
    one, other = experiment(0.5, 0.5), experiment(0.5, 0.5, name="other")
    both = Counter(
        (deal(one, "s", str(i)).name, deal(other, "s", str(i)).name, deal(one, "t", str(i)).name)  # type: ignore[union-attr]
        for i in range(4_000)
    )
    assert len(both) == 8
    assert min(both.values()) > 400


def test_growing_an_arm_keeps_those_who_are_in_it() -> None:
    small, large = experiment(0.1), experiment(0.4)
    units = [str(i) for i in range(2_000)]
    before = {u for u in units if deal(small, "s", u)}
    assert before <= {u for u in units if deal(large, "s", u)}


def test_a_request_is_dealt_by_unit_then_conversation_then_id_then_prompt() -> None:
    prompt = Prompt("p", b"\x01")
    full = request(route=RouteOptions(unit="u"), conversation_id="c", request_id="r")
    assert unit_of(full, prompt) == "u"
    assert unit_of(request(conversation_id="c", request_id="r"), prompt) == "c"
    assert unit_of(request(request_id="r"), prompt) == "r"
    assert unit_of(request(), prompt) == "01"


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_bounds_hold_at_every_look(mean: float) -> None:
    misses = 0
    for seed in range(60):
        rng, sequence = random.Random(seed), ConfidenceSequence()
        ever = False
        for _ in range(600):
            sequence.add(float(rng.random() < mean))
            low, _, high = sequence.bounds(0.05)
            ever = ever or not low <= mean <= high
        misses += ever
    assert misses <= 7, "at most 5 % may ever be outside; 60 trials leave this much to luck"


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0.001, 0.5))
def test_bounds_are_around_the_values_and_narrow(values: list[float], alpha: float) -> None:
    sequence = ConfidenceSequence()
    for value in values:
        sequence.add(value)
    low, mean, high = sequence.bounds(alpha)
    assert 0 <= low <= high <= 1
    assert mean == pytest.approx(sum(values) / max(len(values), 1))
    assert ConfidenceSequence(sequence.state).bounds(alpha) == (low, mean, high)
    wider = sequence.bounds(alpha / 2)
    assert wider[0] <= low
    assert wider[2] >= high


def test_bounds_close_in_on_the_mean() -> None:
    rng, sequence = random.Random(1), ConfidenceSequence()
    for _ in range(5_000):
        sequence.add(min(max(rng.gauss(0.7, 0.1), 0), 1))
    low, mean, high = sequence.bounds(0.05)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert high - low < 0.03


def results_of(one: Experiment) -> Results:
    return Results([one], lambda *_: None)


def reported(results: Results, one: Experiment, rates: list[float], reports: int, seed: int) -> list[str]:
    """Report so many outcomes for each arm; return who is called best, asked after every round."""
    rng, best = random.Random(seed), []
    for _ in range(reports):
        for arm, rate in zip(one.arms, rates, strict=True):
            results.judged(f"{one.name}/{arm.name}", float(rng.random() < rate), ok=True)
        best.append(results.best(one))
    return best


def test_a_better_arm_is_called_so_in_the_end_and_equal_ones_never() -> None:
    one = experiment(0.5, 0.5)
    assert reported(results_of(one), one, [0.5, 0.7], 2_000, 1)[-1] == "arm 1"
    for seed in range(20):
        assert set(reported(results_of(one), one, [0.6, 0.6], 500, seed)) == {""}


def test_an_experiment_of_one_arm_has_no_best() -> None:
    assert results_of(experiment(0.5)).best(experiment(0.5)) == ""


def test_results_are_kept_and_go_on() -> None:
    one, kept = experiment(0.5, 0.5), dict[str, list[float]]()
    results = Results([one], kept.__setitem__)
    reported(results, one, [0.2, 0.9], 50, 3)
    results.planned("test/arm 0")
    again = results_of(one)
    again.load({**kept, "test/removed": [], "other/arm 0": []})
    assert again.arms.keys() == results.arms.keys()
    assert again.arms["test/arm 0"].decisions == 1
    assert again.bounds(one) == results.bounds(one)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"arms": ()}, "at least 1 item"),
        ({"arms": (Arm(name="a", share=0.6), Arm(name="b", share=0.5))}, "add up to 1.1: lower them"),
        ({"arms": (Arm(name="a", share=0.0), Arm(name="b", share=0.0))}, "shares are all 0"),
        ({"arms": (Arm(name="a", share=0.1), Arm(name="a", share=0.1))}, "two arms are called 'a': rename one"),
    ],
)
def test_arms_that_make_no_sense_are_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Experiment(name="x", **fields)  # type: ignore[arg-type]


def test_wrong_arms_and_conditions_are_named() -> None:
    text = """
    [[experiments]]
    name = "e"
    when = "turn > 1"
    arms = [{name = "a", share = 0.5, pin = "larg"}, {name = "b", share = 0.5, tier = "x"}]
    [[experiments]]
    name = "never"
    when = "false"
    arms = [{name = "a", share = 0.5}]
    [[experiments]]
    name = "late"
    when = 'category == "maths"'
    arms = [{name = "a", share = 0.5}]
    """
    lines = problems(text)
    assert lines[0].startswith("policy.experiments, experiment 'e': when: nothing is called 'turn'; did you mean")
    assert lines[1].startswith("policy.experiments, experiment 'e', arm 'a': pin: the catalogue has no model 'larg'")
    assert lines[2].startswith("policy.experiments, experiment 'e', arm 'b': tier: the catalogue has no tier 'x'")
    assert lines[3].startswith("policy.experiments, experiment 'never': its condition is always false")
    assert lines[4].startswith(
        "policy.experiments, experiment 'late': when: who takes part cannot depend on `category`"
    )
