"""A model without data in the place of the real one, wherever the user's code holds it.

Needs torch. Promises that every reference to a parameter or a buffer (the optimizer's, a closure's, a tied weight's)
follows, since the tensors keep their identity and only exchange what they point to (`torch.utils.swap_tensors`).
The data are gone afterwards. Tensors that the user's code holds besides (a mask in an attribute, a second model) are
not reached; the mode takes them as they are, and the tracker counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from autotune.errors import NoForecastError
from autotune.forecast.shapes import layouts_of, tensors_of, without_data
from autotune.forecast.tracker import ByteTracker, Owner


class Twin:
    """Tensors of a model, or of an optimizer's state, and what takes their place."""

    def __init__(self, tensors: Iterable[torch.Tensor], device: str) -> None:
        """Make what stands in for them. To be called where tensors have no data.

        Args:
            tensors: each once.
            device: where the stand-ins are.

        Raises:
            NoForecastError: one of them is no plain tensor: sparse, quantized, of a class of its own.
        """
        self._held = list(tensors)
        layouts = layouts_of(self._held)
        if layouts is None:
            raise NoForecastError(
                "The model holds sparse, quantized or custom tensors, which cannot be followed without data.",
            )
        self._stand_ins = without_data(layouts, device)
        for real, fake in zip(self._held, self._stand_ins, strict=True):
            fake.requires_grad_(real.requires_grad)
            if isinstance(real, nn.Parameter):
                fake._is_param = True  # as nn.Parameter marks tensors of other classes

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The objects that the user's code holds, with data or without."""
        return self._held

    def take_place(self) -> None:
        """Take the place of the tensors with data, which frees these. Gradients are dropped."""
        for held, stand_in in zip(self._held, self._stand_ins, strict=True):
            held.grad = None
            _exchange(held, stand_in)
        self._stand_ins = []


def _exchange(one: torch.Tensor, other: torch.Tensor) -> None:
    """What `torch.utils.swap_tensors` does, but for tensors to which there are weak references, too.

    It refuses those, since whoever holds one might mean the tensor's content; here all shall follow, such as a
    recurrent layer's references to its own weights.
    """
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


class OptimizerStates:
    """What the user's optimizers hold. They are found when they step, since a step of the user's own hides them.

    So a state that was loaded is counted from the first step's end on, and whole in the second.
    """

    def __init__(self) -> None:
        """None is known yet."""
        self._saved: dict[Optimizer, dict[Any, Any]] = {}
        self._twins: dict[Optimizer, Twin] = {}

    @contextmanager
    def kept(self, tracker: ByteTracker, device: str) -> Iterator[None]:
        """While steps run: tell the tracker of every state that was there before; afterwards, put all back.

        Args:
            tracker: which is told.
            device: of what stands in for a state.
        """

        def meet(optimizer: Optimizer, *_: Any) -> None:
            if optimizer not in self._saved:
                self._saved[optimizer] = {key: dict(state) for key, state in optimizer.state.items()}
            if optimizer not in self._twins:
                self._twins[optimizer] = Twin(_tensors_of_state(optimizer), device)
                self._twins[optimizer].take_place()
                tracker.give(_tensors_of_state(optimizer), Owner.OPTIMIZER)

        for optimizer in self._saved:
            tracker.give(_tensors_of_state(optimizer), Owner.OPTIMIZER)
        hook = register_optimizer_step_pre_hook(meet)
        try:
            yield
        finally:
            hook.remove()
            self._put_back()

    def _put_back(self) -> None:
        for optimizer, saved in self._saved.items():
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()
            optimizer.state.update({key: dict(state) for key, state in saved.items()})


def _tensors_of_state(optimizer: Optimizer) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors_of(list(optimizer.state.values()))}.values())
