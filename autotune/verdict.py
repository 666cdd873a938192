"""Whether a trial that ran may count as fitting. Pure.

That nothing was raised is not enough. The peak must stay within the budget; near the edge, where the peak
differs from process to process, it must leave room for the differences that runs of about this size have
shown; and where a limit on latency was set, the step must keep it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Literal

import msgspec

from autotune.forecast.curve import curve_of
from autotune.forecast.records import Forecast
from autotune.spec import Objective, ProbeSpec
from autotune.stats import quantile
from autotune.trial import Evidence, Measurement, Outcome, Trial
from autotune.units import format_bytes, format_seconds

LATENCY_QUANTILE = 0.95
CAUTION = 2.0  # with two runs the largest deviation counts twice, with ten 1.2 times
NEAR = 0.15  # memory is close to a straight line over so small a share of the batch size
ENOUGH = 3  # peaks near a size that tell how far they differ, before any of them was repeated


def judged(
    trial: Trial, spec: ProbeSpec, budget_bytes: int, earlier: Sequence[Trial], forecast: Forecast | None = None
) -> Trial:
    """The trial with the outcome that its measurement deserves; one that failed already is returned as it is.

    Args:
        trial: as the executor ran it.
        spec: the limits asked for.
        budget_bytes: what the training process may use in all.
        earlier: the trials before it.
        forecast: how memory grows with the batch size; without one it is taken for a straight line.
    """
    measurement = trial.measurement
    if measurement is None or not trial.accepted:
        return trial
    peak = measurement.memory.peak_bytes
    near = _near([*earlier, trial], trial.batch_size)
    must_leave_room = _must_leave_room(trial, spec, near)
    band = _band(near, forecast) if must_leave_room else None
    if peak > budget_bytes:
        text = f"its peak of {format_bytes(peak)} is {format_bytes(peak - budget_bytes)} over the budget"
        return _refused(trial, "budget", text, band, budget_bytes)
    worst = peak
    if must_leave_room:
        worst = band.highest(trial.batch_size) if band else max(p for size, p in near if size == trial.batch_size)
    if worst > budget_bytes:
        text = f"its peak of {format_bytes(peak)} may reach {format_bytes(worst)}, as runs near this size differ"
        return _refused(trial, "spread", text, band, budget_bytes)
    return _within_latency(trial, measurement, spec)


def _must_leave_room(trial: Trial, spec: ProbeSpec, near: Sequence[tuple[int, int]]) -> bool:
    """Whether it counts how far peaks differ: for what shall hold again, and, if that is the answer, on the way there.

    Else the search would go to the last size that happens to fit, and be refused there by its first confirmation.
    """
    on_the_way = trial.purpose not in ("confirm", "plan", "target") and spec.objective is Objective.MEMORY
    return trial.purpose == "confirm" or (on_the_way and len(near) >= ENOUGH)


def _refused(
    trial: Trial, source: Literal["budget", "spread"], text: str, band: _Band | None, budget_bytes: int
) -> Trial:
    safe = None if band is None else _largest_safe(band, trial.batch_size, budget_bytes)
    evidence = Evidence(source=source, text=text, largest_safe=safe)
    return msgspec.structs.replace(trial, outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)


@dataclass(frozen=True)
class _Band:
    """Peaks of nearly one size, in bytes: their middle over the batch size, and how far above it to reckon with."""

    middle: Callable[[int], float]
    above_bytes: float

    def highest(self, batch_size: int) -> int:
        """The highest peak to reckon with at a size."""
        return round(self.middle(batch_size) + self.above_bytes)


def _band(near: Sequence[tuple[int, int]], forecast: Forecast | None) -> _Band | None:
    """What the peaks of nearly one size say together; None where they are too few for a line and a deviation from it.

    A few runs of one size say little of how much its peak varies; those of its neighbours say the same of theirs.
    Where peaks don't vary, the band is the line through them. A forecast gives the line its slope, which few trials
    don't. Of n runs the highest is passed by the next with a chance of 1 in n + 1, so few are trusted less.
    """
    sizes, peaks = zip(*near, strict=True)
    middle: Callable[[int], float]
    if forecast is not None:
        curve = curve_of(forecast)
        missed = fmean(peak - curve.at(size) for size, peak in near)
        middle = lambda size: curve.at(size) + missed  # noqa: E731 - one of two ways to draw the same line
    elif len(set(sizes)) >= 3:
        slope, start = linear_regression(sizes, peaks)
        middle = lambda size: start + slope * size  # noqa: E731
    else:
        return None
    deviation = max(peak - middle(size) for size, peak in near)
    return _Band(middle, (1 + CAUTION / len(near)) * max(deviation, 0.0))


def _near(trials: Sequence[Trial], batch_size: int) -> list[tuple[int, int]]:
    """Batch size and peak in bytes of the trials of nearly a size."""
    return [
        (trial.batch_size, trial.measurement.memory.peak_bytes)
        for trial in trials
        if trial.measurement is not None and trial.is_plain and abs(trial.batch_size - batch_size) <= NEAR * batch_size
    ]


def _largest_safe(band: _Band, batch_size: int, budget_bytes: int) -> int:
    """The largest size below a refused one whose highest peak is within the budget, as far down as the band tells."""
    lowest = max(1, math.ceil((1 - NEAR) * batch_size))
    return next((size for size in range(batch_size - 1, lowest, -1) if band.highest(size) <= budget_bytes), lowest)


def _within_latency(trial: Trial, measurement: Measurement, spec: ProbeSpec) -> Trial:
    if spec.latency_seconds is None:
        return trial
    latency = quantile(measurement.step_seconds, LATENCY_QUANTILE)
    if latency <= spec.latency_seconds:
        return trial
    text = f"95% of its steps take up to {format_seconds(latency)}, over the {format_seconds(spec.latency_seconds)}"
    return msgspec.structs.replace(trial, evidence=Evidence(source="latency", text=text + " allowed"))


def has_diverged(trial: Trial) -> bool:
    """True where the last loss is not a finite number."""
    loss = trial.measurement.last_loss if trial.measurement else None
    return loss is not None and not math.isfinite(loss)
