"""A short real training of a copy, in which gradients of micro-batches are measured; in the process it is called in.

Needs torch and a bench whose workload accumulates gradients and draws samples at random. The optimizer's steps are the
workload's own: hooks look at each gradient as it is added to those before it, so no gradient of a single sample and no
change to the model is needed. Costs one more copy of the gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from autotune.bench import Bench
from autotune.errors import UsageError
from autotune.executors import GradientsRequest
from autotune.trial import Gradients, Training
from autotune.workloads.batches import move
from autotune.workloads.plain import training_of

MOST_MICRO_BATCHES = 8
SMALLEST_NORMALIZED = 8
"""Samples below which the statistics of a BatchNorm change the gradient itself, and not its noise alone."""


def measure_gradients(bench: Bench, request: GradientsRequest) -> Gradients:
    """Train for some steps and note the gradients' norms.

    Raises:
        UsageError: this workload's gradients cannot be measured, or its learning rate cannot be set.
    """
    model = _model_of(bench)
    size, count, notes = split(request.batch_size, model, bench.smallest_batch_size)
    _set_learning_rate(bench, request.learning_rate)
    squares: list[float] = []
    mean_squares: list[float] = []
    losses: list[float] = []
    end = time.monotonic() + request.seconds
    with _watched(model) as norms:
        while len(losses) < request.steps and time.monotonic() < end:
            losses.append(_step(bench, size, count))
            square, mean_square = norms.taken()
            squares.append(count * square)  # a micro-batch's share of the gradient is 1/count of its own
            mean_squares.append(mean_square)
            if not math.isfinite(losses[-1] + square + mean_square):
                break
    training = _training(bench)
    finite = sum(map(math.isfinite, map(sum, zip(losses, squares, mean_squares, strict=True))))  # all but the last
    return Gradients(
        micro_batch_size=size,
        micro_batches=count,
        square_norms=tuple(squares[:finite]),
        mean_square_norms=tuple(mean_squares[:finite]),
        losses=tuple(losses[:finite]),
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        has_diverged=has_diverged(losses),
        notes=notes,
    )


def split(batch_size: int, model: nn.Module, smallest: int = 1) -> tuple[int, int, tuple[str, ...]]:
    """Micro-batches for a batch: their size, how many, and what a reader should know of them."""
    normalizes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
    least = max(smallest, SMALLEST_NORMALIZED if normalizes else 1)
    count = max(2, min(MOST_MICRO_BATCHES, batch_size // SMALLEST_NORMALIZED))
    size = max(batch_size // count, least)
    notes = [f"the model has BatchNorm, which works on micro-batches of {size} there"] if normalizes else []
    if size * count != batch_size:
        notes.append(f"{count} micro-batches of {size} stand for {batch_size} samples")
    return size, count, tuple(notes)


def has_diverged(losses: list[float]) -> bool:
    """True where the loss stopped being a number, or ended far above where it began."""
    if not all(map(math.isfinite, losses)):
        return True
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return last > 2 * first > 0 and len(losses) > 2 * tenth


def _model_of(bench: Bench) -> nn.Module:
    workload = bench.workload
    if workload.accumulated_step is None or not isinstance(workload.model, nn.Module):
        raise UsageError("the steps are the caller's own, and their gradients are not seen")
    if workload.draw is None:
        raise UsageError("the data draws no samples at random")
    return workload.model


def _step(bench: Bench, size: int, count: int) -> float:
    draw, accumulated_step = bench.workload.draw, bench.workload.accumulated_step
    assert draw is not None and accumulated_step is not None  # see `_model_of`
    loss = accumulated_step([move(draw(size), bench.device.torch_device) for _ in range(count)])
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _set_learning_rate(bench: Bench, asked: float | None) -> None:
    """As asked; or else as it is now, where it can be held: a schedule that only begins would leave hardly any."""
    set_learning_rate = bench.workload.set_learning_rate
    if asked is not None and set_learning_rate is None:
        raise UsageError("the learning rate of this loop is its own: set it there, not by --base-lr")
    rate = asked if asked is not None else _training(bench).learning_rate
    if set_learning_rate is None or rate is None:
        return
    with nullcontext() if asked is not None else suppress(UsageError):
        set_learning_rate(rate)


def _training(bench: Bench) -> Training:
    """The optimizer that stepped, and its learning rate; without a name where neither is known."""
    told = bench.workload.training
    return training_of(bench.workload.optimizer, None) or (told() if callable(told) else told) or Training("")


class _Norms:
    """Squared norms of what each backward pass adds to the gradients, and of their sum."""

    def __init__(self) -> None:
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._square: Tensor | float = 0.0

    def added(self, parameter: nn.Parameter) -> None:
        """A backward pass has added to this parameter's gradient."""
        assert parameter.grad is not None  # this is what the hook says
        gradient = parameter.grad.detach()
        before = self._sums.get(parameter)
        self._square = self._square + _squared(gradient if before is None else gradient - before)
        self._sums[parameter] = gradient.clone()

    def taken(self) -> tuple[float, float]:
        """The sum over the passes of a step, and the squared norm of their sum; begins anew."""
        square, total = float(self._square), sum(float(_squared(gradient)) for gradient in self._sums.values())
        self._sums, self._square = {}, 0.0
        return square, total


def _squared(gradient: Tensor) -> Tensor:
    """In double precision, where the device has it: squares of many small numbers are summed."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.to(torch.float32 if dense.device.type == "mps" else torch.float64).square().sum()


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Norms]:
    norms = _Norms()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles: list[Any] = [
        parameter.register_post_accumulate_grad_hook(norms.added)  # type: ignore[no-untyped-call]
        for parameter in trained
    ]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
