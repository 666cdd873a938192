"""Workers that are started before they are needed, for one request each.

Needs a worker's process. Promises that whoever takes one gets one that has built its workload, and that one which
failed or died meanwhile costs nothing: whoever needed it starts another, and hears what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from autotune.errors import AutotuneError
from autotune.executors.watchdog import Watch
from autotune.executors.worker_process import StalledError, WorkerProcess


class Spares:
    """Workers in wait."""

    def __init__(self, started: Callable[[], WorkerProcess], begin: Callable[[WorkerProcess], None]) -> None:
        """Start none yet.

        Args:
            started: a worker that imports what it needs and then waits for its job.
            begin: give a worker its job, and don't wait until it has built its workload.
        """
        self._started = started
        self._begin = begin
        self._idle: list[WorkerProcess] = []
        self._waiting: list[WorkerProcess] = []
        self._building: list[WorkerProcess] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waiting)

    def warm(self) -> None:
        """Start one that has no job yet: what it imports takes as long as the rest, and no room for a workload."""
        self._idle.append(self._started())

    def start(self, count: int) -> None:
        """Have so many more build their workloads side by side, and don't wait for them."""
        for _ in range(count):
            worker = self._idle.pop() if self._idle else self._started()
            self._begin(worker)
            self._waiting.append(worker)
            self._building.append(worker)

    def settle(self, watch: Watch) -> None:
        """Wait until all have built their workloads, so that nothing that is timed runs beside them."""
        while self._building:
            worker = self._building[-1]
            try:
                worker.built(watch)
            except (AutotuneError, StalledError):
                worker.close()  # a dead one is not given away
            self._building.pop()

    def take(self) -> WorkerProcess | None:
        """One that is alive, if there is one."""
        while self._waiting:
            worker = self._waiting.pop()
            if worker.is_alive:
                return worker
            worker.close()
        return None

    def close(self) -> None:
        """End them all."""
        self._building.clear()
        for workers in (self._idle, self._waiting):
            while workers:
                workers.pop().close()
