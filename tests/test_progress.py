"""What a probe says of the trials that remain, against what then came."""

from __future__ import annotations

import math

import pytest
from example_results import example_result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autotune import progress
from autotune.breakdown import breakdown
from autotune.errors import NoTrialFinishedError
from autotune.executors.fake import FakeExecutor
from autotune.listener import Silence
from autotune.probe import Probe
from autotune.progress import Ahead
from autotune.result import Result
from autotune.search import Limits, Search
from autotune.spec import FileWorkload, Objective, ProbeSpec
from autotune.store import NoJournal


class Ears(Silence):
    def __init__(self) -> None:
        self.heard: list[Ahead] = []

    def trial_started(self, number: int, batch_size: int, purpose: str, why: str, ahead: Ahead) -> None:
        self.heard.append(ahead)


def probed(executor: FakeExecutor, **options) -> tuple[list[Ahead], Result]:
    ears = Ears()
    spec = ProbeSpec(workload=FileWorkload(target="model.py"), **options)
    return ears.heard, Probe(spec, executor, NoJournal(), ears).run()


@settings(max_examples=80, deadline=None)
@given(
    slope=st.integers(1, 400),
    start=st.integers(1, 300),
    dataset_size=st.none() | st.integers(1, 2000),
    objective=st.sampled_from([Objective.MEMORY, Objective.THROUGHPUT]),
    multiple_of=st.sampled_from([1, 8]),
    target=st.none() | st.integers(1, 500),
    max_trials=st.none() | st.integers(1, 30),
    forecast_error=st.none() | st.floats(-0.3, 0.3),
)
@example(
    slope=254,
    start=3,
    dataset_size=None,
    objective=Objective.THROUGHPUT,
    multiple_of=1,
    target=None,
    max_trials=None,
    forecast_error=None,
)  # a resolution of 1.8 samples leaves a gap of 2 to ask in
def test_a_bound_is_never_passed(slope, dataset_size, forecast_error, objective, multiple_of, **options) -> None:
    executor = FakeExecutor(
        budget_bytes=10_000, bytes_per_sample=slope, dataset_size=dataset_size, forecast_error=forecast_error
    )
    if dataset_size is not None and dataset_size < multiple_of:
        return
    if objective is Objective.MEMORY and (10_000 - 100) // slope < multiple_of:
        return
    try:
        heard, result = probed(executor, objective=objective, multiple_of=multiple_of, **options)
    except NoTrialFinishedError:
        return  # of the trials allowed none fitted
    assert len(heard) == len(result.trials)
    if any(trial.purpose == "confirm" and not trial.accepted for trial in result.trials):
        return  # what had fitted did not hold, which no bound can know
    if any(trial.largest_safe is not None and not trial.accepted for trial in result.trials):
        return  # nor how far peaks turn out to differ
    for index, ahead in enumerate(heard):
        if ahead.is_bound:
            assert ahead.trials is not None and ahead.trials > 0
            assert len(heard) - index <= ahead.trials


def test_while_sizes_double_towards_an_unknown_edge_nothing_is_promised() -> None:
    heard, _ = probed(FakeExecutor(), objective=Objective.MEMORY, forecast=False)
    assert heard[0] == Ahead()
    assert heard[-1].is_bound


def test_a_forecast_gives_an_expectation_before_there_is_a_bound() -> None:
    heard, _ = probed(FakeExecutor(forecast_error=0.0), objective=Objective.MEMORY)
    assert heard[1].trials is not None
    assert not heard[1].is_bound


def test_the_trials_allowed_are_a_bound() -> None:
    heard, _ = probed(FakeExecutor(), max_trials=3)
    assert [(ahead.trials, ahead.is_bound) for ahead in heard] == [(3, True), (2, True), (1, True)]


def test_the_expected_time_follows_from_the_trials_so_far() -> None:
    heard, _ = probed(FakeExecutor(dataset_size=64), objective=Objective.MEMORY)
    assert heard[0].seconds is None
    assert all(ahead.seconds is not None for ahead in heard[1:])


def test_no_longer_is_expected_than_is_allowed() -> None:
    search, known = Search(Limits(largest=1024)), example_result().trials[:2]
    spec = ProbeSpec(workload=FileWorkload(target="model.py"))
    unlimited, limited = (progress.ahead(search, None, known, spec, left) for left in (math.inf, 0.5))
    assert unlimited.seconds is not None
    assert unlimited.seconds > 0.5
    assert (limited.seconds, limited.trials) == (0.5, unlimited.trials)


@pytest.mark.parametrize("objective", [Objective.MEMORY, Objective.THROUGHPUT])
def test_the_parts_of_a_probes_time_add_up_to_the_whole(objective: Objective) -> None:
    _, result = probed(FakeExecutor(forecast_error=0.0), objective=objective)
    parts = breakdown(result)
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(result.seconds)
    assert (parts["comparing the fastest"] > 0) == (objective is Objective.THROUGHPUT)
