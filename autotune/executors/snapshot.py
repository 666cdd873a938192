"""Live objects as they were, a model and its optimizer among them, so that they can be put back bit for bit.

Needs torch. The same tensor objects are kept and refilled: whoever holds a reference to a parameter, a
buffer, a gradient or an optimizer's state goes on holding the right one. Copies lie in host memory, so that
they take nothing from the device that is measured.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autotune.executors.reach import stateful

Restore = Callable[[], None]


@dataclass(frozen=True)
class Snapshot:
    """What puts each part back."""

    restores: tuple[Restore, ...]

    def restore(self) -> None:
        """Put everything back as it was."""
        with torch.no_grad():
            for restore in self.restores:
                restore()


def take_snapshot(*parts: Any) -> Snapshot:
    """Note how everything is that these objects hold or name: modules, optimizers, schedulers, scalers.

    Of modules that is parameters, buffers, gradients and modes; all random states besides.
    """
    found = stateful(*parts)
    modules = {id(module): module for part in found if isinstance(part, nn.Module) for module in part.modules()}
    optimizers = [part for part in found if isinstance(part, Optimizer)]
    others = [part for part in found if not isinstance(part, (nn.Module, Optimizer))]
    return Snapshot(
        (
            *map(_of_module, modules.values()),
            *map(_of_parameter, _of_no_module(optimizers, modules.values())),
            *map(_of_optimizer, optimizers),
            *map(_of_anything, others),
            _of_random_states(),
        )
    )


def _of_no_module(optimizers: Iterable[Optimizer], modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters that are trained and belong to none of the modules."""
    held = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    trained = (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    return [parameter for parameter in trained if id(parameter) not in held]


def _of_anything(part: Any) -> Restore:
    """Of a scheduler, a scaler, or whatever else saves and loads its state."""
    kept = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(copy.deepcopy(kept))


def _of_tensor(tensor: torch.Tensor) -> Restore:
    kept = tensor.detach().to("cpu", copy=True)

    def restore() -> None:
        tensor.detach().copy_(kept)

    return restore


def _of_module(module: nn.Module) -> Restore:
    training = module.training
    parameters = [_of_parameter(parameter) for parameter in module.parameters(recurse=False)]
    buffers = {name: (b, _of_tensor(b)) for name, b in module.named_buffers(recurse=False)}

    def restore() -> None:
        module.training = training
        for put_back in parameters:
            put_back()
        for name, (buffer, refill) in buffers.items():
            module._buffers[name] = buffer
            refill()

    return restore


def _of_parameter(parameter: nn.Parameter) -> Restore:
    requires_grad, refill, refill_grad = parameter.requires_grad, _of_tensor(parameter), _of_grad(parameter)

    def restore() -> None:
        refill()
        refill_grad()
        parameter.requires_grad_(requires_grad)

    return restore


def _of_grad(parameter: nn.Parameter) -> Restore:
    grad = parameter.grad
    refill = None if grad is None else _of_tensor(grad)

    def restore() -> None:
        parameter.grad = grad
        if refill is not None:
            refill()

    return restore


def _of_optimizer(optimizer: Optimizer) -> Restore:
    state = {parameter: _of_state(values) for parameter, values in optimizer.state.items()}
    groups = [{k: copy.deepcopy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    def restore() -> None:
        optimizer.state.clear()
        for parameter, rebuilt in state.items():
            optimizer.state[parameter] = rebuilt()
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            for name in group.keys() - kept.keys() - {"params"}:
                del group[name]
            group.update(kept)

    return restore


def _of_state(values: Any) -> Callable[[], Any]:
    """The state of one parameter: its tensors refilled, everything else as it was."""
    if not isinstance(values, dict):
        kept = copy.deepcopy(values)
        return lambda: kept
    tensors = {name: (value, _of_tensor(value)) for name, value in values.items() if isinstance(value, torch.Tensor)}
    others = {name: copy.deepcopy(value) for name, value in values.items() if name not in tensors}
    order = list(values)

    def rebuilt() -> dict[Any, Any]:
        for _, refill in tensors.values():
            refill()
        values.clear()
        values.update({name: tensors[name][0] if name in tensors else others[name] for name in order})
        return values

    return rebuilt


def _of_random_states() -> Restore:
    python, host = random.getstate(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None

    def restore() -> None:
        random.setstate(python)
        torch.set_rng_state(host)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        if metal is not None:
            torch.mps.set_rng_state(metal)
        if numpy is not None:
            numpy.random.set_state(numpy_state)

    return restore
