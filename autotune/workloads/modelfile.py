"""Reads a workload from a Python file or module by plain names.

Needs `loading`, `sources` and `plain`. The names, all optional by themselves:

    model, or build_model()                 the module
    loss                                    loss(output, target); left out where the model returns its own
    optimizer, or build_optimizer(params)   AdamW where left out
    make_batch(batch_size)                  one of these four makes the batches
    dataset                                   (with collate_fn where samples need one)
    dataloader                                a DataLoader; a dataset beside it is its own
    sample                                    one example, repeated
    make_worst_batch(batch_size)            used instead: the largest batch that an epoch can hold
    dataset_size                            samples in an epoch, where no dataset tells
    training_step(batch)                    a loop of one's own
    inference_step(batch)
    workload()                              returns a `Workload`, and makes all the others unneeded

Promises that what is missing or ambiguous is said in one line, with the lines to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader

from autotune.errors import UsageError
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.frameworks import adapter_of
from autotune.workloads.live import LiveParts
from autotune.workloads.loaders import samples_in_an_epoch
from autotune.workloads.loading import load
from autotune.workloads.plain import Parts, assemble, built, refuse_loop_options, without_gradients
from autotune.workloads.sources import Source, dataset_length, from_function, from_sample, source_of
from autotune.workloads.tracebacks import blame

SOURCES = ("make_batch", "dataset", "dataloader", "sample")
STEPS = ("training_step", "inference_step")
FUNCTIONS = ("build_model", "build_optimizer", "make_batch", "make_worst_batch", "collate_fn", *STEPS)
DATA = ("datamodule", "dataloader", "dataset", "make_batch")  # where a framework's adapter takes its batches from
FRAMEWORK_NAMES = ("trainer", "datamodule")
NAMES = ("model", "loss", "optimizer", "dataset", "dataloader", "sample", "dataset_size", *FRAMEWORK_NAMES, *FUNCTIONS)

MODEL_LINES = "Add:\ndef build_model():\n    return ...  # a torch.nn.Module"
BATCH_LINES = "Add, with your own shapes:\ndef make_batch(batch_size):\n    return inputs, targets"


def from_file(target: str, options: BuildOptions) -> Workload:
    """The workload that a file or a module describes.

    Args:
        target: a path such as "model.py", or a dotted name such as "autotune.examples.digits".
        options: device, mode and precision.

    Raises:
        UsageError: the file cannot be loaded, or a name is missing, ambiguous or of the wrong kind.
        WorkloadError: the user's code raised.
    """
    module = load(target)
    name = Path(target).name
    if getattr(module, "workload", None) is not None and not isinstance(module.workload, ModuleType):
        return _given_workload(module.workload, name, options)
    found = _names_of(module)
    _check_kinds(found, name)
    _check_one_of(found, ("model", "build_model"), name)
    model = built(found.get("model", found.get("build_model")))
    for thing in (found.get("trainer"), model):
        if adapter := adapter_of(thing):
            return _as_told(adapter.workload_of(_live_parts(found, thing, module, name), options), found)
    _check_names(found, name)
    return assemble(_parts(found, model, name), options)


def _names_of(module: ModuleType) -> dict[str, Any]:
    """The names that count. An imported module that happens to be called `model` or `loss` is none."""
    values = {name: getattr(module, name, None) for name in NAMES}
    found = {name: value for name, value in values.items() if value is not None and not isinstance(value, ModuleType)}
    if "dataset" in found and getattr(found.get("dataloader"), "dataset", None) is found["dataset"]:
        del found["dataset"]  # the loader reads it, and knows how
    return found


def _live_parts(found: Mapping[str, Any], model: Any, module: ModuleType, name: str) -> LiveParts:
    """What a framework's adapter is given: whatever data there is, for it to check."""
    _check_one_of(found, DATA, name)
    data = next((found[source] for source in DATA if source in found), None)
    if data is None and hasattr(module, "x"):  # the names that Keras' own examples use
        data = (module.x, module.y) if hasattr(module, "y") else module.x
    trainer = found.get("trainer")
    return LiveParts(
        model=model,
        data=data,
        trainer=None if trainer is model else trainer,
        loss=found.get("loss"),
        optimizer=found.get("optimizer", found.get("build_optimizer")),
        collate_fn=found.get("collate_fn"),
        training_step=found.get("training_step"),
        inference_step=found.get("inference_step"),
        name=name,
    )


