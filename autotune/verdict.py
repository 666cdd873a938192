"""Whether a trial that ran may count as fitting. Pure.

That nothing was raised is not enough. The peak must stay within the budget; near the edge, where the peak
differs from process to process, it must leave room for the differences that runs of about this size have
shown; and where a limit on latency was set, the step must keep it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from autotune.forecast.records import Forecast
from autotune.spec import Objective, ProbeSpec
from autotune.spread import Near, band_of, near
from autotune.stats import quantile
from autotune.trial import Evidence, Measurement, Outcome, Trial
from autotune.units import format_bytes, format_seconds

LATENCY_QUANTILE = 0.95
ENOUGH = 3  # peaks near a size that tell how far they differ, before any of them was repeated


def judged(
    trial: Trial,
    spec: ProbeSpec,
    budget_bytes: int,
    earlier: Sequence[Trial],
    forecast: Forecast | None = None,
    *,
    peaks_vary: bool = True,
) -> Trial:
    """The trial with the outcome that its measurement deserves; one that failed already is returned as it is.

    Args:
        trial: as the executor ran it.
        spec: the limits asked for.
        budget_bytes: what the training process may use in all.
        earlier: the trials before it.
        forecast: how memory grows with the batch size; without one it is taken for a straight line.
        peaks_vary: whether equal processes differ in their peaks.
    """
    around = near([*earlier, trial], trial.batch_size, budget_bytes)
    must_leave_room = peaks_vary and _must_leave_room(trial, spec, around)
    band = band_of(around, forecast) if must_leave_room else None
    if band is not None:
        trial = msgspec.structs.replace(trial, largest_safe=band.largest_safe(trial.batch_size, budget_bytes))
    if trial.measurement is None or not trial.accepted:
        return trial
    peak = trial.measurement.memory.peak_bytes
    if peak > budget_bytes:
        text = f"its peak of {format_bytes(peak)} is {format_bytes(peak - budget_bytes)} over the budget"
        return _refused(trial, Evidence(source="budget", text=text))
    highest = peak
    if must_leave_room:
        highest = band.highest(trial.batch_size) if band else round(around.highest(trial.batch_size))
    if highest > budget_bytes:
        text = f"its peak of {format_bytes(peak)} may reach {format_bytes(highest)}, as runs near this size differ"
        return _refused(trial, Evidence(source="spread", text=text))
    return _within_latency(trial, trial.measurement, spec)


def _must_leave_room(trial: Trial, spec: ProbeSpec, around: Near) -> bool:
    """Whether it counts how far peaks differ: for what shall hold again, and, if that is the answer, on the way there.

    Else the search would go to the last size that happens to fit, and be refused there by its first confirmation.
    """
    on_the_way = trial.purpose not in ("confirm", "plan", "target") and spec.objective is Objective.MEMORY
    return trial.purpose == "confirm" or (on_the_way and len(around) >= ENOUGH)


def _refused(trial: Trial, evidence: Evidence) -> Trial:
    return msgspec.structs.replace(trial, outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)


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
    return trial.measurement is not None and trial.measurement.has_diverged
