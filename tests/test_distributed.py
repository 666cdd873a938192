"""Models wrapped for training in several processes: run as one of them, and left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from packing import pack, unpack
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autotune import UsageError, find_batch_size
from autotune.bench import Bench
from autotune.devices import open_device
from autotune.executors import GradientsRequest
from autotune.gradient_noise import measure_gradients
from autotune.spec import FileWorkload
from autotune.trial import Training
from autotune.workloads import BuildOptions
from autotune.workloads.distributed import DistributedCopy
from autotune.workloads.frameworks import training_device
from autotune.workloads.live import LiveParts, from_live
from autotune.workloads.opening import build_workload

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch lacks gloo here")

TRAIN = BuildOptions(device="cpu", mode="train")
LOSS = nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """A group of this process alone, as a training that was started with one process has it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 8, generator=random)
    return inputs, (inputs[:, 0] > 0).long()


def wrapped(**settings: Any) -> DistributedDataParallel:
    torch.manual_seed(0)
    return DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), **settings)


def test_a_wrapped_model_gets_an_answer_and_stays_as_it_is() -> None:
    model = wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    result = find_batch_size(model, data(), loss=LOSS, optimizer=optimizer, max_batch_size=8, threads=1, quiet=True)
    assert result.batch_size <= 8 and any(trial.accepted for trial in result.trials)
    assert result.workload.name == "Sequential"
    assert any("exchanging gradients" in assumption for assumption in result.workload.assumptions)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert not optimizer.state


def test_a_step_is_that_of_the_wrapped_model_with_its_settings() -> None:
    parts = LiveParts(model=wrapped(gradient_as_bucket_view=True, bucket_cap_mb=7), data=data(), loss=LOSS)
    workload = from_live(unpack(pack(parts)), TRAIN)
    copied = workload.model
    assert isinstance(copied, DistributedDataParallel) and not workload.is_fork_safe
    assert copied.gradient_as_bucket_view and copied.bucket_bytes_cap == 7 * 2**20

    by_hand = parts.model
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3)
    batch = workload.make_batch(16)
    assert workload.training_step is not None
    for _ in range(3):
        optimizer.zero_grad()
        LOSS(by_hand(batch[0]), batch[1]).backward()
        optimizer.step()
        workload.training_step(batch)
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), by_hand.parameters(), strict=True))


def test_gradients_are_those_of_the_model_without_its_wrapping() -> None:
    found = []
    for model in (wrapped(), wrapped().module):
        torch.manual_seed(1)
        bench = Bench(
            workload=from_live(LiveParts(model=model, data=data(), loss=LOSS), TRAIN),
            device=open_device("cpu"),
            mode="train",
        )
        found.append(measure_gradients(bench, GradientsRequest(batch_size=32, steps=5)))
    assert found[0].square_norms == pytest.approx(found[1].square_norms)
    assert found[0].mean_square_norms == pytest.approx(found[1].mean_square_norms)


def test_a_sharded_model_is_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Linear(8, 2), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(UsageError, match="each process holds a part") as raised:
        find_batch_size(model, data(), loss=LOSS, quiet=True)
    assert "before it is sharded" in raised.value.remedy


def test_where_there_is_no_group_yet_one_is_made() -> None:
    parts = LiveParts(model=wrapped(), data=data(), loss=LOSS)
    packed = pack(parts)
    dist.destroy_process_group()
    try:
        assert isinstance(unpack(packed).model, DistributedCopy)
        assert isinstance(from_live(unpack(packed), TRAIN).model, DistributedDataParallel)
    finally:
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


FILE = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 2))
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)


def make_batch(batch_size):
    return torch.ones(batch_size, 8), torch.zeros(batch_size, dtype=torch.long)
"""


def test_a_file_may_hold_a_wrapped_model_with_its_loss_and_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrapped_model.py").write_text(FILE)
    workload = build_workload(FileWorkload(target="wrapped_model.py"), TRAIN)
    losses = [float(workload.training_step(workload.make_batch(4))) for _ in range(3)]
    assert losses[2] < losses[0]
    assert workload.training == Training("SGD", 0.5, None, 1)


def test_where_a_wrapped_model_trains_is_known() -> None:
    assert training_device(LiveParts(model=wrapped())) == "cpu"
    assert training_device(LiveParts(model=nn.Linear(2, 2))) is None
