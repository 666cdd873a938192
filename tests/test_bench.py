"""A workload set up on a device: the smallest batch size that it runs at, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.bench import Bench, build_bench, with_smallest, workload_facts
from autotune.devices.cpu import CpuDevice
from autotune.errors import WorkloadError
from autotune.spec import FileWorkload, ProbeSpec
from autotune.workloads import Workload

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
