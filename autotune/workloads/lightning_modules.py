"""LightningModules: a step is what Lightning's Trainer does with one batch, on its own fit and validation loops.

Needs lightning or pytorch_lightning, whichever the module comes from, and greenlet. Of the caller's Trainer those
settings count that are part of a step: precision, gradient clipping and accumulation. A trial's Trainer neither saves
nor validates, and what is logged goes nowhere. It has the data module, whose hooks on a batch are part of a step too.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader

from autotune.errors import UsageError
from autotune.trial import Training
from autotune.workloads import BuildOptions, MicroBatches, Workload
from autotune.workloads.fed import MANY, FedLoop
from autotune.workloads.frameworks import version_note
from autotune.workloads.live import LiveParts
from autotune.workloads.plain import refuse_loop_options, set_learning_rate, training_of
from autotune.workloads.scratch import scratch_folder
from autotune.workloads.sources import Source, source_of
from autotune.workloads.standard_loop import evaluating
from autotune.workloads.tracebacks import blame

TESTED = ("2.6", "2.6")

PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}

QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "max_steps": MANY,  # what schedules ask for as `trainer.estimated_stepping_batches`, which would be infinite
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""What a trial's Trainer leaves out. Nothing of it is part of a step."""

SETTINGS = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
"""What a trial's Trainer has from the caller's."""

DATA_REMEDY = (
    "Give a LightningDataModule or a DataLoader: find_batch_size(module, datamodule), or datamodule = ... in a file."
)


def workload_of(parts: LiveParts, options: BuildOptions) -> Workload:
    """The steps of a LightningModule. See `Adapter.workload_of`."""
    refuse_loop_options(options, parts.name, "Give the Trainer a precision; compile the module itself")
    module, training = parts.model, options.mode == "train"
    lightning = package_of(module)
    logging.getLogger(lightning.__name__).setLevel(logging.ERROR)
    source = _source_of(parts, lightning, training=training)
    settings = dict(parts.trainer) if isinstance(parts.trainer, dict) else settings_of(parts.trainer)
    accumulated = settings.pop("accumulate_grad_batches", 1)
    datamodule = parts.data if isinstance(parts.data, lightning.LightningDataModule) else None
    steps = _Steps(module, lightning, settings | _placed_on(options.device), datamodule)
    accumulates = training and module.automatic_optimization
    return Workload(
        make_batch=source.make_batch,
        training_step=(lambda batch: steps.train([batch])) if training else None,
        accumulated_step=steps.train if accumulates else None,
        accumulation_steps=accumulated if accumulates else 1,
        training=(lambda: steps.training(source.loading.batch_size, accumulated)) if training else None,
        inference_step=None if training else steps.validate,
        model=module,
        name=parts.name,
        dataset_size=source.dataset_size,
        draw=source.draw,
        divide=source.divide,
        evaluate=steps.evaluate if accumulates else None,
        set_learning_rate=steps.set_learning_rate if accumulates else None,
        make_loader=source.make_loader,
        num_workers=source.loading.num_workers,
        assumptions=(*source.assumptions, *version_note(lightning.__name__.partition(".")[0], TESTED)),
    )


def package_of(module: Any) -> ModuleType:
    """The package, of the two that Lightning is published as, that a module or a data module comes from."""
    tops = (kind.__module__.partition(".")[0] for kind in type(module).__mro__)
    return import_module(next(PACKAGES[top] for top in tops if top in PACKAGES))


def settings_of(trainer: Any) -> dict[str, Any]:
    """What counts of a Trainer, as arguments for another; of loggers, whether there is one."""
    if trainer is None:
        return {}
    return {name: getattr(trainer, name) for name in SETTINGS} | {"logger": bool(trainer.loggers)}


def _silent_logger(lightning: ModuleType, folder: str) -> Any:
    """One for steps to call, as in `self.logger.experiment.add_scalar(...)`, that keeps nothing."""

    class Silent(lightning.loggers.logger.DummyLogger):  # type: ignore[misc,name-defined]
        save_dir = log_dir = folder

    return Silent()


def _placed_on(device: str) -> dict[str, Any]:
    kind, index = torch.device(device).type, torch.device(device).index
    return {"accelerator": {"cuda": "gpu"}.get(kind, kind), "devices": [index or 0] if kind == "cuda" else 1}


