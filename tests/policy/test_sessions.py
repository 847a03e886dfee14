"""Conversations: up at once, down only when it is worth it, and follow-ups inherit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.followups import means_nothing_alone
from service.policy.sessions import Key, Sessions, Turn, stay
from service.policy_settings import SessionSettings
from service.requests import Estimate, Reason
from service.routing.choose import Ranking

SMALL = Estimate("small", 0.5, 0.4, 0.001, None)
LARGE = Estimate("large", 0.9, 0.8, 0.1, None)
CONTENT = "Which treaty ended the Thirty Years' War?"


def worth(estimate: Estimate) -> float:
    return estimate.quality


def ranking(*models: Estimate) -> Ranking:
    return Ranking(models, 0.5, Reason.NEIGHBOURS)


def test_a_turn_that_asks_for_more_escalates() -> None:
    found, why = stay(ranking(LARGE, SMALL), "small", CONTENT, worth, 1.0, known=True)
    assert (found.models[0], why) == (LARGE, "escalates from small")


@pytest.mark.parametrize(("quality", "first"), [(0.94, "large"), (0.96, "small")])
def test_it_changes_down_only_when_that_gains_more_than_a_switch_costs(quality: float, first: str) -> None:
    cheap = SMALL._replace(quality=quality)
    found, why = stay(ranking(cheap, LARGE), "large", CONTENT, worth, 0.05, known=True)
    assert found.models[0].model == first
    assert {e.model for e in found.models} == {"small", "large"}
    assert why.startswith("stays with large" if first == "large" else "changes down from large")


def test_the_same_model_needs_no_word() -> None:
    assert stay(ranking(LARGE, SMALL), "large", CONTENT, worth, 0.05, known=True) == (ranking(LARGE, SMALL), "")


def test_a_model_that_is_not_feasible_any_more_is_left() -> None:
    found, why = stay(ranking(SMALL), "large", "make it shorter", worth, 0.05, known=True)
    assert found.models == (SMALL,)
    assert why == "the conversation's model large is not feasible now"


@pytest.mark.parametrize("last", ["small", "large"])
def test_follow_ups_and_turns_of_which_nothing_is_known_inherit(last: str) -> None:
    one, other = (LARGE, SMALL) if last == "small" else (SMALL._replace(quality=0.99), LARGE)
    assert stay(ranking(one, other), last, "make it shorter", worth, 0.05, known=True)[0].models[0].model == last
    assert stay(ranking(one, other), last, CONTENT, worth, 0.05, known=False)[0].models[0].model == last


@pytest.mark.parametrize(
    "text",
    [
        "make it shorter",
        "Make it shorter, please!",
        "why?",
        "continue",
        "Yes, go on",
        "and again",
        "Thanks!",
        "Translate that to French",
        "can you explain the second one in more detail?",
        "What do you mean?",
        "say it like a pirate",
        "",
        "👍",
        "kürzer bitte",
        "warum?",
        "¿por qué?",
        "plus court",
    ],
)
def test_what_means_nothing_alone(text: str) -> None:
    assert means_nothing_alone(text)


@pytest.mark.parametrize(
    "text",
    [
        CONTENT,
        "Prove Fermat's last theorem",
        "Write a short poem about the sea",
        "Write a function that sorts a list and explain how long it takes for large inputs",
        "Capital of France?",
        "Schreibe ein Gedicht über das Meer und den Wind im Herbst",
        "it " * 200,
    ],
)
def test_what_means_something_alone(text: str) -> None:
    assert not means_nothing_alone(text)


def sessions(keep: int = 3, expires_s: float = 100) -> tuple[Sessions, dict[Key, Turn | None]]:
    kept: dict[Key, Turn | None] = {}
    return Sessions(SessionSettings(keep=keep, expires_s=expires_s), kept.__setitem__), kept


def test_a_conversation_is_remembered_until_it_has_rested_too_long() -> None:
    found, _ = sessions()
    found.put(("s", "c"), "large", 1_000)
    assert found.get(("s", "c"), 1_100) == Turn("large", 1_000)
    assert found.get(("s", "c"), 1_101) is None
    assert found.get(("t", "c"), 1_000) is None, "another scope's conversation of the same name is another one"


def test_beyond_the_bound_those_at_rest_longest_are_forgotten() -> None:
    found, kept = sessions(keep=3)
    for i, name in enumerate("abcd"):
        found.put(("s", name), "m", i)
    found.put(("s", "b"), "m", 5)
    found.put(("s", "e"), "m", 6)
    assert [name for name in "abcde" if found.get(("s", name), 6)] == ["b", "d", "e"]
    assert kept["s", "a"] is None
    assert kept["s", "c"] is None


def test_what_was_kept_goes_on_after_a_restart() -> None:
    found, kept = sessions(keep=2)
    found.put(("s", "a"), "large", 10)
    found.put(("s", "b"), "small", 5)
    again, _ = sessions(keep=2)
    again.load({key: turn for key, turn in kept.items() if turn is not None})
    assert again.get(("s", "a"), 20) == Turn("large", 10)
    again.put(("s", "c"), "small", 21)
    assert again.get(("s", "b"), 21) is None, "the one at rest longest went"


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 50)), max_size=100))
def test_any_traffic_leaves_a_bounded_state(traffic: list[tuple[int, float]]) -> None:
    found, kept = sessions(keep=5, expires_s=60)
    now = 0.0
    for name, pause in traffic:
        now += pause
        found.put(("s", str(name)), "m", now)
        assert len(found) <= 5
        assert len(found) == sum(turn is not None for turn in kept.values())
