"""Trials in child processes, watched from here: whatever a trial does, this process survives it.

Needs the worker's process and the host's readings, no torch. A worker holds the workload. On Linux's CPU it
forks a child per trial; elsewhere it runs the trials itself and is replaced after any failure, and for a trial that
wants a new process (CUDA, MPS), or after each trial (CPU on macOS and Windows, or where forking was found to deadlock).

Three guards stand together, since each has holes: a data limit in the child (misses shared memory), the
watchdog, which ends what passes the budget or leaves the machine short (sees it 20 ms late), and the
kernel's killer, which is told to take the trial first.
"""

from __future__ import annotations

import sys

from autotune.devices import host
from autotune.errors import AutotuneError, NothingFitsError, WorkloadError
from autotune.executors import (
    OVERRUN_FACTOR,
    Attempt,
    ContestRequest,
    ForecastRequest,
    Opened,
    Request,
    TrainRequest,
    TrialRequest,
)
from autotune.executors.environment import environment_of, warnings_of
from autotune.executors.messages import Built, Job
from autotune.executors.spares import Spares
from autotune.executors.watchdog import Watch
from autotune.executors.worker_process import StalledError, WorkerProcess
from autotune.spec import PickledWorkload, ProbeSpec
from autotune.trial import Evidence, Outcome

RESERVE_SHARE = 0.02  # of the machine's memory, or the container's, is left to it, whatever the budget says
FORECAST_BYTES = 4 << 30  # what a forecast may hold; it allocates little, unless it goes astray
IDLE_BYTES = 512 << 20  # more than an interpreter takes that has imported torch
OPEN_SECONDS = 600.0  # building a workload may compile, or read much data


