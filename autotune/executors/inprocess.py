"""Trials in the caller's own process, for live objects that cannot leave it.

Needs torch. A model that lives on a GPU occupies the memory that its training will use; a child with a copy
of its own could never reach the true edge. So the trials run here, on the caller's objects, and everything
is put back afterwards, bit for bit. There is no protection from a crash: the result says so.
"""

from __future__ import annotations

import torch

from autotune.attempt import perform
from autotune.bench import Bench, build_bench, built_of, with_smallest, workload_facts
from autotune.devices import is_dead, open_device
from autotune.executors import Attempt, ForecastRequest, Opened, Request, TrialRequest
from autotune.executors.environment import environment_of, warnings_of
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
        steps = (parts.training_step, parts.inference_step)
        self._snapshot: Snapshot | None = take_snapshot(parts.model, parts.optimizer, parts.loss, *steps)
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
        """Run a request here. See `Executor.run`.

        Raises:
            KeyboardInterrupt: this is the user's own process, and Ctrl-C meant for it.
        """
        assert self._bench is not None  # open() comes first
        if isinstance(request, ForecastRequest):  # it takes a model apart, and this one is the caller's
            why = "the model lives on the device in the caller's own process"
            return Attempt(outcome=Outcome.FAILED, evidence=Evidence(source="exception", text=why))
        enforced = isinstance(request, TrialRequest) and request.enforce
        self._device.limit(self._budget_bytes if enforced else self._facts.total_bytes)
        attempt = perform(self._bench, request)
        self._device.release()
        return attempt

    def close(self) -> None:
        """Put the caller's objects back as they were. May be called twice.

        What lies on a device that no longer answers is lost; to say so here would hide the error that made it so.
        """
        if self._snapshot is not None:
            if not is_dead(self._device):
                self._device.limit(self._facts.total_bytes)
                self._snapshot.restore()
            self._snapshot = self._bench = None
            self._device.release()

    def _opened(self, free_bytes: int) -> Opened:
        assert self._bench is not None
        built = built_of(self._bench, self._facts, workload_facts(self._bench), threads=torch.get_num_threads())
        return Opened(
            workload=built.workload,
            environment=environment_of(built),
            budget_bytes=self._budget_bytes,
            free_bytes=free_bytes,
            isolated=False,
            warnings=warnings_of(built),
        )
