from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.recommend import (
    APART,
    MOST_CONTENDERS,
    begun,
    contenders,
    contest_ratios,
    contest_speeds,
    is_decided,
    may_yet_win,
    merged,
    recommend,
    speeds,
)
from autotune.spec import Objective
from autotune.trial import Conditions, Contest, Evidence, Measurement, Memory, Outcome, Trial

throughputs = st.dictionaries(st.integers(1, 4096), st.floats(0.1, 1e6), min_size=1, max_size=20)


def trial(size: int, seconds: list[float], *, purpose="grow", accepted=True, accumulation=1) -> Trial:
    measurement = Measurement(
        batch_size=size,
        accumulation_steps=accumulation,
        step_seconds=tuple(seconds),
        cpu_seconds=tuple(seconds),
        warmup_steps=1,
        memory=Memory(peak_bytes=1, base_bytes=1, method="a test"),
        conditions=Conditions(),
    )
    return Trial(
        number=1,
        batch_size=size,
        purpose=purpose,
        why="",
        outcome=Outcome.FITS if accepted else Outcome.OUT_OF_MEMORY,
        seconds=1.0,
        measurement=measurement,
        evidence=None if accepted else Evidence(source="budget", text="too much"),
    )


def test_the_longest_series_speaks_for_a_batch_size() -> None:
    found = speeds([trial(8, [1.0, 1.0, 1.0]), trial(8, [9.0]), trial(4, [2.0])])
    assert found == {4: 2.0, 8: 8.0}


def test_sizes_that_were_ever_refused_and_steps_of_a_plan_do_not_count() -> None:
    refused_later = trial(16, [1.0], purpose="confirm", accepted=False)
    planned = trial(4, [1.0], purpose="plan", accumulation=8)
    assert speeds([trial(16, [1.0]), refused_later, planned, trial(8, [1.0])]) == {8: 8.0}


def test_what_fitted_once_above_a_refused_size_does_not_count() -> None:
    tried = [trial(size, [1.0]) for size in (8, 16, 24, 32)]
    refused = trial(24, [1.0], purpose="confirm", accepted=False)
    assert speeds([*tried, refused]) == {8: 8.0, 16: 16.0}
    assert contenders([*tried, refused], 0.5) == (8, 16)
    as_peaks_differ = msgspec.structs.replace(refused, largest_safe=15)
    assert speeds([*tried, as_peaks_differ]) == {8: 8.0}


def test_a_target_is_none_of_the_sizes_to_choose_from_and_says_nothing_of_them() -> None:
    targets = [trial(24, [1.0], purpose="target", accepted=False), trial(64, [1.0], purpose="target")]
    assert speeds([trial(16, [1.0]), trial(32, [1.0]), *targets]) == {16: 16.0, 32: 32.0}


@given(throughputs)
def test_the_fastest_is_always_among_the_contenders_or_one_just_below_it(speed: dict[int, float]) -> None:
    names = contenders([trial(size, [size / value]) for size, value in speed.items()], 0.05)
    fastest = [size for size, value in speed.items() if value == pytest.approx(max(speed.values()))]
    assert any(size / APART < name <= size for name in names for size in fastest)
    assert list(names) == sorted(names)
    assert len(names) <= MOST_CONTENDERS


def test_of_two_sizes_that_are_nearly_the_same_the_smaller_competes() -> None:
    nearly = [trial(size, [size / speed] * 9) for size, speed in ((64, 97.0), (94, 100.0), (98, 99.0), (107, 101.0))]
    assert contenders(nearly, 0.05) == (64, 94, 107)


def test_a_size_that_stands_for_the_fastest_stays_where_there_are_too_many() -> None:
    speed = {1: 95.0, 2: 94.0, 4: 93.0, 8: 92.0, 16: 91.0, 100: 70.0, 105: 100.0}
    names = contenders([trial(size, [size / value] * 9) for size, value in speed.items()], 0.05)
    assert 100 in names and len(names) == MOST_CONTENDERS


def test_the_smallest_above_the_mark_competes_where_there_are_too_many() -> None:
    speed = {16: 99.0, 32: 100.0, 64: 95.5, 128: 95.2, 256: 94.8, 512: 94.5}
    names = contenders([trial(size, [size / value] * 9) for size, value in speed.items()], 0.05)
    assert 16 in names and 32 in names and len(names) == MOST_CONTENDERS


