"""A function that trains at a given batch size, whatever it does inside: it is run until its optimizer has stepped.

Needs torch (2.1 for its hook on every optimizer) and greenlet. The function decides how batches are made, so nothing
of a batch is seen here: the batch size counts as what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from autotune.errors import UsageError, WorkloadError
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.fed import FedLoop
from autotune.workloads.live import LiveParts
from autotune.workloads.pickling import check
from autotune.workloads.plain import refuse_loop_options
from autotune.workloads.tracebacks import one_line


@dataclass(frozen=True)
class OwnLoop:
    """`train(batch_size, *arguments, **keywords)` trains from beginning to end."""

    train: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        """The function's, for reports."""
        return self.train.__name__


@dataclass(frozen=True)
class Samples:
    """In place of a batch, which only the function sees."""

    batch_size: int


def workload_of(parts: LiveParts, options: BuildOptions) -> Workload:
    """Steps of the function's own loop, an optimizer's step at a time. See `Adapter.workload_of`."""
    refuse_loop_options(options, parts.name)
    return Workload(
        make_batch=Samples,
        training_step=_Steps(parts.model).train,
        name=parts.name,
        assumptions=("a step is one of the optimizer's, and taken to be on one batch",),
    )


class _Steps:
    """The function, run at each batch size that is asked for and stopped after each step."""

    def __init__(self, own: OwnLoop) -> None:
        self._own = own
        self._loops: dict[int, FedLoop] = {}
        self._running: FedLoop | None = None
        self._steps = 0

    def train(self, samples: Samples) -> None:
        """One step of the optimizer."""
        if not self._loops:
            register_optimizer_step_post_hook(self._stepped)
        size = samples.batch_size
        self._running = self._loops.setdefault(size, FedLoop(lambda _: self._run(size)))
        self._running.step()

    def _run(self, batch_size: int) -> None:
        """The function over and over: a trial may need more steps than one training has."""
        while True:
            before = self._steps
            self._own.train(batch_size, *self._own.arguments, **self._own.keywords)
            if self._steps == before:
                raise WorkloadError(
                    f"{self._own.train.__name__}({batch_size}) came to its end without a step of an optimizer.",
                    remedy="Does its loop have data? Only optimizers of torch are seen.",
                )

    def _stepped(self, *_: Any) -> None:
        self._steps += 1
        if self._running is not None:
            self._running.step_ended(None)


def portable(parts: LiveParts) -> LiveParts:
    """As they are, if they can be pickled. See `Adapter.portable`."""
    try:
        check(parts.model)
    except Exception as error:  # whatever a user's __reduce__ raises
        raise UsageError(
            f"{parts.name} and its arguments cannot be sent to another process: {one_line(error)}",
            remedy="Make within the function what it needs.",
        ) from error
    return parts


def environment() -> dict[str, str]:
    """None is needed. See `Adapter.environment`."""
    return {}
