"""The gradient noise scale from gradients of micro-batches, with its interval. Pure.

Of K micro-batches of m samples, n = K·m in all, let q be the mean squared norm of one's gradient and p the squared norm
of their mean. With G the true gradient and Σ the covariance of a sample's, E[q] = |G|² + tr(Σ)/m and
E[p] = |G|² + tr(Σ)/n, so that S = m·K/(K-1)·(q - p) estimates tr(Σ) and p - S/n estimates |G|². The noise scale is
B = tr(Σ)/|G|²: the batch size at which noise and signal are of one size (McCandlish et al. 2018, arXiv 1812.06162,
appendix A.1).

A single step says little of either, so both are summed over steps before they are divided: a mean of ratios is biased
and a ratio near a zero of |G|² is anything. Steps depend on each other, hence a bootstrap of blocks (Künsch 1989,
The Annals of Statistics 17(3), in its circular form: Politis and Romano 1992).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.trial import Gradients

RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST_STEPS = 20
"""Fewer blocks than these make no interval worth its name."""


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """The noise scale in samples, and its 95% interval.

    Attributes:
        value: None where it could not be determined.
        low: the lower end, which may be known even then; None where it is not.
        high: the upper end; None where there is none, or nothing is determined.
        why_not: why it is undetermined, in words; empty where it is determined.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why_not: str = ""

    @property
    def is_determined(self) -> bool:
        """True where value and both ends are known."""
        return self.value is not None


def noise_scale(gradients: Gradients, seed: int = 0) -> NoiseScale:
    """The noise scale over the second half of the steps: at the beginning it is another one, and misleads.

    Args:
        gradients: of at least two micro-batches a step.
        seed: of the bootstrap.
    """
    if gradients.has_diverged:
        return NoiseScale(why_not="training diverged")
    steps = _noise_and_signal(gradients)
    steps = steps[len(steps) // 2 :]
    if len(steps) < FEWEST_STEPS:
        return NoiseScale(why_not=f"only {len(steps)} steps could be measured")
    value = _ratio(steps)
    if math.isnan(value):
        return NoiseScale(why_not="the gradients are not finite")
    if sum(noise for noise, _ in steps) <= 0:
        return NoiseScale(why_not="the gradients of different samples do not differ")
    low, high = _interval(steps, seed)
    if math.isinf(value) or math.isinf(high):
        known = None if math.isinf(low) else max(low, 0.0)
        return NoiseScale(low=known, why_not="the gradient is lost in its noise")
    return NoiseScale(value=value, low=max(low, 0.0), high=high)


def _noise_and_signal(gradients: Gradients) -> list[tuple[float, float]]:
    """Unbiased estimates of tr(Σ) and |G|² for each step; either may be negative."""
    m, k = gradients.micro_batch_size, gradients.micro_batches
    found = []
    for q, p in zip(gradients.square_norms, gradients.mean_square_norms, strict=True):
        noise = m * k / (k - 1) * (q - p)
        found.append((noise, p - noise / (m * k)))
    return found


def _ratio(steps: Sequence[tuple[float, float]]) -> float:
    """The ratio of the sums; infinite where no signal is left, never a quotient by something tiny."""
    noise, signal = math.fsum(n for n, _ in steps), math.fsum(s for _, s in steps)
    if math.isnan(noise + signal):
        return math.nan
    return noise / signal if signal > 0 else math.inf


def _interval(steps: Sequence[tuple[float, float]], seed: int) -> tuple[float, float]:
    chance = random.Random(seed)
    length = max(1, round(len(steps) ** (1 / 3)))  # the order that is best for a variance: Künsch 1989
    blocks = math.ceil(len(steps) / length)
    ring = [*steps, *steps[: length - 1]]
    ratios = []
    for _ in range(RESAMPLES):
        starts = [chance.randrange(len(steps)) for _ in range(blocks)]
        ratios.append(_ratio([step for start in starts for step in ring[start : start + length]]))
    ratios.sort()
    tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return ratios[tail], ratios[-1 - tail]
