"""Rewordings: the same question in other words, and what they move is shrunk."""

from collections.abc import Sequence

import numpy as np
import pytest

from index.features import surface
from index.fitting import fit
from index.rewording import FRAMES, reworded, steadying
from index.ridge import Floats
from tests.index.test_estimator import near, world


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("How do I mend a puncture?", "mend a puncture"),
        ("what's the best way to mend a puncture", "mend a puncture"),
        ("Could you please explain how to mend a puncture?", "mend a puncture"),
        ("Please mend it.", "mend it"),
        ("Howard mends punctures", "Howard mends punctures"),
        ("?", "?"),
    ],
)
def test_a_text_is_put_into_every_frame_without_its_own(text: str, inner: str) -> None:
    found = reworded(text)
    assert len(set(found)) == len(FRAMES)
    assert f"How do I {inner}?" in found
    assert f"What is the best way to {inner}?" in found


def test_what_a_wording_moves_is_shrunk_and_nothing_else() -> None:
    def features(texts: Sequence[str]) -> Floats:
        return np.array([[len(t.split()) % 5 - 2.0, "tin" in t, "zinc" in t] for t in texts], np.float32)

    texts = [f"{metal} {i}" for i in range(40) for metal in ("tin", "zinc", "lead")]
    steady = steadying(texts, features)
    assert steady.shape == (3, 3)
    assert steady[1, 1] == pytest.approx(steady[2, 2])
    assert 0 < steady[0, 0] < 0.6 * steady[1, 1]
    assert np.abs(steady - np.diag(np.diagonal(steady))).max() < 1e-6
    own = features(texts)
    assert ((own @ steady) ** 2).sum() == pytest.approx((own**2).sum(), rel=1e-5)


def test_features_that_say_nothing_stay_as_they_are() -> None:
    assert np.array_equal(steadying(["one"], lambda texts: np.zeros((len(texts), 2), np.float32)), np.eye(2))


def test_an_opening_that_went_with_a_label_by_chance_moves_an_estimate_less(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, texts, scores, costs = world(300)
    texts = [f"{('How do I do', 'What is')[int(s)]} {text}" for s, text in zip(scores[:, 1], texts, strict=True)]
    asked = [f"How do I do {texts[0]}", f"What is {texts[0]}"]

    def moved() -> float:
        estimator = fit(vectors, texts, scores, costs)
        both = np.repeat(vectors[:1], 2, axis=0)
        quality = estimator.predict(both, asked, near(estimator, both, vectors, scores)).quality
        return float(np.abs(quality[0] - quality[1]).sum())

    steady = moved()
    monkeypatch.setattr("index.fitting.steadying", lambda _texts, _features: np.eye(surface([""]).shape[1]))
    assert steady < 0.8 * moved()
