"""What is still ahead of a probe: how many trials, and for how long. Pure.

A person plans by it, so a bound is a bound as long as the answers hold: what was refused though it had fitted before
sends the search back, and nobody can know that. Where nothing bounds the search yet (the batch size doubles until
memory ends), the forecast of memory gives an expectation, and without one nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.search import Hint, Search, most_left
from autotune.spec import ProbeSpec
from autotune.stats import median
from autotune.trial import Trial

TARGET_TRIALS = 6  # the target, what it would need without limits, and up to four plans that get there
LATEST = 5  # trials: their times grow with the batch size, so the latest tell most


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """Trials that remain, and the seconds that they may take; None where nothing is known.

    `is_bound` is False where a forecast tells what to expect and more trials are possible.
    """

    trials: int | None = None
    seconds: float | None = None
    is_bound: bool = False


def ahead(
    search: Search, hint: Hint | None, trials: Sequence[Trial], spec: ProbeSpec, seconds_left: float = math.inf
) -> Ahead:
    """What remains, the trial that is about to run included, where the probe may take so many seconds more."""
    left, is_bound = most_left(search.told, search.limits, hint) or (None, False)
    if left is not None:
        left += _after_the_search(trials, spec)
    allowed = None if spec.max_trials is None else spec.max_trials - len(trials)
    if allowed is not None and (left is None or allowed < left):
        left, is_bound = allowed, True
    return Ahead(trials=left, seconds=_seconds(left, trials, seconds_left), is_bound=is_bound)


def _after_the_search(trials: Sequence[Trial], spec: ProbeSpec) -> int:
    """The run of the answer in a fresh process, and what a target asks for."""
    is_confirmed = any(trial.fresh_process and trial.accepted for trial in trials)
    about_target = sum(trial.purpose in ("target", "plan") for trial in trials)
    return (not is_confirmed) + (0 if spec.target is None else max(TARGET_TRIALS - about_target, 0))


def _seconds(left: int | None, trials: Sequence[Trial], seconds_left: float) -> float | None:
    """As long as the latest trials took, and no longer than is allowed."""
    latest = [trial.seconds for trial in trials[-LATEST:]]
    return min(left * median(latest), seconds_left) if latest and left is not None else None