def test_a_trial_that_accumulates_counts_as_a_round_of_single_batches() -> None:
    tried = [trial(8, [2.0], accumulation=2), trial(16, [6.0], accumulation=2)]
    contest = begun(tried, (8, 16), follows_trials=True)
    assert contest.trials == (1.0, 3.0)


def test_a_tolerance_of_nothing_does_not_end_the_final_round_before_it_began() -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=(), trials=(1.0, 2.1))
    assert may_yet_win(contest, 0.0, 1) == (32, 64)


def test_a_size_whose_interval_reaches_the_mark_competes_though_its_median_does_not() -> None:
    noisy = trial(16, [0.16] * 4 + [1.6] * 5)
    assert contenders([noisy, trial(32, [0.32] * 9), trial(1, [0.1] * 9)], 0.05) == (16, 32)


@given(throughputs, st.floats(0, 0.5))
def test_the_answer_is_the_smallest_within_the_tolerance(speed: dict[int, float], tolerance: float) -> None:
    answer = recommend(Objective.THROUGHPUT, speed, max(speed), None, tolerance)
    best = max(speed.values())
    assert speed[answer.batch_size] / best >= 1 - tolerance
    assert all(speed[size] / best < 1 - tolerance for size in speed if size < answer.batch_size)
    assert answer.fastest_samples_per_second == best


def test_the_memory_objective_takes_the_largest_whatever_its_speed() -> None:
    answer = recommend(Objective.MEMORY, {1: 100.0, 2: 50.0}, 2, None, 0.05)
    assert (answer.batch_size, answer.fastest_batch_size) == (2, 1)


def test_the_final_round_overrules_single_trials() -> None:
    single = {32: 100.0, 64: 70.0}
    contest = Contest(batch_sizes=(32, 64), rounds=((1.0, 1.6),) * 9)
    answer = recommend(Objective.THROUGHPUT, single, 64, contest, 0.05)
    assert (answer.batch_size, answer.fastest_batch_size) == (64, 64)
    assert answer.samples_per_second == pytest.approx(40.0)


def test_drift_between_rounds_does_not_make_a_difference() -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=tuple((k, 2.0 * k) for k in (1.0, 3.0, 1.5, 2.0, 9.0, 1.0)))
    ratios = contest_ratios(contest)
    assert ratios[32].median == ratios[64].median == 1.0
    answer = recommend(Objective.THROUGHPUT, {32: 32.0, 64: 32.0}, 64, contest, 0.05)
    assert answer.batch_size == 32


def test_noise_does_not_make_a_slower_size_win() -> None:
    """The smaller is 7% slower in the median, though no interval tells them apart."""
    rounds = tuple((1.0, 2.0 * factor) for factor in (0.8, 1.1, 0.7, 1.2, 0.93, 1.15, 0.9, 1.05, 0.75))
    contest = Contest(batch_sizes=(32, 64), rounds=rounds)
    assert contest_ratios(contest)[32].is_tie
    assert not is_decided(contest, 0.05)
    assert recommend(Objective.THROUGHPUT, {32: 1.0, 64: 1.0}, 64, contest, 0.05).batch_size == 64
    assert recommend(Objective.THROUGHPUT, {32: 1.0, 64: 1.0}, 64, contest, 0.25).batch_size == 32


@pytest.mark.parametrize(
    ("third", "answer", "why"),
    [
        (1.95, 32, "the smallest within 5% of the fastest, 64"),
        (1.7, 64, "the fastest, no smaller one surely within 5% of it"),
    ],
)
def test_what_the_rounds_leave_open_counts_against_the_smaller_size(third: float, answer: int, why: str) -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=((1.0, 1.96), (1.0, 1.94), (1.0, third)))
    recommended = recommend(Objective.THROUGHPUT, {32: 1.0, 64: 1.0}, 64, contest, 0.05)
    assert (recommended.batch_size, recommended.why) == (answer, why)


def test_a_size_between_is_said_to_be_the_first_that_is_sure() -> None:
    contest = Contest(batch_sizes=(16, 32, 64), rounds=((1.0, 2.0, 3.9), (1.0, 2.0, 3.9), (1.2, 2.0, 3.9)))
    recommended = recommend(Objective.THROUGHPUT, {16: 1.0, 32: 1.0, 64: 1.0}, 64, contest, 0.05)
    assert recommended.batch_size == 32
    assert recommended.why == "the smallest surely within 5% of the fastest, 64"


