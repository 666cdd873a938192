"""Which process serves a request, and which others live beside it. Of a GPU only the name is pretended."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from worker_processes import workers

from autotune.executors import ContestRequest, Effort, Request, TrainRequest, TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.executors.worker_process import WorkerProcess
from autotune.spec import FileWorkload, MemoryBudget, ProbeSpec
from autotune.trial import Outcome

QUICK = Effort(warmup_steps=1, min_steps=2, max_steps=2, seconds=0.0)
PLAIN = TrialRequest(batch_size=4, effort=QUICK)
FRESH: dict[str, Request] = {
    "trial": TrialRequest(batch_size=4, effort=QUICK, fresh_process=True),
    "contest": ContestRequest(batch_sizes=(2, 4), seconds=0.0, min_rounds=1, fresh_process=True),
    "training": TrainRequest(batch_size=4, seconds=0.1, held_out_samples=16, part_size=4, looks=2),
}
MODEL = """
import torch
from torch import nn

model = nn.Linear(8, 2)
loss = nn.MSELoss()

def make_batch(n):
    return torch.randn(n, 8), torch.randn(n, 2)
"""


def unforking(folder: Path) -> ChildExecutor:
    path = folder / "model.py"
    path.write_text(MODEL)
    spec = ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu", budget=MemoryBudget(bytes_=2 << 30))
    return ChildExecutor(spec, may_fork=False)


@pytest.mark.parametrize("fresh", FRESH)
def test_a_fresh_process_has_the_gpu_for_itself_and_serves_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: str
) -> None:
    others, beside = workers(), []

    def started(executor: ChildExecutor, start=ChildExecutor._started) -> WorkerProcess:
        beside.append(len(workers(others)))
        return start(executor)

    with unforking(tmp_path) as executor:
        executor.open()
        executor._built = msgspec.structs.replace(executor._built, device="cuda:0")
        monkeypatch.setattr(ChildExecutor, "_started", started)
        assert executor.run(PLAIN).outcome is Outcome.FITS
        first = workers(others)
        assert executor.run(FRESH[fresh]).outcome is Outcome.FITS
        second = workers(others)
        assert executor.run(PLAIN).outcome is Outcome.FITS
        assert workers(others) == second
        assert len(first) == len(second) == 1 and first != second
    assert beside == [0, 0]


def test_where_each_request_has_a_process_of_its_own_the_first_one_holds_nothing_beside_them(tmp_path: Path) -> None:
    others = workers()
    with unforking(tmp_path) as executor:
        executor.open()
        assert not workers(others)
        executor.prepare(2, 1 << 30)
        assert len(workers(others)) == 2
        assert executor.run(PLAIN).outcome is Outcome.FITS
