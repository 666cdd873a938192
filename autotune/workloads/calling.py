"""How a batch goes to a model: what becomes arguments, what keywords, what the target.

Needs torch. With a loss, the target is the last item of a tuple, or the item of a mapping named like one;
without, the model gets everything, since it makes its own loss. In inference there is no target, so it is
left out where the model can do without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autotune.errors import WorkloadError
from autotune.workloads.batches import describe, is_sequence

TARGET_KEYS = ("labels", "label", "target", "targets", "y")
"""Names of the target in a mapping; the first is Hugging Face's."""


LOSS_REMEDY = "Add a loss, such as loss = torch.nn.functional.cross_entropy, or let the model return its own."


@dataclass(frozen=True)
class Call:
    """`model(*args, **kwargs)`, and what its output is compared with."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    def on(self, model: nn.Module) -> Any:
        """The model's output."""
        return model(*self.args, **self.kwargs)


def forward_signature(model: nn.Module) -> inspect.Signature | None:
    """What `forward` takes; None where Python cannot tell, as for a scripted module."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def own_loss_call(batch: Any, signature: inspect.Signature | None) -> Call:
    """The whole batch to a model that returns its own loss.

    Raises:
        WorkloadError: the model takes the inputs, but not the target: a loss was forgotten.
    """
    whole = whole_call(batch)
    if not _binds(signature, whole) and _binds(signature, _inputs_of(batch)):
        raise WorkloadError(
            f"There is no loss, and the model does not take the target itself; a batch is {describe(batch)}.",
            remedy=LOSS_REMEDY,
        )
    return whole


def _inputs_of(batch: Any) -> Call:
    """A batch less what would be its target, if it has one."""
    key = target_key(batch)
    if key is not None:
        return Call(kwargs=_without(batch, key))
    return Call(args=tuple(batch[:-1])) if is_sequence(batch) and len(batch) > 1 else whole_call(batch)


def whole_call(batch: Any) -> Call:
    """The whole batch to the model."""
    if isinstance(batch, Mapping):
        return Call(kwargs=batch)
    return Call(args=tuple(batch) if is_sequence(batch) else (batch,))


def split_call(batch: Any) -> Call:
    """The inputs to the model, the target kept for the loss.

    Raises:
        WorkloadError: the batch holds no target.
    """
    key = target_key(batch)
    if key is not None:
        return Call(kwargs=_without(batch, key), target=batch[key])
    if is_sequence(batch) and len(batch) > 1:
        return Call(args=tuple(batch[:-1]), target=batch[-1])
    named = f" or an item named {', '.join(TARGET_KEYS)}" if isinstance(batch, Mapping) else ""
    raise WorkloadError(
        f"There is a loss, but the batch holds no target for it: {describe(batch)}.",
        remedy=f"Let a batch be (inputs, target){named}, or leave the loss out where the model returns its own.",
    )


def inference_call(batch: Any, signature: inspect.Signature | None, *, has_loss: bool) -> Call:
    """The inputs to the model, without a target where it can do without.

    Args:
        batch: on the model's device.
        signature: what the model's `forward` takes, None where unknown.
        has_loss: the workload has a loss, so that the last item of a tuple is meant to be its target.
    """
    key = target_key(batch)
    if key is not None:
        return Call(kwargs=batch if _requires(signature, key) else _without(batch, key))
    whole = whole_call(batch)
    if isinstance(batch, Mapping) or len(whole.args) < 2:
        return whole
    inputs = _inputs_of(batch)
    likelier, other = (inputs, whole) if has_loss else (whole, inputs)
    return other if _binds(signature, other) and not _binds(signature, likelier) else likelier


def target_key(batch: Any) -> str | None:
    """The key of a mapping that holds the target, None where there is none."""
    if not isinstance(batch, Mapping):
        return None
    return next((key for key in TARGET_KEYS if key in batch), None)


def _without(batch: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != key}


def _requires(signature: inspect.Signature | None, name: str) -> bool:
    parameter = signature.parameters.get(name) if signature else None
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _binds(signature: inspect.Signature | None, call: Call) -> bool:
    if signature is None:
        return True
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError:
        return False
    return True
