"""One row a batch size: which of its trials counts, how far off its speed is, and what tells two speeds apart."""

from __future__ import annotations

import pytest
from example_results import CONTEST, example_result, fitting
from msgspec.structs import replace

from autotune.recommend import speeds
from autotune.reports.findings import step_seconds_by_size
from autotune.reports.rows import Speed, epoch_seconds, row_of, trial_speed
from autotune.result import Result
from autotune.trial import Contest, Trial


def speed_of(result: Result, batch_size: int) -> Speed:
    speed = row_of(result, batch_size).speed
    assert speed is not None
    return speed


def told_apart(contest: Contest) -> bool:
    """Whether the final round tells 256 from 512, whichever is asked."""
    result = example_result(contest=contest)
    one, other = speed_of(result, 256), speed_of(result, 512)
    assert one.is_told_from(other) is other.is_told_from(one)
    return one.is_told_from(other)


def test_of_trials_with_as_many_steps_the_last_counts_as_in_the_recommendation() -> None:
    trials = (fitting(1, 256, (0.020,) * 3, 640), fitting(2, 256, (0.025,) * 3, 640), fitting(3, 256, (0.1,) * 2, 640))
    assert speed_of(example_result(trials=trials), 256).samples_per_second == speeds(trials)[256] == 256 / 0.025


def test_contenders_of_which_now_one_and_now_the_other_is_faster_are_not_told_apart() -> None:
    contest = replace(CONTEST, rounds=((0.0200, 0.0390), (0.0210, 0.0430), (0.0200, 0.0380)))
    assert not told_apart(contest)


def test_contenders_that_keep_their_order_in_each_round_are_told_apart_however_much_all_drift() -> None:
    contest = replace(CONTEST, rounds=((0.0200, 0.0390), (0.0300, 0.0590), (0.0250, 0.0490)))
    assert told_apart(contest)


def test_only_rounds_that_both_were_in_make_pairs() -> None:
    rounds = ((0.0200, 0.0500), (0.0210, 0.0510), (0.0700, None))
    assert told_apart(replace(CONTEST, rounds=rounds))


@pytest.mark.parametrize("seconds", [0.0500, 0.0410])
def test_a_single_pair_tells_nothing_that_the_intervals_do_not(seconds: float) -> None:
    """The trials at 512 range by 1.3% either way, and the rounds at 256 from 11,600 to 12,800 samples/s."""
    contest = replace(CONTEST, rounds=((0.0200, seconds), (0.0220, None)))
    assert told_apart(contest) is (seconds == 0.0500)


def test_an_epoch_is_at_least_one_whole_step() -> None:
    speed = Speed(samples_per_second=100.0, interval=None)
    assert epoch_seconds(15, 10, speed) == 0.15
    assert epoch_seconds(10, 100, speed) == 1.0


def test_a_speed_of_one_time_is_told_from_nothing() -> None:
    once, known = Speed(samples_per_second=1.0, interval=None), Speed(samples_per_second=9.0, interval=(8.9, 9.1))
    assert not once.is_told_from(known)
    assert not known.is_told_from(once)


def test_a_size_that_left_after_one_round_is_as_far_off_as_its_trial() -> None:
    trials = example_result().trials
    contest = Contest(
        batch_sizes=(128, 256, 512), trials=(0.0130, 0.0210, 0.0405), rounds=((None, 0.0210, 0.0400),) * 2
    )
    result = example_result(contest=contest)
    alone, shown = trial_speed(trials[0]), speed_of(result, 128)
    assert alone is not None and alone.margin
    assert shown.samples_per_second != alone.samples_per_second
    assert shown.margin == pytest.approx(alone.margin)
    assert speed_of(result, 512).margin == pytest.approx(0.0125, abs=0.001)  # as its rounds differ


def accumulating(trial: Trial, steps: int) -> Trial:
    """The trial, with steps of the optimizer that each took so many batches."""
    assert trial.measurement is not None
    seconds = tuple(steps * second for second in trial.measurement.step_seconds)
    measured = replace(trial.measurement, step_seconds=seconds, accumulation_steps=steps)
    return replace(trial, measurement=measured)


def test_a_step_is_one_batch_where_the_training_accumulates_several() -> None:
    trial = fitting(1, 256, (0.020, 0.021, 0.022), 640)
    result = example_result(trials=(accumulating(trial, 4),))
    assert row_of(result, 256).step_seconds == pytest.approx(0.021)
    assert step_seconds_by_size(result)[256] == pytest.approx([0.020, 0.021, 0.022])