def _as_told(workload: Workload, found: Mapping[str, Any]) -> Workload:
    """With what a file says beside its data, which no adapter asks for."""
    return replace(
        workload,
        make_batch=found.get("make_worst_batch", workload.make_batch),
        dataset_size=found.get("dataset_size", workload.dataset_size),
    )


def _parts(found: Mapping[str, Any], model: Any, name: str) -> Parts:
    return Parts(
        name=name,
        source=_source(found),
        model=model,
        loss=found.get("loss"),
        optimizer=found.get("optimizer", found.get("build_optimizer")),
        training_step=found.get("training_step"),
        inference_step=found.get("inference_step"),
    )


def _source(found: Mapping[str, Any]) -> Source:
    collate_fn, size = found.get("collate_fn"), found.get("dataset_size")
    if "make_worst_batch" in found:
        known = size if size is not None else _samples_in(found)
        return Source(make_batch=found["make_worst_batch"], dataset_size=known)
    if "sample" in found:
        return replace(from_sample(found["sample"], collate_fn), dataset_size=size)
    if "make_batch" in found:
        return replace(from_function(found["make_batch"]), dataset_size=size)
    source = source_of(found.get("dataset", found.get("dataloader")), collate_fn)
    return source if size is None else replace(source, dataset_size=size)


def _samples_in(found: Mapping[str, Any]) -> int | None:
    """Of an epoch, as a DataLoader or else the dataset tells."""
    loader = found.get("dataloader")
    chosen = samples_in_an_epoch(loader) if isinstance(loader, DataLoader) else None
    return chosen or dataset_length(found.get("dataset", getattr(loader, "dataset", None)))


# What is missing or ambiguous


def _check_names(found: Mapping[str, Any], name: str) -> None:
    has_step = any(step in found for step in STEPS)
    if not has_step and "model" not in found and "build_model" not in found:
        raise UsageError(f"{name} has {_listed(found)}, but no model or build_model().", remedy=MODEL_LINES)
    if "training_step" in found and "model" not in found and "build_model" in found:
        raise UsageError(
            f"{name} has build_model() and training_step(batch), which cannot see the model that would be built.",
            remedy="Build it in the file:\nmodel = build_model()",
        )
    if not has_step:
        _check_one_of(found, ("optimizer", "build_optimizer"), name)
    if "make_worst_batch" not in found:
        _check_one_of(found, SOURCES, name)
        if not any(source in found for source in SOURCES):
            wanted = f"{', '.join(SOURCES[:-1])} or {SOURCES[-1]}"
            raise UsageError(
                f"{name} has {_listed(found)}, but nothing to make batches of: {wanted}.", remedy=BATCH_LINES
            )


def _check_one_of(found: Mapping[str, Any], names: tuple[str, ...], file_name: str) -> None:
    both = [name for name in names if name in found]
    if len(both) > 1:
        raise UsageError(
            f"{file_name} has both {' and '.join(both)}, so it is unclear which to use.",
            remedy=f"Keep one, and rename the other: _{both[1]}, say.",
        )


def _check_kinds(found: Mapping[str, Any], file_name: str) -> None:
    for name in FUNCTIONS:
        if name in found and not callable(found[name]):
            raise UsageError(
                f"{name} in {file_name} is a {type(found[name]).__name__}, not a function.",
                remedy=f"Write def {name}(...): ..., or rename it.",
            )
    size = found.get("dataset_size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(
            f"dataset_size in {file_name} is {size!r}, not a positive whole number.",
            remedy="dataset_size = 50_000, say, or leave it out.",
        )


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(name for name in NAMES if name in found) or "none of the names that are looked for"


# A workload that the user made whole


def _given_workload(maker: Any, name: str, options: BuildOptions) -> Workload:
    made = maker
    if not isinstance(maker, Workload) and callable(maker):
        with blame(f"workload() of {name}"):
            made = maker()
    if not isinstance(made, Workload):
        raise UsageError(
            f"workload() of {name} returned a {type(made).__name__}, not an autotune.Workload.",
            remedy="return autotune.Workload(make_batch=..., training_step=...)",
        )
    refuse_loop_options(options, name)
    step = "training_step" if options.mode == "train" else "inference_step"
    if getattr(made, step) is None:
        raise UsageError(
            f"The workload of {name} has no {step}, but the mode is {options.mode}.",
            remedy=f"return autotune.Workload(..., {step}=...), or change --mode.",
        )
    if isinstance(made.model, torch.nn.Module):
        made.model.to(options.device)
    inference_step = made.inference_step and without_gradients(made.inference_step)
    return replace(made, inference_step=inference_step)
