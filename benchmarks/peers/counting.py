"""Counts the training steps that a tool runs, the same way for every tool.

A hook on the model, in whatever process a tool trains in, appends the batch size of each step that is begun to a file,
one line a step; so steps in the tool's own child processes count, and those before a crash. Passes without data (a
forecast's, a static estimate's) are no steps. Needs torch, but not in the process that only reads the file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

COUNTED_FILE = """\
from benchmarks.peers.counting import counted_names

globals().update(counted_names({path!r}, {log!r}))
"""

HOOK_NUMBER = 1_000_000


class StepLog:
    """A forward hook that writes down the batch size."""

    def __init__(self, log: str) -> None:
        """Write to this file."""
        self.log = log

    def __call__(self, _module: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Called by torch before each forward pass."""
        from torch import Tensor
        from torch._subclasses.fake_tensor import FakeTensor

        batch = next((value for value in (*arguments, *named.values()) if isinstance(value, Tensor)), None)
        if batch is None or batch.is_meta or isinstance(batch, FakeTensor):
            return
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{len(batch)}\n".encode())  # short enough to be one write, whoever else writes
        os.close(file)


def steps_by_size(log: Path) -> Counter[int]:
    """How many steps were begun at each batch size."""
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def names_of(path: str) -> dict[str, Any]:
    """The names of a workload's file, which is run anew at each call."""
    spec = spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(vars(module))


def counted_model(names: Mapping[str, Any], log: str) -> nn.Module:
    """The model of a workload's names, with the hook.

    torch numbers hooks from 0 in each process. In a process that the model is sent to, the first new hook would take
    the place of one that has number 0; so this one's is high.
    """
    from torch.utils.hooks import RemovableHandle

    RemovableHandle.next_id = max(RemovableHandle.next_id, HOOK_NUMBER)
    model: nn.Module = names["model"] if "model" in names else names["build_model"]()
    model.register_forward_pre_hook(StepLog(log), with_kwargs=True)
    return model


def counted_names(path: str, log: str) -> dict[str, Any]:
    """The names of a workload's file, for a file of its own that counts: see `COUNTED_FILE`."""
    names = {name: value for name, value in names_of(path).items() if not name.startswith("__")}
    if "model" in names:
        counted_model(names, log)
        return names
    return {**names, "build_model": lambda: counted_model(names, log)}
