"""What the online model says of candidates, and how verdicts move it."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache.learner import FEATURES, Learner, evidence, vote

NEAR = evidence(0.9999, 0.99, vote(0.99), 0.0, 0.0)
FAR = evidence(0.3, 0.7, vote(0.7), vote(0.69), 0.0)


@given(
    st.one_of(st.none(), st.floats(0, 1)),
    st.floats(-1, 1),
    st.floats(0, 8),
    st.floats(0, 8),
    st.floats(-20, 20),
)
def test_every_candidate_gets_a_probability(
    probability: float | None, cosine: float, votes: float, rival: float, record: float
) -> None:
    seen = evidence(probability, cosine, votes, rival, record)
    assert len(seen) == len(FEATURES)
    assert 0 < Learner().error(seen) < 1


def test_before_any_verdict_only_what_the_verifier_is_sure_of_is_near_certain() -> None:
    learner = Learner()
    assert learner.error(NEAR) < 0.03
    assert learner.error(evidence(0.9, 0.93, vote(0.93), 0.0, 0.0)) > 0.02
    assert learner.error(evidence(None, 0.99, vote(0.99), 0.0, 0.0)) > 0.2, "nobody vouches for it"
    assert learner.error(FAR) > 0.5


def test_verdicts_move_it_and_rare_ones_move_it_more() -> None:
    for wrong in (True, False):
        once, rare = Learner(), Learner()
        before = once.error(FAR)
        once.learn(FAR, wrong=wrong)
        rare.learn(FAR, wrong=wrong, chance=0.1)
        assert (once.error(FAR) > before) == wrong
        assert (rare.error(FAR) > once.error(FAR)) == wrong
        assert once.taught == rare.taught == 1


def test_it_becomes_calibrated_on_a_stream_it_was_not_made_for() -> None:
    """Here right is what is agreed on; the verifier's probability says nothing."""
    chance, learner, pairs = random.Random(5), Learner(), []
    for i in range(4_000):
        votes, rival = 4 * chance.random(), 4 * chance.random()
        seen = evidence(chance.random(), 0.8, votes, rival, 0.0)
        wrong = chance.random() < 0.9 * rival / (votes + rival)
        if i >= 2_000:
            pairs.append((learner.error(seen), wrong))
        learner.learn(seen, wrong=wrong)
    for low, high in [(0, 0.3), (0.3, 0.6), (0.6, 1)]:
        some = [(error, wrong) for error, wrong in pairs if low <= error < high]
        assert sum(error for error, _ in some) / len(some) == pytest.approx(
            sum(wrong for _, wrong in some) / len(some), abs=0.08
        )


def told(learner: Learner, chance: random.Random, verdicts: int, changed: float = 0.0) -> int:
    """Give a learner verdicts on what it expects, but that a share of the answers has changed; count alarms."""
    alarms = 0
    for _ in range(verdicts):
        p = chance.random() ** 2
        seen = evidence(1.0 - p, 0.95, vote(0.95), 0.0, 0.0)
        error = learner.error(seen)
        wrong = chance.random() < changed or chance.random() < p
        if learner.surprised(error, wrong=wrong):
            learner.doubt()
            alarms += 1
        learner.learn(seen, wrong=wrong)
    return alarms


def test_it_notices_within_dozens_of_verdicts_that_answers_have_changed() -> None:
    for seed in range(10):
        learner, chance = Learner(), random.Random(seed)
        assert told(learner, chance, 2_000) == 0, "what it learns is no change"
        assert told(learner, chance, 80, changed=0.5) == 1


def test_a_model_that_is_a_little_too_sure_hardly_ever_looks_like_a_change() -> None:
    """Of a bank's questions a sixth more than expected is wrong where it says .2 to .7, and a fifth less below."""
    alarms = 0
    for seed in range(20):
        learner, chance = Learner(), random.Random(seed)
        for _ in range(2_000):
            error = 0.7 * chance.random()
            if learner.surprised(error, wrong=chance.random() < error * (1.17 if error > 0.2 else 0.8)):
                learner.doubt()
                alarms += 1
    assert alarms <= 2


def test_after_a_change_what_was_learned_is_a_guess_again() -> None:
    learner, chance = Learner(), random.Random(3)
    told(learner, chance, 2_000)
    before = learner.error(NEAR)
    assert learner.taught == 2_000
    while not learner.surprised(0.01, wrong=True):
        pass
    learner.doubt()
    assert learner.taught == 0
    assert learner.suspicion == 0
    assert learner.error(NEAR) > 2 * before


def test_it_goes_on_where_it_was_and_leaves_a_state_of_other_features_aside() -> None:
    learner, again = Learner(), Learner()
    for wrong in (True, False, True):
        learner.learn(FAR, wrong=wrong)
    state = json.loads(json.dumps(learner.state()))
    again.restore(state)
    assert again.error(FAR) == pytest.approx(learner.error(FAR))
    assert again.taught == 3
    fresh = Learner()
    fresh.restore(state | {"features": ["other"]})
    assert fresh.taught == 0
    assert fresh.error(FAR) == Learner().error(FAR)
