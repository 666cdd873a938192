"""Which training framework an object belongs to, told by its type's ancestors and without importing any.

Needs nothing. A framework has its own idea of a step, and one file here that runs it: its adapter. What no adapter
is for is plain torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from autotune.workloads import BuildOptions, Workload
    from autotune.workloads.live import LiveParts

ADAPTERS = {
    ("autotune", "OwnLoop"): "autotune.workloads.own_loops",
    ("keras", "Model"): "autotune.workloads.keras_models",
    ("lightning", "LightningModule"): "autotune.workloads.lightning_modules",
    ("pytorch_lightning", "LightningModule"): "autotune.workloads.lightning_modules",
    ("transformers", "Trainer"): "autotune.workloads.hugging_face",
}
"""The adapter of each kind of model or trainer: the package and the name of a class that it inherits from."""


class Adapter(Protocol):
    """What the file of a framework has to offer."""

    def workload_of(self, parts: LiveParts, options: BuildOptions) -> Workload:
        """The workload that these parts make; `parts.model` is the framework's own object.

        Raises:
            UsageError: a part is missing, or is not what it should be.
            WorkloadError: the user's code raised.
        """
        ...

    def portable(self, parts: LiveParts) -> LiveParts:
        """Parts that stand for the same, and that can be pickled. The caller's objects stay as they are.

        Raises:
            UsageError: they cannot be copied; says what to pass instead.
        """
        ...

    def environment(self) -> dict[str, str]:
        """Environment variables that another process needs to run the framework as it runs here."""
        ...


def adapter_of(thing: Any) -> Adapter | None:
    """The adapter for an object, imported only now; None where it is nobody's."""
    for kind in type(thing).__mro__:
        name = ADAPTERS.get((kind.__module__.partition(".")[0], kind.__name__))
        if name is not None:
            return cast(Adapter, import_module(name))
    return None
