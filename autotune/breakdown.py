"""Where a probe's wall time went, for whoever wants to know what the answer cost. Pure."""

from __future__ import annotations

from autotune.result import Result
from autotune.trial import Trial


def breakdown(result: Result) -> dict[str, float]:
    """Seconds by what they were spent on, in the order in which a probe comes to it; they add up to the whole.

    A trial that confirmed something counts there with all its parts. Trials that an earlier run left in the journal
    count too, so where a probe was resumed the parts may add up to more than it took.
    """
    searching = [trial for trial in result.trials if trial.purpose != "confirm"]
    measured = [trial for trial in searching if trial.measurement]
    parts = {
        "starting up and building the workload": result.spent.opening_seconds,
        "forecasting memory": result.spent.forecast_seconds,
        "starting the trials' processes": sum(map(_starting_seconds, measured)),
        "warming up": sum(map(_warmup_seconds, measured)),
        "measuring": sum(map(_measuring_seconds, measured)),
        "sizes that were ended": sum(trial.seconds for trial in searching if not trial.measurement),
        "comparing the fastest": result.spent.contest_seconds,
        "measuring the gradients": result.spent.gradients_seconds,
        "timing the DataLoader": result.spent.feeding_seconds,
        "confirming": sum(trial.seconds for trial in result.trials if trial.purpose == "confirm"),
    }
    return parts | {"all else": max(result.seconds - sum(parts.values()), 0.0)}


def _warmup_seconds(trial: Trial) -> float:
    return (trial.measurement.warmup_seconds if trial.measurement else None) or 0.0


def _measuring_seconds(trial: Trial) -> float:
    return (trial.measurement.measuring_seconds if trial.measurement else None) or 0.0


def _starting_seconds(trial: Trial) -> float:
    return trial.seconds - _warmup_seconds(trial) - _measuring_seconds(trial)
