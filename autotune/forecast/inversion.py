"""The largest batch size whose forecast stays within a budget, in a few evaluations. Pure.

A forecast costs about a second, and peak memory is close to a straight line over small ranges but not over large
ones (the optimizer binds at small sizes, a contrastive loss is quadratic). So the secant through the nearest two
sizes says where to look next, within bounds that make it converge like bisection where the secant is wrong. It takes
5 evaluations on straight lines, 7 to 10 on bent and quadratic ones, in the mean over edges from 5 to 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_GROWTH = 64
"""The secant is not followed further than this many times the largest size known to fit. Where near the edge will do,
so many times the smallest size is asked about next: the line from one sample to two says little of hundreds."""

MOST_SECANTS = 4
"""So many in a row; then a step of another kind, since at a cliff they creep along for ever."""

MOST_EVALUATIONS = 40
"""Enough to find any size up to a million; a forecast that needs more is no use to a search."""


def largest_within(
    peak_bytes: Callable[[int], float],
    budget_bytes: float,
    smallest: int,
    largest: int,
    resolution: float = 0.0,
    *,
    beyond_bytes: float = math.nan,
) -> int:
    """The largest batch size in a range whose peak is within the budget; 0 where not even the smallest is.

    Exact where the peak rises with the batch size; else an edge, above which the next size does not fit. After
    `MOST_EVALUATIONS` it is the largest size that was seen to fit.

    Args:
        peak_bytes: the forecast; asked once for each size.
        budget_bytes: the bound on it.
        smallest: the first size considered.
        largest: the last one.
        resolution: how near to the edge will do, as a share of the answer; with 0 it is found exactly.
        beyond_bytes: the peak at the size after the last one, over the budget; NaN where it is not known.
    """
    low = _Point(smallest, peak_bytes(smallest) - budget_bytes)
    if low.excess_bytes > 0:
        return 0
    below, high = None, _Point(largest + 1, beyond_bytes - budget_bytes)
    growth, fitted = MOST_GROWTH if resolution else 2, None
    for turn in range(1, MOST_EVALUATIONS):
        if high.batch_size - low.batch_size <= max(1, resolution * low.batch_size):
            break
        size = _above(below, low, high, turn, growth) if math.isnan(high.excess_bytes) else _between(low, high, turn)
        point = _Point(size, peak_bytes(size) - budget_bytes)
        if point.excess_bytes <= 0:
            below, low, high = low, point, high.halved() if fitted is True else high
        else:
            low, high = low.halved() if fitted is False else low, point
        fitted = point.excess_bytes <= 0
    return low.batch_size


@dataclass(frozen=True)
class _Point:
    """A batch size and by how much it is over the budget; NaN beyond the range, where that is not known."""

    batch_size: int
    excess_bytes: float

    def halved(self) -> _Point:
        """For an end that stays a second time: on a curve, where the line through both ends creeps, it then turns.

        The "Illinois algorithm": Dowell and Jarratt, BIT 11 (1971), 168-174.
        """
        return _Point(self.batch_size, self.excess_bytes / 2)


def _above(below: _Point | None, low: _Point, high: _Point, turn: int, growth: int) -> int:
    """Growing: at first so many times, then to where the line through the last two reaches the budget, or twice."""
    size = growth * low.batch_size
    if below is not None:
        size = min(_crossing(below, low), MOST_GROWTH * low.batch_size)
        if turn % (MOST_SECANTS + 1) == 0 and size > low.batch_size:
            size = max(size, 2 * low.batch_size)
    return min(max(size, low.batch_size + 1), high.batch_size - 1)


def _between(low: _Point, high: _Point, turn: int) -> int:
    """Between a size that fits and one that does not: where the line through them crosses, or halfway."""
    if turn % (MOST_SECANTS + 1) == 0:
        return (low.batch_size + high.batch_size) // 2
    return min(max(_crossing(low, high), low.batch_size + 1), high.batch_size - 1)


def _crossing(a: _Point, b: _Point) -> int:
    """The last whole batch size at which the line through two points is within the budget."""
    slope = (b.excess_bytes - a.excess_bytes) / (b.batch_size - a.batch_size)
    return b.batch_size + math.floor(-b.excess_bytes / slope) if slope > 0 else MOST_GROWTH * b.batch_size
