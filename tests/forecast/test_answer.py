"""What is asked of a forecaster, and made of its footprints."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import NoForecastError
from autotune.executors import ForecastRequest
from autotune.forecast import answer as answering
from autotune.forecast.records import Composition, Footprint, Forecast

MIB = 1 << 20
FIXED, OPTIMIZER, SAMPLE = 300 * MIB, 700 * MIB, 7 * MIB


def bent(size: int) -> int:
    """The optimizer binds at small sizes, then activations, of which a part grows with the square of the size."""
    return FIXED + max(OPTIMIZER, SAMPLE * size + size**2 * 1000)


def answered(peak_bytes: Callable[[int], int], request: ForecastRequest, smallest: int = 1) -> tuple[Forecast, int]:
    """An answer, and how many sizes were forecast for it."""
    asked: list[int] = []

    class Reckons:
        """Stands for a forecaster."""

        base_bytes, guesses = 0, ()

        def __init__(self, *_: Any, **__: Any) -> None:
            """Needs no bench."""

        def footprint(self, size: int) -> Footprint:
            asked.append(size)
            if size < smallest:
                raise NoForecastError("too small")
            held = peak_bytes(size)
            return Footprint(size, held, held, Composition(), {}, "forward", "", 1, 0.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answering, "Forecaster", Reckons)
        bench: Any = SimpleNamespace(smallest_batch_size=1, accumulation_steps=1)
        found = answering.answer(bench, request)
    assert len(asked) == len(set(asked))
    return found, len(asked)


ROOMS = tuple(gib << 30 for gib in (8, 16, 24, 16, 40, 80, 10, 11, 12, 32, 48, 141, 180, 192, 64, 94))


def test_each_of_many_budgets_is_answered_by_a_forecast_of_its_own() -> None:
    found, count = answered(bent, ForecastRequest(batch_sizes=(), budgets_bytes=ROOMS))
    known = {footprint.batch_size: footprint.held_bytes for footprint in found.footprints}
    for room_bytes, edge in zip(ROOMS, found.largest_batch_sizes, strict=True):
        assert known[edge] == bent(edge) <= room_bytes < known[edge + 1]
    assert count <= 6 * len(ROOMS)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 200 << 30), min_size=1, max_size=30),
    st.lists(st.integers(1, 5000), max_size=4),
    st.integers(1, 2),
)
def test_the_largest_sizes_are_those_that_fit(rooms: list[int], sizes: list[int], smallest: int) -> None:
    sizes = [max(size, smallest) for size in sizes]
    request = ForecastRequest(batch_sizes=tuple(sorted(set(sizes))), budgets_bytes=tuple(rooms), largest=4000)
    found, _ = answered(bent, request, smallest)
    for room_bytes, edge in zip(rooms, found.largest_batch_sizes, strict=True):
        fits = [bent(size) <= room_bytes for size in range(smallest, 4001)]
        assert edge == (smallest - 1 + sum(fits) if any(fits) else 0)


def test_a_larger_budget_has_no_smaller_answer_where_peaks_rise_and_fall() -> None:
    def jagged(size: int) -> int:
        return bent(size) + (40 * MIB if size % 3 else 0)

    found, _ = answered(jagged, ForecastRequest(batch_sizes=(5, 600), budgets_bytes=ROOMS))
    by_room = sorted(zip(ROOMS, found.largest_batch_sizes, strict=True))
    assert [edge for _, edge in by_room] == sorted(edge for _, edge in by_room)
    assert all(jagged(edge) <= room_bytes for room_bytes, edge in by_room)


def test_where_trials_correct_it_the_edge_s_surroundings_are_forecast_and_not_its_neighbour() -> None:
    request = ForecastRequest(batch_sizes=(), budgets_bytes=(16 << 30,), measured=(4, bent(4) + 50 * MIB))
    found, count = answered(bent, request)
    (edge,) = found.largest_batch_sizes
    assert bent(edge) + 50 * MIB <= 16 << 30 < bent(round(1.04 * edge)) + 50 * MIB
    known = {footprint.batch_size for footprint in found.footprints}
    assert {round(0.9 * edge), round(1.05 * edge)} <= known
    assert count <= 14
