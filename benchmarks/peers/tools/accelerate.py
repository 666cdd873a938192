"""Accelerate's `find_executable_batch_size`, which shrinks by a tenth.

After https://huggingface.co/docs/accelerate/basic_tutorials/memory: model, optimizer and data are made inside the
decorated function, after `accelerator.free_memory()`.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size

from benchmarks.peers import START
from benchmarks.peers.task import Task


def find(task: Task) -> int:
    """The size at which the training ran through."""
    accelerator = Accelerator(cpu=task.device == "cpu")

    @find_executable_batch_size(starting_batch_size=START)
    def train(batch_size: int) -> int:
        accelerator.free_memory()
        model, optimizer = task.fresh()
        task.train(model, optimizer, batch_size)
        return batch_size

    found: int = train()
    return found
