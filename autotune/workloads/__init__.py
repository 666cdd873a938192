"""What one step runs: the public `Workload`, and the parts from which one is built.

Imports no framework: a `Workload` is a record of callables. How its parts are found is the business of the
other files here (`modelfile`, `imported`, `live`), how a plain torch loop is made of them, that of `plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autotune.trial import Training

if TYPE_CHECKING:
    from torch import nn

    from autotune.workloads.division import Divide


class MicroBatches(Protocol):
    """The batches of one step of the optimizer: a list of them, or what makes each when it is asked for."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """One after the other."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one step runs, and how to make a batch of n samples.

    Attributes:
        make_batch: `make_batch(batch_size)` returns a batch on the host: a tensor, or any nesting of tuples,
            lists and mappings of tensors. It is moved to the device before the step.
        training_step: `training_step(batch)` runs one whole step: zero_grad, forward, backward, optimizer.
            Returns the loss (a scalar tensor) or None.
        inference_step: `inference_step(batch)` runs one forward pass; gradients are off around it.
        model: the module whose inputs are checked for the batch dimension; None where there is no one module.
        name: shown in reports.
        dataset_size: samples in an epoch, and the cap of the search; None where it is unknown.
        assumptions: the choices made for the user, in words, shown with the result.
        accumulated_step: `accumulated_step(batches)` runs one optimizer step over several micro-batches, as many as
            `len(batches)` says, each of which is made when it is asked for; None where the loop is the user's own.
        training: how the caller trains now, as far as that is known, or a function that tells once a step has run;
            advice rests on it.
        accumulation_steps: batches whose gradients the caller accumulates in each step of the optimizer.
        is_fork_safe: False where building it starts threads that a fork would not bring along.
        make_loader: `make_loader(batch_size, num_workers)` returns what training would iterate over, such as a
            DataLoader, for one epoch of whole batches; None where the data is not read by one.
        draw: `draw(batch_size)` returns a batch of samples drawn at random, as `make_batch` need not; None where the
            data has none to draw.
        divide: `divide(held_out_samples, seed)` divides the data in two: a `Division`, whose `train_batch(batch_size)`
            is the next batch to train on, and whose `held_out(batch_size)` is a list of batches of the rest; None where
            the data cannot be divided.
        evaluate: `evaluate(batch)` returns the loss of a batch as a number and trains nothing; None where the loop is
            the user's own.
        optimizer: the torch optimizer of the steps, where it is known.
        set_learning_rate: `set_learning_rate(rate)` sets it for all steps to come, whatever a schedule says; None where
            it is the user's own.
        num_workers: how many workers the caller's own loader has.
    """

    make_batch: Callable[[int], Any]
    training_step: Callable[[Any], Any] | None = None
    inference_step: Callable[[Any], Any] | None = None
    model: nn.Module | None = None
    name: str = "workload"
    dataset_size: int | None = None
    assumptions: tuple[str, ...] = ()
    accumulated_step: Callable[[MicroBatches], Any] | None = None
    training: Training | Callable[[], Training | None] | None = None
    accumulation_steps: int = 1
    is_fork_safe: bool = True
    make_loader: Callable[[int, int], Iterable[Any]] | None = None
    draw: Callable[[int], Any] | None = None
    divide: Divide | None = None
    evaluate: Callable[[Any], float] | None = None
    optimizer: Any = None
    set_learning_rate: Callable[[float], None] | None = None
    num_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a workload needs to know of the probe to build itself on its device.

    `device` is a torch device string such as "cuda:0"; `precision` one of "fp32", "bf16", "fp16";
    `mode` one of "train", "inference".
    """

    device: str
    mode: str
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0
