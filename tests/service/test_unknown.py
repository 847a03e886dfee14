"""What verdicts are worth that nobody can give."""

import json
import random

import pytest

from service.cache.unknown import Unknown
from service.cache.verdicts import BANDS, band


def test_answers_are_loosely_or_closely_alike() -> None:
    assert [band(cosine) for cosine in (0.61, 0.79, 0.81, 0.99)] == [0, 0, 1, 1]
    assert BANDS == 2


def test_an_answer_nobody_can_tell_of_is_wrong_until_callers_said_what_such_are() -> None:
    unknown = Unknown()
    assert [unknown.rate(kind) for kind in (0, 1, None)] == [1, 1, 1]
    for _ in range(30):
        unknown.told(1, wrong=False)
    assert unknown.rate(1) < 0.05
    assert unknown.rate(0) == unknown.rate(None) == 1, "what was said of one kind says nothing of the other"
    for _ in range(30):
        unknown.told(1, wrong=True)
    assert unknown.rate(1) > 0.4


def test_its_rate_is_above_the_true_one_in_the_mean() -> None:
    for share in (0.02, 0.1, 0.5):
        chance, rates = random.Random(3), []
        for _ in range(100):
            unknown = Unknown()
            for _ in range(60):
                unknown.told(0, wrong=chance.random() < share)
            rates.append(unknown.rate(0))
        assert sum(rates) / len(rates) > share


def test_where_more_of_the_audits_are_unknown_than_were_what_was_said_of_them_counts_no_longer() -> None:
    for seed in range(10):
        unknown, chance = Unknown(), random.Random(seed)
        for _ in range(40):
            unknown.told(0, wrong=False)
        assert not any(unknown.audited(unknown=chance.random() < 0.1) for _ in range(100))
        assert unknown.rate(0) < 0.1
        assert any(unknown.audited(unknown=chance.random() < 0.6) for _ in range(40))
        assert unknown.rate(0) == 1


def test_a_share_that_is_as_it_was_is_no_change() -> None:
    unknown, chance = Unknown(), random.Random(5)
    assert not any(unknown.audited(unknown=chance.random() < 0.5) for _ in range(1_000))


@pytest.mark.parametrize("known", [[[3, 1]], [[0, 0], [8, 0]]])
def test_it_goes_on_where_it_was_and_leaves_other_bands_aside(known: list[list[float]]) -> None:
    unknown, again = Unknown(), Unknown()
    unknown.seen = 3
    for _ in range(8):
        unknown.told(1, wrong=False)
        unknown.audited(unknown=True)
    state = json.loads(json.dumps(unknown.state()))
    again.restore(state)
    assert again.state() == unknown.state()
    again.restore(state | {"known": known})
    assert again.seen == 3
    assert again.rate(1) == pytest.approx(unknown.rate(1) if len(known) == 1 else 1 / 9)
