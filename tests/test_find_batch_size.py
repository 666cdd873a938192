"""`find_batch_size` on live objects: it answers, and leaves them bit for bit as they were."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotune
from autotune import api
from autotune.errors import UsageError, WorkloadError
from autotune.executors import Effort, TrialRequest
from autotune.executors.inprocess import InProcessExecutor
from autotune.spec import LiveWorkload, MemoryBudget, ProbeSpec
from autotune.trial import Outcome
from autotune.workloads.live import LiveParts

FEW = {"max_trials": 3, "quiet": True, "device": "cpu"}


class Everything(nn.Module):
    """BatchNorm, dropout, tied weights, a frozen layer, a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.inner.weight
        self.frozen = nn.Linear(8, 4).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return self.frozen(self.drop(self.norm(self.tied(self.inner(x)))))


def trained(optimizer_type=torch.optim.AdamW, **options):
    """A model in the middle of its training, with gradients in place."""
    torch.manual_seed(3)
    model = Everything()
    optimizer = optimizer_type([p for p in model.parameters() if p.requires_grad], lr=0.01, **options)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 4, (64,)))
    for _ in range(3):
        x, y = data[:16]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    model.drop.eval()  # a mode of its own
    return model, optimizer, scheduler, data


def state_of(model, optimizer, scheduler):
    """Everything that a continuation depends on, copied."""
    return {
        "model": copy.deepcopy(model.state_dict()),
        "seen": model.seen.clone(),
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "identities": [id(p) for p in model.parameters()] + [p.data_ptr() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "scheduler": copy.deepcopy(scheduler.state_dict()),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
    }


def assert_equal(a, b, where="state") -> None:
    """Equal bit for bit, at any depth."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        assert a.numpy().tobytes() == b.numpy().tobytes(), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_equal(left, right, f"{where}[{i}]")
    else:
        assert a == b, where


def continuation(model, optimizer, scheduler, data) -> list[torch.Tensor]:
    """Three more steps of training, with dropout on."""
    model.train()
    for _ in range(3):
        x, y = data[:16]
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    return [p.detach().clone() for p in model.parameters()]


OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
]


@pytest.mark.parametrize(("optimizer_type", "options"), OPTIMIZERS)
def test_the_callers_objects_stay_as_they_are_and_training_goes_on_alike(optimizer_type, options) -> None:
    untouched = trained(optimizer_type, **options)
    reference = continuation(*untouched)

    model, optimizer, scheduler, data = trained(optimizer_type, **options)
    before = state_of(model, optimizer, scheduler)
    result = autotune.find_batch_size(
        model, data, loss=nn.CrossEntropyLoss(), optimizer=optimizer, precision="fp16", **FEW
    )
    assert_equal(state_of(model, optimizer, scheduler), before)
    assert result.isolated
    assert_equal(continuation(model, optimizer, scheduler, data), reference, "continuation")


@pytest.mark.parametrize(("optimizer_type", "options"), OPTIMIZERS)
def test_trials_in_this_process_put_everything_back(optimizer_type, options) -> None:
    """The way of a model that lives on a GPU, run on the CPU, where it is the same code."""
    untouched = trained(optimizer_type, **options)
    reference = continuation(*untouched)

    model, optimizer, scheduler, data = trained(optimizer_type, **options)
    before = state_of(model, optimizer, scheduler)
    parts = LiveParts(model=model, data=data, loss=nn.CrossEntropyLoss(), optimizer=optimizer, name="live")
    spec = ProbeSpec(workload=LiveWorkload(), device="cpu", budget=MemoryBudget(bytes_=8 << 30))
    executor = InProcessExecutor(spec, parts)
    try:
        opened = executor.open()
        assert not opened.isolated
        effort = Effort(min_steps=3, max_steps=3, seconds=0)
        assert executor.run(TrialRequest(batch_size=32, effort=effort)).outcome is Outcome.FITS
        assert executor.run(TrialRequest(batch_size=8, effort=effort, accumulation_steps=2)).outcome is Outcome.FITS
    finally:
        executor.close()
    assert_equal(state_of(model, optimizer, scheduler), before)
    assert_equal(continuation(model, optimizer, scheduler, data), reference, "continuation")


def test_a_step_of_ones_own_in_this_process_leaves_all_that_it_names_as_it_was() -> None:
    model, optimizer, scheduler, data = trained()
    margin, scale = nn.Linear(4, 4), nn.Parameter(torch.ones(()))
    others = torch.optim.SGD([*margin.parameters(), scale], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    def step(batch):
        x, y = batch
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(scale * margin(model(x)), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.step(others)
        scaler.update()
        scheduler.step()
        return loss

    def state():
        rest = (margin.state_dict(), scale.detach(), scale.grad, others.state_dict(), scaler.state_dict())
        return copy.deepcopy((state_of(model, optimizer, scheduler), rest))

    step(data[:4])
    before = state()
    parts = LiveParts(model=model, data=data, training_step=step, name="live")
    spec = ProbeSpec(workload=LiveWorkload(), device="cpu", budget=MemoryBudget(bytes_=8 << 30))
    executor = InProcessExecutor(spec, parts)
    try:
        executor.open()
        assert executor.run(TrialRequest(batch_size=8, effort=Effort())).outcome is Outcome.FITS
        assert scaler.get_scale() > 8
    finally:
        executor.close()
    assert_equal(state(), before)


def test_a_failure_in_this_process_puts_everything_back() -> None:
    model, optimizer, scheduler, data = trained()
    before = state_of(model, optimizer, scheduler)

    def loss(output, target):
        if len(output) > 4:
            raise MemoryError
        return nn.functional.cross_entropy(output, target)

    parts = LiveParts(model=model, data=data, loss=loss, optimizer=optimizer, name="live")
    spec = ProbeSpec(workload=LiveWorkload(), device="cpu", budget=MemoryBudget(bytes_=8 << 30))
    executor = InProcessExecutor(spec, parts)
    try:
        executor.open()
        attempt = executor.run(TrialRequest(batch_size=8, effort=Effort()))
    finally:
        executor.close()
    assert attempt.outcome is Outcome.OUT_OF_MEMORY
    assert_equal(state_of(model, optimizer, scheduler), before)


def test_the_answer_goes_straight_into_a_loader_and_a_file(tmp_path: Path) -> None:
    model, optimizer, _, data = trained()
    loader = DataLoader(data, batch_size=2, shuffle=True)
    result = autotune.find_batch_size(
        model, loader, loss=nn.CrossEntropyLoss(), optimizer=optimizer, quiet=True, device="cpu", objective="memory"
    )
    assert result.batch_size == result.max_batch_size == 64  # the whole dataset
    assert result.stop_reason == "the whole dataset fits in one batch"
    assert len(list(DataLoader(data, batch_size=result.batch_size))) == 1
    saved = result.save(tmp_path / "result.json")
    assert autotune.load_result(saved) == result
    assert str(result.batch_size) in result.summary()
    assert json.loads(saved.read_text())["schema_version"] == 1


def test_a_probe_that_was_cut_short_can_be_resumed(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    data = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
    options = {"loss": nn.CrossEntropyLoss(), "output": output, "quiet": True, "device": "cpu", "objective": "memory"}
    first = autotune.find_batch_size(Everything, data, max_trials=3, **options)
    assert not first.is_complete
    second = autotune.find_batch_size(Everything, data, resume=True, **options)
    assert second.is_complete
    assert second.trials[:3] == first.trials
    assert str(tmp_path) not in output.read_text().replace(str(output), "")


def test_a_model_may_be_given_as_a_function_that_builds_it() -> None:
    result = autotune.find_batch_size(
        Everything, (np.zeros((32, 8), np.float32), np.zeros(32, np.int64)), loss=nn.CrossEntropyLoss(), **FEW
    )
    assert result.workload.name == "Everything"
    assert result.batch_size in {trial.batch_size for trial in result.trials}


def test_numbers_and_devices_of_other_libraries_will_do() -> None:
    result = autotune.find_batch_size(
        Everything,
        torch.zeros(8, 8),
        inference_step=None,
        mode="inference",
        device=torch.device("cpu"),
        memory_budget=np.float64(8e9),
        max_batch_size=np.int64(2),
        max_trials=np.int32(2),
        quiet=True,
    )
    assert (result.max_batch_size, result.budget_bytes, result.spec.device) == (2, 8 * 10**9, "cpu")


@pytest.mark.parametrize(
    ("asked", "home", "device"),
    [
        ("auto", "cuda:1", "cuda:1"),
        ("cuda", "cuda:1", "cuda:1"),
        ("cuda:0", "cuda:1", "cuda:0"),
        ("mps", "mps:0", "mps:0"),
        ("cpu", "cuda:0", "cpu"),
        ("auto", "cpu", "auto"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_the_device_is_where_the_model_lives_unless_another_is_asked_for(asked: str, home: str, device: str) -> None:
    assert api._device(asked, home, LiveParts(model=Everything())) == device


def test_what_cannot_be_copied_is_named_with_a_remedy() -> None:
    model = Everything()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="model") as raised:
        autotune.find_batch_size(model, torch.zeros(8, 8), loss=lambda output: output.sum(), **FEW)
    assert "function" in raised.value.remedy


def test_the_callers_own_error_arrives_with_its_traceback() -> None:
    def loss(output, target):
        raise RuntimeError("this is mine")

    model, optimizer, _, data = trained()
    with pytest.raises(WorkloadError, match="this is mine") as raised:
        autotune.find_batch_size(model, data, loss=loss, optimizer=optimizer, **FEW)
    assert "in loss" in raised.value.user_traceback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_budget": 0}, "--memory-budget is 0"),
        ({"memory_budget": "lots"}, "lots"),
        ({"memory_budget": 0.8}, "memory_budget=0.8 is no number of bytes"),
        ({"memory_budget": math.inf}, "memory_budget=inf is no number of bytes"),
        ({"memory_budget": math.nan}, "memory_budget=nan is no number of bytes"),
        ({"memory_budget": None}, "memory_budget=None is no number of bytes"),
        ({"memory_budget": 2**70}, "--memory-budget is 1180591620717411303424, which is too large"),
        ({"trial_timeout": 0}, "--trial-timeout is 0.0, which is not positive"),
        ({"trial_timeout": -3}, "--trial-timeout is -3.0, which is not positive"),
        ({"trial_timeout": math.nan}, "--trial-timeout is nan, which is not positive"),
        ({"trial_timeout": math.inf}, "--trial-timeout is inf, which is too large"),
        ({"trial_timeout": None}, "trial_timeout is of the wrong type. Expected `float`, got `null`"),
        ({"max_batch_size": "64"}, "max_batch_size is of the wrong type. Expected `int | null`, got `str`"),
        ({"max_trials": object()}, "wrong type. Got object"),
        ({"seed": -1}, "--seed is -1"),
        ({"objective": "speed"}, "objective='speed'"),
        ({"objective": "latency"}, "--max-latency"),
        ({"precision": "int3"}, "precision='int3'"),
        ({"start": 9, "max_batch_size": 4}, "--max-batch-size 4"),
        ({"tolerance": "200%"}, "200%"),
        ({"max_latency": "soon", "objective": "latency"}, "soon"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        autotune.find_batch_size(Everything, torch.zeros(8, 8), quiet=True, **options)


SCRIPT = """
import torch, autotune
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
    def forward(self, x):
        return self.layer(x)

def loss(output, target):
    return (output - target).square().mean()

result = autotune.find_batch_size(
    Mine(), (torch.randn(32, 4), torch.randn(32, 2)), loss=loss, max_trials=3, device="cpu")
print("ANSWER", result.batch_size)
"""


@pytest.mark.parametrize("way", ["script", "stdin", "notebook"])
def test_it_works_without_a_main_guard_from_a_script_a_pipe_and_a_notebook_cell(way: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    cell = f"from IPython.core.interactiveshell import InteractiveShell as S\nS.instance().run_cell({SCRIPT!r})"
    command = {"script": [str(path)], "stdin": ["-"], "notebook": ["-c", cell]}[way]
    done = subprocess.run(
        [sys.executable, *command], input=SCRIPT, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.count("ANSWER") == 1, done.stderr
    assert done.returncode == 0


LATE = """
import os
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
os.environ["MALLOC_TRIM_THRESHOLD_"] = "1000000"
import autotune, torch

class Tells(torch.nn.Linear):
    def forward(self, x):
        print("IN A TRIAL", *(os.environ.get(name) for name in NAMES), flush=True)
        return super().forward(x).square().mean()

NAMES = "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX"
result = autotune.find_batch_size(Tells(4, 2), torch.randn(32, 4), max_trials=2, device="cpu", verbose=True)
print("RECORDED", result.environment.allocator_settings)
print(*result.warnings, sep="\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it cannot be told what a process was started with")
def test_trials_allocate_as_the_caller_was_started_and_not_as_it_said_too_late(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(LATE)
    started = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC"))}
    started |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=131072", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, str(path)], env=started, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = {line for line in (done.stdout + done.stderr).splitlines() if "IN A TRIAL" in line}
    assert seen == {"IN A TRIAL glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=131072 None 1"}
    assert (
        "RECORDED GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=131072 MALLOC_ARENA_MAX=1\n"
        in done.stdout
    )
    assert "GLIBC_TUNABLES and MALLOC_TRIM_THRESHOLD_ changed after this process had started" in done.stdout
