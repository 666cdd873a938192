"""The trials of a result merged into one row a batch size, for every report to show the same figures.

Needs the records and the statistics. Promises rows sorted by batch size. Where a batch size took part in the
final round, its speed comes from there, as the recommendation's does: those figures were measured in turns, so they
may be compared. Otherwise the longest series of steps counts, the last of those as long, as in `recommend.speeds`.
A step is one batch, also where a step of the optimizer accumulated several. Trials that timed a plan of several
micro-batches are left out, since their step is another one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.recommend import contest_speeds, throughput, throughput_interval
from autotune.result import Result
from autotune.stats import median, median_interval, paired_ratio
from autotune.trial import Contest, Trial


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Samples/s, with an interval that holds the true median with 95%, or is the whole range of fewer than six times.

    The interval is None where nothing tells how far off the figure may be. `rounds` are the samples/s of each round of
    the final round, from the first to the last that this size was in; empty where it was in none.
    """

    samples_per_second: float
    interval: tuple[float, float] | None
    rounds: tuple[float, ...] = ()

    @property
    def margin(self) -> float | None:
        """The farther end of the interval, as a fraction of the speed."""
        if self.interval is None:
            return None
        return max(abs(end - self.samples_per_second) for end in self.interval) / self.samples_per_second

    @property
    def highest(self) -> float:
        """The upper end of the interval, or the speed itself where there is none."""
        return self.samples_per_second if self.interval is None else self.interval[1]

    def is_told_from(self, other: Speed) -> bool:
        """True where the rounds that both were in tell them apart, pair by pair, or else their intervals lie apart."""
        common = min(len(self.rounds), len(other.rounds))
        if common > 1:  # one pair alone says nothing of how far it is off
            return not paired_ratio(self.rounds[:common], other.rounds[:common]).is_tie
        if self.interval is None or other.interval is None:
            return False
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
    in_turns = contest_speeds(result.contest) if result.contest else {}
    return [_row(trials[size], result.contest, in_turns) for size in sorted(trials)]


def row_of(result: Result, batch_size: int) -> Row:
    """The row of one batch size, empty where it was not tried."""
    empty = Row(batch_size=batch_size, speed=None, peak_bytes=None, accepted_runs=0, refusal=None)
    return next((row for row in rows(result) if row.batch_size == batch_size), empty)


def batches_per_epoch(dataset_size: int, batch_size: int) -> int:
    """How many batches hold every sample once; the last may be smaller."""
    return math.ceil(dataset_size / batch_size)


def epoch_seconds(dataset_size: int, batch_size: int, speed: Speed) -> float:
    """How long the steps of an epoch take, at least one whole step; loading of data not counted."""
    return max(dataset_size, batch_size) / speed.samples_per_second


def _row(trials: Sequence[Trial], contest: Contest | None, in_turns: Mapping[int, float]) -> Row:
    """The row of one batch size from its trials, and from the final round where it was there."""
    batch_size, speed = trials[0].batch_size, _longest_speed(trials)
    if contest is not None and batch_size in in_turns:
        rounds = tuple(batch_size / seconds for seconds in contest.step_seconds(batch_size))
        speed = _in_turns(in_turns[batch_size], rounds, speed)
    peaks = [trial.measurement.memory.peak_bytes for trial in trials if trial.measurement]
    return Row(
        batch_size=batch_size,
        speed=speed,
        peak_bytes=max(peaks, default=None),
        accepted_runs=sum(trial.accepted for trial in trials),
        refusal=next((trial for trial in reversed(trials) if not trial.accepted), None),
    )


def _in_turns(samples_per_second: float, rounds: tuple[float, ...], alone: Speed | None) -> Speed:
    """A speed of the final round, as far off as its rounds differ; after a single one, as far off as its trial."""
    spread = Speed(samples_per_second=median(rounds), interval=median_interval(rounds)) if len(rounds) > 1 else alone
    interval = None
    if spread is not None and spread.interval is not None:
        low, high = (end / spread.samples_per_second for end in spread.interval)
        interval = (samples_per_second * low, samples_per_second * high)
    return Speed(samples_per_second=samples_per_second, interval=interval, rounds=rounds)


def trial_speed(trial: Trial) -> Speed | None:
    """The speed of one trial; None where it timed nothing."""
    if trial.measurement is None or not trial.measurement.step_seconds:
        return None
    interval = throughput_interval(trial) if len(trial.measurement.step_seconds) > 1 else None
    return Speed(samples_per_second=throughput(trial), interval=interval)


def _longest_speed(trials: Sequence[Trial]) -> Speed | None:
    timed = [trial for trial in reversed(trials) if trial.measurement and trial.measurement.step_seconds]
    longest = max(timed, key=lambda trial: (trial.accepted, _timed_steps(trial)), default=None)  # the first of equals
    return trial_speed(longest) if longest else None


def _timed_steps(trial: Trial) -> int:
    return len(trial.measurement.step_seconds) if trial.measurement else 0
