"""Whether a trial that ran may count as fitting. Pure.

That nothing was raised is not enough. The peak must stay within the budget; near the edge, where the peak
differs from process to process, it must leave room for the differences that runs of about this size have
shown; and where a limit on latency was set, the step must keep it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression

import msgspec

from autotune.forecast.curve import curve_of
from autotune.forecast.records import Forecast
from autotune.spec import ProbeSpec
from autotune.stats import quantile
from autotune.trial import Evidence, Measurement, Outcome, Trial
from autotune.units import format_bytes, format_seconds

LATENCY_QUANTILE = 0.95
CAUTION = 1.5  # of n runs the largest is passed by the next with a chance of 1 in n + 1, and n is small
NEAR = 0.15  # memory is close to a straight line over so small a share of the batch size


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
    if peak > budget_bytes:
        text = f"its peak of {format_bytes(peak)} is {format_bytes(peak - budget_bytes)} over the budget"
        return _refused(trial, Evidence(source="budget", text=text))
    worst = _worst_peak([*earlier, trial], trial.batch_size, forecast) if trial.purpose == "confirm" else peak
    if worst > budget_bytes:
        text = f"its peak of {format_bytes(peak)} may reach {format_bytes(worst)}, as runs near this size differ"
        return _refused(trial, Evidence(source="spread", text=text))
    return _within_latency(trial, measurement, spec)


def _refused(trial: Trial, evidence: Evidence) -> Trial:
    return msgspec.structs.replace(trial, outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)


def _worst_peak(trials: Sequence[Trial], batch_size: int, forecast: Forecast | None) -> float:
    """The highest peak to reckon with at this size, in bytes.

    It is that on a line through all trials of nearly this size, plus `CAUTION` times their largest deviation. A few
    runs of one size say little of how much its peak varies; those of its neighbours say the same of theirs. Where
    peaks don't vary, this is the peak itself. A forecast gives the line its slope, which few trials don't.
    """
    near = [
        (trial.batch_size, trial.measurement.memory.peak_bytes)
        for trial in trials
        if trial.measurement is not None and trial.is_plain and abs(trial.batch_size - batch_size) <= NEAR * batch_size
    ]
    sizes, peaks = zip(*near, strict=True)
    if forecast is not None:
        curve = curve_of(forecast)
        missed = [peak - curve.at(size) for size, peak in near]
        return round(curve.at(batch_size) + fmean(missed) + CAUTION * (max(missed) - fmean(missed)))
    if len(set(sizes)) < 3:  # too few for a line and a deviation from it
        return max(peak for size, peak in near if size == batch_size)
    slope, start = linear_regression(sizes, peaks)
    deviation = max(peak - (start + slope * size) for size, peak in near)
    return round(start + slope * batch_size + CAUTION * max(deviation, 0.0))


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
