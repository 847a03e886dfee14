"""The figures of an evaluation by hand on tiny cases, and what must hold of them always."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation import metrics


def ones(count: int) -> metrics.Floats:
    return np.ones(count)


def floats(*values: float) -> metrics.Floats:
    return np.array(values, np.float64)


def test_apgr_is_the_area_under_the_gap_recovered() -> None:
    # Strong is better by 1 on two rows of four, and both are asked first: PGR is 0, .5, 1, 1, 1.
    shares, recovered = metrics.share_curve(floats(4, 3, 2, 1), floats(1, 1, 0, 0), ones(4))
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert recovered.tolist() == [0, 0.5, 1, 1, 1]
    assert metrics.apgr(shares, recovered) == pytest.approx((0.25 + 0.75 + 1 + 1) / 4)
    assert metrics.cpt(shares, recovered, 0.5) == pytest.approx(0.25)
    assert metrics.cpt(shares, recovered, 0.8) == pytest.approx(0.25 + 0.25 * 0.6)


def test_without_any_weight_nothing_is_known() -> None:
    none = floats(0, 0)
    assert np.isnan(metrics.mean(floats(1, 2), none))
    assert np.isnan(metrics.calibration_error(floats(0.5, 0.5), floats(0, 1), none))


def test_where_the_weak_model_is_better_the_gap_can_be_more_than_recovered() -> None:
    shares, recovered = metrics.share_curve(floats(3, 2, 1), floats(1, 1, -1), ones(3))
    assert recovered.tolist() == [0, 1, 2, 1]
    assert metrics.apgr(shares, recovered) == pytest.approx((0.5 + 1.5 + 1.5) / 3)
    assert metrics.cpt(shares, recovered, 1.0) == pytest.approx(1 / 3)


def test_rows_of_equal_estimates_count_as_in_random_order() -> None:
    shares, recovered = metrics.share_curve(floats(1, 1, 1, 1), floats(1, 0, 0, 1), ones(4))
    assert metrics.apgr(shares, recovered) == 0.5
    assert metrics.cpt(shares, recovered, 0.5) == 0.5
    assert metrics.cpt(shares, recovered, 0.8) == pytest.approx(0.8)


def test_a_weight_of_two_is_a_row_twice() -> None:
    estimated, gains = floats(3, 2, 1), floats(1, 0, 1)
    once = metrics.share_curve(estimated, gains, floats(2, 1, 1))
    twice = metrics.share_curve(floats(3, 3, 2, 1), floats(1, 1, 0, 1), ones(4))
    assert metrics.apgr(*once) == pytest.approx(metrics.apgr(*twice))


def test_no_gap_to_recover_has_no_figures() -> None:
    curve = metrics.share_curve(floats(2, 1), floats(1, -1), ones(2))
    assert np.isnan(metrics.apgr(*curve))
    assert np.isnan(metrics.cpt(*curve, 0.5))


def test_the_hull_leaves_out_what_a_mix_of_others_beats() -> None:
    # (2, .5) lies below the line from (1, .4) to (3, .8); (4, .7) costs more for less than (3, .8).
    cost, quality = metrics.hull(floats(1, 2, 3, 4), floats(0.4, 0.5, 0.8, 0.7))
    assert cost.tolist() == [1, 3]
    assert quality.tolist() == [0.4, 0.8]
    assert metrics.hull_at(floats(1, 3), floats(0.4, 0.8), 2) == pytest.approx(0.6)


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    # From 1 to 3 the hull rises from .4 to .8, mean .6; from 3 to 5 it stays at .8.
    assert metrics.aiq(floats(1, 3), floats(0.4, 0.8), 1, 5) == pytest.approx(0.7)
    assert metrics.aiq(floats(1, 3), floats(0.4, 0.8), 1, 2) == pytest.approx(0.5)
    assert np.isnan(metrics.aiq(floats(1), floats(0.4), 1, 1))


def test_calibration_error_weighs_the_gap_of_each_bin() -> None:
    # Bin [.2, .3): expected .25, actual .5, two rows; bin [.9, 1]: expected .95, actual 1, two rows.
    expected, actual = floats(0.25, 0.25, 0.9, 1.0), floats(1, 0, 1, 1)
    assert metrics.calibration_error(expected, actual, ones(4)) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


def test_willingness_to_pay_decides_between_quality_and_cost() -> None:
    quality, cost = np.array([[0.9, 0.5], [0.7, 0.7]]), np.array([[3.0, 1.0], [3.0, 1.0]])
    chosen = metrics.utility_choices(quality, cost, floats(4, 6, np.inf))
    assert chosen.tolist() == [[1, 0, 0], [1, 1, 1]]  # 2 USD for .4 is worth it from 5 USD a point on


def test_the_interval_of_a_mean_is_as_wide_as_it_should_be() -> None:
    values = np.random.default_rng(0).normal(size=400)
    interval = metrics.bootstrap(lambda w: {"mean": float(metrics.mean(values, w))}, 400, seed=1, times=2000)["mean"]
    assert interval[0] < values.mean() < interval[1]
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_random_rankings_recover_half_the_gap_on_average() -> None:
    random = np.random.default_rng(0)
    gains = (random.uniform(size=2_000) < 0.3).astype(np.float64)
    found = [metrics.apgr(*metrics.share_curve(random.uniform(size=2_000), gains, ones(2_000))) for _ in range(50)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_hull_rises_bends_down_and_covers_every_point(points: list[tuple[float, float]]) -> None:
    costs, qualities = floats(*(c for c, _ in points)), floats(*(q for _, q in points))
    x, y = metrics.hull(costs, qualities)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert all(metrics.hull_at(costs, qualities, c) >= q - 1e-6 for c, q in points)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 1)), min_size=2, max_size=30), st.randoms())
def test_the_order_of_rows_and_the_scale_of_estimates_do_not_matter(
    rows: list[tuple[int, int]], random: "np.random.RandomState"
) -> None:
    def area(rows: Sequence[tuple[int, int]], scale: float) -> float:
        estimated, gains = floats(*(scale * e for e, _ in rows)), floats(*(g for _, g in rows))
        return metrics.apgr(*metrics.share_curve(estimated, gains, ones(len(rows))))

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert area(shuffled, 7.0) == pytest.approx(area(rows, 1.0), nan_ok=True)
