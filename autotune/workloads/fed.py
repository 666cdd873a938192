"""A framework's own training loop, fed one batch at a time and stopped after each step.

Needs torch and greenlet. A Trainer wants to run a whole epoch; a trial wants one step, and then perhaps one on another
batch. So the loop runs in a coroutine: it asks for its next batch and gets the one at hand, and its callback at the end
of a step gives control back. It is the framework's loop, unchanged, and all in one thread: signal handlers, autocast
and whatever else belongs to a thread stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from autotune.errors import WorkloadError

MANY = 10**9  # batches in an epoch that does not end


class FedLoop:
    """A loop that goes one step at a time. To the framework it is a loader whose epoch does not end."""

    def __init__(self, run: Callable[[FedLoop], Any]) -> None:
        """Nothing runs yet.

        Args:
            run: runs the framework's loop on the loader that it is given; its callback calls `step_ended`.
        """
        self._run = run
        self._loop: greenlet | None = None
        self._batches: Iterable[Any] = ()
        self._outside = ExitStack()

    def step(self, batches: Iterable[Any] = ()) -> Any:
        """One step of the loop on these micro-batches, often a single one; returns what `step_ended` was given.

        Raises:
            WorkloadError: the loop came to its end.
            Exception: whatever the loop raised.
        """
        self._batches = batches
        if self._loop is None or self._loop.dead:  # a loop that failed is tried anew
            self._loop = greenlet(self._run)
            outcome = self._switch(self._loop, self)
        else:
            outcome = self._switch(self._loop)
        if self._loop.dead:
            raise WorkloadError("The training loop ended by itself.", remedy="Look for a callback that stops training.")
        return outcome

    def _switch(self, loop: greenlet, *arguments: Any) -> Any:
        """Into the loop and back. It may wait in inference mode, which belongs to the thread and is left meanwhile."""
        self._outside.close()
        outcome = loop.switch(*arguments)
        if torch.is_inference_mode_enabled():
            self._outside.enter_context(torch.inference_mode(False))
        return outcome

    def step_ended(self, outcome: Any) -> None:
        """To be called within the loop, where a step has ended: waits until the next is asked for."""
        if self._loop is not None and getcurrent() is self._loop and self._loop.parent is not None:
            self._loop.parent.switch(outcome)

    def __iter__(self) -> Iterator[Any]:
        """The batches at hand, again and again."""
        while True:
            yield from self._batches

    def __len__(self) -> int:
        """So many batches that it does not end. A loop that knows its length has no need to look ahead."""
        return MANY
