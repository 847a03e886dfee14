"""The estimator: it learns what can be learned, says what it does not know, and survives any labels."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.calibration import _isotonic
from index.errors import GenerationError
from index.estimator import NEIGHBOURS, Estimator, Neighbours, Prediction, experience
from index.features import LENGTH, SURFACE, surface
from index.fitting import fit
from index.ridge import Doubles, Floats
from index.stacking import length_slopes, stack

D = 16
NO_COSTS = np.full((0, 0), np.nan, np.float32)


def unit(rows: Doubles) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def world(n: int, seed: int = 0, models: int = 3) -> tuple[Floats, list[str], Floats, Floats]:
    """Return references of two topics: model 0 is right on one, the last on the other; cost follows length."""
    chance = np.random.default_rng(seed)
    topic = chance.integers(0, 2, n)
    centres = np.random.default_rng(99).normal(size=(2, D))
    vectors = unit(2.0 * centres[topic] + chance.normal(size=(n, D)))
    lengths = chance.integers(5, 60, n)
    texts = [
        f"{('sum', 'poem')[t]} {i} " + "word " * int(size)
        for i, (t, size) in enumerate(zip(topic, lengths, strict=True))
    ]
    likely = np.full((n, models), 0.5)
    likely[:, 0], likely[:, -1] = np.where(topic == 0, 0.9, 0.2), np.where(topic == 0, 0.2, 0.9)
    scores = (chance.random((n, models)) < likely).astype(np.float32)
    costs = (lengths[:, None] * np.geomspace(1e-5, 1e-3, models)).astype(np.float32)
    return vectors, texts, scores, costs


def near(estimator: Estimator, queries: Floats, vectors: Floats, scores: Floats) -> Neighbours:
    cosines = queries @ vectors.T
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    return Neighbours.gather(rows, np.take_along_axis(cosines, rows, axis=1), experience(scores, estimator.mean))


def predicted(
    estimator: Estimator, references: tuple[Floats, list[str], Floats, Floats], asked: int = 200, base: int = 0
) -> Prediction:
    """Return predictions for fresh prompts of the same world."""
    queries, texts, _, _ = world(asked, seed=1, models=references[2].shape[1])
    return estimator.predict(queries, texts, near(estimator, queries, references[0], references[2]), base)


def sound(prediction: Prediction) -> bool:
    inside = ((prediction.quality >= 0) & (prediction.quality <= 1)).all()
    errors = [prediction.error, prediction.gain_error]
    return bool(inside and all(np.isfinite(error).all() and (error >= 0).all() for error in errors))


def test_the_model_that_is_right_on_a_topic_is_expected_to_be() -> None:
    references = world(600)
    prediction = predicted(fit(*references), references)
    _, texts, _, _ = world(200, seed=1)
    sums = np.array([text.startswith("sum") for text in texts])
    assert (prediction.quality[sums].argmax(axis=1) == 0).mean() > 0.95
    assert (prediction.quality[~sums].argmax(axis=1) == 2).mean() > 0.95
    assert np.abs(prediction.quality[sums, 0].mean() - 0.9) < 0.06
    assert sound(prediction)


def test_costs_are_expected_in_usd_and_follow_the_prompt() -> None:
    references = world(600)
    prediction = predicted(fit(*references), references)
    _, _, _, paid = world(200, seed=1)
    assert np.abs(prediction.cost / paid - 1).mean() < 0.15


def test_a_gain_over_oneself_is_certain_and_others_have_an_error() -> None:
    references = world(600)
    found = predicted(fit(*references), references, base=1)
    error = found.gain_error
    assert (error[:, 1] == 0).all()
    assert (error[:, [0, 2]] > 0).all()
    assert (error[found.familiarity > 0.1][:, [0, 2]] < 0.2).all()


def test_the_less_like_the_references_a_prompt_is_the_more_its_gains_are_in_doubt() -> None:
    references = world(600)
    estimator = fit(*references)
    close = np.linspace(estimator.familiar[0] - 0.1, estimator.familiar[10], 50, dtype=np.float32)
    vectors, texts = np.repeat(references[0][:1], 50, axis=0), references[1][:1] * 50
    same = near(estimator, vectors, references[0], references[2])
    far = Neighbours(np.repeat(close[:, None], NEIGHBOURS, axis=1), same.known, same.residuals)
    error = estimator.predict(vectors, texts, far).gain_error[:, 2]
    assert error[0] == error[1] > 0.5
    assert error[-1] == error[-2] < 0.2
    steps = np.diff(error)
    assert (steps <= 0).all()
    assert steps.min() > (error[-1] - error[0]) / 4, "another wording would tip it over an edge"


def test_what_makes_prompts_hard_for_all_models_does_not_blur_the_gain() -> None:
    vectors, texts, _, costs = world(400, models=2)
    hard = (np.random.default_rng(3).random(400) < 0.5).astype(np.float32)
    scores = np.stack((hard * 0.9, hard * 0.9 + 0.1), axis=1)
    prediction = predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs))
    assert np.allclose(prediction.quality[:, 1] - prediction.quality[:, 0], 0.1, atol=0.03)
    assert (prediction.gain_error[:, 1] < 0.25 * prediction.error[:, 1]).all()


def test_without_costs_none_are_made_up() -> None:
    vectors, texts, scores, costs = world(100)
    estimator = fit(vectors, texts, scores, np.full_like(costs, np.nan))
    assert np.isnan(predicted(estimator, (vectors, texts, scores, costs)).cost).all()


def test_models_without_costs_and_free_models_stay_what_they_are() -> None:
    vectors, texts, scores, costs = world(200)
    costs[:, 0], costs[:, 1] = 0.0, np.nan
    cost = predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs)).cost
    assert (cost[:, 0] == 0).all()
    assert np.isnan(cost[:, 1]).all()
    assert (cost[:, 2] > 0).all()


def test_a_prompt_far_from_all_references_is_not_familiar() -> None:
    vectors, texts, scores, costs = world(300)
    far = -unit(vectors.mean(axis=0, keepdims=True).astype(np.float64))
    estimator = fit(vectors, texts, scores, costs)
    prediction = estimator.predict(far, ["elsewhere"], near(estimator, far, vectors, scores))
    assert prediction.familiarity[0] == 0
    assert sound(prediction)


def test_prompts_like_the_references_are_familiar() -> None:
    references = world(600)
    assert (predicted(fit(*references), references).familiarity > 0.01).mean() > 0.95


def test_few_references_call_nothing_unfamiliar() -> None:
    vectors, texts, scores, costs = world(50)
    far = -unit(vectors.mean(axis=0, keepdims=True).astype(np.float64))
    estimator = fit(vectors, texts, scores, costs)
    prediction = estimator.predict(far, ["elsewhere"], near(estimator, far, vectors, scores))
    assert prediction.familiarity[0] == 1


def test_a_reference_to_the_same_prompt_speaks_for_it() -> None:
    vectors, texts, scores, costs = world(600)
    estimator, asked = fit(vectors, texts, scores, costs), vectors[:1]
    found = near(estimator, asked, vectors, scores)
    expected = {}
    for said in (0.0, 1.0):
        found.residuals[0, 0] = said - estimator.mean
        expected[said] = estimator.predict(asked, texts[:1], found)
    assert (expected[1.0].quality - expected[0.0].quality > 0.2).all()
    assert sound(expected[1.0])


def test_labels_of_the_best_model_alone_are_enough() -> None:
    vectors, texts, scores, costs = world(600)
    best = np.eye(3, dtype=np.float32)[scores.argmax(axis=1)]
    prediction = predicted(fit(vectors, texts, best, np.full_like(costs, np.nan)), (vectors, texts, best, costs))
    _, asked, _, _ = world(200, seed=1)
    sums = np.array([text.startswith("sum") for text in asked])
    assert (prediction.quality[sums].argmax(axis=1) == 0).mean() > 0.95


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_holes_in_the_scores_leave_the_rest_usable(share: float) -> None:
    vectors, texts, scores, costs = world(900)
    holes = np.random.default_rng(5).random(scores.shape) < share
    scores[holes], costs[holes] = np.nan, np.nan
    prediction = predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs))
    _, asked, _, _ = world(200, seed=1)
    sums = np.array([text.startswith("sum") for text in asked])
    assert sound(prediction)
    assert (prediction.quality[sums].argmax(axis=1) == 0).mean() > 0.9


def test_a_model_that_was_never_tried_has_no_quality_and_all_doubt() -> None:
    vectors, texts, scores, costs = world(200)
    scores[:, 1] = np.nan
    prediction = predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs))
    assert (prediction.quality[:, 1] == 0).all()
    assert (prediction.error[:, 1] > 0.1).all()
    assert sound(prediction)


def test_one_model_alone_is_estimated() -> None:
    vectors, texts, scores, costs = world(300)
    prediction = predicted(
        fit(vectors, texts, scores[:, :1], costs[:, :1]), (vectors, texts, scores[:, :1], costs[:, :1])
    )
    assert prediction.quality.shape == (200, 1)
    assert prediction.quality.std() > 0.2
    assert sound(prediction)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 50])
def test_few_references_shrink_to_the_means(n: int) -> None:
    references = world(n)
    prediction = predicted(fit(*references), references)
    assert sound(prediction)
    if n < 6:
        assert np.abs(prediction.quality - references[2].mean(axis=0)).max() < 0.5


def test_constant_scores_give_that_score() -> None:
    vectors, texts, scores, costs = world(120)
    scores[:] = 1.0
    prediction = predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs))
    assert np.allclose(prediction.quality, 1.0, atol=1e-3)


def test_equal_prompts_with_contradicting_labels_count_once_with_their_mean() -> None:
    vectors, texts, scores, costs = world(200)
    opposite = fit(
        np.concatenate((vectors, vectors)),
        texts + texts,
        np.concatenate((scores, 1 - scores)),
        np.concatenate((costs, costs)),
    )
    even = fit(vectors, texts, np.full_like(scores, 0.5), costs)
    assert np.allclose(opposite.mean, 0.5)
    assert np.allclose(opposite.head, even.head, atol=1e-5)


def test_neighbours_that_do_not_exist_say_nothing() -> None:
    vectors, texts, scores, costs = world(300)
    estimator = fit(vectors, texts, scores, costs)
    full = near(estimator, vectors[:1], vectors, scores)
    similarities = np.array([[0.9, -np.inf, -np.inf]], np.float32)
    padded = Neighbours.gather(np.array([[5, -1, -1]]), similarities, experience(scores, estimator.mean))
    alone = Neighbours(padded.similarities[:, :1], padded.known[:, :1], padded.residuals[:, :1])
    first, second = (estimator.predict(vectors[:1], texts[:1], n) for n in (padded, alone))
    assert not padded.known[0, 1:].any()
    assert np.allclose(first.error, second.error)
    assert (first.error > estimator.predict(vectors[:1], texts[:1], full).error).any()


def test_no_neighbours_at_all_are_not_familiar() -> None:
    vectors, texts, scores, costs = world(150)
    none = Neighbours(np.empty((1, 0), np.float32), *np.empty((2, 1, 0, 3), np.float32))
    prediction = fit(vectors, texts, scores, costs).predict(vectors[:1], texts[:1], none)
    assert prediction.familiarity[0] == 0
    assert sound(prediction)


def test_prompts_predicted_together_are_predicted_as_alone() -> None:
    vectors, texts, scores, costs = world(300)
    estimator = fit(vectors, texts, scores, costs)
    queries, asked, _, _ = world(20, seed=1)
    found = near(estimator, queries, vectors, scores)
    together = estimator.predict(queries, asked, found)
    for i in range(20):
        alone = Neighbours(*(part[i : i + 1] for part in (found.similarities, found.known, found.residuals)))
        one = estimator.predict(queries[i : i + 1], asked[i : i + 1], alone)
        assert np.allclose(one.quality[0], together.quality[i], atol=1e-5)
        assert np.allclose(one.cost[0], together.cost[i], rtol=1e-4)


def test_expected_quality_is_right_on_average() -> None:
    references = world(1500)
    prediction = predicted(fit(*references), references, asked=1500)
    _, _, scores, _ = world(1500, seed=1)
    for model in range(3):
        bins = np.clip((prediction.quality[:, model] * 10).astype(int), 0, 9)
        gaps = [(prediction.quality[bins == b, model] - scores[bins == b, model]).sum() for b in range(10)]
        assert np.abs(gaps).sum() / 1500 < 0.05


def test_it_says_how_right_it_is_on_references_it_has_not_seen() -> None:
    references = world(1500)
    estimator = fit(*references)
    expected, actual, rows = estimator.reliability.T
    assert rows.sum() == 1500
    assert ((expected >= 0) & (expected <= 1) & (actual >= 0) & (actual <= 1)).all()
    assert 0 < estimator.calibration_error < 0.05


@pytest.mark.parametrize("models", [2, 60])
def test_many_models_of_which_most_are_seldom_tried_are_estimated(models: int) -> None:
    vectors, texts, scores, costs = world(400, models=models)
    tried = np.random.default_rng(5).random(scores.shape) < 3 / models
    scores[~tried], costs[~tried] = np.nan, np.nan
    assert sound(predicted(fit(vectors, texts, scores, costs), (vectors, texts, scores, costs)))


def test_saved_and_loaded_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    references = world(200)
    estimator = fit(*references)
    estimator.save(tmp_path / "a.npz")
    loaded = Estimator.load(tmp_path / "a.npz")
    loaded.save(tmp_path / "b.npz")
    fit(*references).save(tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    assert np.array_equal(predicted(loaded, references).quality, predicted(estimator, references).quality)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "part", "shape", "format"])
def test_a_damaged_file_is_refused_with_a_remedy(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "estimator.npz"
    if damage != "missing":
        fit(*world(30)).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "text":
        path.write_text("not an archive")
    if damage in ("part", "shape", "format"):
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays.update({"shape": {"stack": np.zeros(3)}, "format": {"format": np.array(99)}}.get(damage, {}))
        if damage == "part":
            del arrays["head"]
        np.savez(path, **arrays)
    with pytest.raises(GenerationError, match="build it anew"):
        Estimator.load(path)


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    vectors, texts, scores, costs = world(10)
    with pytest.raises(ValueError, match="shapes differ"):
        fit(vectors, texts[:9], scores, costs)
    with pytest.raises(ValueError, match="shapes differ"):
        fit(vectors, texts, scores, NO_COSTS)
    with pytest.raises(ValueError, match="shapes differ"):
        fit(vectors[:0], [], scores[:0], costs[:0])
    vectors[3, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit(vectors, texts, scores, costs)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_has_finite_features_that_do_not_change(text: str) -> None:
    found = surface([text, "another", text])
    assert found.shape == (3, SURFACE)
    assert np.isfinite(found).all()
    assert np.array_equal(found[0], found[2])


def test_a_long_text_shows_its_beginning_and_its_length() -> None:
    short, long = surface(["word " * 400, "word " * 400_000])
    assert (short != long).sum() == 1
    assert long.sum() > short.sum()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I mend a puncture?", "What do I have to do to mend a puncture?"),
        ("what is a good name for a grey cat", "What's a good name for a grey cat?"),
    ],
)
def test_length_is_of_what_is_asked_and_not_of_how(one: str, other: str) -> None:
    shown = surface([one, other, other + " It has to be done before the evening"])[:, LENGTH]
    assert abs(shown[0] - shown[1]) < 0.15 < shown[2] - shown[1]


def test_a_long_text_keeps_its_length_but_for_the_share_of_little_words() -> None:
    plain, little = np.expm1(surface(["word word " * 1_000, "the word " * 1_000])[:, LENGTH])
    assert plain == pytest.approx(10_000, rel=1e-3)
    assert little == pytest.approx(5_000, rel=1e-2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=12))
def test_isotonic_values_never_fall_and_keep_the_mean(pairs: list[tuple[float, int]]) -> None:
    values, sizes = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], np.float64)
    rising = _isotonic(values, sizes)
    assert (np.diff(rising) >= -1e-12).all()
    assert math.isclose(float(rising @ sizes), float(values @ sizes), abs_tol=1e-9)


def test_few_labels_leave_no_learner_out_and_many_leave_out_one_that_knows_nothing() -> None:
    chance = np.random.default_rng(0)

    def weights(n: int) -> list[float]:
        truth = chance.normal(size=n).astype(np.float32)
        good, none = truth + chance.normal(size=n), chance.normal(size=n)
        parts = [np.stack((part, -part), axis=1).astype(np.float32) for part in (good, none)]
        targets = np.stack((truth, -truth), axis=1) + chance.normal(size=(n, 2)).astype(np.float32)
        return [float(weight) for weight in stack(parts, targets)[1]]

    few, many = weights(30), weights(30_000)
    assert few[1] > 0.5 * few[0] > 0
    assert many[1] < 0.1 * many[0]


def test_where_nothing_is_familiar_length_tells_prompts_apart() -> None:
    vectors, _, scores, costs = world(1200)
    scores[:, 0] = 0.5
    chance = np.random.default_rng(7)
    lengths = chance.integers(1, 200, 1200)
    texts = [f"{i} " + "word " * int(size) for i, size in enumerate(lengths)]
    scores[:, 2] = chance.random(1200) < 0.3 + 0.4 * (lengths > 60)
    estimator = fit(vectors, texts, scores, costs)
    assert estimator.length[2] > 0.02 > estimator.length[0]

    found = estimator.predict(vectors, texts, near(estimator, vectors, vectors, scores))
    usual = vectors[found.familiarity.argmax()][None]
    assert found.familiarity.max() > 0.99
    far = -unit(vectors.mean(axis=0, keepdims=True).astype(np.float64))
    without = replace(estimator, length=np.zeros_like(estimator.length))

    def longer(used: Estimator, asked: Floats) -> float:
        """Return what a longer prompt adds to the gain of model 2 over model 0."""
        both = np.repeat(asked, 2, axis=0)
        quality = used.predict(both, ["a word", "word " * 100], near(used, both, vectors, scores)).quality
        return float(quality[1, 2] - quality[1, 0] - quality[0, 2] + quality[0, 0])

    assert longer(estimator, far) > longer(without, far) + 0.005
    assert longer(estimator, usual) == pytest.approx(longer(without, usual), abs=0.002)


def test_length_that_says_nothing_counts_nothing() -> None:
    targets = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    same = np.full(300, 2.0, np.float32)
    assert (length_slopes(same, targets, targets) == 0).all()


def test_a_model_that_was_never_right_has_no_quality_and_one_that_was_has_some() -> None:
    vectors, texts, scores, _ = world(600)
    best = np.eye(4, dtype=np.float32)[scores.argmax(axis=1)]
    unknown = np.full_like(best, np.nan)
    prediction = predicted(fit(vectors, texts, best, unknown), (vectors, texts, best, unknown))
    assert (prediction.quality[:, 3] == 0).all()
    assert (prediction.quality[:, :3] > 0).all()
