"""A forecast corrected by trials."""

from __future__ import annotations

import pytest

from autotune.forecast.curve import Curve, corrected


def test_between_points_a_line_and_beyond_them_the_last_line() -> None:
    curve = Curve((1, 10, 20), (100.0, 190.0, 390.0))
    assert curve.at(5) == 140
    assert curve.at(10) == 190
    assert curve.at(15) == 290
    assert curve.at(30) == 590
    assert Curve((4,), (7.0,)).at(100) == 7.0


def test_one_trial_corrects_by_a_constant_everywhere() -> None:
    curve = Curve((1, 100), (10.0, 1000.0))
    prediction = corrected(curve, [(1, 310.0)])
    assert prediction.at(1) == 310
    assert prediction.at(50) == curve.at(50) + 300
    assert prediction.edge(1300) == 100


def test_trials_far_apart_are_not_extrapolated() -> None:
    curve = Curve((1, 100), (10.0, 1000.0))
    prediction = corrected(curve, [(1, 310.0), (50, curve.at(50) + 350)])
    assert prediction.at(100) == pytest.approx(1350)


def test_trials_close_together_correct_the_slope_a_little_beyond_them() -> None:
    curve = Curve((1, 100), (10.0, 1000.0))
    prediction = corrected(curve, [(90, 900.0 + 90), (95, 950.0 + 95)])
    assert prediction.at(100) == pytest.approx(1100)
    assert prediction.at(200) == pytest.approx(2100)  # only as far again as they lie apart


def test_peaks_of_one_size_are_averaged() -> None:
    prediction = corrected(Curve((1, 100), (10.0, 1000.0)), [(50, 600.0), (50, 620.0)])
    assert prediction.at(50) == 610


def test_the_edge_is_the_last_size_within_the_budget() -> None:
    prediction = corrected(Curve((1, 100), (10.0, 1000.0)), [(1, 10.0)])
    assert prediction.edge(505) == 50
    assert prediction.edge(5) == 0
    assert prediction.edge(10**9) == 200  # a forecast says little far beyond what was forecast


def test_closeness_is_that_of_the_largest_trial() -> None:
    curve = Curve((1, 100), (10.0, 1000.0))
    assert not corrected(curve, [(1, 10.0)]).is_close_to(100)
    assert corrected(curve, [(1, 10.0), (95, 950.0)]).is_close_to(100)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="measured peak"):
        corrected(Curve((1,), (1.0,)), [])
