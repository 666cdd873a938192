"""A workload set up on a device: the smallest batch size that it runs at, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.bench import Bench, Step, build_bench, with_smallest, workload_facts
from autotune.devices.cpu import CpuDevice
from autotune.errors import WorkloadError
from autotune.executors import TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.measure import measure
from autotune.spec import FileWorkload, MemoryBudget, ProbeSpec
from autotune.target import PLAN
from autotune.workloads import MicroBatches, Workload

MODEL = """
import torch
from torch import nn

class Model(nn.Linear):
    def forward(self, x):
        assert len(x) in SIZES, f"{len(x)} samples"
        return super().forward(x)

def make_batch(n):
    return torch.randn(n, 4), torch.randn(n, 2)

model = Model(4, 2)
loss = nn.MSELoss()
"""


def bench_of(folder: Path, more: str, multiple_of: int = 1) -> Bench:
    path = folder / "benched.py"  # it stays imported here
    path.write_text(MODEL + more)
    spec = ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu", multiple_of=multiple_of)
    return build_bench(spec, CpuDevice())


@pytest.mark.parametrize(
    ("sizes", "multiple_of", "smallest", "said"),
    [
        ("range(1, 99)", 1, 1, ()),
        ("range(2, 99)", 1, 2, ("the model refuses a batch size below 2",)),
        ("range(0, 99, 8)", 8, 8, ()),
        ("range(16, 99, 8)", 8, 16, ("the model refuses a batch size below 16",)),
    ],
)
def test_the_smallest_size_is_a_multiple_of_what_was_asked_for(
    tmp_path: Path, sizes: str, multiple_of: int, smallest: int, said: tuple[str, ...]
) -> None:
    facts = workload_facts(with_smallest(bench_of(tmp_path, f"SIZES = {sizes}\n", multiple_of)))
    assert facts.smallest_batch_size == smallest
    assert tuple(text for text in facts.assumptions if "refuses" in text) == said


def test_where_no_size_runs_the_error_shows_what_the_model_was_given(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="at batch size 2: AssertionError: 2 samples") as raised:
        with_smallest(bench_of(tmp_path, "SIZES = ()\n"))
    assert "float32[2, 4]" in raised.value.remedy


def test_a_batch_that_cannot_be_made_is_the_first_steps_failure(tmp_path: Path) -> None:
    broken = "def make_batch(n):\n    raise LookupError('no such file')\n"
    with pytest.raises(WorkloadError, match="The first step failed, at batch size 2: LookupError") as raised:
        with_smallest(bench_of(tmp_path, broken))
    assert "make_batch(2)" in raised.value.remedy
    assert "in make_batch" in raised.value.user_traceback


class Mortal(CpuDevice):
    """As a GPU, which raises the same error at every call once an assertion of a kernel has failed."""

    is_dead = False

    def synchronize(self) -> None:
        if self.is_dead:
            raise RuntimeError("CUDA error: device-side assert triggered")


def test_where_the_first_failure_takes_the_device_along_it_is_the_one_that_is_told() -> None:
    device, sizes = Mortal(), []

    def training_step(batch: list[int]) -> None:
        sizes.append(len(batch))
        device.synchronize()
        device.is_dead = True
        raise IndexError("index out of range")

    workload = Workload(make_batch=lambda n: [0] * n, training_step=training_step)
    with pytest.raises(WorkloadError, match="at batch size 1: IndexError: index out of range"):
        with_smallest(Bench(workload=workload, device=device, mode="train"))
    assert sizes == [1]


# Micro-batches

LARGE_SAMPLES = """
import torch
from torch import nn

model = nn.Sequential(nn.Flatten(), nn.Linear(262144, 8))
loss = nn.MSELoss()

def make_batch(n):
    return torch.randn(n, 262144), torch.randn(n, 8)
"""


def test_the_memory_of_a_plan_does_not_grow_with_its_number_of_micro_batches(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.write_text(LARGE_SAMPLES)  # a MiB each
    spec = ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu", budget=MemoryBudget(bytes_=4 << 30))
    peaks = []
    with ChildExecutor(spec) as executor:
        executor.open()
        for steps in (2, 13):
            request = TrialRequest(batch_size=16, effort=PLAN, accumulation_steps=steps)
            measured = executor.run(request).measurement
            assert measured is not None and measured.accumulation_steps == steps
            peaks.append(measured.memory.peak_bytes)
    assert peaks[1] < peaks[0] + (80 << 20)  # 13 at once, twice over, would be 352 MiB more than 2 are


class Counting:
    """Tells what is made, and which of it is processed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.made = 0

    def make_batch(self, size: int) -> list[int]:
        self.made += 1
        self.log.append(f"make {self.made}")
        return [self.made] * size

    def accumulated_step(self, batches: MicroBatches) -> None:
        for batch in batches:
            self.log.append(f"run {batch[0]}")
        self.log.append(f"step over {len(batches)}")

    def bench(self) -> Bench:
        workload = Workload(make_batch=self.make_batch, accumulated_step=self.accumulated_step)
        return Bench(workload=workload, device=CpuDevice(), mode="train")


def test_a_rehearsal_makes_each_micro_batch_when_the_one_before_is_done_and_a_timed_step_makes_none() -> None:
    counting = Counting()
    step = Step(counting.bench(), 4, 3)
    step.rehearse()
    step()
    rehearsed = ["make 1", "run 1", "make 2", "run 2", "make 3", "run 3", "step over 3"]
    assert counting.log == [*rehearsed, "run 3", "run 3", "run 3", "step over 3"]


def test_each_step_of_a_plan_has_another_batch() -> None:
    counting = Counting()
    measure(counting.bench(), TrialRequest(batch_size=4, effort=PLAN, accumulation_steps=5))
    assert counting.made == PLAN.warmup_steps * 5 + PLAN.min_steps
