"""Loops of one's own, run until the optimizer has stepped: with Accelerate, and without."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import pack, unpack
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("greenlet")

from autotune import UsageError, WorkloadError, find_batch_size
from autotune.accelerate import find_executable_batch_size
from autotune.workloads import BuildOptions
from autotune.workloads.live import LiveParts, from_live
from autotune.workloads.own_loops import OwnLoop, Samples

TRAIN = BuildOptions(device="cpu", mode="train")
QUICK: dict[str, Any] = {"quiet": True, "max_trials": 3}


def loop(batch_size: int, width: int = 8, samples: int = 64) -> list[float]:
    """A training of one epoch; returns its losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    for inputs, targets in DataLoader(
        TensorDataset(torch.randn(samples, 4), torch.randint(2, (samples,))), batch_size=batch_size
    ):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_function_is_called_once_here_with_the_size_found_and_trains_as_without() -> None:
    state, python = torch.get_rng_state(), random.getstate()
    train = find_executable_batch_size(starting_batch_size=16, **QUICK)(loop)
    losses = train(width=12)
    assert train.result.batch_size == 16
    assert [trial.batch_size for trial in train.result.trials] == [16, 16, 16]  # tried first, and confirmed twice
    assert random.getstate() == python
    torch.set_rng_state(state)
    assert losses == loop(16, width=12)
    assert train.result.workload.name == "loop"


def test_memory_that_is_short_is_found_out_before_the_training(tmp_path: Path) -> None:
    """Below the cap the largest that fits; nothing crashes here on the way."""

    alone = find_executable_batch_size(starting_batch_size=1, **QUICK)(loop)
    alone()
    budget_bytes = alone.result.trials[0].measurement.memory.peak_bytes + (190 << 20)

    @find_executable_batch_size(starting_batch_size=4096, quiet=True, memory_budget=f"{budget_bytes}")
    def train(batch_size: int) -> int:
        with (tmp_path / "calls").open("a") as calls:
            calls.write(f"{batch_size}\n")
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(20):
            held = torch.ones(batch_size, 1 << 18)  # a MiB for each sample
            (held.sum() * 0 + weight.sum()).backward()
            optimizer.step()
        return batch_size

    size = train()
    assert 64 < size < 256
    assert size == train.result.batch_size == train.result.edge.largest_fits
    assert train.result.edge.confirmations >= 2
    assert (tmp_path / "calls").read_text().splitlines()[-1] == str(size)


def test_accelerate_itself_may_be_inside() -> None:
    accelerate = pytest.importorskip("accelerate")

    @find_executable_batch_size(starting_batch_size=8, **QUICK)
    def train(batch_size: int) -> float:
        accelerator = accelerate.Accelerator(cpu=True)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer, loader = accelerator.prepare(
            model, optimizer, DataLoader(torch.randn(32, 4), batch_size=batch_size)
        )
        for inputs in loader:
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            accelerator.backward(loss)
            optimizer.step()
        return loss.item()

    assert train() >= 0
    assert train.result.batch_size == 8


def test_a_training_that_is_shorter_than_a_trial_is_run_again() -> None:
    workload = from_live(unpack(pack(LiveParts(model=OwnLoop(loop, keywords={"samples": 4})))), TRAIN)
    for _ in range(5):
        workload.training_step(Samples(2))
    workload.training_step(Samples(4))  # sizes may take turns
    workload.training_step(Samples(2))


def test_a_loop_without_a_step_is_told() -> None:
    def idle(batch_size: int) -> None:
        return None

    with pytest.raises(WorkloadError, match=r"idle\(1\) came to its end without a step"):
        find_batch_size(OwnLoop(idle), quiet=True)


def test_the_functions_own_error_arrives_with_its_traceback() -> None:
    @find_executable_batch_size(starting_batch_size=4, quiet=True)
    def train(batch_size: int) -> None:
        raise KeyError("the user's own")

    with pytest.raises(WorkloadError, match="the user's own") as caught:
        train()
    assert 'raise KeyError("the user\'s own")' in caught.value.user_traceback


def test_a_function_without_a_batch_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\(\) takes no argument") as caught:

        @find_executable_batch_size
        def train() -> None: ...

    assert "def train(batch_size):" in caught.value.remedy


def test_arguments_that_cannot_be_copied_are_refused_before_anything_runs() -> None:
    train = find_executable_batch_size(loop, quiet=True)
    with pytest.raises(UsageError, match="cannot be sent to another process"):
        train(width=(value for value in ()))
