"""Compiled Keras 3 models: a step is what `model.fit` does with one batch, on whatever backend Keras runs.

Needs keras and torch. A model goes to another process as Keras saves it, optimizer and compilation included, with
those of its classes and functions that are the user's own; so the caller's model is only read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from autotune.errors import UsageError
from autotune.trial import Training
from autotune.workloads import BuildOptions, MicroBatches, Workload
from autotune.workloads.frameworks import version_note
from autotune.workloads.live import LiveParts
from autotune.workloads.plain import refuse_loop_options
from autotune.workloads.scratch import temporary_folder
from autotune.workloads.sources import Source, source_of
from autotune.workloads.tracebacks import one_line

TESTED = ("3.15", "3.15")

MOST_INPUTS = 3  # inputs, targets, weights of the samples: what `fit` takes

COMPILE_REMEDY = 'Compile it first, as for fit: model.compile("adam", loss="mse").'


def workload_of(parts: LiveParts, options: BuildOptions) -> Workload:
    """The steps of a Keras model. See `Adapter.workload_of`."""
    model, training = parts.model, options.mode == "train"
    refuse_loop_options(options, parts.name, "Set a dtype policy, or jit_compile in model.compile()")
    if training and not model.compiled:
        raise UsageError(f"The Keras model {model.name} is not compiled.", remedy=COMPILE_REMEDY)
    _set_device(options.device)
    source = _source_of(parts)
    steps = _Steps(model)
    on_torch = keras.backend.backend() == "torch"
    return Workload(
        make_batch=source.make_batch,
        training_step=steps.train if training else None,
        accumulated_step=steps.accumulate if training and on_torch and _has_keras_step(model) else None,
        inference_step=None if training else steps.predict,
        model=model if on_torch else None,
        name=parts.name,
        dataset_size=source.dataset_size,
        draw=source.draw,
        divide=source.divide,
        evaluate=steps.evaluate if training else None,
        set_learning_rate=steps.set_learning_rate if training else None,
        make_loader=source.make_loader,
        num_workers=source.loading.num_workers,
        assumptions=(*source.assumptions, *version_note("keras", TESTED)),
        training=(lambda: _training(model, parts.data, source)) if training else None,
        is_fork_safe=on_torch,
    )


def _training(model: Any, data: Any, source: Source) -> Training:
    """How the caller trains now. Only data that comes in batches tells their size: `fit` is told later."""
    optimizer = _optimizer(model)
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    first = _leaves(data[0])[0] if isinstance(data, keras.utils.PyDataset) else None
    return Training(type(optimizer).__name__, rate, source.loading.batch_size if first is None else len(first))


def _optimizer(model: Any) -> Any:
    """Out of the wrapping that scales losses."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _has_keras_step(model: Any) -> bool:
    """Whether a step of this model is Keras' own, not one that its class brings along."""
    return str(type(model).train_step.__module__).startswith("keras.")


@dataclass(frozen=True)
class _Steps:
    """The steps of `fit` and of `predict`, on a batch of inputs, targets and weights."""

    model: Any

    def train(self, batch: Any) -> float:
        """One step of the optimizer; returns the loss."""
        inputs, targets, weights = _three(_for_backend(batch))
        logs = self.model.train_on_batch(inputs, targets, sample_weight=weights, return_dict=True)
        return float(logs["loss"])

    def accumulate(self, batches: MicroBatches) -> Any:
        """One step of the optimizer on the mean loss of several batches, as Keras' own step has it on torch."""
        self.model.zero_grad()
        for batch in batches:
            inputs, targets, weights = _three(batch)
            output = self.model(inputs, training=True)
            loss = self.model.compute_loss(x=inputs, y=targets, y_pred=output, sample_weight=weights, training=True)
            (self.model.optimizer.scale_loss(loss) / len(batches)).backward()
        trained = list(self.model.trainable_weights)
        with torch.no_grad():
            self.model.optimizer.apply([variable.value.grad for variable in trained], trained)
        return loss.detach()

    def evaluate(self, batch: Any) -> float:
        """The loss of a batch, as `evaluate` has it."""
        inputs, targets, weights = _three(_for_backend(batch))
        self.model.reset_metrics()  # its loss is a mean over the batches since
        return float(self.model.test_on_batch(inputs, targets, sample_weight=weights, return_dict=True)["loss"])

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the optimizer, in place of a schedule where it has one."""
        optimizer = _optimizer(self.model)
        try:
            optimizer.learning_rate = learning_rate
        except TypeError as error:
            raise UsageError(f"the optimizer's learning rate cannot be set: {one_line(error)}") from error

    def predict(self, batch: Any) -> Any:
        """One forward pass, its output fetched, as `predict` does."""
        return self.model.predict_on_batch(_three(_for_backend(batch))[0])


def _three(batch: Any) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights: what is missing is None. A list, as a collated batch is, counts as a tuple."""
    given = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    return (*given, *[None] * (MOST_INPUTS - len(given)))[:MOST_INPUTS]