class ChildExecutor:
    """Runs trials in workers of its own. Use as a context manager, or call `close`."""

    def __init__(
        self, spec: ProbeSpec, *, extra_free_bytes: int = 0, verbose: bool = False, may_fork: bool = True
    ) -> None:
        """Nothing is started yet.

        Args:
            spec: what to probe.
            extra_free_bytes: memory that the caller holds and its training will use, counted as free to it.
            verbose: copy what the workers print to the standard error stream.
            may_fork: fork a child per trial where that is safe, rather than start an interpreter for each.
        """
        self._spec = spec
        self._extra_free_bytes = extra_free_bytes
        self._verbose = verbose
        self._worker: WorkerProcess | None = None
        self._spares = Spares(self._started, lambda worker: self._begin(worker, forks=False))
        self._built: Built | None = None
        self._budget_bytes = self._workload_bytes = 0
        self._dry = False
        self._forks = may_fork and _forks_safely(spec.device)

    def __enter__(self) -> ChildExecutor:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
        self.close()

    def open(self, *, dry: bool = False) -> Opened:
        """Start a worker and let it build the workload. See `Executor.open`.

        Args:
            dry: run no step of it; then only forecasts may be asked for.
        """
        self._dry = dry
        free_bytes = host.available_bytes() + self._extra_free_bytes
        self._budget_bytes = self._spec.budget.resolve(free_bytes)
        if not dry and self._forks and self._room_bytes(self._budget_bytes) > IDLE_BYTES:
            self._spares.warm()
        try:
            self._worker, self._built = self._start(self._forks)
        except StalledError:
            self._forks = False
            self._worker, self._built = self._start(forks=False)
        self._forks = self._built.forks
        self._workload_bytes = host.private_bytes(self._worker.pid)
        if self._on_cpu and not self._forks:
            self._close_worker()  # each request has a process of its own, and lacks what this one holds
        if not self._on_cpu:
            self._spares.close()  # none is used there
            free_bytes = self._built.free_bytes
            self._budget_bytes = self._spec.budget.resolve(free_bytes)
        return Opened(
            workload=self._built.workload,
            environment=environment_of(self._built),
            budget_bytes=self._budget_bytes,
            free_bytes=free_bytes,
            isolated=True,
            forks=self._forks,
            warnings=warnings_of(self._built),
        )

    def prepare(self, fresh_processes: int, needed_bytes: int) -> None:
        """Start the interpreters of what comes next side by side. See `Executor.prepare`.

        None where a trial would then lack memory, or on a device whose memory they would hold.
        """
        self._spares.start(min(fresh_processes - len(self._spares), self._room_for_spares(needed_bytes)))

    def _room_for_spares(self, needed_bytes: int) -> int:
        if not self._on_cpu:
            return 0
        return max(0, int(self._room_bytes(needed_bytes) / max(self._workload_bytes, 1)))

    def _room_bytes(self, needed_bytes: int) -> float:
        """What the machine has left beside a trial that needs so much."""
        return host.available_bytes() - OVERRUN_FACTOR * needed_bytes - _reserve_bytes()

    def run(self, request: Request) -> Attempt:
        """Run a request in a child. See `Executor.run`."""
        if not isinstance(request, ForecastRequest):  # what that takes is not timed
            self._spares.settle(self._watch(None))
        if isinstance(request, ForecastRequest) and not self._forks:  # it uses up the workload that it is made on
            return self._run_once(request, dry=True)
        if self._on_cpu and (_wants_fresh(request) or not self._forks):
            return self._run_once(request)
        if _wants_fresh(request):
            self._close_worker()  # what it holds of a GPU a new process would lack
        return self._run_in_worker(request)

    def _run_in_worker(self, request: Request) -> Attempt:
        """Run a request in the worker that is kept, or by a child of its; start one where there is none."""
        try:
            worker = self._worker or self._start(self._forks)[0]
        except AutotuneError as error:
            return _could_not_start(error)
        self._worker = worker
        try:
            attempt = worker.run(request, self._watch(request))
        except StalledError:
            self._close_worker()
            self._forks = False
            return self._run_once(request)
        if not worker.is_alive or (not self._forks and attempt.outcome is not Outcome.FITS):
            self._close_worker()  # after a failure an allocator holds on to memory; the next trial starts level
        return attempt

    def close(self) -> None:
        """End the workers and all their children."""
        self._close_worker()
        self._spares.close()

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @property
    def _on_cpu(self) -> bool:
        return self._built is not None and self._built.device == "cpu"

    def _run_once(self, request: Request, *, dry: bool = False) -> Attempt:
        try:
            worker = None if dry else self._spares.take()
            worker = worker or self._start(forks=False, dry=dry)[0]
        except AutotuneError as error:
            return _could_not_start(error)
        try:
            return worker.run(request, self._watch(request))
        finally:
            worker.close()

    def _start(self, forks: bool, *, dry: bool = False) -> tuple[WorkerProcess, Built]:
        worker = self._started()
        self._begin(worker, forks, dry=dry)
        try:
            return worker, worker.built(self._watch(None))
        except BaseException:
            worker.close()
            raise

    def _started(self) -> WorkerProcess:
        workload = self._spec.workload
        return WorkerProcess(
            hide_gpus=self._spec.device == "cpu",
            verbose=self._verbose,
            environment=workload.environment if isinstance(workload, PickledWorkload) else {},
        )

    def _begin(self, worker: WorkerProcess, forks: bool, *, dry: bool = False) -> None:
        smallest = self._built.workload.smallest_batch_size if self._built else None
        worker.begin(Job(spec=self._spec, forks=forks, smallest_batch_size=smallest, dry=self._dry or dry))

    def _watch(self, request: Request | None) -> Watch:
        """While a workload is built only the machine is guarded: its first trial tells what it lacks."""
        limit_bytes = None
        if isinstance(request, ForecastRequest):
            limit_bytes = max(self._budget_bytes, FORECAST_BYTES)
        elif isinstance(request, TrialRequest) and request.enforce and self._on_cpu:
            limit_bytes = int(OVERRUN_FACTOR * self._budget_bytes)
        return Watch(
            budget_bytes=self._budget_bytes,
            limit_bytes=limit_bytes,
            reserve_bytes=_reserve_bytes(),
            seconds=OPEN_SECONDS if request is None else request.timeout_seconds,
        )


def _wants_fresh(request: Request) -> bool:
    """True where a request asks for a new interpreter."""
    if isinstance(request, TrialRequest | ContestRequest):
        return request.fresh_process
    return isinstance(request, TrainRequest)


def _reserve_bytes() -> int:
    return int(RESERVE_SHARE * host.total_bytes())


def _could_not_start(error: AutotuneError) -> Attempt:
    """A worker that was built before and can't be built again: the machine is short, or the code has changed."""
    outcome = Outcome.OUT_OF_MEMORY if isinstance(error, NothingFitsError) else Outcome.CRASHED
    trace = error.user_traceback if isinstance(error, WorkloadError) else ""
    evidence = Evidence(source="exit", text=error.message.rstrip("."), user_traceback=trace)
    return Attempt(outcome=outcome, evidence=evidence)


def _forks_safely(device: str) -> bool:
    """Only Linux forks safely here, and only before a device context exists, which the worker sees to."""
    return sys.platform == "linux" and device in ("auto", "cpu")
