"""The standard torch loop: zero_grad, autocast where asked for, forward, backward, optimizer step.

Needs torch. Promises what a careful training script does and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from autotune.errors import WorkloadError
from autotune.workloads import MicroBatches
from autotune.workloads.batches import describe, is_sequence
from autotune.workloads.calling import LOSS_REMEDY, inference_call, own_loss_call, split_call


@dataclass(frozen=True, kw_only=True)
class StandardLoop:
    """The standard steps. `optimizer` and `scaler` are None in inference, `dtype` without autocast."""

    model: nn.Module
    signature: Signature | None
    loss: Callable[[Any, Any], Any] | None
    optimizer: Any
    device_type: str
    dtype: torch.dtype | None
    scaler: GradScaler | None

    def training_step(self, batch: Any) -> Tensor:
        """One optimizer step on one batch; returns its loss."""
        return self.accumulated_step([batch])

    def accumulated_step(self, batches: MicroBatches) -> Tensor:
        """One optimizer step on the mean loss of several micro-batches; returns the last one's."""
        assert self.scaler is not None
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            _output, found = self._forward(batch)  # the output is held meanwhile, as most training scripts do
            loss = checked_loss(found)
            share: Any = self.scaler.scale(loss / len(batches) if len(batches) > 1 else loss)
            share.backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def evaluate(self, batch: Any) -> float:
        """The loss of a batch in evaluation mode, without training."""
        with evaluating(self.model), torch.no_grad():
            return float(self._forward(batch)[1])

    def inference_step(self, batch: Any) -> Any:
        """One forward pass."""
        with torch.inference_mode(), self._autocast():
            return inference_call(batch, self.signature, has_loss=self.loss is not None).on(self.model)

    def _forward(self, batch: Any) -> tuple[Any, Any]:
        with self._autocast():
            call = own_loss_call(batch, self.signature) if self.loss is None else split_call(batch)
            output = call.on(self.model)
            loss = own_loss(output) if self.loss is None else self.loss(output, call.target)
        return output, loss

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device_type, dtype=self.dtype) if self.dtype else nullcontext()


def own_loss(output: Any) -> Any:
    """The loss in what a model returns: the output itself, its item or attribute `loss`, or its first item.

    Raises:
        WorkloadError: there is none.
    """
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif is_sequence(output):
        loss = output[0] if output else None
    else:
        loss = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise WorkloadError(
        f"There is no loss: none was given, and the model returned {describe(output)}, which is not one.",
        remedy=LOSS_REMEDY,
    )


def checked_loss(loss: Any) -> Tensor:
    """The loss, if training can start from it.

    Raises:
        WorkloadError: it is not one floating-point number that depends on a parameter.
    """
    if not isinstance(loss, Tensor):
        raise WorkloadError(
            f"The loss is a {type(loss).__name__}, not a tensor.", remedy="Return the tensor itself, without .item()."
        )
    if loss.numel() != 1:
        raise WorkloadError(
            f"The loss has shape {list(loss.shape)}, but training starts from one number.",
            remedy="Reduce it: return loss.mean(), or use reduction='mean'.",
        )
    if not loss.is_floating_point():
        raise WorkloadError(f"The loss is {describe(loss)}, not floating-point.", remedy="Return loss.float().")
    if not loss.requires_grad:
        raise WorkloadError(
            "The loss does not depend on any parameter that is trained.",
            remedy="Look for .detach(), torch.no_grad() or .item() between the model and its loss.",
        )
    return loss


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and each of its parts as it was afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
