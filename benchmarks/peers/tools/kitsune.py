"""torch-kitsune's static estimate, which runs nothing.

After https://github.com/jeeth-kataria/Kitsune_optimization: `predict_memory` gives the bytes at a batch size; its own
search for the largest is bound to the cards that it lists, so the same bisection is made here for the budget. Its
bytes are those of tensors, so they are held against the room that is left once everything is loaded, and the weights.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

from kitsune.predict import predict_memory

from benchmarks.oracle import largest_passing
from benchmarks.peers.task import Task

LIMIT = 4096
"""Where its own search ends. Of some models it predicts that memory does not grow with the batch."""


def find(task: Task) -> int:
    """The largest size that it says fits."""
    inputs, _ = task.sample
    weights_bytes = sum(parameter.nbytes for parameter in task.model.parameters())
    optimizer = type(task.optimizer).__name__.lower()

    def fits(batch_size: int) -> bool:
        if batch_size > LIMIT:
            return False
        predicted = predict_memory(task.model, tuple(inputs.shape), batch_size=batch_size, optimizer=optimizer)
        return bool(predicted.total_bytes <= task.room_bytes + weights_bytes)

    return largest_passing(fits)
