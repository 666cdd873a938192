"""Medians, their intervals, and ratios of paired times. Pure: numbers in, numbers out.

Order statistics are used throughout: step times are skewed to the right (an interruption only ever makes a
step slower), so a mean and a normal interval would mislead, while a median needs no assumption on the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median as _median

CONFIDENCE = 0.95


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the median of no values is not defined")
    return float(_median(values))


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """A confidence interval for the median from the order statistics, free of any distribution.

    The k-th smallest and the k-th largest value enclose the median with probability
    `1 - 2 P(Binomial(n, 1/2) < k)` (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2). Below
    six values no k reaches 95%, so the whole range is returned: it encloses the median with `1 - 2^(1 - n)`.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the median of no values is not defined")
    ordered = sorted(values)
    k = _rank(len(ordered), confidence)
    return float(ordered[k - 1]), float(ordered[-k])


def _rank(n: int, confidence: float) -> int:
    """The largest k >= 1 whose k-th order statistics from both ends keep the confidence."""
    tail, k = 1, 0  # in units of 2^-n, exact in integers
    while 2 * tail / 2**n <= 1 - confidence and k < n // 2:
        k += 1
        tail += math.comb(n, k)
    return max(k, 1)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or the share is outside (0, 1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError("a quantile needs values and a share above 0 and up to 1")
    ordered = sorted(values)
    return float(ordered[math.ceil(share * len(ordered)) - 1])


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as another: the median over pairs, and its interval."""

    median: float
    low: float
    high: float

    @property
    def cautious(self) -> float:
        """Halfway from the median to the lower end: of many pairs, about one standard error below."""
        return (self.median + self.low) / 2

    @property
    def is_tie(self) -> bool:
        """True where the pairs don't tell the two apart."""
        return self.low <= 1 <= self.high


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two series measured in turns, pair by pair, so that slow drift cancels.

    Raises:
        ValueError: the series differ in length or are empty.
    """
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, high = median_interval(ratios)
    return Ratio(median(ratios), low, high)
