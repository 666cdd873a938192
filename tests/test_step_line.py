"""The line through step times: it finds what made the times, stays within its bounds, and is the best that does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.step_line import StepLine, fit_step_line

COSTS = st.floats(1e-6, 10.0)
SIZES = st.lists(st.integers(1, 2**20), min_size=3, max_size=40, unique=True)
POINTS = st.lists(st.tuples(st.integers(1, 4096), COSTS), min_size=3, max_size=20, unique_by=lambda point: point[0])


def relative_error(line: StepLine, points: list[tuple[int, float]]) -> float:
    return sum((line.seconds(size) / seconds - 1) ** 2 for size, seconds in points)


@given(alpha=COSTS, beta=COSTS, sizes=SIZES)
def test_times_on_a_line_give_that_line(alpha: float, beta: float, sizes: list[int]) -> None:
    truth = StepLine(alpha_seconds=alpha, beta_seconds=beta)
    line = fit_step_line([(size, truth.seconds(size)) for size in sizes])
    assert line is not None
    for size in sizes:
        assert line.seconds(size) == pytest.approx(truth.seconds(size), rel=1e-6)


@given(points=POINTS)
def test_neither_cost_is_negative(points: list[tuple[int, float]]) -> None:
    line = fit_step_line(points)
    assert line is not None
    assert line.alpha_seconds >= 0
    assert line.beta_seconds >= 0


@given(points=POINTS, alpha=st.one_of(st.just(0.0), COSTS), beta=st.one_of(st.just(0.0), COSTS))
def test_no_other_line_within_the_bounds_is_better(points: list[tuple[int, float]], alpha: float, beta: float) -> None:
    line = fit_step_line(points)
    assert line is not None
    other = StepLine(alpha_seconds=alpha, beta_seconds=beta)
    assert relative_error(line, points) <= relative_error(other, points) * (1 + 1e-9) + 1e-9


@given(points=POINTS, factor=st.floats(0.01, 100.0))
def test_another_unit_of_time_leaves_the_half_throughput_size(points: list[tuple[int, float]], factor: float) -> None:
    line, scaled = fit_step_line(points), fit_step_line([(size, seconds * factor) for size, seconds in points])
    assert line is not None
    assert scaled is not None
    assert scaled.seconds(64) == pytest.approx(line.seconds(64) * factor, rel=1e-6)


def test_half_of_the_highest_throughput_is_reached_at_h() -> None:
    line = fit_step_line([(1, 0.011), (10, 0.020), (100, 0.110)])
    assert line is not None
    h = line.half_throughput_batch_size
    assert h == pytest.approx(10)
    assert h / line.seconds(h) == pytest.approx(0.5 / line.beta_seconds)


def test_each_size_counts_alike_however_short_its_step() -> None:
    """Squared absolute errors would sacrifice the two short steps to the long ones."""
    line = fit_step_line([(1, 0.001), (2, 0.001), (512, 0.5), (1024, 1.2)])
    assert line is not None
    assert line.seconds(1) == pytest.approx(0.001, rel=0.5)


def test_falling_times_give_a_constant_and_steps_without_overhead_a_proportion() -> None:
    falling = fit_step_line([(1, 0.3), (2, 0.2), (4, 0.1)])
    assert falling is not None
    assert falling.beta_seconds == 0
    assert falling.half_throughput_batch_size is None
    steep = fit_step_line([(1, 0.1), (2, 0.3), (4, 0.9)])
    assert steep is not None
    assert steep.half_throughput_batch_size == 0


@pytest.mark.parametrize("points", [[], [(8, 0.1)], [(8, 0.1), (16, 0.2)], [(8, 0.1), (8, 0.1), (16, 0.2)]])
def test_two_sizes_are_not_enough(points: list[tuple[int, float]]) -> None:
    assert fit_step_line(points) is None
