"""A search with a forecast: a few questions where it is right, hardly more than without where it is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.executors import OVERRUN_FACTOR
from autotune.forecast.curve import Curve, corrected
from autotune.search import SLACK, Ask, Hint, Limits, Search, Told, bounds

Oracle = Callable[[Sequence[Told]], Hint | None]


def searched(edge: int, limits: Limits, hint: Oracle = lambda _: None) -> tuple[int | None, list[int]]:
    search, asked = Search(limits), []
    while isinstance(move := search.ask(hint(search.told)), Ask):
        asked.append(move.batch_size)
        assert len(asked) < 200
        search.tell(Told(move.batch_size, accepted=move.batch_size <= edge, phase=move.phase))
    return bounds(search.told)[0], asked


def forecast_of(peak: Callable[[int], float], budget: float, curve: Curve) -> Oracle:
    """What a probe does: the curve, corrected by the peaks of trials that were not far over the budget."""

    def hint(told: Sequence[Told]) -> Hint | None:
        peaks = [(t.batch_size, peak(t.batch_size)) for t in told if peak(t.batch_size) <= OVERRUN_FACTOR * budget]
        if not peaks:
            return None
        prediction = corrected(curve, peaks)
        edge = prediction.edge(budget)
        return Hint(edge, prediction.is_close_to(edge))

    return hint


@pytest.mark.parametrize("edge", [37, 100, 469, 1000, 4321, 10_000])
@pytest.mark.parametrize("error", [-0.06, -0.02, 0.0, 0.02, 0.06])
@pytest.mark.parametrize("flat", [0.0, 0.3])
def test_five_questions_find_the_exact_edge(edge: int, error: float, flat: float) -> None:
    def peak(size: int) -> float:
        return 300 + max(flat * edge, size)

    sizes = tuple(
        sorted({1, 2, 8, *(max(1, round(edge * share)) for share in (0.1, 0.25, 0.5, 0.9, 0.95, 1, 1.05, 2))})
    )
    curve = Curve(sizes, tuple((1 + error) * (peak(size) - 300) for size in sizes))
    found, asked = searched(edge, Limits(), forecast_of(peak, peak(edge) + 0.5, curve))
    assert found == edge
    assert edge + 1 in asked
    assert len(asked) <= 5
    assert len(searched(edge, Limits())[1]) >= 12


EDGES = st.integers(1, 20_000)
LIMITS = st.builds(
    Limits,
    start=st.sampled_from([1, 2, 7, 32]),
    multiple_of=st.sampled_from([1, 3, 8]),
    largest=st.sampled_from([None, 500, 12_000]),
)


def no_worse(edge: int, limits: Limits, hint: Oracle) -> None:
    plain, asked = searched(edge, limits)
    found, guided = searched(edge, limits, hint)
    assert found == plain
    assert len(guided) <= len(asked) + SLACK
    assert len(set(guided)) == len(guided)


@given(edge=EDGES, limits=LIMITS, seed=st.integers(0, 2**32))
def test_a_forecast_wrong_by_half_costs_at_most_two(edge: int, limits: Limits, seed: int) -> None:
    chance = random.Random(seed)
    no_worse(edge, limits, lambda _: Hint(round(edge * chance.uniform(0.5, 1.5)), chance.random() < 0.5))


@given(edge=EDGES, limits=LIMITS, guess=st.integers(0, 1 << 21), is_close=st.booleans())
def test_a_constant_forecast_costs_at_most_two(edge: int, limits: Limits, guess: int, is_close: bool) -> None:
    no_worse(edge, limits, lambda _: Hint(guess, is_close))


@given(edge=EDGES, limits=LIMITS, seed=st.integers(0, 2**32))
def test_an_erratic_forecast_costs_at_most_two(edge: int, limits: Limits, seed: int) -> None:
    chance = random.Random(seed)
    no_worse(edge, limits, lambda _: chance.choice([None, Hint(chance.randint(0, 40_000), chance.random() < 0.5)]))


@given(edge=EDGES, limits=LIMITS, values=st.lists(st.floats(0, 1e5), min_size=9, max_size=9))
def test_a_curve_that_is_not_monotone_costs_at_most_two(edge: int, limits: Limits, values: list[float]) -> None:
    curve = Curve((1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536), tuple(values))
    no_worse(edge, limits, forecast_of(lambda size: 300.0 + size, 300.5 + edge, curve))


def test_where_speed_counts_doublings_go_on_up_to_the_edge_and_then_stay_below_it() -> None:
    limits = Limits(plateau_tolerance=0.05, resolution=0.05)
    search, asked = Search(limits), []
    while isinstance(move := search.ask(Hint(700, is_close=bool(asked and asked[-1] > 560))), Ask):
        asked.append(move.batch_size)
        speed = float(move.batch_size)
        search.tell(Told(move.batch_size, move.batch_size <= 700, speed, speed, phase=move.phase))
    assert asked[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert asked[10:] == [682, 716]  # the neighbourhood of the edge, instead of 1024, which would be refused
