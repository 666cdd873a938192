"""The trials of a result merged into one row a batch size, for every report to show the same figures.

Needs the records and the statistics. Promises rows sorted by batch size. Where a batch size took part in the
final round, its speed comes from there, as the recommendation's does: those figures were measured in turns,
so they may be compared. Otherwise the longest series of steps counts, as in `recommend.speeds`. Trials that
timed a plan of several micro-batches are left out, since their step is another one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.recommend import contest_speeds, throughput, throughput_interval
from autotune.result import Result
from autotune.stats import median, median_interval
from autotune.trial import Contest, Trial


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Samples/s, with the 95% interval around it; the interval is None where only one time was taken."""

    samples_per_second: float
    interval: tuple[float, float] | None
    in_turns: bool = False
    """Taken in the final round, so that it compares with others of there to the last per cent."""

    @property
    def margin(self) -> float | None:
        """The farther end of the interval, as a fraction of the speed."""
        if self.interval is None:
            return None
        return max(abs(end - self.samples_per_second) for end in self.interval) / self.samples_per_second

    def is_told_from(self, other: Speed) -> bool:
        """True where the two were timed in turns, or their intervals lie apart."""
        if (self.in_turns and other.in_turns) or self.interval is None or other.interval is None:
            return True
        return max(self.interval[0], other.interval[0]) > min(self.interval[1], other.interval[1])


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one batch size. `peak_bytes` is the highest of its runs, `refusal` the last that failed."""

    batch_size: int
    speed: Speed | None
    peak_bytes: int | None
    accepted_runs: int
    refusal: Trial | None

    @property
    def step_seconds(self) -> float | None:
        """The median time of a step."""
        return self.batch_size / self.speed.samples_per_second if self.speed else None


def rows(result: Result) -> list[Row]:
    """One row a batch size, ascending."""
    trials: dict[int, list[Trial]] = defaultdict(list)
    for trial in result.trials:
        if trial.is_plain:
            trials[trial.batch_size].append(trial)
    in_turns = _contest_speeds(result.contest) if result.contest else {}
    return [_row(size, trials[size], in_turns.get(size)) for size in sorted(trials)]


def row_of(result: Result, batch_size: int) -> Row:
    """The row of one batch size, empty where it was not tried."""
    empty = Row(batch_size=batch_size, speed=None, peak_bytes=None, accepted_runs=0, refusal=None)
    return next((row for row in rows(result) if row.batch_size == batch_size), empty)


def batches_per_epoch(dataset_size: int, batch_size: int) -> int:
    """How many batches hold every sample once; the last may be smaller."""
    return math.ceil(dataset_size / batch_size)


def epoch_seconds(dataset_size: int, speed: Speed) -> float:
    """How long the steps of an epoch take, loading of data not counted."""
    return dataset_size / speed.samples_per_second


def _row(batch_size: int, trials: Sequence[Trial], in_turns: Speed | None) -> Row:
    peaks = [trial.measurement.memory.peak_bytes for trial in trials if trial.measurement]
    return Row(
        batch_size=batch_size,
        speed=in_turns or _longest_speed(trials),
        peak_bytes=max(peaks, default=None),
        accepted_runs=sum(trial.accepted for trial in trials),
        refusal=next((trial for trial in reversed(trials) if not trial.accepted), None),
    )


def _contest_speeds(contest: Contest) -> dict[int, Speed]:
    return {size: _in_turns(speed, contest.step_seconds(size)) for size, speed in contest_speeds(contest).items()}


def _in_turns(speed: float, seconds: Sequence[float]) -> Speed:
    low, high = median_interval([second / median(seconds) for second in seconds])  # how far its processes differ
    interval = (speed / high, speed / low) if len(seconds) > 1 else None
    return Speed(samples_per_second=speed, interval=interval, in_turns=True)


def trial_speed(trial: Trial) -> Speed | None:
    """The speed of one trial; None where it timed nothing."""
    if trial.measurement is None or not trial.measurement.step_seconds:
        return None
    interval = throughput_interval(trial) if len(trial.measurement.step_seconds) > 1 else None
    return Speed(samples_per_second=throughput(trial), interval=interval)


def _longest_speed(trials: Sequence[Trial]) -> Speed | None:
    timed = [trial for trial in trials if trial.measurement and trial.measurement.step_seconds]
    longest = max(timed, key=lambda trial: (trial.accepted, _timed_steps(trial)), default=None)
    return trial_speed(longest) if longest else None


def _timed_steps(trial: Trial) -> int:
    return len(trial.measurement.step_seconds) if trial.measurement else 0
