"""How far the peaks of nearly one batch size differ, and so how high the next one may be. Pure.

Needs the records of trials and the curve of a forecast. Equal processes differ by several per cent in what they hold
at most, so one that fits says little of the next. A few runs of one size say little of how much its peak varies; those
of its neighbours say the same of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression

from autotune.executors import OVERRUN_FACTOR
from autotune.forecast.curve import Peak, curve_of
from autotune.forecast.heap import PAGE_BYTES
from autotune.forecast.records import Forecast
from autotune.guide import measured_peaks, was_ended
from autotune.trial import Trial

DEVIATIONS = 1.6
CAUTION = 2.0
"""The room to leave is 1.6 standard deviations times 1 + 2/n, of n runs: 2.2 of them after five, 1.9 after ten. There
Student's t puts the next run in 19 of 20 cases: 2.13 · √(1 + 1/5) = 2.3 and 1.83 · √(1 + 1/10) = 1.9 deviations. That
confirmations hold as well makes it 98 to 99 of 100 (simulated; docs/architecture.md)."""
LEAST_DEVIATION_BYTES = 2**20
"""What to reckon with where runs differ at all, since a few may agree by chance: with each large block mapped, equal
processes of ten workloads deviate by 0.3 to 1.2 MiB (`benchmarks.accuracy --mapped`), by what interpreters hold."""
NEAR = 0.2  # memory is close to a straight line over so small a share of the batch size


@dataclass(frozen=True)
class Near:
    """What the trials of nearly one size have shown.

    Attributes:
        measured: batch size and peak in bytes, of those that came to their end.
        ended: batch size and bytes, of those that were ended for memory: their peak is not known, but it passed these.
    """

    measured: tuple[Peak, ...]
    ended: tuple[Peak, ...]

    def __len__(self) -> int:
        """How many trials there are."""
        return len(self.measured) + len(self.ended)

    def highest(self, batch_size: int) -> float:
        """The highest peak that was measured at exactly this size, in bytes; 0 where there is none."""
        return max((peak for size, peak in self.measured if size == batch_size), default=0.0)


def near(trials: Sequence[Trial], batch_size: int, budget_bytes: int) -> Near:
    """The trials of nearly a size."""
    around = [t for t in trials if abs(t.batch_size - batch_size) <= NEAR * batch_size]
    ended = [(t.batch_size, _passed_bytes(t, budget_bytes)) for t in around if was_ended(t)]
    return Near(tuple(measured_peaks(around)), tuple(ended))


def _passed_bytes(trial: Trial, budget_bytes: int) -> float:
    """What an ended trial passed: the watchdog lets it overrun the budget, an allocator that fails may not."""
    by_watchdog = trial.evidence is not None and trial.evidence.source == "watchdog"
    return OVERRUN_FACTOR * budget_bytes if by_watchdog else float(budget_bytes)


@dataclass(frozen=True)
class Band:
    """Peaks of nearly one size, in bytes: their middle over the batch size, and how far above it to reckon with."""

    middle: Callable[[int], float]
    above_bytes: float

    def highest(self, batch_size: int) -> int:
        """The highest peak to reckon with at a size."""
        return round(self.middle(batch_size) + self.above_bytes)

    def largest_safe(self, batch_size: int, budget_bytes: int) -> int:
        """The largest size near one whose highest peak is within the budget; that below all of these where none is."""
        lowest, highest = math.ceil((1 - NEAR) * batch_size), math.floor((1 + NEAR) * batch_size)
        fitting = (size for size in range(highest, lowest, -1) if self.highest(size) <= budget_bytes)
        return max(1, next(fitting, lowest))


def band_of(near: Near, forecast: Forecast | None) -> Band | None:
    """What these trials say together; None where they are too few for a line and a deviation from it.

    Where peaks don't vary, the band is the line through them. A forecast gives the line its slope, which few trials
    don't. Of one that was ended only this is known: how far it had come above the line by then; where the line is far
    from the budget, no spread but another limit ended it, or a jump.
    """
    middle = _middle(near.measured, forecast)
    if middle is None:
        return None
    measured = [peak - middle(size) for size, peak in near.measured]
    ended = [passed - middle(size) for size, passed in near.ended if 1 - NEAR <= middle(size) / passed < 1]
    return Band(middle, _room_bytes([*measured, *ended]))


def _room_bytes(deviations: Sequence[float]) -> float:
    """What to leave above the line for the next run; one alone tells nothing of that."""
    count = len(deviations)
    if count < 2:
        return 0.0
    standard = math.sqrt(sum(deviation**2 for deviation in deviations) / (count - 1))
    if standard > PAGE_BYTES:  # peaks are counted in pages
        standard = max(standard, LEAST_DEVIATION_BYTES)
    return DEVIATIONS * (1 + CAUTION / count) * standard


def _middle(measured: Sequence[Peak], forecast: Forecast | None) -> Callable[[int], float] | None:
    """The line through peaks, in bytes over the batch size."""
    sizes = [size for size, _ in measured]
    if forecast is not None and measured:
        curve = curve_of(forecast)
        missed = fmean(peak - curve.at(size) for size, peak in measured)
        return lambda size: curve.at(size) + missed
    if len(set(sizes)) < 3:
        return None
    slope, start = linear_regression(sizes, [peak for _, peak in measured])
    return lambda size: start + slope * size
