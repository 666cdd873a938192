"""A forecast that goes wrong in every way costs the forecast, and the probe answers all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.api import run
from autotune.executors import ForecastRequest, TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.probe import BISECT
from autotune.spec import FileWorkload, MemoryBudget, Objective, ProbeSpec
from autotune.trial import Outcome

MODEL = """
import os, signal, time
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

FAULT = {fault!r}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x):
        if isinstance(self.layer.weight, FakeTensor) or isinstance(x, FakeTensor):
            exec(FAULT)
        return self.layer(x)


model = Model()
loss = nn.MSELoss()


def make_batch(n):
    return torch.randn(n, 8), torch.randn(n, 1)
"""
FAULTS = {
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "exits": ("os._exit(7)", "exited with code 7"),
    "raises": ("raise RuntimeError('only with data')", "only with data"),
    "grabs memory": ("kept = []\nwhile True: kept.append(bytearray(1 << 26))", ""),
}


def spec(path: Path, fault: str) -> ProbeSpec:
    path.write_text(MODEL.format(fault=fault))
    return ProbeSpec(
        workload=FileWorkload(target=str(path)),
        device="cpu",
        objective=Objective.MEMORY,
        budget=MemoryBudget(bytes_=2 << 30),
        max_batch_size=8,
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_the_forecast_and_not_the_probe(name: str, tmp_path: Path) -> None:
    fault, told = FAULTS[name]
    result = run(spec(tmp_path / "model.py", fault))
    assert result.max_batch_size == 8
    assert result.forecast is None
    assert result.no_forecast
    assert told in result.no_forecast
    assert all(trial.forecast_bytes is None for trial in result.trials)


def test_a_forecast_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    with ChildExecutor(spec(tmp_path / "model.py", "while True: pass")) as executor:
        executor.open()
        attempt = executor.run(ForecastRequest(batch_sizes=(4,), timeout_seconds=1.0))
        assert attempt.outcome is Outcome.TIMED_OUT
        assert attempt.forecast is None
        assert executor.run(TrialRequest(batch_size=4, effort=BISECT)).outcome is Outcome.FITS


def test_without_a_fault_trials_carry_what_was_predicted(tmp_path: Path) -> None:
    result = run(spec(tmp_path / "model.py", "pass"))
    assert result.forecast is not None
    assert not result.no_forecast
    first, *others = result.trials
    assert first.forecast_bytes is None  # it is what corrects the forecast
    for trial in others:
        assert trial.measurement is not None
        assert trial.forecast_bytes == pytest.approx(trial.measurement.memory.peak_bytes, rel=0.05)
