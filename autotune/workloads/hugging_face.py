"""Hugging Face Trainers: a step is what the Trainer does with one batch, precision, clipping and PEFT included.

Needs transformers, accelerate and greenlet. In a child a Trainer of the same class is built from the parts of the
caller's, which is only read. It neither logs, saves nor evaluates there, and the caller's callbacks stay at home: they
might write where the caller writes.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import torch
from transformers import DefaultFlowCallback, SchedulerType, Trainer, TrainerCallback, get_constant_schedule
from transformers.training_args import OptimizerNames

from autotune.errors import UsageError
from autotune.trial import Training
from autotune.workloads import BuildOptions, MicroBatches, Workload
from autotune.workloads.fed import MANY, FedLoop
from autotune.workloads.frameworks import version_note
from autotune.workloads.live import LiveParts
from autotune.workloads.plain import refuse_loop_options, set_learning_rate
from autotune.workloads.scratch import scratch_folder
from autotune.workloads.sources import source_of
from autotune.workloads.standard_loop import evaluating

TESTED = ("5.23", "5.23")

QUIET = {
    "report_to": [],
    "disable_tqdm": True,
    "push_to_hub": False,
    "eval_on_start": False,
    "eval_strategy": "no",
    "logging_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "auto_find_batch_size": False,
    "max_steps": MANY,
}
"""What a trial's Trainer does otherwise than the caller's. Nothing of it is part of a step."""

GIVEN = (
    "model",
    "data_collator",
    "train_dataset",
    "eval_dataset",
    "processing_class",
    "compute_loss_func",
    "compute_metrics",
    "optimizer_cls_and_kwargs",
    "preprocess_logits_for_metrics",
)
"""Arguments of a Trainer that it keeps under their own names."""


def workload_of(parts: LiveParts, options: BuildOptions) -> Workload:
    """The steps of a Trainer. See `Adapter.workload_of`."""
    refuse_loop_options(options, parts.name, "Set bf16, fp16 or torch_compile in its TrainingArguments")
    trainer, training = parts.model, options.mode == "train"
    now = _training(trainer)  # before any step, which changes how many batches it accumulates
    _quiet(trainer)
    _check_device(trainer, options)
    source = source_of(_loader(trainer, training=training))
    steps = _Steps(trainer)
    return Workload(
        make_batch=source.make_batch,
        training_step=(lambda batch: steps.train([batch])) if training else None,
        accumulated_step=steps.train if training else None,
        inference_step=None if training else steps.predict,
        model=trainer.model,
        name=parts.name,
        dataset_size=source.dataset_size,
        draw=source.draw,
        divide=source.divide,
        evaluate=steps.evaluate if training else None,
        set_learning_rate=steps.set_learning_rate if training else None,
        make_loader=source.make_loader,
        num_workers=source.loading.num_workers,
        assumptions=(*source.assumptions, *version_note("transformers", TESTED)),
        training=(lambda: _at_present_rate(now, trainer)) if training else None,
        accumulation_steps=now.accumulation_steps,
    )


def _training(trainer: Trainer) -> Training:
    args = trainer.args
    optimizer = OptimizerNames(args.optim).value if trainer.optimizer is None else type(trainer.optimizer).__name__
    steps = args.gradient_accumulation_steps
    samples = args.per_device_train_batch_size * steps
    return Training(optimizer, args.learning_rate, samples, steps)


def _at_present_rate(before: Training, trainer: Trainer) -> Training:
    return msgspec.structs.replace(before, learning_rate=trainer.args.learning_rate)


def _quiet(trainer: Trainer) -> None:
    """Let a Trainer do nothing but train."""
    for name, value in QUIET.items():
        setattr(trainer.args, name, value)
    trainer.callback_handler.callbacks = [DefaultFlowCallback()]
    trainer.accelerator.device_placement = False  # the model is in its place; a forecast can't move it


def _check_device(trainer: Trainer, options: BuildOptions) -> None:
    if trainer.args.device.type != torch.device(options.device).type:
        raise UsageError(
            f"The Trainer trains on {trainer.args.device}, but the probe's device is {options.device}.",
            remedy=f"Use --device {trainer.args.device.type}, or use_cpu=True in its TrainingArguments.",
        )


def _loader(trainer: Trainer, *, training: bool) -> Any:
    """The Trainer's own loader: of its training set, or of its evaluation set, for which the former stands in."""
    if trainer.train_dataset is None and (training or trainer.eval_dataset is None):
        raise UsageError(
            "The Trainer has no train_dataset to make batches of.",
            remedy="Trainer(model, args, train_dataset=...), or --mode inference with an eval_dataset.",
        )
    if training or trainer.eval_dataset is None:
        return trainer.get_train_dataloader()
    return trainer.get_eval_dataloader()


