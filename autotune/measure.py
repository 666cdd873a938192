"""One trial, in the process that it happens to be called in.

Needs a bench; knows nothing of search, processes or files. Promises that each figure comes
from steps that really ran on a batch of the size asked for, and raises whatever the user's code raises.

A step runs here as it would in training, with nothing before it that training would not do: what a small
batch leaves behind in an allocator changes the peak of a large one. The batch is made after the reading of
memory has started, since it occupies memory too. Making it is not timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.bench import Bench, Step
from autotune.devices import Device
from autotune.executors import Effort, TrialRequest
from autotune.trial import Measurement

BLOCK_SECONDS = 0.02
"""On a device that runs behind the host, the clock is read once in so long: a synchronisation per step would
keep the host from running ahead, as it does in training, and so slow short steps down."""


def measure(bench: Bench, request: TrialRequest) -> Measurement:
    """Run one trial.

    Args:
        bench: what is measured and where.
        request: the batch size and how much to measure.
    """
    device, effort = bench.device, request.effort
    began = time.perf_counter()
    device.release()
    device.start_reading()
    step = Step(bench, request.batch_size, request.accumulation_steps)
    loss = step.rehearse()
    for _ in range(effort.warmup_steps - 1):
        loss = step.rehearse()
    device.synchronize()
    warmed_up = time.perf_counter()
    device.start_conditions()
    timed = _timed(step, bench, effort)
    samples = timed.steps * request.batch_size * step.accumulation_steps
    return Measurement(
        batch_size=request.batch_size,
        accumulation_steps=step.accumulation_steps,
        step_seconds=tuple(timed.wall_seconds),
        cpu_seconds=tuple(timed.cpu_seconds),
        warmup_steps=effort.warmup_steps,
        conditions=device.conditions(timed.steps, samples),
        memory=device.memory(),
        last_loss=_number(loss),
        warmup_seconds=warmed_up - began,
        measuring_seconds=time.perf_counter() - warmed_up,
    )


@dataclass
class _Timed:
    wall_seconds: list[float]
    cpu_seconds: list[float]
    steps: int


def _timed(step: Step, bench: Bench, effort: Effort) -> _Timed:
    """Time the steps, one by one on a processor, and else in blocks of several.

    Where only memory is asked for (no seconds), each block has a new batch, made while the old one is held: as each
    step has in training.
    """
    device, timed = bench.device, _Timed([], [], 0)
    block = 1
    end = time.perf_counter() + effort.seconds
    while len(timed.wall_seconds) < effort.min_steps or (timed.steps < effort.max_steps and time.perf_counter() < end):
        if not effort.seconds:
            step.renew()
        wall, cpu = _block_seconds(step, device, block)
        timed.wall_seconds.append(wall / block)
        timed.cpu_seconds.append(cpu / block)
        timed.steps += block
        if len(timed.wall_seconds) == 1 and not bench.single_steps and device.torch_device != "cpu":
            block = max(1, math.ceil(BLOCK_SECONDS / wall))
    return timed


def _block_seconds(step: Callable[[], Any], device: Device, steps: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    device.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _number(loss: Any) -> float | None:
    """The loss as a number, where a step returned one. Reading it waits for the device: after the clock."""
    detach = getattr(loss, "detach", None)
    try:
        return float(detach() if callable(detach) else loss)
    except (TypeError, ValueError, RuntimeError):
        return None
