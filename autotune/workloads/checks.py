"""Guards against figures that are not true: was the batch of the size asked for, and did the model see it?

Needs torch. A `make_batch` that ignores its argument, or a step that runs the model on a part of the batch or
not at all, would let any batch size "fit". The guards look at one step before anything is timed. They refuse
only what they can be sure of: an object that cannot be looked into passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Number
from typing import Any

import torch
from torch import nn

from autotune.errors import WorkloadError
from autotune.workloads.batches import describe, is_sequence, leading_sizes, parts, shape_of


def check_batch(batch: Any, batch_size: int) -> None:
    """Refuse a batch in which the number of samples does not show.

    It shows in the first or second size of a tensor (time-first data), or in the length of a list.

    Raises:
        WorkloadError: it shows nowhere.
    """
    if any(batch_size in sizes for sizes in leading_sizes(batch)) or any(map(_is_opaque, parts(batch))):
        return
    raise WorkloadError(
        f"make_batch({batch_size}) returned {describe(batch) or 'nothing'}, no dimension of which is {batch_size}.",
        remedy="Return as many samples as batch_size says, in the first or second dimension.",
    )


def _is_opaque(part: Any) -> bool:
    known = part is None or isinstance(part, str | bytes | Number | Mapping) or is_sequence(part)
    return not known and shape_of(part) is None


@contextmanager
def watch_inputs(model: nn.Module | None, batch_size: int) -> Iterator[None]:
    """Around one step: refuse it where the model saw fewer samples than the batch holds.

    A loop of the user's may call parts of the model and never the whole: then the part that saw most counts.
    A compiled module is watched from outside only, since a hook inside would change what is compiled; a
    scripted one cannot be watched.

    Args:
        model: the module to watch; None watches nothing.
        batch_size: samples in the batch. More are fine: several views of a sample, or its tokens.

    Raises:
        WorkloadError: the model was not called, or saw fewer samples.
    """
    watch = _Watch(model, batch_size)
    try:
        yield
    finally:
        watch.end()
    if model is not None:
        _judge(model, watch.seen, batch_size)


class _Watch:
    """Hooks on a model and its parts, which note how many samples each call brings.

    A hook can change what runs: with one on any of its parts, torch's encoder layer does not take the fused kernel that
    it takes in inference. So each is let go of as soon as it can add nothing to the verdict: those of the parts once
    the model itself is called, and all within a module that has seen the whole batch.
    """

    def __init__(self, model: nn.Module | None, batch_size: int) -> None:
        self.seen: dict[nn.Module, list[int | None]] = {}
        self._model = model
        self._batch_size = batch_size
        self._hooks = {
            module: module.register_forward_pre_hook(self._record, with_kwargs=True) for module in _watchable(model)
        }

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts = self.seen.setdefault(module, [])
        counts.append(_samples((*args, *kwargs.values()), self._batch_size))
        if len(self._hooks) == 1:  # a compiler may follow this
            return
        if None in counts or sum(count or 0 for count in counts) >= self._batch_size:
            self._let_go(module.modules())
        elif module is self._model:
            self._let_go(part for part in module.modules() if part is not module)

    def _let_go(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            if module in self._hooks:
                self._hooks[module].remove()

    def end(self) -> None:
        """Let go of all."""
        self._let_go(self._hooks)


def _watchable(model: nn.Module | None) -> list[nn.Module]:
    if model is None or isinstance(model, torch.jit.ScriptModule):  # which refuses hooks
        return []
    return [model] if _is_translated(model) else list(model.modules())


def _is_translated(model: nn.Module) -> bool:
    """True where any part was compiled or scripted: its Python code may not be what runs."""
    return any(
        isinstance(module, torch.jit.ScriptModule)
        or hasattr(module, "_orig_mod")  # made by torch.compile(module)
        or getattr(module, "_compiled_call_impl", None) is not None  # made by module.compile()
        for module in model.modules()
    )


def _samples(inputs: tuple[Any, ...], batch_size: int) -> int | None:
    """Samples in one call: the batch size where a dimension says so, else the largest first size; None: unknown."""
    sizes = [size for value in inputs for size in leading_sizes(value)]
    if any(batch_size in size for size in sizes):
        return batch_size
    return max((size[0] for size in sizes), default=None)


def _judge(model: nn.Module, seen: dict[nn.Module, list[int | None]], batch_size: int) -> None:
    if not seen:
        if _is_translated(model):
            return
        raise WorkloadError(
            f"The step on a batch of {batch_size} never called the model.",
            remedy="Call model(...), not model.forward(...), and the very model that is given as `model`.",
        )
    calls = [seen[model]] if model in seen else list(seen.values())
    if any(None in counts for counts in calls):
        return
    most = max(sum(count or 0 for count in counts) for counts in calls)
    if most < batch_size:
        raise WorkloadError(
            f"The model saw only {most} of the {batch_size} samples of a batch.",
            remedy="Run the model on the whole batch in each step, at once or in parts.",
        )
