"""`autotune` measures which batch size suits a model and a machine.

Importing this package imports no framework: torch comes only where a trial runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "AutotuneError",
    "DeviceError",
    "Estimate",
    "NoForecastError",
    "NoTrialFinishedError",
    "NothingFitsError",
    "Result",
    "ResultFileError",
    "UsageError",
    "Workload",
    "WorkloadError",
    "__version__",
    "estimate_memory",
    "find_batch_size",
    "load_result",
]

_HOMES = {
    "estimate_memory": "autotune.api",
    "find_batch_size": "autotune.api",
    "Estimate": "autotune.estimate",
    "Result": "autotune.result",
    "load_result": "autotune.result",
    "Workload": "autotune.workloads",
}

if TYPE_CHECKING:
    from autotune.api import estimate_memory, find_batch_size
    from autotune.errors import (
        AutotuneError,
        DeviceError,
        NoForecastError,
        NothingFitsError,
        NoTrialFinishedError,
        ResultFileError,
        UsageError,
        WorkloadError,
    )
    from autotune.estimate import Estimate
    from autotune.result import Result, load_result
    from autotune.workloads import Workload


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `autotune --help` answers at once."""
    from importlib import import_module

    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "autotune.errors")), name)
    raise AttributeError(f"module 'autotune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
