"""The trials and the seconds that a probe may use: what they end, what is still answered, and what is said of it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from example_results import example_result
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.cli import main
from autotune.errors import NothingFitsError, NoTrialFinishedError
from autotune.executors import Attempt, ContestRequest, FeedRequest, GradientsRequest, Request, TrialRequest
from autotune.executors.fake import FakeExecutor
from autotune.listener import Silence
from autotune.probe import Probe
from autotune.progress import Ahead
from autotune.reports.live import remaining
from autotune.result import Result, StopReason
from autotune.spec import FileWorkload, Objective, ProbeSpec
from autotune.store import NoJournal
from autotune.trial import Evidence, Outcome

QUICK: dict[str, Any] = {"workload": FileWorkload(target="model.py"), "noise": 100.0}
LEAST_SECONDS = 1.0  # that a part which was begun in time is given


class Ears(Silence):
    def __init__(self) -> None:
        self.heard: list[Ahead] = []

    def trial_started(self, number: int, batch_size: int, purpose: str, why: str, ahead: Ahead) -> None:
        self.heard.append(ahead)


class Clock:
    """Time that passes only while a request runs: so many seconds each, or until it is timed out."""

    def __init__(self, seconds_each: float) -> None:
        self.now, self.seconds_each = 0.0, seconds_each

    def __call__(self, request: Request) -> Attempt | None:
        allowed = request.timeout_seconds
        self.now += min(self.seconds_each, allowed)
        if self.seconds_each <= allowed:
            return None
        text = f"still running after {allowed} s"
        return Attempt(outcome=Outcome.TIMED_OUT, evidence=Evidence(source="clock", text=text))


def probe(executor: FakeExecutor, *, ears: Ears | None = None, **options: Any) -> Result:
    spec = ProbeSpec(**{**QUICK, **options})
    return Probe(spec, executor, NoJournal(), ears or Ears(), started=time.monotonic()).run()


def timed(executor: FakeExecutor, seconds_each: float, **options: Any) -> tuple[Result, float]:
    """A probe by a clock of its own, and how long it took."""
    executor.events = clock = Clock(seconds_each)
    spec = ProbeSpec(**{**QUICK, **options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotune.probe.time", SimpleNamespace(monotonic=lambda: clock.now))
        result = Probe(spec, executor, NoJournal(), Silence(), started=0.0).run()
    return result, clock.now


# Trials


@pytest.mark.parametrize("most", range(1, 16))
@pytest.mark.parametrize("target", [None, 40, 300])
@pytest.mark.parametrize("objective", [Objective.MEMORY, Objective.THROUGHPUT])
def test_no_trial_is_run_beyond_those_allowed_whatever_it_is_for(
    most: int, target: int | None, objective: Objective
) -> None:
    executor, ears = FakeExecutor(forecast_error=0.0), Ears()
    result = probe(executor, ears=ears, max_trials=most, target=target, objective=objective)
    ran = [request for request in executor.requests if isinstance(request, TrialRequest)]
    assert len(ran) == len(result.trials) <= most
    assert len(result.trials) == most or result.is_complete
    for ahead in ears.heard:
        assert ahead.trials is None or ahead.trials > 0
        assert " 0 trials" not in remaining(ahead) and "-" not in remaining(ahead)


def test_what_is_known_of_a_target_for_which_trials_run_out_is_told() -> None:
    """It takes one trial to see that it is refused, and one more to find out how it may be reached."""
    before = len(probe(FakeExecutor(), max_batch_size=64).trials)
    result = probe(FakeExecutor(), max_batch_size=64, target=110, max_trials=before + 1)
    assert [trial.purpose for trial in result.trials[before:]] == ["target"]
    assert (result.stop, result.cut_short, result.is_complete) == (StopReason.CAP, StopReason.TRIALS, False)
    assert result.target is not None and not result.target.fits
    assert (result.target.shortfall_bytes, result.target.plan) == (90, None)


def test_a_target_for_which_no_trial_is_left_is_said_not_to_be_settled() -> None:
    before = len(probe(FakeExecutor(), max_batch_size=64).trials)
    result = probe(FakeExecutor(), max_batch_size=64, target=110, max_trials=before)
    assert (result.batch_size, result.target, result.cut_short) == (64, None, StopReason.TRIALS)
    assert any("batch of 110 " in warning for warning in result.warnings)


def test_a_target_that_was_tried_already_needs_no_trial() -> None:
    before = len(probe(FakeExecutor(), max_batch_size=64).trials)
    result = probe(FakeExecutor(), max_batch_size=64, target=32, max_trials=before)
    assert result.target is not None and result.target.fits
    assert result.is_complete


def test_how_much_too_large_the_smallest_size_is_takes_a_trial_too() -> None:
    executor = FakeExecutor(base_bytes=5000)
    with pytest.raises(NothingFitsError, match="Not even batch size 1 fits: it passed the budget"):
        probe(executor, max_trials=1)
    assert len(executor.requests) == 1


# Seconds


@settings(max_examples=150, deadline=None)
@given(
    seconds_each=st.floats(0.1, 30),
    max_seconds=st.floats(1, 200),
    forks=st.booleans(),
    objective=st.sampled_from([Objective.MEMORY, Objective.THROUGHPUT, Objective.TIME_TO_QUALITY]),
    noise=st.sampled_from(["auto", "off"]),
    target=st.sampled_from([None, 40, 300]),
    num_workers=st.sampled_from([None, 2]),
    forecast_error=st.sampled_from([None, 0.0]),
)
def test_nothing_but_the_first_trial_goes_over_the_seconds_allowed(
    seconds_each, max_seconds, forks, num_workers, forecast_error, **options
) -> None:
    executor = FakeExecutor(forks=forks, num_workers=num_workers, forecast_error=forecast_error, noise_scale=100.0)
    result, took = timed(executor, seconds_each, max_seconds=max_seconds, **options)
    assert took <= max(max_seconds, seconds_each) + LEAST_SECONDS
    assert result.batch_size in {trial.batch_size for trial in result.trials if trial.accepted}


@pytest.mark.parametrize("forks", [True, False])
def test_the_final_round_has_the_time_that_is_left_and_what_was_measured_is_answered(forks: bool) -> None:
    """The search takes 14 trials of 3 s, and the final round 6 s, or 30 s where each size has a process of its own."""
    executor = FakeExecutor(budget_bytes=10**9, forks=forks, alpha_seconds=0.02)
    result, took = timed(executor, 3.0, max_seconds=47, forecast=False)
    held = [request for request in executor.requests if isinstance(request, ContestRequest)]
    assert [request.timeout_seconds for request in held] == [5.0, 2.0]
    assert took == 47
    assert (result.batch_size, result.contest is None) == (512, forks)
    assert (result.stop, result.cut_short) == (StopReason.PLATEAU, StopReason.SECONDS)


def test_a_warm_up_ends_by_itself_before_its_time_is_over() -> None:
    executor = FakeExecutor(noise_scale=100.0)
    options = {"objective": Objective.TIME_TO_QUALITY, "noise": "auto"}
    timed(executor, 1.0, max_seconds=60, **options)
    (request,) = [request for request in executor.requests if isinstance(request, GradientsRequest)]
    assert request.seconds < request.timeout_seconds < 60


def test_without_an_allowance_a_warm_up_has_its_usual_time() -> None:
    executor = FakeExecutor(noise_scale=100.0)
    timed(executor, 1.0, objective=Objective.TIME_TO_QUALITY, noise="auto")
    (request,) = [request for request in executor.requests if isinstance(request, GradientsRequest)]
    assert (request.seconds, request.timeout_seconds) == (120, 240)


def test_a_loader_is_timed_though_no_trial_is_left() -> None:
    executor = FakeExecutor(num_workers=2)
    assert probe(executor, max_trials=3).feeding is not None
    assert isinstance(executor.requests[-1], FeedRequest)


def test_gradients_are_measured_though_no_trial_is_left() -> None:
    result = probe(FakeExecutor(noise_scale=100.0), objective=Objective.TIME_TO_QUALITY, noise="auto", max_trials=3)
    assert result.gradients is not None
    assert (result.stop, result.cut_short) == (StopReason.TRIALS, None)


# What is said of it


@pytest.mark.parametrize("objective", [Objective.MEMORY, Objective.THROUGHPUT])
def test_the_reason_to_stop_is_what_ended_the_search_though_no_trial_is_left_to_confirm(objective: Objective) -> None:
    result = probe(FakeExecutor(), objective=objective, max_batch_size=4, max_trials=3)
    assert (result.stop, result.cut_short) == (StopReason.CAP, StopReason.TRIALS)
    assert not result.is_complete
    assert "since the maximum batch size asked for was reached" in result.summary()
    assert result.stop_reason == f"{StopReason.CAP.value}, then {StopReason.TRIALS.value}"
    assert any("not confirmed in a fresh process" in warning for warning in result.warnings)


def test_so_it_is_where_the_time_is_over() -> None:
    result, _ = timed(FakeExecutor(), 4.0, max_batch_size=4, max_seconds=12, forecast=False)
    assert (result.stop, result.cut_short) == (StopReason.CAP, StopReason.SECONDS)
    assert "since the maximum batch size asked for was reached" in result.summary()


def test_so_it_is_where_only_sizes_between_others_were_left_to_try() -> None:
    whole = probe(FakeExecutor(budget_bytes=10**9))
    before = [trial.purpose for trial in whole.trials].index("refine")
    result = probe(FakeExecutor(budget_bytes=10**9), max_trials=before)
    assert (result.stop, result.cut_short) == (StopReason.PLATEAU, StopReason.TRIALS)
    assert "othing larger was tried, since throughput stopped rising" in result.summary()


def test_so_it_is_where_it_is_interrupted() -> None:
    def interrupt(request: Request) -> None:
        if isinstance(request, TrialRequest) and request.fresh_process:
            raise KeyboardInterrupt

    result = probe(FakeExecutor(events=interrupt), max_batch_size=4)
    assert (result.stop, result.cut_short) == (StopReason.CAP, StopReason.INTERRUPTED)
    assert not result.is_complete


def test_such_an_interruption_is_one_for_the_command_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = example_result(stop=StopReason.CAP, cut_short=StopReason.INTERRUPTED)
    monkeypatch.setattr("autotune.api.run", lambda *_, **__: interrupted)
    assert main(["probe", "m.py", "--quiet"]) == 130


def test_an_allowance_that_ends_the_search_is_the_reason() -> None:
    result = probe(FakeExecutor(), max_batch_size=8, max_trials=3)
    assert (result.stop, result.cut_short) == (StopReason.TRIALS, None)
    assert result.stop_reason == StopReason.TRIALS.value


def test_an_answer_that_was_refused_when_no_trial_was_left_to_go_on_with_has_the_allowance_as_the_reason() -> None:
    def refuse(request: Request) -> Attempt | None:
        if isinstance(request, TrialRequest) and request.fresh_process:
            return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="exception", text="no room"))
        return None

    result = probe(FakeExecutor(events=refuse), max_batch_size=4, max_trials=4, objective=Objective.MEMORY)
    assert (result.stop, result.cut_short) == (StopReason.TRIALS, None)


def test_a_search_that_the_time_ends_before_anything_fitted_is_an_error() -> None:
    with pytest.raises(NoTrialFinishedError, match=f"No batch size had fitted when {StopReason.SECONDS.value}"):
        timed(FakeExecutor(), 5.0, start=1000, max_seconds=3)
