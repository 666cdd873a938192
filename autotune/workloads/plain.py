"""A workload of parts: the standard torch loop around the user's model, loss, optimizer and data.

Needs torch. Promises what a careful training script does and nothing more: model on its device and in its
mode, zero_grad, autocast where asked for, forward, backward, optimizer step. Where the user has a step of
their own, that step runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy

from autotune.errors import UsageError
from autotune.trial import Training
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.batches import move
from autotune.workloads.calling import forward_signature, inference_call
from autotune.workloads.frameworks import adapter_of
from autotune.workloads.sources import Source
from autotune.workloads.standard_loop import StandardLoop
from autotune.workloads.tracebacks import blame

DEFAULT_LEARNING_RATE = 1e-3
"""torch's own default for AdamW. It does not change what a step costs."""

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a workload is made of, however the user gave it.

    Attributes:
        name: shown in reports.
        source: makes the batches.
        model: a module, built already; None where the step needs none.
        loss: `loss(output, target)`; None where the model returns its own.
        optimizer: an optimizer of the model's parameters, or a function of the parameters that returns one.
        training_step: the user's own step, instead of the standard one.
        inference_step: likewise.
    """

    name: str
    source: Source
    model: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    optimizer: Any = None
    training_step: Callable[[Any], Any] | None = None
    inference_step: Callable[[Any], Any] | None = None


def assemble(parts: Parts, options: BuildOptions) -> Workload:
    """The workload that these parts make.

    Raises:
        UsageError: a part is missing for the mode asked for, or is not what it should be.
        WorkloadError: building the model or the optimizer raised.
    """
    own_step = parts.training_step if options.mode == "train" else parts.inference_step
    if own_step is not None:
        return _own_loop(parts, own_step, options)
    if parts.model is None:
        raise _missing_step(parts, options)
    return _standard_loop(parts, options)


def _missing_step(parts: Parts, options: BuildOptions) -> UsageError:
    step, other, mode = "training_step", "inference_step", "inference"
    if options.mode == mode:
        step, other, mode = other, step, "train"
    found = other if getattr(parts, other) is not None else "no model"
    switch = f", or use --mode {mode}" if found == other else ""
    return UsageError(
        f"{parts.name} has {found} and no {step}, but the mode is {options.mode}.",
        remedy=f"Add a model, or:\ndef {step}(batch):\n    ...{switch}",
    )


# The user's own loop


def _own_loop(parts: Parts, step: Callable[[Any], Any], options: BuildOptions) -> Workload:
    refuse_loop_options(options, parts.name)
    if not callable(step):
        raise UsageError(
            f"The step of {parts.name} is a {type(step).__name__}, not a function.",
            remedy="Write def training_step(batch): ..., or def inference_step(batch): ...",
        )
    model = None if parts.model is None else _checked_model(parts.model)
    if model is not None:
        model.to(options.device).train(options.mode == "train")
    training = options.mode == "train"
    return Workload(
        make_batch=parts.source.make_batch,
        training_step=step if training else None,
        inference_step=None if training else without_gradients(step),
        model=model,
        name=parts.name,
        dataset_size=parts.source.dataset_size,
        assumptions=parts.source.assumptions,
        make_loader=parts.source.make_loader,
        num_workers=parts.source.loading.num_workers,
    )


LOOP_REMEDY = "Use torch.autocast or torch.compile in the step"


def refuse_loop_options(options: BuildOptions, name: str, remedy: str = LOOP_REMEDY) -> None:
    """Refuse options that only the standard loop can honour.

    Args:
        options: what was asked for.
        name: whose steps are their own.
        remedy: where these decide it; goes before "and leave it out".

    Raises:
        UsageError: a precision or compilation was asked for.
    """
    option = f"--precision {options.precision}" if options.precision != "fp32" else "--compile"
    if options.precision != "fp32" or options.compile:
        raise UsageError(
            f"{option} cannot be used with {name}: its steps are its own, and decide that themselves.",
            remedy=f"{remedy}, and leave {option} out.",
        )


def without_gradients(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The user's inference step with gradients off; `no_grad`, since their code may update what it made."""

    def inference_step(batch: Any) -> Any:
        with torch.no_grad():
            return step(batch)

    return inference_step


# The standard loop


def _standard_loop(parts: Parts, options: BuildOptions) -> Workload:
    training = options.mode == "train"
    _check_loss(parts.loss)
    model, moved = _placed(_checked_model(parts.model), options)
    _initialize_lazily(model, parts, options)
    optimizer, assumptions = _optimizer_for(model, parts.optimizer) if training else (None, ())
    if moved and optimizer is parts.optimizer and optimizer is not None:
        optimizer.load_state_dict(optimizer.state_dict())  # which moves its state to where the parameters are
    loop = StandardLoop(
        model=_compiled(model) if options.compile else model,
        signature=forward_signature(model),
        loss=parts.loss,
        optimizer=optimizer,
        device_type=torch.device(options.device).type,
        dtype=AUTOCAST_DTYPES[options.precision],
        scaler=_scaler(options) if training else None,
    )
    return Workload(
        make_batch=parts.source.make_batch,
        training_step=loop.training_step if training else None,
        accumulated_step=loop.accumulated_step if training else None,
        inference_step=None if training else loop.inference_step,
        model=loop.model,
        name=parts.name,
        dataset_size=parts.source.dataset_size,
        assumptions=(*parts.source.assumptions, *assumptions),
        training=None if parts.optimizer is None else training_of(optimizer, parts.source.loading.batch_size),
        draw=parts.source.draw,
        divide=parts.source.divide,
        evaluate=loop.evaluate if training else None,
        optimizer=optimizer,
        set_learning_rate=partial(set_learning_rate, optimizer) if training else None,
        make_loader=parts.source.make_loader,
        num_workers=parts.source.loading.num_workers,
    )


