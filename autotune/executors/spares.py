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

    def __init__(self, begin: Callable[[], WorkerProcess]) -> None:
        """Start none yet.

        Args:
            begin: start a worker, and don't wait until it has built its workload.
        """
        self._begin = begin
        self._waiting: list[WorkerProcess] = []
        self._building: list[WorkerProcess] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waiting)

    def start(self, count: int) -> None:
        """Start so many more side by side, and don't wait for them."""
        for _ in range(count):
            worker = self._begin()
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
        while self._waiting:
            self._waiting.pop().close()
