"""Guards against figures that are not true: was the batch of the size asked for, and did the model see it?

Needs torch. A `make_batch` that ignores its argument, or a step that runs the model on a part of the batch or
not at all, would let any batch size "fit". The guards look at one step before anything is timed. They refuse
only what they can be sure of: an object that cannot be looked into passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
    seen: dict[nn.Module, list[int | None]] = {}
    with ExitStack() as hooks:
        for module in _watchable(model):
            handle = module.register_forward_pre_hook(_recorder(seen, batch_size), with_kwargs=True)
            hooks.callback(handle.remove)
        yield
    if model is not None:
        _judge(model, seen, batch_size)


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


def _recorder(seen: dict[nn.Module, list[int | None]], batch_size: int) -> Callable[..., None]:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.setdefault(module, []).append(_samples((*args, *kwargs.values()), batch_size))

    return record


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
