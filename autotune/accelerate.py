"""For Accelerate, and any loop of one's own: a decorator that finds the batch size first.

Needs torch and greenlet. Used as Accelerate's decorator of the same name, which starts with a batch size that is too
large, waits for the crash, and halves. This one measures in child processes, and then trains once.

    @find_executable_batch_size(starting_batch_size=128)
    def train(batch_size):
        ...

    train()
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

from autotune.api import find_batch_size
from autotune.errors import UsageError
from autotune.workloads.own_loops import OwnLoop

Function = Callable[..., Any]


@overload
def find_executable_batch_size(function: Function, *, starting_batch_size: int = 128, **options: Any) -> Function: ...
@overload
def find_executable_batch_size(
    function: None = None, *, starting_batch_size: int = 128, **options: Any
) -> Callable[[Function], Function]: ...
def find_executable_batch_size(
    function: Function | None = None, *, starting_batch_size: int = 128, **options: Any
) -> Any:
    """Call a function that trains with the largest batch size, up to a given one, that fits.

    The function is run in child processes on copies of its arguments until its optimizer has stepped a few times, and
    then once in this process from the beginning. What it writes to disk or to a service during its first steps, it
    also writes there. Its `result` is then what was found.

    Args:
        function: takes the batch size first; it is called without it.
        starting_batch_size: tried first, and the largest.
        **options: as for `find_batch_size`: memory_budget="8GiB", objective="throughput", quiet=True ...

    Raises:
        UsageError: the function does not take a batch size, or can't be copied to another process.
        WorkloadError: it failed; carries the traceback.
        NothingFitsError: not even a single sample fits.
    """
    if function is None:
        return functools.partial(find_executable_batch_size, starting_batch_size=starting_batch_size, **options)
    if not inspect.signature(function).parameters:
        raise UsageError(
            f"{function.__name__}() takes no argument for the batch size.",
            remedy=f"def {function.__name__}(batch_size):",
        )

    @functools.wraps(function)
    def with_batch_size(*arguments: Any, **keywords: Any) -> Any:
        given: dict[str, Any] = {
            "objective": "memory",
            "start": starting_batch_size,
            "max_batch_size": starting_batch_size,
        } | options
        result = find_batch_size(OwnLoop(function, arguments, keywords), **given)
        with_batch_size.result = result  # type: ignore[attr-defined]
        return function(result.batch_size, *arguments, **keywords)

    return with_batch_size
