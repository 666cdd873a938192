"""From a reference to a workload, in the process that will run it.

Needs torch. Seeds every generator first, so that each process builds the same model and the same data.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import assert_never

import torch

from autotune.errors import UsageError
from autotune.spec import ClassWorkload, FileWorkload, LiveWorkload, PickledWorkload, WorkloadRef
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.imported import from_class
from autotune.workloads.live import LiveParts, from_live, unpack
from autotune.workloads.loading import put_first_on_path, translated
from autotune.workloads.modelfile import from_file


def build_workload(ref: WorkloadRef, options: BuildOptions, live: LiveParts | None = None) -> Workload:
    """The workload that a reference stands for, on its device and ready to step.

    Args:
        ref: what to build it from.
        options: device, mode, precision, compilation and seed.
        live: the caller's own objects, for a `LiveWorkload`.

    Raises:
        UsageError: the description is incomplete or contradicts itself.
        WorkloadError: the user's code raised while it was loaded or built.
    """
    seed_everything(options.seed)
    match ref:
        case FileWorkload():
            return from_file(ref.target, options)
        case ClassWorkload():
            return from_class(ref, options)
        case PickledWorkload():
            return from_live(_read(ref), options)
        case LiveWorkload():
            if live is None:
                raise UsageError(f"{ref.name} lives in another process.", remedy="Give its parts to build_workload.")
            return from_live(live, options)
        case _:
            assert_never(ref)


def _read(ref: PickledWorkload) -> LiveParts:
    for folder in reversed(ref.search_path):
        put_first_on_path(folder)
    with translated(ref.name):
        return unpack(Path(ref.path))


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, torch (every device) and, where it is installed, NumPy."""
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        import numpy as np
    except ModuleNotFoundError:
        return
    np.random.seed(seed)
