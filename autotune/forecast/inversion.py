"""The largest batch size whose forecast stays within a budget, in a few evaluations. Pure.

A forecast costs about a second, and peak memory is close to a straight line over small ranges but not over large
ones (the optimizer binds at small sizes, a contrastive loss is quadratic). So the secant through the nearest two
sizes says where to look next, within bounds that make it converge like bisection where the secant is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_GROWTH = 64
"""The secant is not followed further than this many times the largest size known to fit."""

SECANTS = 2
"""So many secants in a row; then a step of another kind, since one that creeps along a bend would go on for ever."""

MOST_EVALUATIONS = 40
"""Enough to find any size up to a million; a forecast that needs more is no use to a search."""


def largest_within(peak_bytes: Callable[[int], float], budget_bytes: float, smallest: int, largest: int) -> int:
    """The largest batch size in a range whose peak is within the budget; 0 where not even the smallest is.

    Exact where the peak rises with the batch size; else an edge, above which the next size does not fit. After
    `MOST_EVALUATIONS` it is the largest size that was seen to fit.

    Args:
        peak_bytes: the forecast; asked once for each size.
        budget_bytes: the bound on it.
        smallest: the first size considered.
        largest: the last one.
    """
    low = _Point(smallest, peak_bytes(smallest) - budget_bytes)
    if low.excess_bytes > 0:
        return 0
    below, high = None, _Point(largest + 1, math.nan)
    for turn in range(1, MOST_EVALUATIONS):
        if high.batch_size - low.batch_size == 1:
            break
        size = _above(below, low, high, turn) if math.isnan(high.excess_bytes) else _between(low, high, turn)
        point = _Point(size, peak_bytes(size) - budget_bytes)
        if point.excess_bytes <= 0:
            below, low = low, point
        else:
            high = point
    return low.batch_size


@dataclass(frozen=True)
class _Point:
    """A batch size and by how much it is over the budget; NaN beyond the range, where nothing was asked."""

    batch_size: int
    excess_bytes: float


def _above(below: _Point | None, low: _Point, high: _Point, turn: int) -> int:
    """Growing: where the line through the last two reaches the budget, and now and then far beyond that."""
    size = 2 * low.batch_size
    if below is not None and turn % (SECANTS + 1):
        size = max(low.batch_size + 1, min(_crossing(below, low), MOST_GROWTH * low.batch_size))
    return min(size, high.batch_size - 1)


def _between(low: _Point, high: _Point, turn: int) -> int:
    """Between a size that fits and one that does not: where the line through them crosses, or halfway."""
    if turn % (SECANTS + 1) == 0:
        return (low.batch_size + high.batch_size) // 2
    return min(max(_crossing(low, high), low.batch_size + 1), high.batch_size - 1)


def _crossing(a: _Point, b: _Point) -> int:
    """The last whole batch size at which the line through two points is within the budget."""
    slope = (b.excess_bytes - a.excess_bytes) / (b.batch_size - a.batch_size)
    return b.batch_size + math.floor(-b.excess_bytes / slope) if slope > 0 else MOST_GROWTH * b.batch_size
