"""The line `t(b) = alpha + beta * b` of the step time over the batch size. Pure: numbers in, a line out.

Most of a small step is overhead that does not depend on the batch (launching kernels, Python, the optimizer), and
most of a large one is work in proportion to it, so a line describes both with two numbers. Where the two are equal,
at `h = alpha / beta`, half of the highest throughput `1 / beta` is reached (Hockney's half-performance length:
Hockney and Jesshope, Parallel Computers 2, 1988, section 1.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FEWEST_SIZES = 3
"""Two sizes always lie on a line, whatever the truth is."""


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """A fixed cost of each step and a cost of each sample, in seconds; neither is negative."""

    alpha_seconds: float
    beta_seconds: float

    @property
    def half_throughput_batch_size(self) -> float | None:
        """The `h = alpha / beta` at which half of the highest throughput is reached; None where no sample costs."""
        return self.alpha_seconds / self.beta_seconds if self.beta_seconds else None

    def seconds(self, batch_size: float) -> float:
        """The step time that the line gives."""
        return self.alpha_seconds + self.beta_seconds * batch_size


def fit_step_line(points: Sequence[tuple[int, float]]) -> StepLine | None:
    """The line with the least sum of squared relative errors, neither of its numbers negative.

    Relative errors, since noise grows with the step time and a small step counts as much as a large one.

    Args:
        points: batch size and median step seconds, in any order; both above 0.

    Returns:
        The line; None where there are fewer than three different batch sizes.
    """
    if len({size for size, _ in points}) < FEWEST_SIZES:
        return None
    return min(_candidates(points), key=lambda line: _error(line, points))


def _candidates(points: Sequence[tuple[int, float]]) -> list[StepLine]:
    """Where the least error may lie: at the free minimum, or else on either border of what is allowed."""
    weights = [1 / seconds**2 for _, seconds in points]  # which make the errors relative

    def mean(values: Iterable[float]) -> float:
        return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(weights)

    size_mean, seconds_mean = mean(size for size, _ in points), mean(seconds for _, seconds in points)
    beta = mean((size - size_mean) * (seconds - seconds_mean) for size, seconds in points)
    beta /= mean((size - size_mean) ** 2 for size, _ in points)
    inside = StepLine(alpha_seconds=seconds_mean - beta * size_mean, beta_seconds=beta)
    flat = StepLine(alpha_seconds=seconds_mean, beta_seconds=0.0)
    per_sample = mean(size * seconds for size, seconds in points) / mean(size**2 for size, _ in points)
    proportional = StepLine(alpha_seconds=0.0, beta_seconds=per_sample)
    if inside.alpha_seconds >= 0 and inside.beta_seconds >= 0:
        return [inside]
    return [flat, proportional]


def _error(line: StepLine, points: Sequence[tuple[int, float]]) -> float:
    return math.fsum((line.seconds(size) / seconds - 1) ** 2 for size, seconds in points)
