"""Ten plain steps in this process, and the most memory that the process ever held.

Needs torch. Runs in a fresh interpreter and nowhere else: the peak is that of the process' whole life. Takes
from the package only how a model file becomes a step, so that tool and oracle run the same one; every figure
is read here, by other means than the tool's. As in training, each step has a new batch.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.spec import FileWorkload
from autotune.workloads import BuildOptions


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run. `limit_bytes` bounds the memory of a CUDA device; on CPU a watcher outside does that."""

    path: str
    batch_size: int
    steps: int = 10
    mode: str = "train"
    device: str = "cpu"
    limit_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a run showed. Where it did not complete, the peak is only a lower bound."""

    completed: bool
    peak_bytes: int
    step_seconds: tuple[float, ...] = ()


def run_steps(order: Order) -> Observed:
    """Run the steps and read the peak.

    Raises:
        Exception: whatever the workload raises, other than running out of a CUDA device's memory.
    """
    return _on_cuda(order) if order.device.startswith("cuda") else _on_cpu(order)


def timed_steps(workload: Any, order: Order) -> tuple[float, ...]:
    """Wall seconds of each step; making the batch and moving it are not timed.

    As in a loop over a DataLoader, the batch before is still held while the next is made, and what a step returned
    while the next one runs: `for batch in loader: output = model(batch)`.
    """
    seconds, batch, step = [], None, None
    for _ in range(order.steps):
        batch = new_batch(workload, order)
        step = _step(workload, order, batch)
        seconds.append(step[0])
    return tuple(seconds)


def new_batch(workload: Any, order: Order) -> Any:
    """A batch of the size ordered, on the order's device."""
    from autotune.workloads.batches import move

    return move(workload.make_batch(order.batch_size), order.device)


def step_seconds(workload: Any, order: Order, batch: Any) -> float:
    """One step on a batch: its wall seconds."""
    return _step(workload, order, batch)[0]


def _step(workload: Any, order: Order, batch: Any) -> tuple[float, Any]:
    """One step on a batch: its wall seconds, and what it returned."""
    import torch

    run = workload.training_step if order.mode == "train" else workload.inference_step
    wait = torch.cuda.synchronize if order.device.startswith("cuda") else _no_wait
    wait()
    start = time.perf_counter()
    with torch.inference_mode() if order.mode == "inference" else nullcontext():
        returned = run(batch)
    wait()
    return time.perf_counter() - start, returned


def _no_wait() -> None:
    """On CPU a step is over when it returns."""


def build(order: Order) -> Any:
    """The workload of a model file, on the order's device."""
    from autotune.workloads.opening import build_workload

    return build_workload(FileWorkload(target=order.path), BuildOptions(device=order.device, mode=order.mode))


def _on_cpu(order: Order) -> Observed:
    seconds = timed_steps(build(order), order)
    return Observed(completed=True, peak_bytes=life_peak_bytes(), step_seconds=seconds)


def life_peak_bytes() -> int:
    """The most resident memory that this process ever held, in bytes (Linux, proc(5): VmHWM is in kB of 1024)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise SystemExit("The oracle needs Linux: /proc/self/status has no VmHWM here.")
    return int(found[1]) * 1024


def _on_cuda(order: Order) -> Observed:
    """Peak = the most that the allocator reserved + what the process holds on the device beside it.

    The latter is the context and the libraries: the growth of the device's used memory since before the
    context, less what is reserved. So the device must be otherwise idle.
    """
    import torch

    index = torch.device(order.device).index or 0
    used_before = _device_used_bytes(index)
    torch.zeros(1, device=order.device)  # makes the context
    beside = _device_used_bytes(index) - used_before - torch.cuda.memory_reserved(index)
    if order.limit_bytes is not None:
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, order.limit_bytes - beside) / total), index)
    try:
        seconds = timed_steps(build(order), order)
    except torch.OutOfMemoryError:
        return Observed(completed=False, peak_bytes=(order.limit_bytes or 0) + 1)
    beside = _device_used_bytes(index) - used_before - torch.cuda.memory_reserved(index)
    peak_bytes = torch.cuda.max_memory_reserved(index) + math.ceil(beside)
    return Observed(completed=True, peak_bytes=peak_bytes, step_seconds=seconds)


def _device_used_bytes(index: int) -> int:
    """Memory in use on a device by anyone, read without making a context."""
    import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)
