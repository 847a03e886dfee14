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
    assert not audits(Unknown(), share, 1_000)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, True), (0.05, True), (0.4, False), (0.9, False)])
def test_where_audits_nearly_always_tell_an_answer_they_cannot_tell_of_is_wrong(share: float, wrong: bool) -> None:  # noqa: FBT001
    unknown = Unknown()
    assert not unknown.wrong
    audits(unknown, share, 200)
    assert unknown.wrong is wrong


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.3), (0.1, 0.6), (0.3, 0.9)])
def test_where_more_of_the_audits_are_unknown_than_were_they_count_as_wrong(before: float, after: float) -> None:
    for seed in range(10):
        unknown = Unknown()
        assert not audits(unknown, before, 150, seed)
        assert audits(unknown, after, 60, seed) == 1
        assert unknown.wrong


def test_until_no_more_come_than_before() -> None:
    unknown = Unknown()
    audits(unknown, 0.4, 150)
    assert audits(unknown, 1.0, 150)
    assert unknown.wrong
    audits(unknown, 1.0, 300)
    assert unknown.wrong
    audits(unknown, 0.4, 300)
    assert not unknown.wrong


def test_it_goes_on_where_it_was() -> None:
    unknown, again = Unknown(), Unknown()
    audits(unknown, 0.0, 100)
    audits(unknown, 1.0, 2)
    again.restore(json.loads(json.dumps(unknown.state())))
    assert again.state() == unknown.state()
    audits(unknown, 1.0, 20)
    audits(again, 1.0, 20)
    assert again.wrong
    assert again.state() == unknown.state()
