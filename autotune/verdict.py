"""Whether a trial that ran may count as fitting. Pure.

That nothing was raised is not enough. The peak must stay within the budget; near the edge, where the peak
differs from process to process, it must leave room for the difference that repeated runs have shown; and
where a limit on latency was set, the step must keep it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from autotune.spec import ProbeSpec
from autotune.stats import quantile
from autotune.trial import Evidence, Measurement, Outcome, Trial
from autotune.units import format_bytes, format_seconds

LATENCY_QUANTILE = 0.95


def judged(trial: Trial, spec: ProbeSpec, budget_bytes: int, earlier: Sequence[Trial]) -> Trial:
    """The trial with the outcome that its measurement deserves; one that failed already is returned as it is.

    Args:
        trial: as the executor ran it.
        spec: the limits asked for.
        budget_bytes: what the training process may use in all.
        earlier: the trials before it.
    """
    measurement = trial.measurement
    if measurement is None or not trial.accepted:
        return trial
    peak = measurement.memory.peak_bytes
    if peak > budget_bytes:
        text = f"its peak of {format_bytes(peak)} is {format_bytes(peak - budget_bytes)} over the budget"
        return _refused(trial, Evidence(source="budget", text=text))
    spread = _spread([*earlier, trial], trial.batch_size) if trial.purpose == "confirm" else 0
    if peak + spread > budget_bytes:
        text = f"its peak of {format_bytes(peak)} varies by {format_bytes(spread)}, which may pass the budget"
        return _refused(trial, Evidence(source="spread", text=text))
    return _within_latency(trial, measurement, spec)


def _refused(trial: Trial, evidence: Evidence) -> Trial:
    return msgspec.structs.replace(trial, outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)


def _spread(trials: Sequence[Trial], batch_size: int) -> int:
    """By how much the peak differed between equal runs: between forked children, which differ in nothing."""
    peaks = [
        trial.measurement.memory.peak_bytes
        for trial in trials
        if trial.batch_size == batch_size
        and trial.purpose == "confirm"
        and trial.measurement is not None
        and not trial.fresh_process
    ]
    return max(peaks) - min(peaks) if peaks else 0


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
