"""What must hold of every workload that tells a loss without training, and lets its learning rate be set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.workloads import Workload


def assert_evaluation_leaves_no_trace(made: Callable[[], Workload], weights: Callable[[Workload], list[Any]]) -> None:
    """Training ends where it ends without looks at the loss; a look says the same twice.

    Args:
        made: builds the workload, each time alike.
        weights: its weights as lists of numbers.
    """
    ends = []
    for looks in (False, True):
        workload = made()
        assert workload.training_step is not None and workload.evaluate is not None
        batch = workload.make_batch(8)
        workload.training_step(batch)
        for _ in range(3):
            if looks:
                assert workload.evaluate(batch) == workload.evaluate(batch)
            workload.training_step(batch)
        ends.append(weights(workload))
    assert ends[0] == ends[1]


def assert_learning_rate_counts(workload: Workload, weights: Callable[[Workload], list[Any]]) -> None:
    """Without one nothing is learned, whether it is set before the first step or later."""
    assert workload.training_step is not None and workload.set_learning_rate is not None
    batch = workload.make_batch(8)
    for _ in range(2):
        before = weights(workload)
        workload.set_learning_rate(0.0)
        workload.training_step(batch)
        workload.training_step(batch)
        assert weights(workload) == before
        workload.set_learning_rate(0.1)
        workload.training_step(batch)
        assert weights(workload) != before
