"""The verify stage: what is read when, which of several answers is served, and which check is named."""

from typing import Any

import pytest

from index.verifier import FEATURES, Verifier
from index.view import Entry
from index.wording import Prepared, prepare
from service.cache.semantic import Judge, load_judge, verify
from service.errors import SettingsError
from service.requests import CacheOptions, Prompt, Request, RouteOptions
from service.settings import CacheSettings

SETTINGS = CacheSettings(error_budget=1, min_probability=0.8, threshold=0.85)
NOW = 1_000.0


def entry(prompt: str, *, model: str = "m", stored_at: float = 0.0, expires_at: float = 0.0, row: int = 1) -> Entry:
    return Entry(prompt, row, "s", b"k", b"c", stored_at, expires_at, model, (), truncated=False, prompt=prompt)


def request(**fields: Any) -> Request:
    return Request("s", "unused", **fields)


@pytest.fixture(scope="module")
def judge() -> Judge:
    verifier = Verifier.load()
    return Judge(verifier, verifier.encoder)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read, in order."""
    texts: list[str] = []

    def reading(text: str) -> Prepared:
        texts.append(text)
        return prepare(text)

    monkeypatch.setattr("service.cache.semantic.prepare", reading)
    return texts


def test_nothing_is_read_without_a_candidate_and_nothing_twice(judge: Judge, read: list[str]) -> None:
    prompt = Prompt("How can I pay by card?", b"")
    far = entry("How do I pay?", row=100)
    assert verify(judge, prompt, [], request(), SETTINGS, NOW) == (None, ())
    assert verify(judge, prompt, [(0.7, far)], request(), SETTINGS, NOW) == (None, ())
    (found,) = verify(judge, prompt, [(0.8, far)], request(), SETTINGS, NOW)[1]
    assert (found.refused_by, found.probability) == ("below_threshold", None)
    assert read == []
    by, other = entry("How do I pay by card?", row=101), entry("How do I pay with a card?", row=102)
    near = [(0.99, by), (0.95, other), (0.8, far)]
    for _ in range(3):
        assert len(verify(judge, prompt, near, request(), SETTINGS, NOW)[1]) == 3
    assert read.count("How can I pay by card?") == 3, "once a prompt"
    assert sorted(set(read) - {prompt.text}) == ["How do I pay by card?", "How do I pay with a card?"]
    assert len(read) == 5, "once an entry, until it is replaced"


def test_the_likeliest_is_served_and_not_the_nearest(judge: Judge) -> None:
    near = [
        (0.97, entry("How do I block one of 5 cards?")),
        (0.87, entry("Will a new card arrive soon if I block my card?")),
        (0.86, entry("How can I block my card?")),
    ]
    served, judged = verify(judge, Prompt("how can i block my card", b""), near, request(), SETTINGS, NOW)
    assert [found.refused_by for found in judged] == ["numbers_differ", "improbable", ""]
    assert served == judged[2]
    assert judged[0].probability == 0
    assert judged[0].features == ()
    assert len(judged[2].features) == len(FEATURES)
    assert judged[2].margin == pytest.approx(-0.11)


@pytest.mark.parametrize(
    ("check", "fields", "asked"),
    [
        ("too_old", {"cache": CacheOptions(max_age=500.0)}, "How can I pay?"),
        ("model_not_wanted", {"route": RouteOptions(pin="other")}, "How can I pay?"),
        ("model_not_wanted", {"route": RouteOptions(deny=frozenset(("m",)))}, "How can I pay?"),
        ("too_old", {"cache": CacheOptions(max_age=500.0)}, "How can I not pay?"),
    ],
)
def test_what_the_caller_does_not_want_is_not_served(
    judge: Judge, check: str, fields: dict[str, Any], asked: str
) -> None:
    near = [(0.97, entry("How do I pay?"))]
    served, judged = verify(judge, Prompt(asked, b""), near, request(**fields), SETTINGS, NOW)
    assert served is None
    assert [found.refused_by for found in judged] == [check]
    assert verify(judge, Prompt("How can I pay?", b""), near, request(), SETTINGS, NOW)[0] is not None


def test_what_has_lapsed_is_not_even_judged(judge: Judge) -> None:
    near = [(0.97, entry("How do I pay?", expires_at=NOW))]
    assert verify(judge, Prompt("How can I pay?", b""), near, request(), SETTINGS, NOW) == (None, ())


def test_a_probability_cannot_be_asked_of_another_encoder_but_the_guard_can() -> None:
    with pytest.raises(SettingsError, match=r"cache\.min_probability.*set it to 0"):
        load_judge(CacheSettings(error_budget=1), "another encoder")
    load_judge(CacheSettings(enabled=False), "another encoder")
    settings = CacheSettings(error_budget=1, min_probability=0.0)
    foreign = load_judge(settings, "another encoder")
    near = [(0.97, entry("How do I pay 5?", row=1)), (0.96, entry("How can I pay?", row=2))]
    served, judged = verify(foreign, Prompt("how do i pay", b""), near, request(), settings, NOW)
    assert served == judged[1]
    assert [found.refused_by for found in judged] == ["numbers_differ", ""]
    assert [found.probability for found in judged] == [None, None]
