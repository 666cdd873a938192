"""What a forecast, corrected by the trials so far, tells the search and the reader. Pure.

Derived anew from the records each time, so that a journal replays to the same hints.
"""

from __future__ import annotations

from collections.abc import Sequence

from autotune.executors import OVERRUN_FACTOR
from autotune.forecast.curve import Peak, corrected, curve_of
from autotune.forecast.records import Forecast
from autotune.search import Hint
from autotune.trial import Outcome, Trial


def measured_peaks(trials: Sequence[Trial]) -> list[Peak]:
    """Batch size and peak in bytes of each trial that was measured, refused ones included."""
    return [(t.batch_size, float(t.measurement.memory.peak_bytes)) for t in trials if t.is_plain and t.measurement]


def predicted_peak(forecast: Forecast | None, trials: Sequence[Trial], batch_size: int) -> int | None:
    """The peak of the whole process predicted at a batch size, in bytes; None before a trial can correct it."""
    peaks = measured_peaks(trials)
    return round(corrected(curve_of(forecast), peaks).at(batch_size)) if forecast and peaks else None


def hint(forecast: Forecast | None, trials: Sequence[Trial], budget_bytes: int) -> Hint | None:
    """Where the forecast puts the largest batch size that fits."""
    peaks = measured_peaks(trials)
    if forecast is None or not peaks:
        return None
    prediction = corrected(curve_of(forecast), peaks)
    ended, ended_bytes = [t.batch_size for t in trials if was_ended(t)], OVERRUN_FACTOR * budget_bytes
    unmeasured = [(size, ended_bytes) for size in ended if prediction.at(size) < ended_bytes]
    prediction = corrected(curve_of(forecast), [*peaks, *unmeasured])
    edge = prediction.edge(budget_bytes)
    return Hint(edge, is_close=prediction.is_close_to(edge))


def was_ended(trial: Trial) -> bool:
    """True where a trial was ended for memory before its peak was seen: its size did not fit."""
    return trial.is_plain and trial.outcome is Outcome.OUT_OF_MEMORY and trial.measurement is None