class _Steps:
    """Steps of a Trainer's own loop, on one micro-batch or several."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loop: FedLoop | None = None
        self._loss: Any = None
        self._take_losses()

    def train(self, batches: MicroBatches) -> Any:
        """One step of the optimizer; returns the loss of the last micro-batch."""
        if self._loop is None or self._trainer.args.gradient_accumulation_steps != len(batches):
            self._trainer.args.gradient_accumulation_steps = len(batches)
            self._loop = FedLoop(self._run)
        self._loop.step(batches)
        return self._loss

    def predict(self, batch: Any) -> Any:
        """One step of the evaluation loop."""
        trainer = self._trainer
        assert trainer.model is not None
        trainer.model.eval()
        return trainer.prediction_step(trainer.model, batch, trainer.compute_metrics is None)

    def evaluate(self, batch: Any) -> float:
        """The loss of a batch, as the evaluation loop has it."""
        trainer = self._trainer
        assert trainer.model is not None
        with evaluating(trainer.model):
            loss = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)[0]
        if loss is None:
            raise UsageError("the model tells no loss in evaluation, as batches have no labels")
        return float(loss)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the optimizer, which may be made only when training begins; and from then on the same."""
        trainer = self._trainer
        trainer.args.learning_rate = learning_rate
        trainer.args.lr_scheduler_type = SchedulerType.CONSTANT
        if trainer.optimizer is not None:
            set_learning_rate(trainer.optimizer, learning_rate)
            for group in trainer.optimizer.param_groups:
                group["initial_lr"] = learning_rate  # what a schedule starts from
            trainer.lr_scheduler = get_constant_schedule(trainer.optimizer)

    def _run(self, loop: FedLoop) -> None:
        trainer = self._trainer
        trainer.get_train_dataloader = lambda: loop  # type: ignore[method-assign,assignment,return-value]
        callback = _EndOfStep(loop)
        trainer.add_callback(callback)
        try:
            trainer.train()
        finally:
            trainer.remove_callback(callback)

    def _take_losses(self) -> None:
        training_step = self._trainer.training_step

        def taking(*arguments: Any, **keywords: Any) -> Any:
            self._loss = training_step(*arguments, **keywords)
            return self._loss

        self._trainer.training_step = taking  # type: ignore[method-assign]


class _EndOfStep(TrainerCallback):
    """Gives control back after each step of the optimizer."""

    def __init__(self, loop: FedLoop) -> None:
        self._loop = loop

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimizer has stepped."""
        self._loop.step_ended(None)


# The way to another process


def portable(parts: LiveParts) -> LiveParts:
    """With what the Trainer was made of. See `Adapter.portable`."""
    return replace(parts, model=TrainerCopy.of(parts.model))


def device_of(parts: LiveParts) -> str:
    """The kind that the Trainer trains on; alone, it takes the first. See `frameworks.training_device`."""
    return str(parts.model.args.device.type)


def environment() -> dict[str, str]:
    """The Trainer needs none. See `Adapter.environment`."""
    return {}


@dataclass(frozen=True)
class TrainerCopy:
    """What a Trainer was made of. Called, it makes one of the same class, which writes to a folder of its own.

    Attributes:
        kind: the class, which may be the user's own.
        arguments: the class of its TrainingArguments.
        settings: their fields.
        given: what the Trainer was given.
        own: what a class of the user's keeps besides.
    """

    kind: type[Trainer]
    arguments: type[Any]
    settings: dict[str, Any]
    given: dict[str, Any]
    own: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> TrainerCopy:
        """The parts of a Trainer, as they are."""
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # out of Accelerate's wrapping
        return cls(
            kind=type(trainer),
            arguments=type(trainer.args),
            settings={f.name: getattr(trainer.args, f.name) for f in fields(trainer.args) if f.init},
            given={name: getattr(trainer, name, None) for name in GIVEN} | {"optimizers": (optimizer, None)},
            own={name: value for name, value in vars(trainer).items() if name not in _names_in(Trainer)},
        )

    def __call__(self) -> Trainer:
        """A Trainer of the same class and settings. A user's own `__init__` is not run: what it made is here."""
        trainer = self.kind.__new__(self.kind)
        vars(trainer).update(self.own)
        arguments = self.arguments(**self.settings | QUIET | {"output_dir": scratch_folder()})
        Trainer.__init__(trainer, args=arguments, **self.given)
        return trainer


def _names_in(kind: type[Any]) -> set[str]:
    """Every name that the code of a class uses."""
    codes = [function.__code__ for function in vars(kind).values() if inspect.isfunction(function)]
    return {name for code in codes for name in code.co_names}
