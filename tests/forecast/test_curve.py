"""A forecast corrected by trials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.forecast.curve import Curve, corrected, curve_of
from autotune.forecast.records import Composition, Footprint, Forecast, Rules


def test_between_points_a_line_and_beyond_them_the_last_line() -> None:
    curve = Curve((1, 10, 20), (100.0, 190.0, 390.0))
    assert curve.at(5) == 140
    assert curve.at(10) == 190
    assert curve.at(15) == 290
    assert curve.at(30) == 590
    assert Curve((4,), (7.0,)).at(100) == 7.0


def test_beyond_points_that_chance_has_moved_the_line_is_taken_over_a_larger_share() -> None:
    curve = Curve((50, 80, 99, 100), (500.0, 800.0, 1010.0, 1000.0), steady_over=0.2)
    assert curve.at(200) == pytest.approx(2000)
    assert curve.at(99.5) == 1005
    assert Curve((99, 100), (1010.0, 1000.0), steady_over=0.2).at(102) == 980  # there is no more to go by


def forecast_of(held: list[tuple[int, int]]) -> Forecast:
    return Forecast(
        rules=Rules.CPU,
        footprints=tuple(
            Footprint(
                batch_size=size,
                peak_bytes=held_bytes,
                held_bytes=held_bytes,
                composition=Composition(),
                phase_peak_bytes={},
                phase="forward",
                operator="conv2d",
                operators=1,
                seconds=0.0,
            )
            for size, held_bytes in held
        ),
    )


def test_a_heap_by_chance_lower_at_a_larger_size_does_not_turn_the_forecast_down() -> None:
    """MiB of a U-Net. The line through the last two once put 144 samples at less than nothing."""
    curve = curve_of(forecast_of([(1, 14), (64, 417), (65, 441), (71, 462), (72, 447), (74, 533), (76, 492)]))
    assert [curve.at(size) for size in (71, 72)] == [454.5, 454.5]
    assert 800 < curve.at(144) < 1100


@given(held=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), size=st.floats(0, 100))
def test_a_forecast_never_falls_and_one_that_does_not_is_as_it_was(held: list[int], size: float) -> None:
    curve = curve_of(forecast_of(list(enumerate(held, start=1))))
    assert list(curve.values) == sorted(curve.values)
    assert curve.at(size) <= curve.at(size + 1) + 1e-3
    assert list(curve_of(forecast_of(list(enumerate(sorted(held), start=1)))).values) == sorted(held)


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
