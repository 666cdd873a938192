"""A forecast as the search uses it: a curve over the batch size, corrected by what trials measured. Pure.

What a forecast misses (the interpreter, buffers inside kernels) is nearly the same at all sizes, so one trial
corrects it everywhere by a constant; trials near each other correct its slope between them. Small trials are
never extrapolated: the curve alone knows how memory grows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from statistics import fmean

from autotune.forecast.records import Forecast

CLOSE = 0.8
"""A trial of at least so large a share of the edge corrects the forecast where it matters."""

Peak = tuple[int, float]
"""A batch size, and the peak in bytes that a trial measured there."""


@dataclass(frozen=True)
class Curve:
    """Straight lines through points, at least one, whose sizes ascend; beyond the last, the last line goes on.

    Where chance has moved the points, two next to each other say little of sizes far from them: the line beyond is then
    taken over so large a share of the last size as `steady_over`.
    """

    batch_sizes: tuple[int, ...]
    values: tuple[float, ...]
    steady_over: float = 0.0

    def at(self, batch_size: float) -> float:
        """The value at a batch size."""
        sizes, values = self.batch_sizes, self.values
        if len(sizes) == 1:
            return values[0]
        right = min(max(bisect_left(sizes, batch_size), 1), len(sizes) - 1)
        a, value_a = float(sizes[right - 1]), values[right - 1]
        b, value_b = sizes[right], values[right]
        if batch_size > b and self.steady_over:
            a = max(min(a, (1 - self.steady_over) * b), sizes[0])
            value_a = self.at(a)
        return value_a + (value_b - value_a) * (batch_size - a) / (b - a)


def curve_of(forecast: Forecast) -> Curve:
    """What the allocator holds, in bytes, over the batch size."""
    footprints = forecast.footprints
    sizes, held = tuple(f.batch_size for f in footprints), [float(f.held_bytes) for f in footprints]
    return Curve(sizes, _rising(held), steady_over=1 - CLOSE)


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    """Values that never fall; those that never do stay as they are.

    Memory grows with the batch size, but where a heap's blocks fall is chance: a U-Net's forecast at 76 was 41 MiB
    below that at 74. What falls is put halfway between the highest value so far and the lowest from there on.
    """
    highest = accumulate(values, max)
    lowest = reversed(list(accumulate(reversed(values), min)))
    return tuple((high + low) / 2 for high, low in zip(highest, lowest, strict=True))


@dataclass(frozen=True)
class Corrected:
    """A curve and the peaks that were measured: what it misses there is added, in between in proportion."""

    curve: Curve
    missed: Curve

    def at(self, batch_size: int) -> float:
        """The peak predicted at a batch size, in bytes."""
        first, last = self.missed.batch_sizes[0], self.missed.batch_sizes[-1] + self._reach()
        return self.curve.at(batch_size) + self.missed.at(min(max(batch_size, first), last))

    def _reach(self) -> int:
        """How far above the largest size measured what was missed may go on in a line; beyond it is a constant."""
        sizes = self.missed.batch_sizes
        return sizes[-1] - sizes[-2] if len(sizes) > 1 and sizes[-2] >= CLOSE * sizes[-1] else 0

    def edge(self, budget_bytes: float) -> int:
        """The largest batch size whose predicted peak is within the budget, up to twice the last size known."""
        low, high = 0, 2 * self.curve.batch_sizes[-1]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.at(middle) <= budget_bytes else (low, middle - 1)
        return low

    def is_close_to(self, batch_size: int) -> bool:
        """True where a trial was measured near a batch size, or above it."""
        return self.missed.batch_sizes[-1] >= CLOSE * batch_size


def corrected(curve: Curve, peaks: Iterable[Peak]) -> Corrected:
    """The curve with what it misses. At least one peak is needed; those of one size are averaged.

    Raises:
        ValueError: nothing was measured.
    """
    by_size = [(size, [peak for _, peak in group]) for size, group in groupby(sorted(peaks), key=lambda peak: peak[0])]
    if not by_size:
        raise ValueError("a forecast needs a measured peak to be corrected by")
    sizes = tuple(size for size, _ in by_size)
    return Corrected(curve, Curve(sizes, tuple(fmean(group) - curve.at(size) for size, group in by_size)))
