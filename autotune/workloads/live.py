"""Objects that a caller already has: packed for another process, and made into a workload.

Needs torch. Everything travels in one pickle, since apart an optimizer would come back with
parameters that are not the model's. With it goes the number of torch's next hook: a process that began to count
anew would give a hook of its own the number, and so the place, of one that came with the model; and whether torch has
loaded what it loads late. Packing only reads: the caller's objects and random state stay as they are.
"""

from __future__ import annotations

import errno
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.utils.hooks import RemovableHandle

from autotune.errors import UsageError
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.frameworks import adapter_of
from autotune.workloads.loaders import Loading, unwrapped
from autotune.workloads.pickling import check, dump
from autotune.workloads.plain import Parts, assemble, built
from autotune.workloads.sources import source_of
from autotune.workloads.tracebacks import one_line


@dataclass(frozen=True, kw_only=True)
class LiveParts:
    """A caller's own objects.

    Attributes:
        model: a module, a framework's model or trainer, or a function that returns one; None where the step is the
            caller's own.
        data: a Dataset or DataLoader; a tensor, or a tuple, list or dict of tensors or arrays with equal
            first sizes (the whole dataset); or a function that makes a batch of a given size.
        loss: `loss(output, target)`; None where the model returns its own.
        optimizer: an optimizer, whose state comes along, or a function of the parameters that returns one.
        collate_fn: makes a batch of a list of samples, as for a DataLoader.
        training_step: `training_step(batch)`, the caller's own loop.
        inference_step: `inference_step(batch)`, likewise.
        trainer: a framework's own trainer, whose settings count, where it is not the model itself.
        loading: how the caller's DataLoader reads, where the data was taken out of one.
        name: shown in reports.
    """

    data: Any = None
    model: Any = None
    trainer: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    optimizer: Any = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    training_step: Callable[[Any], Any] | None = None
    inference_step: Callable[[Any], Any] | None = None
    loading: Loading | None = None
    name: str = "live model"


REMEDIES = {
    "model": "Pass a function that builds the model instead of the model: model=build_model.",
    "data": "Pass a function that makes a batch instead of the data: data=make_batch.",
    "optimizer": "Pass a function of the parameters: optimizer=lambda parameters: torch.optim.AdamW(parameters).",
}
OTHER_REMEDY = "Pass a function that builds what it needs within itself."

LOADED_LATE = "torch._dynamo"
"""Torch loads this, in one to two seconds, when the first optimizer is made. One that comes in a pickle is not made, so
every child would load it again in its first step, were it not loaded before they are forked."""


def pack(parts: LiveParts, path: Path) -> None:
    """Write the parts to a file, for other processes. A DataLoader goes as what it is made of.

    Raises:
        UsageError: a part cannot be pickled, or there is no room for it; says which, and what to pass instead.
    """
    if adapter := adapter_of(parts.model):
        parts = adapter.portable(parts)
    data, collate_fn, loading = unwrapped(parts.data, parts.collate_fn)
    parts = replace(parts, data=data, collate_fn=collate_fn, loading=loading or parts.loading)
    try:
        with path.open("wb") as file:
            dump((RemovableHandle.next_id, LOADED_LATE in sys.modules, parts), file)
    except Exception as error:  # whatever a user's __reduce__ raises
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(
                f"There is no room to copy the model and the data for other processes: {one_line(error)}",
                remedy="Set TMPDIR to a folder with more room, or pass a function that makes a batch: data=make_batch.",
            ) from error
        culprit = _unpicklable(parts)
        raise UsageError(
            f"The {culprit} cannot be sent to another process: {one_line(error)}",
            remedy=REMEDIES.get(culprit, OTHER_REMEDY),
        ) from error


def _unpicklable(parts: LiveParts) -> str:
    for field in fields(parts):
        try:
            check(getattr(parts, field.name))
        except Exception:
            return field.name
    return "workload"


def unpack(path: Path) -> LiveParts:
    """What `pack` wrote; the optimizer's parameters are the model's again."""
    with path.open("rb") as file:
        next_hook, loads_late, parts = pickle.load(file)
    assert isinstance(parts, LiveParts)
    if loads_late:
        import_module(LOADED_LATE)
    RemovableHandle.next_id = max(RemovableHandle.next_id, next_hook)
    return parts


def from_live(parts: LiveParts, options: BuildOptions) -> Workload:
    """The workload that these objects make. It uses them as they are: training it trains them.

    Raises:
        UsageError: a part is missing, or is not what it should be.
        WorkloadError: the user's code raised.
    """
    parts = replace(parts, model=built(parts.model))
    if adapter := adapter_of(parts.model):
        return adapter.workload_of(parts, options)
    return assemble(
        Parts(
            name=parts.name,
            source=source_of(parts.data, parts.collate_fn, parts.loading),
            model=parts.model,
            loss=parts.loss,
            optimizer=parts.optimizer,
            training_step=parts.training_step,
            inference_step=parts.inference_step,
        ),
        options,
    )
