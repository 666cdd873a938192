"""Models wrapped in DistributedDataParallel: a trial is one of the training's processes, alone.

Needs torch. It holds what each of them holds, the buckets of gradients included. What it lacks is the others: the time
of exchanging gradients is in no figure, and the batch size is that of one process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autotune.errors import UsageError
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.live import LiveParts
from autotune.workloads.plain import Parts, assemble
from autotune.workloads.sources import source_of

SETTINGS = ("find_unused_parameters", "gradient_as_bucket_view", "static_graph")
"""What of the wrapping counts for memory and time, besides the size of a bucket."""

NOTE = "one process of DistributedDataParallel was run alone: exchanging gradients takes more time"


def workload_of(parts: LiveParts, options: BuildOptions) -> Workload:
    """The steps of one process. See `Adapter.workload_of`."""
    wrapped = parts.model if isinstance(parts.model, DistributedCopy) else DistributedCopy.of(parts.model)
    plain = Parts(
        name=parts.name,
        source=source_of(parts.data, parts.collate_fn, parts.loading),
        model=wrapped.around(wrapped.module.to(options.device)),
        loss=parts.loss,
        optimizer=parts.optimizer,
        training_step=parts.training_step,
        inference_step=parts.inference_step,
    )
    workload = assemble(plain, options)
    return replace(workload, is_fork_safe=False, assumptions=(*workload.assumptions, NOTE))


@dataclass(frozen=True)
class DistributedCopy:
    """A model without its wrapping, and how it was wrapped; a wrapped one belongs to its process."""

    module: nn.Module
    settings: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> DistributedCopy:
        """What a wrapped model was made of.

        Raises:
            UsageError: it is sharded, so that no process has all of it.
        """
        if not isinstance(model, DistributedDataParallel):
            raise UsageError(
                f"The model is a {type(model).__name__}, of which each process holds a part; a trial is one process.",
                remedy="Pass the model as it is before it is sharded; a process then needs less than is found.",
            )
        bucket_mebibytes = model.bucket_bytes_cap / 2**20
        return cls(
            model.module, {name: getattr(model, name) for name in SETTINGS} | {"bucket_cap_mb": bucket_mebibytes}
        )

    def around(self, module: nn.Module) -> DistributedDataParallel:
        """A module, which is on its device, wrapped likewise, in a group of this process alone."""
        if not dist.is_initialized():
            device = next((parameter.device.type for parameter in module.parameters()), "cpu")
            backend = "nccl" if device == "cuda" and dist.is_nccl_available() else "gloo"
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        return DistributedDataParallel(module, **self.settings)


# The way to another process


def portable(parts: LiveParts) -> LiveParts:
    """Without the wrapping. See `Adapter.portable`."""
    return replace(parts, model=DistributedCopy.of(parts.model))


def device_of(parts: LiveParts) -> str:
    """Where this process trains. See `frameworks.training_device`."""
    return str(next(parts.model.parameters()).device)


def environment() -> dict[str, str]:
    """None is needed. See `Adapter.environment`."""
    return {}
