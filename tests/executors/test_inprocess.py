"""Trials on the caller's own objects: interrupted, on a device that died, and with a GPU's random state."""

from __future__ import annotations

import copy
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autotune.devices.cpu import CpuDevice
from autotune.executors import Effort, TrialRequest
from autotune.executors.inprocess import InProcessExecutor
from autotune.executors.snapshot import take_snapshot
from autotune.listener import Silence
from autotune.probe import Probe
from autotune.result import StopReason
from autotune.spec import LiveWorkload, MemoryBudget, Objective, ProbeSpec
from autotune.store import NoJournal
from autotune.workloads.live import LiveParts

QUICK = Effort(warmup_steps=1, min_steps=2, max_steps=2, seconds=0.0)
SPEC = ProbeSpec(
    workload=LiveWorkload(),
    device="cpu",
    objective=Objective.MEMORY,
    budget=MemoryBudget(bytes_=8 << 30),
    max_batch_size=64,
)


def executor_of(model: nn.Module) -> InProcessExecutor:
    """Somebody presses Ctrl-C in the first step with more than 8 samples."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if len(output) > 8:
            signal.raise_signal(signal.SIGINT)
        return nn.functional.mse_loss(output, target)

    return InProcessExecutor(SPEC, LiveParts(model=model, data=(torch.randn(64, 8), torch.randn(64, 2)), loss=loss))


def test_ctrl_c_is_the_users_and_all_is_put_back() -> None:
    model = nn.Linear(8, 2)
    before = copy.deepcopy(model.state_dict())
    executor = executor_of(model)
    try:
        executor.open()
        with pytest.raises(KeyboardInterrupt):
            executor.run(TrialRequest(batch_size=16, effort=QUICK))
        assert not torch.equal(model.weight, before["weight"])  # the first steps have trained it
    finally:
        executor.close()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ctrl_c_ends_a_probe_with_the_best_so_far() -> None:
    executor = executor_of(nn.Linear(8, 2))
    try:
        result = Probe(SPEC, executor, NoJournal(), Silence()).run()
    finally:
        executor.close()
    assert (result.stop, result.batch_size) == (StopReason.INTERRUPTED, 8)


class Dead(CpuDevice):
    """As a GPU after a failed assertion of a kernel."""

    def synchronize(self) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    def limit(self, budget_bytes: int) -> None:
        self.synchronize()


def test_closing_on_a_device_that_died_hides_no_error_by_one_of_its_own() -> None:
    executor = executor_of(nn.Linear(8, 2))
    executor.open()
    executor._device = Dead()
    executor.close()
    executor.close()


def test_the_random_state_of_apples_gpu_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = SimpleNamespace(state=torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.clone(metal.state))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: setattr(metal, "state", state))
    snapshot = take_snapshot(None, None)
    metal.state = torch.tensor([8], dtype=torch.uint8)
    snapshot.restore()
    assert metal.state.tolist() == [7]
