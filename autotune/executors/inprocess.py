"""Trials in the caller's own process, for live objects that cannot leave it.

Needs torch. A model that lives on a GPU occupies the memory that its training will use; a child with a copy
of its own could never reach the true edge. So the trials run here, on the caller's objects, and everything
is put back afterwards, bit for bit. There is no protection from a crash: the result says so.
"""

from __future__ import annotations

import gc

import torch
from torch import nn
from torch.optim import Optimizer

from autotune.attempt import perform
from autotune.bench import Bench, build_bench, with_smallest, workload_facts
from autotune.devices import open_device
from autotune.executors import Attempt, ForecastRequest, Opened, Request, TrialRequest
from autotune.executors.environment import environment_of
from autotune.executors.messages import Built
from autotune.executors.snapshot import Snapshot, take_snapshot
from autotune.spec import ProbeSpec
from autotune.trial import Evidence, Outcome
from autotune.workloads.live import LiveParts


class InProcessExecutor:
    """Runs trials here, on the caller's own objects. `close` puts them back."""

    def __init__(self, spec: ProbeSpec, parts: LiveParts) -> None:
        """Note how the caller's objects are, before anything touches them."""
        self._spec = spec
        self._parts = parts
        self._device = open_device(spec.device)
        model = parts.model if isinstance(parts.model, nn.Module) else None
        optimizer = parts.optimizer if isinstance(parts.optimizer, Optimizer) else None
        self._snapshot: Snapshot | None = take_snapshot(model, optimizer)
        self._facts = self._device.facts()
        self._bench: Bench | None = None

    def open(self) -> Opened:
        """Set the caller's objects up as a workload. See `Executor.open`."""
        free_bytes = self._facts.free_bytes + self._device.held_bytes()  # training will use what is held already
        self._budget_bytes = self._spec.budget.resolve(free_bytes)
        self._bench = with_smallest(build_bench(self._spec, self._device, self._parts))
        return self._opened(free_bytes)

    def prepare(self, fresh_processes: int, needed_bytes: int) -> None:
        """There is only the caller's process."""

    def run(self, request: Request) -> Attempt:
        """Run a request here. See `Executor.run`."""
        assert self._bench is not None  # open() comes first
        if isinstance(request, ForecastRequest):  # it takes a model apart, and this one is the caller's
            why = "the model lives on the device in the caller's own process"
            return Attempt(outcome=Outcome.FAILED, evidence=Evidence(source="exception", text=why))
        enforced = isinstance(request, TrialRequest) and request.enforce
        self._device.limit(self._budget_bytes if enforced else self._facts.total_bytes)
        attempt = perform(self._bench, request)
        if attempt.outcome is not Outcome.FITS:
            gc.collect()
        self._device.release()
        return attempt

    def close(self) -> None:
        """Put the caller's objects back as they were. May be called twice."""
        if self._snapshot is not None:
            self._device.limit(self._facts.total_bytes)
            self._snapshot.restore()
            self._snapshot = self._bench = None
            self._device.release()

    def _opened(self, free_bytes: int) -> Opened:
        assert self._bench is not None
        facts = self._facts
        built = Built(
            workload=workload_facts(self._bench),
            device=self._device.torch_device,
            device_name=facts.name,
            free_bytes=free_bytes,
            total_bytes=facts.total_bytes,
            threads=torch.get_num_threads(),
            forks=False,
            torch_version=str(torch.__version__),
            driver_version=facts.driver_version,
            runtime_version=facts.runtime_version,
        )
        return Opened(
            workload=built.workload,
            environment=environment_of(built),
            budget_bytes=self._budget_bytes,
            free_bytes=free_bytes,
            isolated=False,
            warnings=facts.warnings,
        )