def training_of(optimizer: Any, batch_size: int | None, accumulation_steps: int = 1) -> Training | None:
    """How the caller trains now: their optimizer, its learning rate, and what one of its steps sees."""
    groups = getattr(optimizer, "param_groups", [])
    rates = {float(group["lr"]) for group in groups if isinstance(group.get("lr"), int | float)}
    rate = rates.pop() if len(rates) == 1 else None
    if optimizer is None:
        return None
    samples = batch_size and batch_size * accumulation_steps
    return Training(type(optimizer).__name__, rate, samples, accumulation_steps)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Of every group of an optimizer's parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _check_loss(loss: Any) -> None:
    if isinstance(loss, type):
        raise UsageError(f"loss is the class {loss.__name__}, not an instance.", remedy=f"loss = {loss.__name__}()")
    if loss is not None and not callable(loss):
        raise UsageError(
            f"loss is a {type(loss).__name__}, which cannot be called.",
            remedy="loss = torch.nn.functional.cross_entropy, or any function loss(output, target).",
        )


def built(model: Any) -> Any:
    """A model, or a framework's trainer, as it is, and what any other function without arguments returns.

    Raises:
        WorkloadError: the function raised.
    """
    if isinstance(model, nn.Module) or not callable(model) or adapter_of(model):
        return model
    with blame("Building the model"):
        return model()


def _checked_model(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"The model is a {type(model).__name__}, not a torch.nn.Module.",
            remedy="Give a module, or a function without arguments that returns one: def build_model(): ...",
        )
    return model


def _placed(model: nn.Module, options: BuildOptions) -> tuple[nn.Module, bool]:
    """The model on its device and in its mode, and whether it had to be moved."""
    before = {parameter.device for parameter in model.parameters()}
    model.to(options.device).train(options.mode == "train")
    return model, before != {parameter.device for parameter in model.parameters()}


def _initialize_lazily(model: nn.Module, parts: Parts, options: BuildOptions) -> None:
    """Let lazy modules learn their shapes from one sample, as torch asks for before an optimizer is made."""
    if not any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        return
    batch = move(parts.source.make_batch(1), options.device)
    call = inference_call(batch, forward_signature(model), has_loss=parts.loss is not None)
    model.eval()  # in which BatchNorm takes a single sample and leaves its statistics alone
    with blame("The model's first forward pass"), torch.no_grad():
        call.on(model)
    model.train(options.mode == "train")


def _compiled(model: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(model))


def _scaler(options: BuildOptions) -> GradScaler:
    return GradScaler(torch.device(options.device).type, enabled=options.precision == "fp16")


def _optimizer_for(model: nn.Module, optimizer: Any) -> tuple[Any, tuple[str, ...]]:
    """The optimizer, and what was assumed for it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError(
            "The model has no parameter that requires a gradient, so there is nothing to train.",
            remedy="Use --mode inference, or set requires_grad on what is to be trained.",
        )
    if optimizer is None:
        text = f"no optimizer was given: AdamW with lr={DEFAULT_LEARNING_RATE:g} stands in"
        return torch.optim.AdamW(trained, lr=DEFAULT_LEARNING_RATE), (text,)
    built = optimizer
    if not _is_optimizer(optimizer) and callable(optimizer):
        with blame("Building the optimizer"):
            built = optimizer(trained)
    _check_optimizer(built, trained)
    return built, ()


def _is_optimizer(value: Any) -> bool:
    """By what it does, since wrappers need not inherit from torch's; a class is not one, but makes one."""
    return not isinstance(value, type) and hasattr(value, "step") and hasattr(value, "zero_grad")


def _check_optimizer(optimizer: Any, trained: Iterable[nn.Parameter]) -> None:
    if not _is_optimizer(optimizer):
        raise UsageError(
            f"The optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer.",
            remedy="def build_optimizer(parameters):\n    return torch.optim.AdamW(parameters, lr=1e-3)",
        )
    held = {id(parameter) for group in getattr(optimizer, "param_groups", []) for parameter in group["params"]}
    if held and held.isdisjoint(map(id, trained)):
        raise UsageError(
            "The optimizer holds none of the model's parameters: it was made for another model.",
            remedy="Make it from this model's parameters, or give a function: def build_optimizer(parameters): ...",
        )
