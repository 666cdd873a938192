"""autotune's `find_batch_size`, called with live objects as its documentation says."""

from __future__ import annotations

from autotune import find_batch_size
from benchmarks.peers.task import Task


def find(task: Task) -> int:
    """The recommended size."""
    result = find_batch_size(
        task.model,
        task.dataset(),
        loss=task.loss,
        optimizer=task.optimizer,
        device=task.device,
        memory_budget=task.budget_bytes,
        quiet=True,
    )
    return result.batch_size
