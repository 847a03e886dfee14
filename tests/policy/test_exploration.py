"""Exploration stays within its share and near ties, and its propensities are those of its draws."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.exploration import explore
from service.policy_settings import ExplorationSettings
from service.requests import Estimate, Reason
from service.routing.choose import Ranking


def ranking(*quality: float, spread: float = 0.1) -> Ranking:
    found = [Estimate(f"m{i}", q, q - spread, 0.01 * i, None) for i, q in enumerate(quality)]
    return Ranking(tuple(found), 0.5, Reason.NEIGHBOURS)


def worth(estimate: Estimate) -> float:
    return estimate.quality


def drawn(found: Ranking, settings: ExplorationSettings, times: int) -> tuple[Counter[str], dict[str, float]]:
    rng = random.Random(1)
    taken: Counter[str] = Counter()
    propensities = {}
    for _ in range(times):
        model, propensity = explore(found, worth, settings, rng.getrandbits(96))
        taken[model] += 1
        propensities[model] = propensity
    return taken, propensities


def test_without_a_share_or_without_near_ties_the_best_is_taken() -> None:
    near = ranking(0.8, 0.79)
    assert drawn(near, ExplorationSettings(share=0.0), 50) == (Counter({"m0": 50}), {"m0": 1.0})
    far = ranking(0.8, 0.7)
    assert drawn(far, ExplorationSettings(share=1.0), 50) == (Counter({"m0": 50}), {"m0": 1.0})


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_models_are_taken_as_often_as_their_propensity_says(share: float) -> None:
    taken, propensities = drawn(ranking(0.8, 0.795, 0.79, 0.5), ExplorationSettings(share=share), 20_000)
    assert set(taken) == {"m0", "m1", "m2"}
    assert sum(propensities.values()) == pytest.approx(1)
    for model, propensity in propensities.items():
        assert taken[model] / 20_000 == pytest.approx(propensity, abs=0.015)
    assert taken["m0"] / 20_000 >= 1 - share


def test_who_is_surely_worse_is_drawn_less() -> None:
    _, wide = drawn(ranking(0.8, 0.785, spread=0.2), ExplorationSettings(share=1.0), 2_000)
    _, narrow = drawn(ranking(0.8, 0.785, spread=0.01), ExplorationSettings(share=1.0), 2_000)
    assert wide["m1"] > 0.3
    assert narrow.get("m1", 0.0) < 0.1


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**96 - 1),
)
def test_a_draw_is_feasible_and_has_a_chance(quality: list[float], share: float, within: float, chance: int) -> None:
    found = ranking(*sorted(quality, reverse=True))
    settings = ExplorationSettings(share=share, within=within)
    model, propensity = explore(found, worth, settings, chance)
    best = found.models[0]
    taken = next(e for e in found.models if e.model == model)
    assert best.quality - taken.quality <= within + 1e-12
    assert 0 < propensity <= 1 + 1e-12
    assert (model, propensity) == explore(found, worth, settings, chance)
