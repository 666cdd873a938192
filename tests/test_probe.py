"""The loop on a modelled machine: what is asked, written down, told and answered."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import (
    AutotuneError,
    NothingFitsError,
    NoTrialFinishedError,
    ResultFileError,
    UsageError,
    WorkloadError,
)
from autotune.executors import Attempt, ContestRequest, ForecastRequest, Request, TrialRequest
from autotune.executors.fake import FakeExecutor
from autotune.guide import predicted_peak
from autotune.listener import Silence
from autotune.probe import Probe
from autotune.reports.words import answer
from autotune.result import Result, StopReason, load_result
from autotune.resuming import place_of
from autotune.spec import FileWorkload, Mode, Objective, ProbeSpec
from autotune.store import Forecasted, Line, Place, TrialBegan, TrialEnded, TrialInterrupted
from autotune.target import answer_target
from autotune.trial import Evidence, Outcome, Purpose, Trial

FILE = FileWorkload(target="model.py")
MEMORY = {"objective": Objective.MEMORY}


class Pages:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, line: Line) -> None:
        self.lines.append(line)


def probe(executor: FakeExecutor, journal: Pages | None = None, **options) -> Result:
    spec = ProbeSpec(workload=FILE, **options)
    return Probe(spec, executor, journal or Pages(), Silence()).run()


def refusing(outcome: Outcome, from_size: int, text: str = "because"):
    def event(request):
        if isinstance(request, TrialRequest) and request.batch_size >= from_size:
            return Attempt(outcome=outcome, evidence=Evidence(source="exception", text=text))
        return None

    return event


@settings(max_examples=60)
@given(slope=st.integers(1, 700), spread=st.floats(0, 0.05), seed=st.integers(0, 1000))
def test_the_memory_answer_ran_fitted_and_was_confirmed_in_a_fresh_process(slope, spread, seed) -> None:
    result = probe(FakeExecutor(bytes_per_sample=slope, spread=spread, seed=seed), **MEMORY)
    answer = [trial for trial in result.trials if trial.batch_size == result.batch_size]
    assert all(trial.accepted for trial in answer)
    assert sum(trial.fresh_process for trial in answer) >= 2
    assert result.edge.confirmations >= 2
    successor = [trial for trial in result.trials if trial.batch_size == result.batch_size + 1]
    assert successor
    assert result.edge.is_exact == any(not trial.accepted for trial in successor)
    if spread == 0:
        assert result.edge.is_exact
        assert result.batch_size == 900 // slope


def test_a_size_for_which_there_is_no_room_is_not_called_refused_where_it_fitted() -> None:
    result = probe(FakeExecutor(bytes_per_sample=1, spread=0.03125), **MEMORY)
    assert result.edge.no_room_from == result.batch_size + 1
    assert result.edge.smallest_refused in {trial.batch_size for trial in result.trials if not trial.accepted}
    assert result.trials[-1].purpose == "successor"
    assert result.trials[-1].accepted
    text = " ".join(result.summary().split())
    assert f"from {result.edge.no_room_from} on peaks may pass the budget, as they differ" in text.lower()


@pytest.mark.parametrize("seed", range(8))
def test_a_limit_on_latency_is_not_searched_for_more_closely_than_times_tell(seed: int) -> None:
    noisy = FakeExecutor(budget_bytes=10**9, beta_seconds=1e-5, noise=0.1, seed=seed)
    result = probe(noisy, objective=Objective.LATENCY, latency_seconds=0.05, start=4096)
    assert len(result.trials) < 24  # to the very edge it took up to 51
    assert result.edge.confirmations == 2
    text = " ".join(result.summary().split())
    assert "took longer than the latency limit, and the sizes between were not tried" in text


@pytest.mark.parametrize(("forks", "fresh"), [(True, [False, False, True]), (False, [True, True])])
def test_where_a_fork_is_a_process_of_its_own_only_the_last_confirmation_has_a_new_interpreter(forks, fresh) -> None:
    result = probe(FakeExecutor(forks=forks), **MEMORY)
    assert [trial.fresh_process for trial in result.trials if trial.purpose == "confirm"] == fresh


@pytest.mark.parametrize("seed", range(12))
def test_the_final_round_is_held_once_though_the_run_of_the_answer_shows_another_speed(seed: int) -> None:
    executor = FakeExecutor(budget_bytes=10**6, forks=True, noise=0.2, seed=seed)
    result = probe(executor)
    assert result.contest is not None
    timed = sum(seconds is not None for row in result.contest.rounds for seconds in row)
    assert sum(isinstance(request, ContestRequest) for request in executor.requests) == timed


@pytest.mark.parametrize("alpha_seconds", [0.008, 0.012, 0.02])
def test_once_an_answer_was_refused_nothing_above_it_competes_or_is_recommended(alpha_seconds: float) -> None:
    refused: list[int] = []
    timed: list[int] = []

    def refuse_the_first_answer(request: Request) -> Attempt | None:
        if refused and isinstance(request, ContestRequest):
            timed.extend(request.batch_sizes)
        if isinstance(request, TrialRequest) and request.fresh_process and not refused:
            refused.append(request.batch_size)
            evidence = Evidence(source="watchdog", text="it was over the budget")
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)
        return None

    result = probe(FakeExecutor(forks=True, alpha_seconds=alpha_seconds, events=refuse_the_first_answer))
    assert result.batch_size < refused[0]
    assert timed and max(timed) < refused[0]
    assert result.recommendation.fastest_batch_size < refused[0]


def test_throughput_stops_at_the_plateau_and_recommends_the_smallest_near_the_best() -> None:
    result = probe(FakeExecutor(budget_bytes=10**9))
    assert result.stop is StopReason.PLATEAU
    assert result.batch_size == 256  # 256/(0.01 + 0.256) is within 5% of 1024/(0.01 + 1.024), 128 is not
    assert result.contest is not None
    assert result.edge.smallest_refused is None


def test_every_trial_is_in_the_journal_before_the_next_begins() -> None:
    pages = Pages()
    result = probe(FakeExecutor(), pages, **MEMORY)
    began = [line.number for line in pages.lines if isinstance(line, TrialBegan)]
    ended = [line.trial for line in pages.lines if isinstance(line, TrialEnded)]
    assert began == list(range(1, len(result.trials) + 1))
    assert tuple(ended) == result.trials
    assert isinstance(pages.lines[0], Place)
    kinds = [type(line) for line in pages.lines[1:] if not isinstance(line, Forecasted)]
    assert kinds == [TrialBegan, TrialEnded] * len(ended)


def test_a_resumed_probe_does_not_run_again_what_is_in_the_journal() -> None:
    whole = probe(FakeExecutor(), **MEMORY)
    executor = FakeExecutor()
    resumed = Probe(
        ProbeSpec(workload=FILE, **MEMORY), executor, Pages(), Silence(), trials=list(whole.trials[:5])
    ).run()
    assert [t.batch_size for t in resumed.trials] == [t.batch_size for t in whole.trials]
    trials = [request for request in executor.requests if isinstance(request, TrialRequest)]
    assert len(trials) == len(whole.trials) - 5


@pytest.mark.parametrize("after", range(1, 12))
def test_an_interruption_at_any_trial_returns_the_best_so_far(after: int) -> None:
    executor = FakeExecutor()

    def interrupt(_):
        if sum(isinstance(request, TrialRequest) for request in executor.requests) > after:
            raise KeyboardInterrupt

    executor.events = interrupt
    pages = Pages()
    result = probe(executor, pages, **MEMORY)
    assert result.stop is StopReason.INTERRUPTED
    assert not result.is_complete
    assert result.batch_size == max(t.batch_size for t in result.trials if t.accepted)
    assert isinstance(pages.lines[-1], TrialInterrupted)


def test_an_interruption_before_anything_was_found_is_passed_on() -> None:
    executor = FakeExecutor(events=lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        probe(executor)


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_an_allowance_of_trials_is_kept_and_said(most: int) -> None:
    result = probe(FakeExecutor(), max_trials=most, **MEMORY)
    assert len(result.trials) == most
    assert result.stop is StopReason.TRIALS
    assert any("not confirmed" in warning for warning in result.warnings)


@pytest.mark.parametrize("size", [1, 8, 64, 100])
def test_a_trial_that_the_time_for_all_of_the_probe_cuts_short_refuses_nothing(size: int) -> None:
    def cut(request: Request) -> Attempt | None:
        if isinstance(request, TrialRequest) and request.batch_size >= size and request.timeout_seconds < 300:
            return Attempt(outcome=Outcome.TIMED_OUT, evidence=Evidence(source="clock", text="it took too long"))
        return None

    pages = Pages()
    result = probe(FakeExecutor(events=cut), pages, max_seconds=200, **MEMORY)
    if size == 1:  # the first trial has all the time that a trial may take
        assert [trial.batch_size for trial in result.trials] == [1]
    assert result.stop is StopReason.SECONDS
    assert not result.is_complete
    assert all(trial.accepted for trial in result.trials if trial.batch_size < 100)
    assert isinstance(pages.lines[-1], TrialInterrupted)


def test_an_answer_whose_last_run_is_cut_short_stays_the_answer() -> None:
    def cut(request: Request) -> Attempt | None:
        if isinstance(request, TrialRequest) and request.fresh_process:
            return Attempt(outcome=Outcome.TIMED_OUT, evidence=Evidence(source="clock", text="it took too long"))
        return None

    result = probe(FakeExecutor(budget_bytes=10**9, events=cut), max_seconds=200)
    assert (result.batch_size, result.stop, result.cut_short) == (256, StopReason.PLATEAU, StopReason.SECONDS)
    assert not result.is_complete
    assert result.contest is not None
    assert any("not confirmed" in warning for warning in result.warnings)


def test_a_probe_whose_last_allowed_trial_confirms_the_answer_has_come_to_its_end() -> None:
    trials = len(probe(FakeExecutor(budget_bytes=10**9)).trials)
    result = probe(FakeExecutor(budget_bytes=10**9), max_trials=trials)
    assert (result.stop, len(result.trials)) == (StopReason.PLATEAU, trials)


def test_a_target_that_no_trial_is_left_for_leaves_something_to_resume() -> None:
    trials = len(probe(FakeExecutor(budget_bytes=10**9)).trials)
    result = probe(FakeExecutor(budget_bytes=10**9), target=10**6, max_trials=trials)
    assert (result.stop, result.cut_short, result.target) == (StopReason.PLATEAU, StopReason.TRIALS, None)
    assert not result.is_complete


def test_no_forecast_is_made_for_trials_that_are_not_allowed() -> None:
    executor = FakeExecutor(forecast_error=0.0)
    probe(executor, max_trials=1)
    assert not any(isinstance(request, ForecastRequest) for request in executor.requests)


def test_a_forecast_takes_no_longer_than_the_probe_may() -> None:
    executor = FakeExecutor(forecast_error=0.0)
    probe(executor, max_seconds=30)
    (request,) = [request for request in executor.requests if isinstance(request, ForecastRequest)]
    assert request.timeout_seconds <= 30


def test_an_allowance_spent_before_anything_fitted_is_an_error() -> None:
    with pytest.raises(NoTrialFinishedError, match="No batch size had fitted"):
        probe(FakeExecutor(), start=1000, max_trials=1)


def test_the_users_own_error_ends_the_probe_with_their_traceback() -> None:
    failure = Evidence(source="exception", text="ValueError: no", user_traceback="Traceback: all of it")
    executor = FakeExecutor(
        events=lambda request: (
            Attempt(outcome=Outcome.FAILED, evidence=failure)
            if isinstance(request, TrialRequest) and request.batch_size == 4
            else None
        )
    )
    with pytest.raises(WorkloadError, match="batch size 4: ValueError: no") as raised:
        probe(executor)
    assert raised.value.user_traceback == "Traceback: all of it"


def test_nothing_fits_names_the_peak_and_the_shortfall() -> None:
    with pytest.raises(NothingFitsError, match=r"peak is 1\.12 KiB, 151 B over the budget of 1000 B"):
        probe(FakeExecutor(base_bytes=1100, bytes_per_sample=51), start=8)


def test_nothing_fits_by_far_is_measured_without_the_limit() -> None:
    executor = FakeExecutor(base_bytes=5000)
    with pytest.raises(NothingFitsError, match=r"4\.00 KiB over|3\.92 KiB over"):
        probe(executor)
    assert executor.requests[-1].enforce is False  # type: ignore[union-attr]


def test_what_fits_the_budget_but_not_the_machine_is_told_as_that() -> None:
    refusal = Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="watchdog", text="1 B left"))

    def short_of_memory(request: Request) -> Attempt | None:
        return refusal if isinstance(request, TrialRequest) and request.enforce else None

    with pytest.raises(NothingFitsError, match=r"Not even batch size 1 fits: 1 B left\.\n"):
        probe(FakeExecutor(events=short_of_memory))


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.KERNEL_LIMIT])
def test_no_trial_that_finishes_is_another_error_than_no_memory(outcome: Outcome) -> None:
    with pytest.raises(NoTrialFinishedError, match="because"):
        probe(FakeExecutor(events=refusing(outcome, 1)))


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.KERNEL_LIMIT])
def test_other_failures_than_memory_bound_the_search_too(outcome: Outcome) -> None:
    result = probe(FakeExecutor(budget_bytes=10**9, events=refusing(outcome, 38)), **MEMORY)
    assert (result.batch_size, result.edge.smallest_refused, result.edge.refused_by) == (37, 38, outcome.value)


def test_latency_bounds_the_answer() -> None:
    result = probe(FakeExecutor(budget_bytes=10**9), objective=Objective.LATENCY, latency_seconds=0.05)
    assert result.max_batch_size == 40  # 0.01 + 40 * 0.001
    assert result.edge.refused_by == "latency"
    assert result.batch_size <= 40


def test_a_run_that_is_judged_by_its_slowest_steps_has_enough_of_them() -> None:
    executor = FakeExecutor(budget_bytes=10**9)
    probe(executor, objective=Objective.LATENCY, latency_seconds=0.05, target=30)
    trials = [request for request in executor.requests if isinstance(request, TrialRequest)]
    assert any(request.fresh_process for request in trials)
    assert any(request.batch_size == 30 for request in trials)
    assert all(request.effort.min_steps == 20 for request in trials)


def test_too_slow_from_the_start_says_so() -> None:
    with pytest.raises(NothingFitsError, match="batch size 1 is too slow"):
        probe(FakeExecutor(), objective=Objective.LATENCY, latency_seconds=0.001)


def test_the_dataset_caps_the_search() -> None:
    result = probe(FakeExecutor(budget_bytes=10**9, dataset_size=100), **MEMORY)
    assert (result.batch_size, result.stop) == (100, StopReason.DATASET)


def test_a_dataset_smaller_than_the_multiple_is_refused() -> None:
    with pytest.raises(UsageError, match="No multiple of 64"):
        probe(FakeExecutor(dataset_size=50), multiple_of=64)


@pytest.mark.parametrize("multiple", [2, 8, 32])
def test_multiples_are_kept(multiple: int) -> None:
    result = probe(FakeExecutor(), multiple_of=multiple, **MEMORY)
    assert result.batch_size == 100 // multiple * multiple
    assert result.edge.smallest_refused == result.batch_size + multiple
    assert all(trial.batch_size % multiple == 0 for trial in result.trials)


def test_a_target_that_fits_was_run() -> None:
    result = probe(FakeExecutor(), target=77, **MEMORY)
    assert result.target is not None and result.target.fits
    assert any(trial.batch_size == 77 and trial.accepted for trial in result.trials)


@pytest.mark.parametrize(
    ("options", "executor"),
    [
        ({"max_batch_size": 8}, FakeExecutor(budget_bytes=10**9)),
        ({"multiple_of": 48, **MEMORY}, FakeExecutor()),
        (
            {"multiple_of": 48, "objective": Objective.TIME_TO_QUALITY, "noise": 1000.0},
            FakeExecutor(budget_bytes=10**9),
        ),
    ],
    ids=["above the cap", "no multiple", "no multiple, and near the best"],
)
def test_a_target_that_fits_is_no_answer_that_was_not_searched_for(options, executor: FakeExecutor) -> None:
    without = probe(executor, **options)
    result = probe(executor, target=64, **options)
    assert result.target is not None and result.target.fits
    assert (result.batch_size, result.edge) == (without.batch_size, without.edge)
    assert not any("not confirmed" in warning for warning in result.warnings)
    resumed = Probe(result.spec, executor, Pages(), Silence(), trials=list(result.trials)).run()
    assert (resumed.batch_size, resumed.edge, resumed.trials) == (result.batch_size, result.edge, result.trials)


def test_a_target_that_fitted_once_above_a_refused_size_does_not_fit() -> None:
    def refuse(request: Request) -> Attempt | None:
        if isinstance(request, TrialRequest) and request.fresh_process and request.batch_size > 60:
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="exception", text="no room"))
        return None

    result = probe(FakeExecutor(events=refuse), target=70, multiple_of=4, **MEMORY)
    assert result.max_batch_size == 60
    assert any(trial.batch_size == 70 and trial.accepted for trial in result.trials)
    assert result.target is not None and not result.target.fits and result.target.plan is not None
    assert result.target.plan.micro_batch_size == 36
    assert "ran once, but 64 was refused: out of memory" in result.target.refused_by


def test_a_target_that_the_model_cannot_take_is_answered_without_a_run() -> None:
    result = probe(FakeExecutor(smallest_batch_size=2), target=1)
    assert result.target is not None and not result.target.fits
    assert result.target.refused_by == "the model takes no fewer than 2 samples"
    assert min(trial.batch_size for trial in result.trials) == 2


def test_no_plan_has_batches_that_the_model_cannot_take() -> None:
    result = probe(FakeExecutor(smallest_batch_size=2, bytes_per_sample=400), target=3)
    assert result.max_batch_size == 2
    assert min(trial.batch_size for trial in result.trials) == 2
    assert result.target is not None and result.target.plan is not None
    assert (result.target.plan.micro_batch_size, result.target.plan.accumulation_steps) == (2, 2)


def test_a_target_that_does_not_fit_names_the_shortfall_and_a_plan_that_ran() -> None:
    result = probe(FakeExecutor(), target=300)
    target = result.target
    assert target is not None and not target.fits and target.plan is not None
    assert (target.peak_bytes, target.shortfall_bytes, target.shortfall_is) == (2800, 1800, "measured")
    assert target.plan.micro_batch_size * target.plan.accumulation_steps == 300
    ran = [t for t in result.trials if t.purpose == "plan"][-1]
    assert ran.accepted and ran.measurement is not None
    assert ran.measurement.accumulation_steps == target.plan.accumulation_steps


def test_a_target_beyond_the_machine_is_estimated_and_says_so() -> None:
    def never(request):
        if isinstance(request, TrialRequest) and request.batch_size > 110:
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="kernel", text="killed"))
        return None

    target = probe(FakeExecutor(events=never), target=300).target
    assert target is not None
    assert (target.peak_bytes, target.shortfall_is) == (2800, "estimated")


def test_a_target_within_the_budget_that_the_machine_has_no_room_for_is_told_as_that() -> None:
    full = Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="watchdog", text="1 B left"))

    def no_room(request: Request) -> Attempt | None:
        return full if isinstance(request, TrialRequest) and request.enforce and request.batch_size >= 30 else None

    target = probe(FakeExecutor(events=no_room), target=50).target
    assert target is not None and not target.fits and target.plan is not None
    assert (target.peak_bytes, target.shortfall_bytes, target.refused_by) == (550, None, "1 B left")


def test_a_prime_target_is_reached_from_above() -> None:
    target = probe(FakeExecutor(), target=211).target
    assert target is not None and target.plan is not None
    assert target.plan.micro_batch_size * target.plan.accumulation_steps == 213


def ended_above(size: int):
    """A machine that ends every trial above a size, whatever the limits."""
    return refusing(Outcome.OUT_OF_MEMORY, size + 1, "killed")


@pytest.mark.parametrize("seed", range(6))
def test_a_shortfall_estimated_without_a_forecast_does_not_hang_on_two_sizes_near_each_other(seed: int) -> None:
    executor = FakeExecutor(spread=0.05, seed=seed, events=ended_above(110))
    target = probe(executor, target=3000, **MEMORY).target
    assert target is not None and target.shortfall_is == "estimated"
    assert target.shortfall_bytes == pytest.approx(27_100 - 1000, rel=0.1)


def test_a_shortfall_is_that_of_the_forecast_where_there_is_one() -> None:
    executor = FakeExecutor(forecast_error=0.0, spread=0.03, events=ended_above(110))
    target = probe(executor, target=3000, **MEMORY).target
    assert target is not None and target.shortfall_is == "estimated"
    assert target.shortfall_bytes == pytest.approx(27_100 - 1000, rel=0.01)


class Replayed:
    """A recorded probe whose target is refused whatever is tried, and with it every plan."""

    def __init__(self, result: Result) -> None:
        self.spec, self.forecast = result.spec, result.forecast
        self.trials = list(result.trials)
        workload = msgspec.structs.replace(result.workload, can_accumulate=True)
        self.opened = msgspec.structs.replace(FakeExecutor(budget_bytes=result.budget_bytes).open(), workload=workload)

    def run_trial(self, request: TrialRequest, purpose: Purpose, why: str) -> Trial:
        trial = Trial(
            number=len(self.trials) + 1,
            batch_size=request.batch_size,
            purpose=purpose,
            why=why,
            outcome=Outcome.OUT_OF_MEMORY,
            seconds=1.0,
            evidence=Evidence(source="watchdog", text="it grew over the budget"),
            forecast_bytes=predicted_peak(self.forecast, self.trials, request.batch_size),
        )
        self.trials.append(trial)
        return trial


RECORDED = sorted((Path(__file__).parents[1] / "benchmarks/results/probes").glob("*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_shortfall_of_a_recorded_probe_is_that_of_its_corrected_forecast(path: Path) -> None:
    result = load_result(path)
    told = answer_target(4096, Replayed(result))
    assert told.peak_bytes == predicted_peak(result.forecast, result.trials, 4096)
    without = msgspec.structs.replace(result, forecast=None)
    told = answer_target(4096, Replayed(without))
    assert (told.shortfall_bytes or 0) > result.budget_bytes
    assert told.plan is None and told.no_plan


def test_where_memory_was_not_seen_to_grow_no_shortfall_is_made_up() -> None:
    executor = FakeExecutor(bytes_per_sample=0, events=ended_above(110))
    target = probe(executor, target=300).target
    assert target is not None and not target.fits
    assert (target.peak_bytes, target.shortfall_bytes, target.refused_by) == (None, None, "killed")


def plans_refused_above(size: int, outcome: Outcome = Outcome.OUT_OF_MEMORY):
    def event(request: Request) -> Attempt | None:
        if isinstance(request, TrialRequest) and request.accumulation_steps and request.batch_size > size:
            return Attempt(outcome=outcome, evidence=Evidence(source="watchdog", text="no room"))
        return None

    return event


def plans(result: Result) -> list[int]:
    return [trial.batch_size for trial in result.trials if trial.purpose == "plan"]


@pytest.mark.parametrize(
    ("size", "multiple_of", "tried", "steps"),
    [(4, 1, [100, 50, 25, 12, 6, 3], 100), (1, 1, [100, 50, 25, 12, 6, 3, 1], 300), (8, 8, [80, 40, 16, 8], 38)],
)
def test_a_plan_is_looked_for_down_to_the_smallest_micro_batch(size, multiple_of, tried, steps) -> None:
    result = probe(FakeExecutor(events=plans_refused_above(size)), target=300, multiple_of=multiple_of, **MEMORY)
    assert plans(result) == tried
    assert result.target is not None and result.target.plan is not None
    assert (result.target.plan.micro_batch_size, result.target.plan.accumulation_steps) == (tried[-1], steps)


def test_where_no_plan_fits_that_is_said() -> None:
    result = probe(FakeExecutor(smallest_batch_size=2, events=plans_refused_above(0)), target=300, **MEMORY)
    assert result.target is not None and result.target.plan is None
    assert plans(result)[-1] == 2
    said = "No plan of accumulation was found: 150 micro-batches of 2, the last that were tried, did not fit (no room)."
    assert said in answer(result)


def test_a_plan_that_takes_too_long_is_not_tried_with_more_steps() -> None:
    result = probe(FakeExecutor(events=plans_refused_above(0, Outcome.TIMED_OUT)), target=300, **MEMORY)
    assert plans(result) == [100]
    assert result.target is not None and "3 micro-batches of 100, the last" in result.target.no_plan


@pytest.mark.parametrize("target", range(2, 90, 7))
@pytest.mark.parametrize("smallest", [1, 2, 5])
def test_every_plan_is_of_allowed_micro_batches_and_reaches_the_target_in_no_more_than_it_needs(target, smallest):
    executor = FakeExecutor(bytes_per_sample=90, smallest_batch_size=smallest, events=plans_refused_above(0))
    result = probe(executor, target=target, **MEMORY)
    for trial in [trial for trial in result.trials if trial.purpose == "plan"]:
        assert smallest <= trial.batch_size < target
        steps = int(trial.why.partition(" ")[0])
        assert target <= steps * trial.batch_size < target + trial.batch_size


def test_inference_has_nothing_to_accumulate() -> None:
    result = probe(FakeExecutor(), target=300, mode=Mode.INFERENCE)
    assert result.target is not None and result.target.plan is None and not plans(result)
    assert "Instead, accumulate" not in answer(result)
    assert answer(result).endswith("smaller batches can simply follow each other.")


def test_a_target_that_is_too_slow_says_how_slow_and_is_not_accumulated() -> None:
    executor = FakeExecutor(budget_bytes=10**9)
    result = probe(executor, objective=Objective.LATENCY, latency_seconds=0.05, target=90)
    assert not plans(result)
    said = "cannot be processed at once: 95% of its steps take up to 100 ms, over the 50.0 ms allowed. Accumulation"
    assert said in answer(result)


def test_a_target_that_no_trial_is_left_for_is_said_not_to_be_settled_and_why() -> None:
    result = probe(FakeExecutor(), target=2_000_000, max_trials=2)
    said = "Whether a batch of 2,000,000 fits at once was not settled, since the number of trials allowed was used up."
    assert result.target is None
    assert said in result.warnings


@pytest.mark.parametrize(("size", "fits"), [(2, True), (128, False)])
def test_a_target_that_the_search_tried_is_answered_though_no_trial_is_left(size: int, fits: bool) -> None:
    full = probe(FakeExecutor(), **MEMORY)
    tried = 1 + next(index for index, trial in enumerate(full.trials) if trial.batch_size == size)
    result = probe(FakeExecutor(), target=size, max_trials=tried, **MEMORY)
    assert not result.is_complete
    assert result.target is not None and (result.target.batch_size, result.target.fits) == (size, fits)
    assert not any("not settled" in warning for warning in result.warnings)
    assert fits or "ended before a plan" in result.target.no_plan


def test_a_final_round_that_fails_leaves_the_single_trials_to_decide() -> None:
    def fails(request):
        if isinstance(request, ContestRequest):
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="exception", text="no room"))
        return None

    result = probe(FakeExecutor(budget_bytes=10**9, events=fails))
    assert result.contest is None
    assert result.batch_size == 256


def test_an_answer_that_a_fresh_process_refuses_is_given_up() -> None:
    def refuse(request):
        if isinstance(request, TrialRequest) and request.fresh_process and request.batch_size > 90:
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="exception", text="no room"))
        return None

    result = probe(FakeExecutor(events=refuse), **MEMORY)
    assert result.batch_size == 90
    assert result.edge.band  # sizes that passed in forked children and failed in a fresh process


@given(seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_whatever_happens_the_probe_ends_with_a_result_or_one_of_our_errors(seed: int) -> None:
    import random

    chance = random.Random(seed)

    def anything(request):
        if isinstance(request, ContestRequest) or chance.random() < 0.7:
            return None
        outcome = chance.choice([o for o in Outcome if o is not Outcome.FITS])
        return Attempt(outcome=outcome, evidence=Evidence(source="exit", text="chance"))

    try:
        result = probe(FakeExecutor(events=anything, spread=0.1, noise=0.2, seed=seed), target=64)
    except AutotuneError:
        return
    assert any(t.batch_size == result.batch_size and t.accepted for t in result.trials)


def test_a_journal_that_cannot_be_written_any_more_costs_the_journal_and_not_the_probe() -> None:
    class FullDisk(Pages):
        def write(self, line: Line) -> None:
            super().write(line)
            if len(self.lines) > 3:
                raise ResultFileError("no space left.")

    class Ears(Silence):
        heard: ClassVar[list[str]] = []

        def warned(self, text: str) -> None:
            self.heard.append(text)

    spec = ProbeSpec(workload=FILE, **MEMORY)
    assert Probe(spec, FakeExecutor(), FullDisk(), Ears()).run().batch_size == 100
    assert Ears.heard == ["no space left. The probe goes on without a journal."]


@pytest.mark.parametrize("forecast_error", [None, 0.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_where_peaks_differ_the_search_steps_back_in_a_few_trials(forecast_error: float | None, seed: int) -> None:
    executor = FakeExecutor(
        budget_bytes=100_000,
        base_bytes=30_000,
        bytes_per_sample=100,
        spread=0.08,
        seed=seed,
        forecast_error=forecast_error,
    )
    result = probe(executor, **MEMORY)
    highest = (30_000 + 100 * result.batch_size) * 1.08
    assert highest <= 1.04 * 100_000
    assert len(result.trials) <= (45 if forecast_error is None else 20)


def test_trials_in_the_callers_own_process_are_not_said_to_be_in_a_fresh_one() -> None:
    executor = FakeExecutor()
    opened = executor.open()
    executor.open = lambda: msgspec.structs.replace(opened, isolated=False)  # type: ignore[method-assign]
    result = probe(executor, **MEMORY)
    assert not any(trial.fresh_process for trial in result.trials)
    assert not any("not confirmed" in warning for warning in result.warnings)


# What of a journal still holds


def resumed(trials: Sequence[Trial], place: Place, executor: FakeExecutor, pages: Pages | None = None) -> Result:
    spec = ProbeSpec(workload=FILE, **MEMORY)
    return Probe(spec, executor, pages or Pages(), Silence(), trials=list(trials), place=place).run()


def place(executor: FakeExecutor, **changes: Any) -> Place:
    return msgspec.structs.replace(place_of(executor.open()), **changes)


def test_with_more_memory_than_then_what_was_refused_is_tried_again() -> None:
    little = FakeExecutor(budget_bytes=500)
    then = probe(little, **MEMORY)
    assert then.batch_size == 44
    pages = Pages()
    now = resumed(then.trials, place(little), FakeExecutor(budget_bytes=1000), pages)
    assert (now.batch_size, now.edge.smallest_refused) == (100, 101)
    assert {trial.number for trial in then.trials if trial.fits} <= {trial.number for trial in now.trials}
    dropped = {trial.number for trial in then.trials if not trial.fits}
    assert dropped == {line.number for line in pages.lines if isinstance(line, TrialInterrupted)}
    assert pages.lines[len(dropped)] == place(FakeExecutor())


def test_with_less_memory_than_then_what_needed_more_is_tried_again() -> None:
    then = probe(FakeExecutor(budget_bytes=1000), **MEMORY)
    now = resumed(then.trials, place(FakeExecutor()), FakeExecutor(budget_bytes=500))
    assert (now.batch_size, now.edge.smallest_refused) == (44, 45)


def test_free_memory_that_is_nearly_the_same_changes_nothing() -> None:
    then = probe(FakeExecutor(budget_bytes=1000), **MEMORY)
    now = resumed(then.trials, place(FakeExecutor(), budget_bytes=995), FakeExecutor(budget_bytes=1000))
    assert now.trials == then.trials


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": 11}, "the number of parameters differs"),
        ({"workload": "Other", "device_name": "another"}, "the model, the device differ"),
    ],
)
def test_a_journal_of_something_else_is_refused(changes: dict[str, Any], said: str) -> None:
    executor = FakeExecutor()
    with pytest.raises(ResultFileError, match=said):
        resumed((), place(executor, **changes), executor)
