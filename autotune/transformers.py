"""For Hugging Face Transformers: the arguments of a Trainer, with the batch sizes that suit this machine.

Needs transformers. `find_batch_size(trainer)` finds one number; training needs three that belong together, so that
what the optimizer sees stays what the user chose.

    trainer.args = tuned_arguments(trainer)
    trainer.train()
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import msgspec
from transformers import Trainer, TrainingArguments

from autotune.api import find_batch_size, in_a_file
from autotune.devices import host
from autotune.errors import NothingFitsError, UsageError
from autotune.evaluation_options import evaluation_options
from autotune.executors import TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.result import Result
from autotune.target import TRY
from autotune.workloads.live import LiveParts


def tuned_arguments(trainer: Trainer, *, effective_batch_size: int | None = None, **options: Any) -> TrainingArguments:
    """The Trainer's arguments with the batch sizes found, and the effective batch size as it was.

    Sets `per_device_train_batch_size` and `gradient_accumulation_steps`, whose product stays the same, and
    `per_device_eval_batch_size`, which is found by the same options: for speed in place of time to quality, and not
    written to a file. The split was run as it stands, with its gradients accumulated, and stayed within the budget.
    Neither the Trainer nor its arguments change.

    Args:
        trainer: as it would train.
        effective_batch_size: samples per optimizer step and device; that of the Trainer's arguments where None.
        **options: as for `find_batch_size`: memory_budget="8GiB", max_batch_size=64, quiet=True ...

    Raises:
        UsageError: the Trainer has no training set, or an option is wrong.
        WorkloadError: the model failed; carries the traceback.
        NothingFitsError: not even the smallest batch size fits.
    """
    args = copy.copy(trainer.args)
    effective = effective_batch_size or args.per_device_train_batch_size * args.gradient_accumulation_steps
    if effective < 1:
        raise UsageError(f"effective_batch_size={effective} is not a positive number.", remedy="Give one, or None.")
    most = options.get("max_batch_size")
    training_options = options | {"max_batch_size": effective if most is None else min(most, effective)}
    result = find_batch_size(_without_accumulation(trainer), **training_options)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = fitting_split(trainer, result, effective)
    args.per_device_eval_batch_size = find_batch_size(trainer, **evaluation_options(options)).batch_size
    return args


def _without_accumulation(trainer: Trainer) -> Trainer:
    """A Trainer of the same parts whose steps have one batch: how many are accumulated is what is asked here."""
    alike = copy.copy(trainer)
    alike.args = copy.copy(trainer.args)
    alike.args.gradient_accumulation_steps = 1
    return alike


def fitting_split(trainer: Trainer, result: Result, effective_batch_size: int) -> tuple[int, int]:
    """A batch size up to the one found, and a number of accumulation steps, that make the effective one exactly.

    Gradients that are kept between micro-batches need memory that a step without them does not, so the split is run.

    Raises:
        NothingFitsError: no split stays within the budget.
    """
    sizes = [size for size in _divisors(effective_batch_size) if size <= result.batch_size]
    if sizes[0] == effective_batch_size:
        return sizes[0], 1
    with in_a_file(LiveParts(model=trainer, name=type(trainer).__name__)) as reference:
        spec = msgspec.structs.replace(result.spec, workload=reference)
        with ChildExecutor(spec, extra_free_bytes=host.resident_bytes(os.getpid())) as executor:
            opened = executor.open()
            for size in sizes:
                steps = effective_batch_size // size
                attempt = executor.run(TrialRequest(batch_size=size, effort=TRY, accumulation_steps=steps))
                if attempt.measurement and attempt.measurement.memory.peak_bytes <= opened.budget_bytes:
                    return size, steps
    raise NothingFitsError(
        f"No split of {effective_batch_size} fits with its gradients accumulated.",
        remedy="Raise memory_budget, or make the model smaller.",
    )


def _divisors(number: int) -> Iterator[int]:
    """Descending."""
    return (size for size in range(number, 0, -1) if number % size == 0)
