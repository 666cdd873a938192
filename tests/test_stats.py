from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import Ratio, median, median_interval, paired_ratio, quantile

times = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60)


@given(times)
def test_the_interval_encloses_the_median_and_lies_within_the_values(values: list[float]) -> None:
    low, high = median_interval(values)
    assert min(values) <= low <= median(values) <= high <= max(values)


@pytest.mark.parametrize(
    ("n", "rank"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6), (30, 10), (100, 40)]
)
def test_ranks_are_those_of_the_published_tables(n: int, rank: int) -> None:
    assert median_interval(range(1, n + 1)) == (rank, n + 1 - rank)


def test_the_rank_of_many_values_is_that_of_the_normal_distribution() -> None:
    low, high = median_interval(range(4000))
    assert low == pytest.approx(2000 - 1.96 * math.sqrt(1000), abs=2)
    assert high == pytest.approx(3999 - low)


def test_the_interval_covers_the_true_median_as_often_as_it_promises() -> None:
    chance, covered, runs = random.Random(1), 0, 2000
    for _ in range(runs):
        low, high = median_interval([chance.expovariate(1.0) for _ in range(15)])
        covered += low <= math.log(2) <= high
    assert covered / runs >= 0.945  # 95% less two standard errors of 2000 runs


@given(times, st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-9)


@given(times)
def test_quantiles_rise(values: list[float]) -> None:
    found = [quantile(values, share) for share in (0.1, 0.5, 0.9, 1.0)]
    assert all(a <= b for a, b in pairwise(found))


def test_drift_cancels_in_a_paired_ratio() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    ratio = paired_ratio([2 * value for value in drift], drift)
    assert ratio == Ratio(2.0, 2.0, 2.0)
    assert not ratio.is_tie


def test_an_interval_around_one_is_a_tie() -> None:
    assert paired_ratio([1, 2, 1, 2, 1, 2], [2, 1, 2, 1, 2, 1]).is_tie


@pytest.mark.parametrize("call", [lambda: median([]), lambda: median_interval([]), lambda: quantile([], 0.5)])
def test_nothing_has_no_median(call) -> None:
    with pytest.raises(ValueError, match="value"):
        call()


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        quantile([1.0], 0.0)


def test_unequal_series_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="argument"):
        paired_ratio([1.0], [1.0, 2.0])
