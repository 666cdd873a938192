"""Which training framework an object belongs to, told by its type's ancestors and without importing any.

Needs nothing. A framework has its own idea of a step, and one file here that runs it: its adapter. What no adapter
is for is plain torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, cast

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.workloads import BuildOptions, Workload
    from autotune.workloads.live import LiveParts

ADAPTERS = {
    ("autotune", "DistributedCopy"): "autotune.workloads.distributed",
    ("autotune", "OwnLoop"): "autotune.workloads.own_loops",
    ("keras", "Model"): "autotune.workloads.keras_models",
    ("lightning", "LightningModule"): "autotune.workloads.lightning_modules",
    ("torch", "DistributedDataParallel"): "autotune.workloads.distributed",
    ("torch", "FullyShardedDataParallel"): "autotune.workloads.distributed",
    ("torch", "FSDPModule"): "autotune.workloads.distributed",
    ("pytorch_lightning", "LightningModule"): "autotune.workloads.lightning_modules",
    ("transformers", "Trainer"): "autotune.workloads.hugging_face",
}
"""The adapter of each kind of model or trainer: the package and the name of a class that it inherits from."""

EXTRAS = {"pytorch_lightning": "lightning", "autotune": "accelerate"}
"""The extra that a package's adapter needs, where it has another name than the package."""


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
    """The adapter for an object, imported only now; None where it is nobody's.

    Raises:
        UsageError: something that the adapter needs is not installed.
    """
    for kind in type(thing).__mro__:
        package = kind.__module__.partition(".")[0]
        name = ADAPTERS.get((package, kind.__name__))
        if name is not None:
            return _imported(name, package)
    return None


def training_device(parts: LiveParts) -> str | None:
    """Where the caller trains, as torch spells it, by what an adapter's own `device_of(parts)` says.

    None where there is no adapter, or it has no such function, since the framework takes the best device there is.
    """
    device_of = getattr(adapter_of(parts.model), "device_of", None)
    return None if device_of is None else cast("str | None", device_of(parts))


def _imported(name: str, package: str) -> Adapter:
    try:
        return cast(Adapter, import_module(name))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(package, package)
        raise UsageError(
            f"Trials with {package} need {error.name}, which is not installed.",
            remedy=f"python -m pip install 'batch-autotune[{extra}]'",
        ) from error


def version_note(distribution: str, tested: tuple[str, str]) -> tuple[str, ...]:
    """What to say of a framework whose version is outside the range tested, both ends included; else nothing."""
    found = version(distribution)
    if _minor(tested[0]) <= _minor(found) <= _minor(tested[1]):
        return ()
    span = tested[0] if tested[0] == tested[1] else f"{tested[0]} to {tested[1]}"
    return (f"{distribution} {found} has not been tested with autotune ({span} has)",)


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
