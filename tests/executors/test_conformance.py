"""What every executor promises, on the fake and the real ones alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from worker_processes import workers

from autotune.devices import host
from autotune.executors import (
    ContestRequest,
    Effort,
    Executor,
    ForecastRequest,
    GradientsRequest,
    TrainRequest,
    TrialRequest,
)
from autotune.executors.children import ChildExecutor
from autotune.executors.fake import FakeExecutor
from autotune.executors.inprocess import InProcessExecutor
from autotune.spec import FileWorkload, LiveWorkload, MemoryBudget, ProbeSpec, WorkloadRef
from autotune.trial import Outcome
from autotune.workloads.live import LiveParts

QUICK = Effort(warmup_steps=1, min_steps=2, max_steps=2, seconds=0.0)
BUDGET_BYTES = 4 << 30
MODEL = """
import torch
from torch import nn

model = nn.Linear(8, 2)
loss = nn.MSELoss()
dataset_size = 640

def make_batch(n):
    return torch.randn(n, 8), torch.randn(n, 2)
"""


def spec(workload: WorkloadRef) -> ProbeSpec:
    return ProbeSpec(workload=workload, device="cpu", budget=MemoryBudget(bytes_=BUDGET_BYTES))


def fake(_: Path) -> Executor:
    return FakeExecutor(budget_bytes=BUDGET_BYTES, dataset_size=640, noise_scale=50.0)


def forked(path: Path) -> Executor:
    return ChildExecutor(spec(FileWorkload(target=str(path))))


def spawned(path: Path) -> Executor:
    return ChildExecutor(spec(FileWorkload(target=str(path))), may_fork=False)


def in_process(_: Path) -> Executor:
    data = (torch.randn(640, 8), torch.randn(640, 2))
    return InProcessExecutor(spec(LiveWorkload()), LiveParts(model=nn.Linear(8, 2), data=data, loss=nn.MSELoss()))


@pytest.fixture(scope="module", params=[fake, forked, spawned, in_process], ids=lambda maker: maker.__name__)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    make: Callable[[Path], Executor] = request.param
    path = tmp_path_factory.mktemp("model") / "model.py"
    path.write_text(MODEL)
    made = make(path)
    made.opened = made.open()  # type: ignore[attr-defined]
    yield made
    made.close()
    made.close()  # twice is allowed


def test_opening_tells_the_facts_and_the_budget(executor: Executor) -> None:
    opened = executor.opened  # type: ignore[attr-defined]
    assert opened.budget_bytes == BUDGET_BYTES
    assert opened.workload.dataset_size == 640
    assert opened.workload.smallest_batch_size == 1
    assert opened.workload.can_accumulate
    assert opened.environment.device == "cpu"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_trial_measures_the_batch_size_that_was_asked_for(executor: Executor, size: int) -> None:
    attempt = executor.run(TrialRequest(batch_size=size, effort=QUICK))
    assert attempt.outcome is Outcome.FITS
    assert attempt.evidence is None and attempt.contest is None
    measurement = attempt.measurement
    assert measurement is not None
    assert measurement.batch_size == size
    assert len(measurement.step_seconds) == len(measurement.cpu_seconds) == 2
    assert all(seconds > 0 for seconds in measurement.step_seconds)
    assert 0 < measurement.memory.base_bytes <= measurement.memory.peak_bytes


def test_fresh_processes_may_be_prepared_and_then_used_or_not(executor: Executor) -> None:
    executor.prepare(2, 1 << 30)
    fresh = TrialRequest(batch_size=4, effort=QUICK, fresh_process=True)
    assert [executor.run(fresh).outcome for _ in range(3)] == [Outcome.FITS] * 3
    executor.prepare(1, 1 << 30)  # closing ends it


def test_a_trial_may_accumulate(executor: Executor) -> None:
    measurement = executor.run(TrialRequest(batch_size=4, effort=QUICK, accumulation_steps=3)).measurement
    assert measurement is not None
    assert (measurement.batch_size, measurement.accumulation_steps) == (4, 3)


def test_a_contest_times_each_size_in_each_round(executor: Executor) -> None:
    contest = executor.run(ContestRequest(batch_sizes=(2, 8), seconds=0.1)).contest
    assert contest is not None
    assert contest.batch_sizes == (2, 8)
    assert len(contest.rounds) >= 5
    assert all(len(row) == 2 and min(row) > 0 for row in contest.rounds)


def test_a_training_is_looked_at_from_its_start_to_its_end(executor: Executor) -> None:
    request = TrainRequest(batch_size=8, seconds=0.3, held_out_samples=64, part_size=8, looks=3, learning_rate=0.01)
    curve = executor.run(request).curve
    assert curve is not None and (curve.batch_size, curve.learning_rate) == (8, 0.01)
    assert len(curve.losses) == len(curve.seconds) == 4 and len(curve.reached_losses) == 8
    assert curve.seconds[0] == 0.0 and list(curve.seconds) == sorted(curve.seconds) and curve.seconds[-1] >= 0.3
    assert curve.steps > 0


def test_gradients_of_micro_batches_are_measured(executor: Executor) -> None:
    gradients = executor.run(GradientsRequest(batch_size=32, steps=5)).gradients
    assert gradients is not None and len(gradients.losses) == 5
    assert gradients.micro_batch_size * gradients.micro_batches == 32
    assert all(0 < p <= q for p, q in zip(gradients.mean_square_norms, gradients.square_norms, strict=True))


def test_a_budget_that_is_too_small_is_an_outcome_or_a_peak_above_it(tmp_path: Path) -> None:
    """The real limit on the real thing: a batch of 256 MiB under a budget of 400 MiB in all."""
    path = tmp_path / "model.py"
    path.write_text(MODEL.replace("nn.Linear(8, 2)", "nn.Linear(8, 4096)").replace("(n, 2)", "(n, 4096)"))
    small = ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu", budget=MemoryBudget(bytes_=400 << 20))
    for may_fork in (True, False):
        with ChildExecutor(small, may_fork=may_fork) as executor:
            executor.open()
            attempt = executor.run(TrialRequest(batch_size=16384, effort=QUICK))
            assert attempt.outcome is Outcome.OUT_OF_MEMORY, attempt
            lifted = executor.run(TrialRequest(batch_size=16384, effort=QUICK, enforce=False))
            assert lifted.measurement is not None
            assert lifted.measurement.memory.peak_bytes > 400 << 20


def test_threads_that_were_started_before_a_fork_cost_the_forks_and_not_the_probe(tmp_path: Path) -> None:
    """A parallel region at import time leaves a thread pool that no forked child has: its first step hangs."""
    path = tmp_path / "model.py"
    path.write_text(MODEL + "\ntorch.set_num_threads(2)\n(torch.randn(1000, 1000) @ torch.randn(1000, 1000)).exp()\n")
    with ChildExecutor(spec(FileWorkload(target=str(path)))) as executor:
        executor.open()
        assert executor.run(TrialRequest(batch_size=64, effort=QUICK)).outcome is Outcome.FITS


def test_a_forecast_is_made_or_a_reason_given_and_trials_go_on(executor: Executor) -> None:
    attempt = executor.run(ForecastRequest(batch_sizes=(4, 64), budgets_bytes=(BUDGET_BYTES,), largest=128))
    if attempt.forecast is None:
        assert attempt.evidence is not None
        assert attempt.evidence.text
    else:
        sizes = [footprint.batch_size for footprint in attempt.forecast.footprints]
        assert {4, 64} <= set(sizes)
        assert sizes == sorted(sizes)
        assert attempt.forecast.largest_batch_sizes == (128,)
    after = executor.run(TrialRequest(batch_size=7, effort=QUICK))
    assert after.outcome is Outcome.FITS
    assert after.measurement is not None


@pytest.mark.parametrize("at_once", [True, False])
def test_a_process_in_wait_that_is_killed_costs_nothing_but_itself(
    tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits for its job from the beginning; another is started when two are asked for."""
    monkeypatch.setattr(host, "available_bytes", lambda: 8 << 30)  # whatever tests beside this one take
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    others = workers()
    with ChildExecutor(spec(FileWorkload(target=str(path)))) as executor:
        executor.open()
        first, server = sorted(workers(others), key=lambda child: child.create_time())
        if at_once:
            _kill(first)
        executor.prepare(2, 1 << 30)
        waiting = workers([*others, server])
        if not at_once:
            assert len(waiting) == 2 and first in waiting
            _kill(waiting[-1])
        fresh = TrialRequest(batch_size=4, effort=QUICK, fresh_process=True)
        assert [executor.run(fresh).outcome for _ in range(2)] == [Outcome.FITS] * 2
    assert not any(child.is_running() for child in (first, server, *waiting))


def _kill(process: psutil.Process) -> None:
    process.kill()
    process.wait()


def test_a_process_in_wait_that_is_never_needed_does_not_outlive_the_executor(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    others = workers()
    with ChildExecutor(spec(FileWorkload(target=str(path)))) as executor:
        executor.open()
        started = workers(others)
        assert len(started) == 2
    assert not any(child.is_running() for child in started)


def test_nothing_is_prepared_where_a_trial_would_then_lack_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    with ChildExecutor(spec(FileWorkload(target=str(path)))) as executor:
        executor.open()
        before = len(workers())
        executor.prepare(2, host.available_bytes() - (64 << 20))
        assert len(workers()) == before
