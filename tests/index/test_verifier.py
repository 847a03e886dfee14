"""The verifier: a probability that orders what may be served, and 0 for what the guard refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.guard import compare, prepare
from index.verifier import FEATURES, LEAST_COSINE, WEIGHTS, Judgement, Verifier, features


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier.load()


def judge(verifier: Verifier, one: str, other: str, cosine: float) -> Judgement:
    return verifier.judge(prepare(one), prepare(other), cosine)


def test_what_the_guard_refuses_has_no_chance(verifier: Verifier) -> None:
    judged = judge(verifier, "Which phone is best under 15000?", "Which phone is best under 12000?", 0.999)
    assert judged.probability == 0.0
    assert judged.refused == ("numbers_differ",)


def test_what_is_far_is_not_even_compared(verifier: Verifier) -> None:
    judged = judge(verifier, "How do I cook rice?", "How do I cook rice?", LEAST_COSINE - 0.01)
    assert (judged.probability, judged.refused) == (0.0, ("below_threshold",))


def test_the_same_question_in_other_words_is_likely_and_another_is_not(verifier: Verifier) -> None:
    same = judge(verifier, "How do I control my lust?", "How can I control lust?", 0.97)
    typo = judge(verifier, "How do I transition to dating?", "How do I transiton to dating?", 0.88)
    other = judge(verifier, "What are the types of bread?", "Why is bread important?", 0.8)
    assert same.probability > 0.7
    assert typo.probability > 0.7
    assert other.probability < 0.4


def test_the_same_words_are_nearly_certain_whatever_the_marks_did_to_the_cosine(verifier: Verifier) -> None:
    assert judge(verifier, "reset password", "Reset password.", 0.8).probability > 0.9


def test_what_narrows_a_short_question_down_at_its_end_asks_for_something_else(verifier: Verifier) -> None:
    whole, narrow = "What are the best laptops?", "What are the best laptops for beginners?"
    judged = judge(verifier, whole, narrow, 0.93)
    assert dict(zip(FEATURES, judged.features, strict=True))["qualified"] > 0.5
    within = judge(verifier, "What are the best cheap laptops?", whole, 0.93)
    assert dict(zip(FEATURES, within.features, strict=True))["qualified"] == 0.0
    assert judged.probability < within.probability


def test_near_in_spite_of_another_frame_is_likelier_than_near_within_the_same(verifier: Verifier) -> None:
    asked = "How do I learn painting?"
    framed = judge(verifier, asked, "What is the one way in which I should be learning painting?", 0.9)
    within = judge(verifier, asked, "How do I learn about painting?", 0.9)
    counts = [dict(zip(FEATURES, judged.features, strict=True))["frame_words"] for judged in (framed, within)]
    assert counts[0] > counts[1] >= 1.0
    assert framed.probability > within.probability


def test_the_words_of_a_frame_count_up_to_a_limit() -> None:
    filler = " and then what if it was so that you would also do it with them all once again now"
    compared = compare(prepare("Explain painting"), prepare("Explain painting" + filler))
    assert dict(zip(FEATURES, features(0.9, compared), strict=True))["frame_words"] == 8.0


def test_nearer_is_likelier(verifier: Verifier) -> None:
    one, other = "How do I start to paint?", "What is the best way to begin painting?"
    rising = [judge(verifier, one, other, cosine).probability for cosine in np.linspace(LEAST_COSINE, 1.0, 30)]
    assert rising == sorted(rising)


@given(st.text(max_size=120), st.text(max_size=120), st.floats(-1.0, 1.001))
def test_any_pair_has_a_probability_the_same_both_ways(one: str, other: str, cosine: float) -> None:
    a, b = prepare(one), prepare(other)
    row = features(cosine, compare(a, b))
    assert len(row) == len(FEATURES)
    assert all(map(math.isfinite, row))
    assert row == pytest.approx(features(cosine, compare(b, a)))
    shipped = Verifier.load()
    there = shipped.judge(a, b, cosine)
    back = shipped.judge(b, a, cosine)
    assert 0.0 <= there.probability <= 1.0
    assert there.probability == pytest.approx(back.probability)


def test_weights_of_other_features_are_refused(tmp_path: Path) -> None:
    raw = json.loads(WEIGHTS.read_text("utf-8"))
    raw["weights"].pop("cosine")
    (tmp_path / "w.json").write_text(json.dumps(raw), "utf-8")
    with pytest.raises(ValueError, match="train"):
        Verifier.load(tmp_path / "w.json")
    with pytest.raises(ValueError, match="weights"):
        Verifier([1.0], 0.0)