def _for_backend(batch: Any) -> Any:
    """Torch's tensors as they are for torch; as arrays, which share their memory, for any other backend."""
    if keras.backend.backend() == "torch":
        return batch
    return keras.tree.map_structure(lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, batch)


def _set_device(device: str) -> None:
    """Let Keras put its tensors where the probe measures; other backends than torch choose for themselves."""
    if keras.backend.backend() == "torch":
        keras.device(device).__enter__()  # for the rest of this process, which is a trial's


# Data


def _source_of(parts: LiveParts) -> Source:
    """As for any model, and besides what only Keras knows: datasets that yield whole batches."""
    data = parts.data
    if isinstance(data, keras.utils.PyDataset):
        return _from_py_dataset(data)
    if type(data).__module__.partition(".")[0] == "tensorflow" and hasattr(data, "unbatch"):
        return _from_tensorflow(data)
    return source_of(data, parts.collate_fn, parts.loading)


def _from_py_dataset(data: Any) -> Source:
    batches = len(data)
    if not batches:
        raise UsageError("The dataset is empty.", remedy="Check the path or the split that it reads.")
    sizes = [len(_leaves(data[index])[0]) for index in {0, batches - 1}]
    source = source_of(_Samples(lambda: (data[index] for index in range(batches))))
    return replace(source, dataset_size=sizes[0] * (batches - 1) + sizes[-1])


def _from_tensorflow(data: Any) -> Source:
    return source_of(_Samples(data.as_numpy_iterator))


@dataclass(frozen=True)
class _Samples:
    """The samples, one by one, of what yields whole batches."""

    batches: Any

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches():
            for index in range(len(_leaves(batch)[0])):
                yield keras.tree.map_structure(lambda leaf, index=index: np.asarray(leaf[index]), batch)


def _leaves(batch: Any) -> list[Any]:
    return list(keras.tree.flatten(batch))


# The way to another process


def portable(parts: LiveParts) -> LiveParts:
    """With the model as Keras saves it. See `Adapter.portable`."""
    model = parts.model
    with temporary_folder() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
        except Exception as error:  # whatever a user's get_config raises
            raise UsageError(
                f"Keras cannot save this model, and so it cannot be copied to another process: {one_line(error)}",
                remedy="Pass a function that builds and compiles it: find_batch_size(build_model, x, y).",
            ) from error
        return replace(parts, model=SavedModel(path.read_bytes(), _own_objects(model)))


def environment() -> dict[str, str]:
    """The backend, which is chosen before Keras is imported. See `Adapter.environment`.

    JAX would take most of a GPU's memory before the first step, and so hide what a step needs.
    """
    backend = keras.backend.backend()
    return {"KERAS_BACKEND": backend} | ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if backend == "jax" else {})


@dataclass(frozen=True)
class SavedModel:
    """A model as Keras saves it, and the user's classes and functions in it. Called, it loads the model."""

    saved: bytes
    own_objects: dict[str, Any]
    floatx: str = field(default_factory=keras.config.floatx)
    image_data_format: str = field(default_factory=keras.config.image_data_format)

    def __call__(self) -> Any:
        """The model, with the weights, the optimizer and the compilation that it was saved with."""
        keras.config.set_floatx(self.floatx)
        keras.config.set_image_data_format(self.image_data_format)
        with temporary_folder() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(self.saved)
            return keras.saving.load_model(path, custom_objects=self.own_objects, safe_mode=False)


def _own_objects(model: Any) -> dict[str, Any]:
    """The classes and functions in a model that Keras itself does not know, by name."""
    compiled = [getattr(model, name, None) for name in ("optimizer", "loss", "_compile_metrics")]
    found = [model, *model._flatten_layers(), *_leaves([part for part in compiled if part is not None])]
    kinds = [part if inspect.isfunction(part) else type(part) for part in found]
    return {kind.__name__: kind for kind in kinds if not kind.__module__.startswith(("keras.", "builtins"))}
