"""Which batch size trains fastest to a given quality: step times and the gradient noise scale together. Pure.

To reach a loss, an optimizer needs `S(b) = S_min·(1 + B/b)` steps of b samples (McCandlish et al. 2018, arXiv
1812.06162, section 2.2), with B the gradient noise scale; a step takes `t(b) = alpha + beta·b`. So the time is in
proportion to `(1 + B/b)·t(b)`, which is least at `b = √(B·h)` with `h = alpha/beta`: larger batches waste samples,
smaller ones waste overhead. `B/(B + b)` is the share of its samples that a step makes full use of (Qiao et al. 2021,
Pollux, arXiv 2008.12260, section 3.1).

The learning rate follows the same ratio: `gain = (b/b0)·(b0 + B)/(b + B)`, in proportion to it for SGD and to its root
for Adam and its relatives. It all assumes that the learning rate is tuned again, and predicts time, not final quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.advice import LINEAR, rule_of
from autotune.noise_scale import NoiseScale, noise_scale
from autotune.recommend import speeds
from autotune.result import Recommendation, Result
from autotune.spec import ProbeSpec
from autotune.step_line import StepLine, fit_step_line
from autotune.trial import Gradients, Training, WorkloadFacts
from autotune.units import format_number

NEAR = 0.10
"""How much more than the least predicted time is still called near it: no prediction here is better than that."""

CLAMP = 16.0
"""A noise scale so many times over or under h counts as that: the estimate is a proxy within a factor of 2 to 3."""

FEW_STEPS = 1000
"""Fewer steps of the optimizer than these in a whole training are few: most of what large batches lose is lost so."""

MOST_GAIN = 4.0
"""A learning rate raised further than this is near what training can bear (Goyal et al. 2017, arXiv 1706.02677)."""

BASE_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Span:
    """A figure, and what it is at the ends of the noise scale's interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What training with one batch size is predicted to be like; None where the noise scale is undetermined.

    Attributes:
        batch_size: in samples.
        efficiency: the share of its samples that a step makes full use of.
        relative_time: to a given quality, as a multiple of the least among the sizes that were tried.
        learning_rate: where to look for it.
        learning_rate_gain: the factor on the present one.
    """

    batch_size: int
    efficiency: Span | None = None
    relative_time: Span | None = None
    learning_rate: float | None = None
    learning_rate_gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The model's side of an answer.

    Attributes:
        noise: the gradient noise scale.
        line: the step time over the batch size; None below three sizes.
        outlooks: one for each batch size that was accepted, ascending.
        counted_noise: the noise scale that times are predicted with; None where it is undetermined.
        near_best: those predicted near the least time at both ends of the interval.
        batch_size: the answer, the smallest of these.
    """

    noise: NoiseScale
    line: StepLine | None
    outlooks: tuple[Outlook, ...]
    counted_noise: float | None
    near_best: tuple[int, ...]
    batch_size: int

    @property
    def half_throughput_batch_size(self) -> float | None:
        """The `h` at which half of the highest throughput is reached."""
        return self.line.half_throughput_batch_size if self.line else None


def quality_of(result: Result) -> Quality:
    """The model's side of a result, from what it recorded."""
    return quality(
        speeds(result.trials),
        noise_of(result.spec, result.gradients, result.no_gradients),
        result.spec,
        training_now(result.gradients, result.workload),
    )


def noise_of(spec: ProbeSpec, gradients: Gradients | None, why_not: str) -> NoiseScale:
    """The noise scale that was given or measured, or why there is none."""
    if isinstance(spec.noise, float):
        return NoiseScale(value=spec.noise, low=spec.noise, high=spec.noise)
    if gradients is None:
        return NoiseScale(why_not=why_not or "it was not measured")
    return noise_scale(gradients)


def training_now(gradients: Gradients | None, workload: WorkloadFacts) -> Training | None:
    """How training goes at the base batch size: with the warm-up's learning rate, or as the caller says."""
    if gradients is None or not gradients.optimizer:
        return workload.training
    own = workload.training.batch_size if workload.training else None  # which may have been too large to train with
    samples = own or gradients.micro_batch_size * gradients.micro_batches
    return Training(gradients.optimizer, gradients.learning_rate, samples)


def base_batch_size(spec: ProbeSpec, training: Training | None) -> int:
    """What the present learning rate belongs to: as asked, or else the caller's own, or else a common one."""
    return spec.base_batch_size or (training.batch_size if training else None) or BASE_BATCH_SIZE


