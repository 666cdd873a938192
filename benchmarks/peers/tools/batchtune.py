"""batchtune, on CUDA: its largest size and its best.

After its page on PyPI (https://pypi.org/project/batchtune).
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

import torch
from batchtune import find_best_batch_size, find_max_batch_size

from benchmarks.peers.task import Task


def largest(task: Task) -> int:
    """The largest size that it holds to be safe."""
    found: int = find_max_batch_size(
        task.model, task.optimizer, task.loss, task.dataset(), device=torch.device(task.device)
    )
    return found


def best(task: Task) -> int:
    """The size with the best throughput by its measurements."""
    found: int = find_best_batch_size(
        task.model, task.optimizer, task.loss, task.dataset(), device=torch.device(task.device)
    )
    return found