class _Steps:
    """Steps of a Trainer's own loops, on one micro-batch or several."""

    def __init__(self, module: Any, lightning: ModuleType, settings: dict[str, Any], datamodule: Any) -> None:
        self._module = module
        self._lightning = lightning
        self._folder = scratch_folder()  # where a module's own callbacks may write
        self._settings = settings | {"logger": settings.get("logger", True) and _silent_logger(lightning, self._folder)}
        self._datamodule = datamodule
        self._accumulated = 0
        self._loop: FedLoop | None = None
        self._learning_rate: float | None = None

    def train(self, batches: MicroBatches) -> Any:
        """One step of the optimizer; returns the loss of the last micro-batch."""
        if self._loop is None or self._accumulated != len(batches):
            self._accumulated = len(batches)
            self._loop = FedLoop(
                lambda loop: self._trainer(loop, len(batches), limit_val_batches=0).fit(self._module, self._fed(loop))
            )
        return self._loop.step(batches)

    def validate(self, batch: Any) -> Any:
        """One step of the validation loop."""
        if self._loop is None:
            self._loop = FedLoop(
                lambda loop: self._trainer(loop).validate(self._module, self._fed(loop), verbose=False)
            )
        return self._loop.step([batch])

    def _fed(self, loop: FedLoop) -> Any:
        """What the Trainer reads: the loop, or a data module like the one given, set up already, that loads it."""
        if self._datamodule is None:
            return loop
        fed = copy.copy(self._datamodule)
        fed.prepare_data = fed.setup = lambda *_, **__: None
        fed.train_dataloader = fed.val_dataloader = lambda: loop
        return fed

    def evaluate(self, batch: Any) -> float:
        """The loss that `training_step` gives a batch in evaluation mode; nothing is logged."""
        module, precision = self._module, self._precision()
        module.log = module.log_dict = lambda *_, **__: None
        try:
            with evaluating(module), torch.no_grad(), precision.train_step_context():
                outputs = module.training_step(precision.convert_input(batch), 0)
        finally:
            del module.log, module.log_dict
        return float(outputs["loss"] if isinstance(outputs, dict) else outputs)

    def _precision(self) -> Any:
        """The plugin of the Trainer that trains, or of one like it that has put the module where it will be trained."""
        if self._loop is not None:
            return self._module.trainer.precision_plugin
        trainer = self._lightning.Trainer(**QUIET | self._settings)
        self._module.to(trainer.strategy.root_device)
        trainer.precision_plugin.convert_module(self._module)
        return trainer.precision_plugin

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the module's optimizers, before each step, whatever a schedule says."""
        self._learning_rate = learning_rate

    def set_before_step(self, trainer: Any) -> None:
        """To be called when a step is about to begin."""
        if self._learning_rate is not None:
            for optimizer in trainer.optimizers:
                set_learning_rate(optimizer, self._learning_rate)

    def training(self, batch_size: int | None, accumulation_steps: int) -> Training | None:
        """How the caller trains now, once a step has run; None for several optimizers."""
        optimizers = self._module.trainer.optimizers if self._loop is not None else []
        return training_of(optimizers[0], batch_size, accumulation_steps) if len(optimizers) == 1 else None

    def _trainer(self, loop: FedLoop, micro_batches: int = 1, **settings: Any) -> Any:
        return self._lightning.Trainer(
            **QUIET | self._settings | settings,
            accumulate_grad_batches=micro_batches if self._module.automatic_optimization else 1,
            default_root_dir=self._folder,
            callbacks=[_around_steps(self._lightning, loop, micro_batches, self.set_before_step)],
        )


def _around_steps(
    lightning: ModuleType, loop: FedLoop, micro_batches: int, set_before_step: Callable[[Any], None]
) -> Any:
    """A callback that gives control back after each step of the optimizer, or each batch of validation."""

    class AroundSteps(lightning.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            set_before_step(trainer)

        def on_train_batch_end(self, _trainer: Any, _module: Any, outputs: Any, _batch: Any, index: int) -> None:
            if (index + 1) % micro_batches == 0:
                loop.step_ended(outputs.get("loss") if isinstance(outputs, dict) else outputs)

        def on_validation_batch_end(self, _trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
            loop.step_ended(outputs)

    return AroundSteps()


# Data


def _source_of(parts: LiveParts, lightning: ModuleType, *, training: bool) -> Source:
    """Of the data given, which may be a data module, or of what the module itself loads."""
    data = parts.data
    if data is not None and not isinstance(data, lightning.LightningDataModule):
        return source_of(data, parts.collate_fn, parts.loading)
    holder = parts.model if data is None else data
    with blame(f"{type(holder).__name__}.prepare_data() and setup()"):
        holder.prepare_data()
        holder.setup("fit")
    names = ("train_dataloader",) if training else ("val_dataloader", "train_dataloader")
    loader = next((loader for name in names if (loader := _loader(holder, name, lightning)) is not None), None)
    if loader is None:
        raise UsageError(f"{type(holder).__name__} has no train_dataloader().", remedy=DATA_REMEDY)
    if not isinstance(loader, DataLoader):
        raise UsageError(
            f"{type(holder).__name__} loads a {type(loader).__name__}, not one DataLoader.",
            remedy="Give a function that makes a batch as training_step takes it: data=make_batch.",
        )
    return source_of(loader)


def _loader(holder: Any, name: str, lightning: ModuleType) -> Any:
    """What a hook loads, or None where it is not the user's own."""
    base: Callable[..., Any] = getattr(lightning.core.hooks.DataHooks, name)
    if getattr(type(holder), name) is base:
        return None
    with blame(f"{type(holder).__name__}.{name}()"):
        return getattr(holder, name)()


# The way to another process


def portable(parts: LiveParts) -> LiveParts:
    """With the Trainer's settings in its place. See `Adapter.portable`."""
    data = parts.data
    if isinstance(data, package_of(parts.model).LightningDataModule):
        data = copy.copy(data)
        data.trainer = None
    return replace(parts, data=data, trainer=settings_of(parts.trainer))


def device_of(parts: LiveParts) -> str | None:
    """Where the caller's Trainer trains; None without one. See `frameworks.training_device`."""
    if parts.trainer is None:
        return None
    device = parts.trainer.strategy.root_device
    return device.type if device.type == "mps" else str(device)  # of which there is one, without a number


def environment() -> dict[str, str]:
    """None is needed. See `Adapter.environment`."""
    return {}
