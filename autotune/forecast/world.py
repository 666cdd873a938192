"""Where a step runs without data, by the rules of a processor or of a GPU.

Needs torch. Promises that inside it tensors have shapes and no memory, and that whatever a step asks of their data
is answered and noted. Process-wide: while it is entered, torch's optimizers take such tensors for ordinary ones.

Where there is a GPU, its rules are torch's own. Elsewhere tensors without data that are labelled "cuda" abort the
process (autograd asks for the device's guard in a place that must not raise), so `emulation` makes tensors of the
processor follow the GPU's rules.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.optim.optimizer as torch_optimizer
import torch.utils._foreach_utils as foreach_utils
from torch._subclasses.fake_tensor import FakeTensor

from autotune.forecast import fast_path, inference, libraries
from autotune.forecast.guesses import Guesses
from autotune.forecast.recall import RecallingMode
from autotune.forecast.records import Rules
from autotune.forecast.recurrence import quick_sequences


@dataclass(frozen=True)
class World:
    """The mode that tensors without data belong to, the device they are on, and what was guessed so far."""

    mode: RecallingMode
    device: str
    guesses: list[str]

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor without data that stands for one with data, the same each time."""
        if isinstance(tensor, FakeTensor):
            return tensor
        return self.mode.fake_tensor_converter.from_real_tensor(self.mode, tensor)


def is_native(rules: Rules, device: str) -> bool:
    """True where the rules are those of a device that is here, and that the workload is on."""
    is_here = rules is Rules.CPU or torch.cuda.is_available()
    return is_here and torch.device(device).type == rules.value


@contextmanager
def fake_world(rules: Rules, device: str | None = None, mode: RecallingMode | None = None) -> Iterator[World]:
    """Run without data what runs inside.

    Args:
        rules: whose.
        device: the workload's device; None for the first of the kind that the rules name, where it is here.
        mode: that of an earlier world, where its tensors are to be used again.
    """
    wanted = device or ("cpu" if rules is Rules.CPU else "cuda:0")
    native = is_native(rules, wanted)
    guesses = Guesses()
    with ExitStack() as stack:
        stack.enter_context(_foreach_takes_fakes())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # they were shown, or will be, when the step really runs
        stack.enter_context(_quiet_fakes())
        stack.enter_context(quick_sequences())
        stack.enter_context(inference.means_no_grad())
        if rules is Rules.CUDA and not native:
            from autotune.forecast.emulation import cuda_on_cpu  # most forecasts need none of it

            guesses.notes = stack.enter_context(cuda_on_cpu())  # one list for both, in the order of the step
        entered = stack.enter_context(mode or RecallingMode())
        stack.enter_context(libraries.noted(guesses.notes))
        stack.enter_context(fast_path.taken(guesses.notes))
        stack.enter_context(guesses)
        yield World(mode=entered, device=wanted if native else "cpu", guesses=guesses.notes)


@contextmanager
def _quiet_fakes() -> Iterator[None]:
    """Keep torch from writing a traceback for an operator that can't run without data: it becomes our one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _foreach_takes_fakes() -> Iterator[None]:
    """Let optimizers, and the clipping of gradients, choose their foreach kernels as for real tensors.

    They test the type of each parameter (`_default_to_fused_or_foreach`), and without this take the loop, which lacks
    the temporaries of the size of all parameters that foreach kernels make.
    """
    lists = (torch_optimizer._foreach_supported_types, foreach_utils._foreach_supported_types)
    for types in lists:
        types.append(FakeTensor)
    try:
        yield
    finally:
        for types in lists:
            types.remove(FakeTensor)
