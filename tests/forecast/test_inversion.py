"""Inverting a forecast: exact where memory rises, bounded everywhere."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from autotune.forecast.inversion import MOST_EVALUATIONS, largest_within


def asked_by(peak_bytes, budget_bytes, smallest=1, largest=1 << 20, resolution=0.0):
    asked: list[int] = []

    def remembered(batch_size: int) -> float:
        asked.append(batch_size)
        return peak_bytes(batch_size)

    return largest_within(remembered, budget_bytes, smallest, largest, resolution), asked


@given(
    edge=st.integers(1, 100_000),
    base=st.integers(0, 10**6),
    slope=st.integers(1, 1000),
    flat=st.floats(0, 0.9),
    square=st.floats(0, 0.1),
)
def test_it_is_exact_where_memory_rises(edge: int, base: int, slope: int, flat: float, square: float) -> None:
    def peak_bytes(batch_size: int) -> float:  # what does not depend on the batch binds first, as an optimizer does
        return base + max(slope * flat * edge, slope * batch_size + square * batch_size**2)

    answer, asked = asked_by(peak_bytes, peak_bytes(edge) + slope / 2)
    assert answer == edge
    assert len(asked) == len(set(asked)) <= MOST_EVALUATIONS


def test_a_straight_line_takes_a_handful() -> None:
    for edge in (37, 469, 1000, 10_000):
        answer, asked = asked_by(lambda size: 300.0 + 7 * size, 300 + 7 * edge + 3)
        assert answer == edge
        assert len(asked) <= 6


@given(edge=st.integers(1, 100_000), slope=st.integers(1, 1000), square=st.floats(0, 1))
def test_near_enough_is_that_near_and_below(edge: int, slope: int, square: float) -> None:
    answer, asked = asked_by(
        lambda size: slope * size + square * size**2, slope * edge + square * edge**2, resolution=0.03
    )
    assert answer <= edge < answer + max(1, 0.03 * answer)
    assert len(asked) == len(set(asked)) <= 20


def test_near_enough_takes_fewer_where_peaks_scatter() -> None:
    def scattered(size: int) -> float:
        return 300 + 7 * size * (1 + 0.03 * random.Random(size).random())

    exact, near = (asked_by(scattered, scattered(469), resolution=share)[1] for share in (0.0, 0.03))
    assert len(near) <= 5 < len(exact)


def test_a_curve_is_followed_from_both_sides() -> None:
    """The line through both ends creeps up a quadratic from below: one end stays, and must give way."""
    answer, asked = asked_by(lambda size: 300 + size**2, 300 + 470**2 + 1)
    assert answer == 470
    assert len(asked) <= 13


def test_nothing_fits() -> None:
    assert asked_by(lambda size: 100.0 + size, 50) == (0, [1])


def test_everything_fits() -> None:
    assert asked_by(lambda _: 1.0, 50, largest=1000)[0] == 1000


def test_a_peak_that_is_known_beyond_the_range_saves_questions() -> None:
    answer, asked = asked_by(lambda size: 300.0 + 7 * size, 300 + 7 * 700 + 3, 512, 1023)
    informed: list[int] = []

    def remembered(size: int) -> float:
        informed.append(size)
        return 300.0 + 7 * size

    again = largest_within(remembered, 300 + 7 * 700 + 3, 512, 1023, beyond_bytes=300.0 + 7 * 1024)
    assert answer == again == 700
    assert informed == [512, 700, 701]
    assert len(informed) < len(asked)


def test_the_smallest_is_respected() -> None:
    answer, asked = asked_by(lambda size: 10.0 * size, 45, smallest=2)
    assert answer == 4
    assert min(asked) == 2


@given(st.dictionaries(st.integers(1, 4096), st.floats(0, 100)), st.floats(0, 100))
def test_whatever_the_curve_the_answer_was_seen_to_fit(curve: dict[int, float], budget: float) -> None:
    answer, asked = asked_by(lambda size: curve.get(size, 1e12 if size > 2000 else 50.0), budget)
    assert answer == 0 or (answer in asked and curve.get(answer, 50.0) <= budget)
    assert len(asked) <= MOST_EVALUATIONS
