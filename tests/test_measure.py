"""What one trial times."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.bench import build_bench
from autotune.devices.cpu import CpuDevice
from autotune.executors import Effort, TrialRequest
from autotune.measure import measure
from autotune.spec import FileWorkload, Mode, Objective, ProbeSpec

MODEL = """
import torch
from torch import nn

model = nn.Linear(4, 2)
loss = nn.MSELoss()

def make_batch(n):
    return torch.randn(n, 4), torch.randn(n, 2)
"""


class Behind(CpuDevice):
    """Stands for a device that runs behind the host, whose clock is read after blocks of short steps."""

    torch_device = "cpu:0"


@pytest.mark.parametrize(
    ("options", "is_single"),
    [
        ({"mode": Mode.TRAIN}, False),
        ({"mode": Mode.INFERENCE}, True),
        ({"mode": Mode.TRAIN, "objective": Objective.LATENCY, "latency_seconds": 1.0}, True),
    ],
    ids=["training", "inference", "latency"],
)
def test_quantiles_are_of_single_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, is_single: bool
) -> None:
    monkeypatch.setattr("autotune.measure.BLOCK_SECONDS", 0.5)  # far above a step's time, however busy the machine is
    path = tmp_path / "measured.py"
    path.write_text(MODEL)
    bench = build_bench(ProbeSpec(workload=FileWorkload(target=str(path)), **options), Behind())
    effort = Effort(warmup_steps=2, min_steps=3, max_steps=40, seconds=60.0)
    measurement = measure(bench, TrialRequest(batch_size=4, effort=effort))
    assert (len(measurement.step_seconds) == 40) is is_single
