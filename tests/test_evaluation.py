"""Whatever trains a model: a look at the loss leaves no trace, and the learning rate can be set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import pack, unpack
from torch import nn

from autotune.bench import Bench
from autotune.devices import open_device
from autotune.errors import UsageError
from autotune.executors import GradientsRequest, TrainRequest
from autotune.gradient_noise import measure_gradients
from autotune.held_out import train
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.live import LiveParts, from_live

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own, of many kinds


def of(parts: LiveParts) -> Workload:
    torch.manual_seed(0)
    return from_live(parts, BuildOptions(device="cpu", mode="train"))


def plain(_: Path) -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))
    data = (torch.randn(40, 4), torch.randint(3, (40,)))
    return of(LiveParts(model=model, data=data, loss=nn.functional.cross_entropy))


def keras(_: Path, **compilation: Any) -> Workload:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    from test_keras import X, Y, mlp

    return of(LiveParts(model=mlp(**{"optimizer": "adam"} | compilation), data=(X, Y)))


def lightning(_: Path) -> Workload:
    pytest.importorskip("lightning")
    from test_lightning import Data, Net

    return of(LiveParts(model=Net(), data=Data()))


def transformers(folder: Path) -> Workload:
    pytest.importorskip("transformers")
    from test_transformers import trainer_of

    torch.manual_seed(0)
    scheduled = trainer_of(folder, warmup_steps=1000, lr_scheduler_type="cosine")
    return of(unpack(pack(LiveParts(model=scheduled))))


FRAMEWORKS = [plain, keras, lightning, transformers]


def weights(workload: Workload) -> list[Any]:
    assert workload.model is not None
    return [parameter.tolist() for parameter in workload.model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("made", FRAMEWORKS)
def test_training_ends_where_it_ends_without_looks(made: Callable[[Path], Workload], tmp_path: Path) -> None:
    ends = []
    for looks in (False, True):
        workload = made(tmp_path)
        assert workload.training_step is not None and workload.evaluate is not None
        batch = workload.make_batch(8)
        for _ in range(4):
            workload.training_step(batch)
            if looks:
                assert workload.evaluate(batch) == workload.evaluate(batch)
        ends.append(weights(workload))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("made", FRAMEWORKS)
def test_without_a_learning_rate_nothing_is_learned(made: Callable[[Path], Workload], tmp_path: Path) -> None:
    workload = made(tmp_path)
    assert workload.training_step is not None and workload.set_learning_rate is not None
    batch = workload.make_batch(8)
    for _ in range(2):  # before the first step, and later
        before = weights(workload)
        workload.set_learning_rate(0.0)
        workload.training_step(batch)
        workload.training_step(batch)
        assert weights(workload) == before
        workload.set_learning_rate(0.1)
        workload.training_step(batch)
        assert weights(workload) != before


@pytest.mark.parametrize("made", FRAMEWORKS)
def test_a_training_is_looked_at_before_its_first_step_and_after(
    made: Callable[[Path], Workload], tmp_path: Path
) -> None:
    bench = Bench(workload=made(tmp_path), device=open_device("cpu"), mode="train")
    request = TrainRequest(
        batch_size=4, seconds=0.2, held_out_samples=8, part_size=4, looks=2, learning_rate=0.01, timeout_seconds=60
    )
    found = train(bench, request)
    assert len(found.losses) == 3 and len(set(found.losses)) > 1 and found.steps > 0


@pytest.mark.parametrize("made", FRAMEWORKS)
def test_gradients_are_measured_at_the_present_learning_rate_or_at_the_one_asked(
    made: Callable[[Path], Workload], tmp_path: Path
) -> None:
    for asked in (None, 0.02):
        bench = Bench(workload=made(tmp_path), device=open_device("cpu"), mode="train")
        found = measure_gradients(bench, GradientsRequest(batch_size=16, steps=6, learning_rate=asked))
        assert len(found.losses) == 6 and found.micro_batches * found.micro_batch_size == 16
        assert all(0 < p < q for p, q in zip(found.mean_square_norms, found.square_norms, strict=True))
        if asked is not None and found.learning_rate is not None:
            assert found.learning_rate == pytest.approx(asked)


def test_a_schedule_of_keras_that_cannot_be_replaced_says_so(tmp_path: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    from keras.optimizers import SGD, schedules

    scheduled = keras(tmp_path, optimizer=SGD(schedules.ExponentialDecay(1e-2, 10, 0.9)))
    assert scheduled.set_learning_rate is not None
    with pytest.raises(UsageError, match="learning rate cannot be set"):
        scheduled.set_learning_rate(0.1)
    bench = Bench(workload=scheduled, device=open_device("cpu"), mode="train")
    assert len(measure_gradients(bench, GradientsRequest(batch_size=16, steps=3)).losses) == 3
