"""timm's decay, which shrinks to the next of two steps a power of two.

As timm's own benchmark.py uses it (https://github.com/huggingface/pytorch-image-models): a model is made and run, and
where that raises, `check_batch_size_retry` says whether to go on, `decay_batch_step` with what.

Importing timm imports torchvision, whose build on PyPI is for CUDA and fails beside a torch for CPU only. The file of
these two functions needs neither, so it is loaded by itself.
"""

from __future__ import annotations

import gc
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.peers import START
from benchmarks.peers.task import Task


def decay_file() -> ModuleType:
    """`timm.utils.decay_batch` of the installed release."""
    timm = find_spec("timm")
    assert timm is not None
    assert timm.submodule_search_locations
    path = Path(timm.submodule_search_locations[0]) / "utils" / "decay_batch.py"
    spec = spec_from_file_location("decay_batch", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find(task: Task) -> int:
    """The size at which the training ran through.

    Raises:
        RuntimeError: none did, or timm says not to go on.
    """
    timm, batch_size = decay_file(), START
    while batch_size:
        torch.cuda.empty_cache()
        gc.collect()
        try:
            task.train(*task.fresh(), batch_size)
            return batch_size
        except RuntimeError as error:
            if not timm.check_batch_size_retry(str(error)):
                raise
        batch_size = timm.decay_batch_step(batch_size)
    raise RuntimeError("No batch size could be run.")
