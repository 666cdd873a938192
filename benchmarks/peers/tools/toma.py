"""toma, which halves.

After https://github.com/BlackHC/toma: the decorated function takes the batch size and what else it is called with.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

from toma import toma

from benchmarks.peers import START
from benchmarks.peers.task import Task


def find(task: Task) -> int:
    """The size at which the training ran through."""

    @toma.batch(initial_batchsize=START)
    def train(batchsize: int, task: Task) -> int:
        task.hand_over()
        task.train(task.model, task.optimizer, batchsize)
        return batchsize

    found: int = train(task)
    return found
