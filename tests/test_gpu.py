"""The whole way on a CUDA GPU. Skipped where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import autotune
from autotune.errors import WorkloadError
from autotune.executors import ContestRequest, Effort, TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.spec import FileWorkload, MemoryBudget, Objective, ProbeSpec
from autotune.trial import Outcome

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

BUDGET_BYTES = 2 << 30
QUICK = Effort(min_steps=3, max_steps=3, seconds=0.0)
MODEL = """
import torch
from torch import nn

model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(4096, 4096), nn.GELU())])
loss = nn.MSELoss()

def make_batch(n):
    return torch.randn(n, 4096), torch.randn(n, 4096)
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def executor(model_file: Path) -> Iterator[ChildExecutor]:
    spec = ProbeSpec(
        workload=FileWorkload(target=str(model_file)), device="cuda", budget=MemoryBudget(bytes_=BUDGET_BYTES)
    )
    with ChildExecutor(spec) as opened:
        opened.open()
        yield opened


def test_one_child_runs_all_trials_while_they_fit_and_is_replaced_after_a_failure(executor: ChildExecutor) -> None:
    assert executor._worker is not None
    first = executor._worker.pid
    for size in (1, 64, 8):
        assert executor.run(TrialRequest(batch_size=size, effort=QUICK)).outcome is Outcome.FITS
        assert executor._worker.pid == first
    refused = executor.run(TrialRequest(batch_size=1 << 20, effort=QUICK))
    assert refused.outcome is Outcome.OUT_OF_MEMORY
    assert executor.run(TrialRequest(batch_size=8, effort=QUICK)).outcome is Outcome.FITS
    assert executor._worker is not None and executor._worker.pid != first


def test_a_fresh_process_is_alone_and_serves_what_follows(executor: ChildExecutor) -> None:
    assert executor.run(TrialRequest(batch_size=8, effort=QUICK)).outcome is Outcome.FITS
    assert executor._worker is not None
    first = executor._worker.pid
    assert executor.run(TrialRequest(batch_size=8, effort=QUICK, fresh_process=True)).outcome is Outcome.FITS
    assert not psutil.pid_exists(first)
    second = executor._worker.pid
    assert executor.run(TrialRequest(batch_size=8, effort=QUICK)).outcome is Outcome.FITS
    assert executor._worker.pid == second


ASSERTING = """
import torch
from torch import nn

FIRST = {first}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, x):
        return self.table(x + 10 if len(x) >= FIRST else x)

model = Model()

def loss(output, target):
    return output.sum()

def make_batch(n):
    return torch.zeros(n, dtype=torch.long), torch.zeros(n)
"""


@pytest.fixture
def asserting(tmp_path: Path) -> Callable[[int], ChildExecutor]:
    """A model that reads past a table's end from a batch size on, which the device notices and does not survive."""

    def made(first: int) -> ChildExecutor:
        path = tmp_path / "asserting.py"
        path.write_text(ASSERTING.format(first=first))
        return ChildExecutor(ProbeSpec(workload=FileWorkload(target=str(path)), device="cuda"))

    return made


def test_a_failed_assertion_on_the_device_is_the_users_in_the_first_step(
    asserting: Callable[[int], ChildExecutor],
) -> None:
    with asserting(1) as executor, pytest.raises(WorkloadError, match=r"at batch size 1: .*assert") as raised:
        executor.open()
    assert "device-side assert" in raised.value.user_traceback


def test_a_failed_assertion_on_the_device_is_the_users_in_a_trial(asserting: Callable[[int], ChildExecutor]) -> None:
    with asserting(8) as executor:
        executor.open()
        failed = executor.run(TrialRequest(batch_size=8, effort=QUICK))
        assert failed.outcome is Outcome.FAILED, failed
        assert "assert" in failed.reason
        assert executor.run(TrialRequest(batch_size=4, effort=QUICK)).outcome is Outcome.FITS


def test_the_peak_counts_context_and_cache_and_the_conditions_come_from_the_driver(executor: ChildExecutor) -> None:
    attempt = executor.run(TrialRequest(batch_size=64, effort=Effort(seconds=0.5)))
    assert attempt.measurement is not None
    memory, conditions = attempt.measurement.memory, attempt.measurement.conditions
    assert memory.allocated_bytes is not None and memory.reserved_bytes is not None
    assert memory.allocated_bytes <= memory.reserved_bytes <= memory.peak_bytes <= BUDGET_BYTES
    assert conditions.power_watts is None or conditions.power_watts > 0


def test_contenders_alternate(executor: ChildExecutor) -> None:
    attempt = executor.run(ContestRequest(batch_sizes=(8, 16), seconds=0.5))
    assert attempt.contest is not None and len(attempt.contest.rounds) >= 5


def test_the_largest_that_fits_is_exact_and_holds(model_file: Path) -> None:
    from autotune.api import run

    spec = ProbeSpec(
        workload=FileWorkload(target=str(model_file)),
        device="cuda",
        objective=Objective.MEMORY,
        budget=MemoryBudget(bytes_=BUDGET_BYTES),
    )
    result = run(spec)
    assert result.edge.is_exact
    assert not result.edge.band
    assert result.environment.device.startswith("cuda")


def test_a_model_on_the_gpu_is_tried_in_place_and_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Dropout(0.1), nn.Linear(256, 10)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    data = (torch.randn(4096, 256), torch.randint(0, 10, (4096,)))
    nn.functional.cross_entropy(model(data[0][:8].cuda()), data[1][:8].cuda()).backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), torch.cuda.get_rng_state()))
    addresses = [parameter.data_ptr() for parameter in model.parameters()]

    result = autotune.find_batch_size(
        model, data, loss=nn.CrossEntropyLoss(), optimizer=optimizer, quiet=True, max_trials=6
    )

    after = (model.state_dict(), optimizer.state_dict(), torch.cuda.get_rng_state())
    assert not result.isolated
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
    for index, state in before[1]["state"].items():
        assert all(torch.equal(value, after[1]["state"][index][name]) for name, value in state.items())
    assert torch.equal(before[2], after[2])


def test_a_model_on_the_host_is_tried_on_the_gpu_in_children() -> None:
    model = nn.Linear(64, 4)
    result = autotune.find_batch_size(
        model, (torch.randn(512, 64), torch.randn(512, 4)), loss=nn.MSELoss(), quiet=True, max_trials=4
    )
    assert result.isolated
    assert result.environment.device.startswith("cuda")
    assert next(model.parameters()).device.type == "cpu"