def test_in_very_much_noise_a_size_far_from_the_best_does_not_pass_for_a_tie() -> None:
    rounds = tuple((1.0, 2.0 * factor) for factor in (0.1, 0.2, 3.0, 0.1, 0.2, 4.0, 0.1))
    contest = Contest(batch_sizes=(32, 64), rounds=rounds)
    assert recommend(Objective.THROUGHPUT, {32: 1.0, 64: 1.0}, 64, contest, 0.05).batch_size == 64
    assert not is_decided(contest, 0.05)


@pytest.mark.parametrize(("second", "decided"), [((2.0,) * 9, True), ((3.0,) * 9, True), ((1.2, 3.0) * 5, False)])
def test_a_final_round_is_decided_once_each_interval_lies_on_one_side(second, decided: bool) -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=tuple((1.0, time) for time in second))
    assert is_decided(contest, 0.05) is decided
    assert len(merged(contest, contest).rounds) == 2 * len(second)


def test_the_fewer_rounds_were_held_the_further_behind_a_size_must_be_to_leave() -> None:
    contest = Contest(batch_sizes=(8, 16, 32, 64), rounds=((0.099, 0.188, 0.352, 0.64),))  # 81%, 85%, 91% of the best
    assert may_yet_win(contest, 0.05, held=1) == (8, 16, 32, 64)
    assert may_yet_win(contest, 0.05, held=2) == (32, 64)
    assert may_yet_win(contest, 0.05, held=3) == (64,)
    assert may_yet_win(contest, 0.01, held=2) == (32, 64)  # equal processes differ by no less


def test_one_round_that_was_not_slow_keeps_a_size_in() -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=((1.5, 2.0), (0.99, 2.0)))
    assert may_yet_win(contest, 0.05, held=2) == (32, 64)


def test_a_size_that_left_neither_wins_nor_sets_the_mark_but_keeps_its_speed() -> None:
    first = Contest(batch_sizes=(16, 32, 64), rounds=((0.2, 0.5, 0.8),))
    contest = merged(first, Contest(batch_sizes=(16, 64), rounds=((0.21, 0.8),)))
    assert contest == Contest(batch_sizes=(16, 32, 64), rounds=((0.2, 0.5, 0.8), (0.21, None, 0.8)))
    assert set(contest_ratios(contest)) == {16, 64}
    answer = recommend(Objective.THROUGHPUT, {16: 1.0, 32: 1000.0, 64: 1.0}, 64, contest, 0.05)
    assert answer.fastest_batch_size in (16, 64)
    assert answer.batch_size == 16


@given(data=st.data(), sizes=st.integers(2, 5), held=st.integers(1, 3))
def test_what_is_said_to_be_the_fastest_is_shown_as_the_fastest(data: st.DataObject, sizes: int, held: int) -> None:
    names = tuple(2**power for power in range(sizes))
    times = st.tuples(*(st.floats(0.1 * name, 10.0 * name) for name in names))
    contest = Contest(batch_sizes=names, rounds=tuple(data.draw(times) for _ in range(held)))
    answer = recommend(Objective.THROUGHPUT, dict.fromkeys(names, 1.0), names[-1], contest, 0.05)
    shown, fastest = contest_speeds(contest), answer.fastest_samples_per_second
    assert fastest == max(shown.values())
    assert shown[answer.batch_size] / fastest >= 1 - 0.05
    assert all(contest_ratios(contest)[size].cautious < 1 - 0.05 for size in names if size < answer.batch_size)


def test_a_size_that_left_is_still_one_that_is_slower() -> None:
    contest = Contest(batch_sizes=(32, 64), rounds=((1.0, 1.0), (None, 1.0)))
    answer = recommend(Objective.THROUGHPUT, {32: 60.0, 64: 64.0}, 64, contest, 0.05)
    assert answer.why == "the fastest, every smaller one more than 5% slower"


@pytest.mark.parametrize("objective", [Objective.THROUGHPUT, Objective.LATENCY])
def test_the_reason_names_the_fastest_that_was_given_up(objective: Objective) -> None:
    answer = recommend(objective, {8: 98.0, 16: 100.0}, 16, None, 0.05)
    assert answer.batch_size == 8
    assert "16" in answer.why
