"""batch-finder, which runs forward and backward of a bare model at each size, each in a process of its own.

After its page on PyPI (https://pypi.org/project/batch-finder): a function that makes the model, and the shapes of its
inputs. It knows neither the loss nor the optimizer, so it can take neither into account.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

import inspect

from batch_finder import find_max_minibatch

from benchmarks.peers.task import Task


def find(task: Task) -> int:
    """The largest size whose forward and backward pass ran.

    Raises:
        RuntimeError: it found none.
    """
    inputs, _ = task.sample
    name = next(iter(inspect.signature(task.model.forward).parameters))
    dimensions = ", ".join(map(str, ("b", *inputs.shape)))
    kind = "float" if inputs.is_floating_point() else "int"
    shapes = {name: f"({dimensions}), {kind}", "#constraints": "b=-1"}
    found = find_max_minibatch(task.build(), input_shapes=shapes)
    if found is None:
        raise RuntimeError("batch-finder found no batch size.")
    assert isinstance(found, int)
    return found
