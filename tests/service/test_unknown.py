"""What verdicts are worth that nobody can give."""

import json
import random

import pytest

from service.cache.unknown import Unknown


def audits(unknown: Unknown, share: float, count: int, seed: int = 0) -> int:
    """Take in audits, a share of them unknown; return how many times these told of a change."""
    chance = random.Random(seed)
    return sum(unknown.audited(unknown=chance.random() < share) for _ in range(count))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_share_that_is_as_it_was_is_no_change(share: float) -> None:
    unknown = Unknown()
    assert not audits(unknown, share, 1_000)
    assert not unknown.suspect


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.3), (0.1, 0.6), (0.3, 0.9)])
def test_where_more_of_the_audits_are_unknown_than_were_they_count_as_wrong(before: float, after: float) -> None:
    for seed in range(10):
        unknown = Unknown()
        assert not audits(unknown, before, 150, seed)
        assert audits(unknown, after, 60, seed) == 1
        assert unknown.suspect


def test_until_no_more_come_than_before() -> None:
    unknown = Unknown()
    audits(unknown, 0.1, 150)
    audits(unknown, 0.7, 150)
    assert unknown.suspect
    audits(unknown, 0.7, 300)
    assert unknown.suspect
    audits(unknown, 0.1, 300)
    assert not unknown.suspect


def test_it_goes_on_where_it_was() -> None:
    unknown, again = Unknown(), Unknown()
    audits(unknown, 0.0, 100)
    audits(unknown, 1.0, 2)
    again.restore(json.loads(json.dumps(unknown.state())))
    assert again.state() == unknown.state()
    audits(unknown, 1.0, 20)
    audits(again, 1.0, 20)
    assert again.suspect
    assert again.state() == unknown.state()