def quality(speed: Mapping[int, float], noise: NoiseScale, spec: ProbeSpec, training: Training | None) -> Quality:
    """What is predicted for each batch size, and the answer.

    Args:
        speed: samples/s by accepted batch size; not empty.
        noise: the gradient noise scale.
        spec: what was asked.
        training: how training goes at the base batch size; None where that is unknown.
    """
    points = [(size, size / rate) for size, rate in speed.items()]
    line = fit_step_line(points)
    seconds = {size: line.seconds(size) if line else measured for size, measured in points}
    spans = _spans(noise, line, seconds)
    base = base_batch_size(spec, training)
    near = _near_best(noise, line, seconds)
    return Quality(
        noise=noise,
        line=line,
        outlooks=tuple(_outlook(size, spans.get(size), noise, training, base) for size in sorted(seconds)),
        counted_noise=None if noise.value is None else _clamped(noise.value, line),
        near_best=near,
        batch_size=near[0],
    )


def _outlook(
    size: int, spans: tuple[Span, Span] | None, noise: NoiseScale, training: Training | None, base: int
) -> Outlook:
    gain = learning_rate_gain(training.optimizer, size / base, base, noise.value) if training else None
    rate = training.learning_rate if training else None
    efficiency, relative_time = spans or (None, None)
    return Outlook(
        batch_size=size,
        efficiency=efficiency,
        relative_time=relative_time,
        learning_rate=rate * gain if rate is not None and gain is not None else None,
        learning_rate_gain=gain,
    )


def learning_rate_gain(optimizer: str, ratio: float, base: int, noise: float | None) -> float | None:
    """The factor on the learning rate for a batch `ratio` times the base; None where no rule is known to hold."""
    rule = rule_of(optimizer)
    if rule is None:
        return None
    if noise is None:
        return rule.gain(ratio) if 1 / rule.most <= ratio <= rule.most else None
    gain = ratio * (base + noise) / (ratio * base + noise)
    return gain if rule is LINEAR else math.sqrt(gain)


def _relative_times(noise: float, seconds: Mapping[int, float]) -> dict[int, float]:
    times = {size: (1 + noise / size) * step for size, step in seconds.items()}
    least = min(times.values())
    return {size: time / least for size, time in times.items()}


def _clamped(noise: float, line: StepLine | None) -> float:
    half = line.half_throughput_batch_size if line else None
    return min(max(noise, half / CLAMP), half * CLAMP) if half else noise


def _spans(noise: NoiseScale, line: StepLine | None, seconds: Mapping[int, float]) -> dict[int, tuple[Span, Span]]:
    if noise.value is None or noise.low is None or noise.high is None:
        return {}
    ends = [_clamped(figure, line) for figure in (noise.value, noise.low, noise.high)]
    times = [_relative_times(end, seconds) for end in ends]
    return {
        size: (
            _span([end / (end + size) for end in (noise.value, noise.low, noise.high)]),
            _span([t[size] for t in times]),
        )
        for size in seconds
    }


def _span(figures: list[float]) -> Span:
    return Span(value=figures[0], low=min(figures), high=max(figures))


def _near_best(noise: NoiseScale, line: StepLine | None, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Ascending, never empty. Without a noise scale, the one size nearest to what is known at least."""
    if noise.value is None or noise.low is None or noise.high is None:
        return (_nearest(_least_best(noise, line), seconds),)
    near = [
        {size for size, time in _relative_times(_clamped(end, line), seconds).items() if time <= 1 + NEAR}
        for end in (noise.low, noise.high, noise.value)
    ]
    return tuple(sorted(near[0] & near[1] or near[2]))


def _least_best(noise: NoiseScale, line: StepLine | None) -> float | None:
    """The best batch size if the noise scale is what it is at least, or h where that is more or nothing is known.

    None where no sample costs anything, or too little is known.
    """
    half = line.half_throughput_batch_size if line else None
    if half is None or not noise.low or noise.low <= half:
        return half
    return math.sqrt(_clamped(noise.low, line) * half)


def _nearest(target: float | None, seconds: Mapping[int, float]) -> int:
    if target is None:
        return max(seconds)
    return min(seconds, key=lambda size: abs(math.log(size / max(target, 1.0))))


def recommendation_of(found: Quality, speed: Mapping[int, float]) -> Recommendation:
    """The answer as a result records it."""
    fastest = max(speed, key=lambda size: speed[size])
    return Recommendation(
        batch_size=found.batch_size,
        samples_per_second=speed[found.batch_size],
        fastest_batch_size=fastest,
        fastest_samples_per_second=speed[fastest],
        why=_why(found),
    )


def _why(found: Quality) -> str:
    if found.noise.is_determined:
        return f"the smallest predicted within {NEAR:.0%} of the least time to a given quality"
    if found.line is None:
        return "the largest, since too few sizes were timed to tell what a sample costs"
    half, least = found.half_throughput_batch_size, _least_best(found.noise, found.line)
    if half is None or least is None:
        return "the largest, since the step times show no cost of a sample and the noise scale is undetermined"
    if least > half:
        nearest, what = least, "the best if the noise scale, which is undetermined, is the least it can be"
    else:
        nearest, what = half, "where half of the top throughput is reached, as the noise scale is undetermined"
    return f"the nearest to {format_number(nearest)}, {what}"
