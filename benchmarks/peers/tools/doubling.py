"""What people write themselves: double until memory runs out, and take the last that ran."""

from __future__ import annotations

from benchmarks.peers import START
from benchmarks.peers.task import Task

STEPS_EACH = 3


def find(task: Task) -> int:
    """The last size that ran."""
    batch_size = 1
    while batch_size < START:
        try:
            task.train(task.model, task.optimizer, 2 * batch_size, STEPS_EACH)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            break
        batch_size *= 2
    return batch_size
