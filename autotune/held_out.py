"""A training of a set length, and how the loss on data held out falls meanwhile; in the process it is called in.

Needs torch and a bench whose workload can divide its data and tell a loss without training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from autotune.bench import Bench
from autotune.errors import UsageError
from autotune.executors import TrainRequest
from autotune.trial import Curve
from autotune.workloads import Workload
from autotune.workloads.batches import move
from autotune.workloads.division import Division

LOOKS_IN_A_ROW = 3
"""The loss that was reached is the mean of so many looks, since one may fall in a dip."""


def train(bench: Bench, request: TrainRequest) -> Curve:
    """Train for so many seconds, and look at the held-out loss at equal intervals.

    The clock runs while batches are made and steps run, and stands still while the loss is looked at.

    Raises:
        UsageError: this workload's data cannot be divided, its loss is not seen, or its learning rate cannot be set.
    """
    data = _divided(bench.workload, request)
    held_out = [move(part, bench.device.torch_device) for part in data.held_out(request.part_size)]
    if not held_out:
        raise UsageError("there are too few samples to hold some of them out")
    looks = [_look(bench.workload, held_out)]
    if not _is_finite(looks[0]):
        raise UsageError("the loss on data held out is not a number even before training")
    training, seconds = _Training(bench, data, request.batch_size), [0.0]
    while len(looks) <= request.looks and _is_finite(looks[-1]):
        training.run_until(len(looks) * request.seconds / request.looks)
        seconds.append(training.seconds)
        looks.append(_look(bench.workload, held_out))
    return _curve(request, training.steps, seconds, looks)


@dataclass
class _Training:
    """Steps, and the time that they took with the making of their batches."""

    bench: Bench
    data: Division
    batch_size: int
    seconds: float = 0.0
    steps: int = 0

    def run_until(self, seconds: float) -> None:
        step, device = self.bench.workload.training_step, self.bench.device
        assert step is not None  # see `_divided`
        began = time.perf_counter() - self.seconds
        while self.seconds < seconds:
            step(move(self.data.train_batch(self.batch_size), device.torch_device))
            device.synchronize()
            self.steps += 1
            self.seconds = time.perf_counter() - began


def _curve(request: TrainRequest, steps: int, seconds: Sequence[float], looks: Sequence[tuple[float, ...]]) -> Curve:
    finite = [look for look in looks if _is_finite(look)]
    windows = [finite[i : i + LOOKS_IN_A_ROW] for i in range(max(1, len(finite) - LOOKS_IN_A_ROW + 1))]
    reached = min(windows, key=lambda window: fmean(map(fmean, window)))
    return Curve(
        batch_size=request.batch_size,
        learning_rate=request.learning_rate,
        steps=steps,
        seconds=tuple(seconds[: len(finite)]),
        losses=tuple(fmean(look) for look in finite),
        reached_losses=tuple(fmean(part) for part in zip(*reached, strict=True)),
        has_diverged=len(finite) < len(looks),
    )


def _divided(workload: Workload, request: TrainRequest) -> Division:
    if workload.training_step is None or workload.evaluate is None:
        raise UsageError("the steps are the caller's own, and the loss on data held out is not seen")
    if workload.divide is None:
        raise UsageError("the data has no samples to hold out")
    if request.learning_rate is not None:
        if workload.set_learning_rate is None:
            raise UsageError("the learning rate cannot be set")
        workload.set_learning_rate(request.learning_rate)
    return workload.divide(request.held_out_samples, request.seed)


def _look(workload: Workload, held_out: Sequence[Any]) -> tuple[float, ...]:
    """The loss of each part of what is held out."""
    assert workload.evaluate is not None  # see `_divided`
    return tuple(workload.evaluate(part) for part in held_out)


def _is_finite(look: tuple[float, ...]) -> bool:
    return all(map(math.isfinite, look))
