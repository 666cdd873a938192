"""Answers to what a step asks of data that isn't there.

Needs torch, and a mode below that runs operators without data. Promises that every answer is noted in words a user
understands, with the line that asked. Where a wrong answer would only mislead, a whole number that may decide on a
shape, there is none: `NoForecastError`.

The answers: a number is 1, a condition is false, a selection by a mask selects everything, which bounds its size, and
texts to be aligned with sounds are equally long.
GradScaler's question whether a gradient was infinite is answered with no, so that the optimizer steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.errors import NoForecastError
from autotune.forecast import users_line

aten = torch.ops.aten

SEEDING = frozenset({"torch_seed_generator"})
"""Functions that read a whole number to seed a generator, which decides on no shape: Keras' for dropout and noise."""


class Guesses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs each operator, and answers in its place where it needs data.

    Attributes:
        notes: what was guessed, each once, in order.
    """

    def __init__(self) -> None:
        """Nothing is guessed yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.notes: list[str] = []
        self._found_inf: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in the tracker: no wrapper around each call."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, or answer for it.

        Raises:
            NoForecastError: a whole number was asked for, or a shape that nothing bounds.
        """
        if func is aten._amp_foreach_non_finite_check_and_unscale_.default:
            self._found_inf.add(args[1].untyped_storage())
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            return self._value(func, args)
        except DynamicOutputShapeException:
            return self._selection(func, args)

    def _value(self, func: Any, args: tuple[Any, ...]) -> float | bool:
        """What is read from a tensor's data; a comparison of two tensors is a condition, too."""
        dtype = args[0].dtype if func is aten._local_scalar_dense.default else torch.bool
        if dtype == torch.bool:
            self._note("a condition on the values of a tensor was taken to be false")
            return False
        if not dtype.is_floating_point and users_line.function() in SEEDING:
            return 0
        if not dtype.is_floating_point:
            raise _needs_data("reads a whole number from a tensor")
        if args[0].untyped_storage() in self._found_inf:
            return 0.0
        self._note("a number read from a tensor was taken to be 1")
        return 1.0

    def _selection(self, func: Any, args: tuple[Any, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
        select = _SELECTIONS.get(func)
        selected = select(*args[:2]) if select else None
        if selected is None:
            raise _needs_data(f"calls {func.overloadpacket.__name__.lstrip('_')}, whose result's shape hangs on values")
        self._note(_NOTES.get(func, "a selection by value was taken to select everything"))
        return selected

    def _note(self, text: str) -> None:
        noted = f"{users_line.running()}: {text}"
        if noted not in self.notes:
            self.notes.append(noted)


def _everything_indexed(tensor: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor | None:
    """A tensor indexed by one mask, all true; None where there are other indices besides."""
    given = [(place, index) for place, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        return None
    (place, mask), shape = given[0], tensor.shape
    return tensor.new_empty((*shape[:place], mask.numel(), *shape[place + mask.dim() :]))


def _aligned(log_probabilities: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each sample, and a number for each time and for each letter and gap of its text (LossCTC.cpp).

    Texts come padded, (n, longest), or one after the other; how long the longest of these is, only the data tell.
    """
    times, samples = log_probabilities.shape[0], log_probabilities.shape[1] if log_probabilities.dim() == 3 else 1
    longest = -(-targets.numel() // max(samples, 1))
    return log_probabilities.new_empty(samples), log_probabilities.new_empty((samples, times, 2 * longest + 1))


_SELECTIONS: dict[Any, Callable[..., torch.Tensor | tuple[torch.Tensor, ...] | None]] = {
    aten.nonzero.default: lambda mask: mask.new_empty((mask.numel(), mask.dim()), dtype=torch.long),
    aten.masked_select.default: lambda tensor, mask: tensor.new_empty(
        (torch.empty_like(tensor, dtype=torch.bool) & mask).numel()
    ),
    aten.index.Tensor: _everything_indexed,
    aten._ctc_loss.Tensor: _aligned,
}

_NOTES = {aten._ctc_loss.Tensor: "the texts that ctc_loss aligns were taken to be equally long"}
"""What is said of those that are no selection."""


def _needs_data(deed: str) -> NoForecastError:
    return NoForecastError(
        f"{users_line.running()} {deed}, so the step cannot be followed without data.",
    )
