"""Looks at a process from outside, and ends it when it must be ended.

Needs the host's readings, no torch. It sees what a process holds some milliseconds late, so it stands beside
a limit inside the process and the kernel's own killer, and replaces neither.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from autotune.devices import host
from autotune.devices import linux_process as linux
from autotune.trial import Evidence, Outcome
from autotune.units import format_bytes, format_seconds

TREE_SECONDS = 0.2  # looking for descendants means reading all of /proc, so it is done less often


@dataclass(frozen=True)
class Watch:
    """What a process may do before it is ended.

    `budget_bytes` is what the measurement is judged by; `limit_bytes` what the watchdog holds the resident
    memory to (None on a device whose memory is not the host's); `reserve_bytes` is what the machine keeps.
    """

    budget_bytes: int
    limit_bytes: int | None
    reserve_bytes: int
    seconds: float


@dataclass
class Watchdog:
    """Looks at one process and its descendants, and says when they have to be ended.

    `missing_bytes` is what the process of a real training would hold on top of what is seen here.
    """

    pid: int
    watch: Watch
    missing_bytes: int = 0
    peak_tree_bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    _has_children: bool = False
    _tree_looked_at: float = 0.0

    def age_seconds(self) -> float:
        """How long it has been watched."""
        return time.monotonic() - self.started

    def verdict(self) -> tuple[Outcome, Evidence] | None:
        """Why the process has to be ended now, or None."""
        watch = self.watch
        if self.age_seconds() > watch.seconds:
            text = f"still running after {format_seconds(watch.seconds)}"
            return Outcome.TIMED_OUT, Evidence(source="clock", text=text)
        resident = self._resident() + self.missing_bytes
        if watch.limit_bytes is not None and resident > watch.limit_bytes:
            text = f"memory reached {format_bytes(resident)}, over the budget of {format_bytes(watch.budget_bytes)}"
            return Outcome.OUT_OF_MEMORY, Evidence(source="watchdog", text=text)
        available = host.available_bytes()
        if available < watch.reserve_bytes:
            text = f"the machine had only {format_bytes(available)} left, with {format_bytes(resident)} in use here"
            return Outcome.OUT_OF_MEMORY, Evidence(source="watchdog", text=text)
        return None

    def _resident(self) -> int:
        now = time.monotonic()
        if now - self._tree_looked_at > TREE_SECONDS:
            self._has_children = bool(linux.descendants(self.pid))
            self._tree_looked_at = now
        if not self._has_children:
            return host.resident_bytes(self.pid)
        tree = linux.tree_resident_bytes(self.pid)
        self.peak_tree_bytes = max(self.peak_tree_bytes, tree)
        return tree

    def cpu_seconds(self) -> float | None:
        """Processor time that the process has used; None where it is gone."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return None

    def kill(self) -> None:
        """End the process, its group, and those of its descendants that left the group."""
        victims = [self.pid, *linux.descendants(self.pid)]
        kill_group(self.pid)
        for pid in victims:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


def kill_group(pid: int) -> None:
    """End the processes of a group, if there are any. Windows has no groups."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, linux.SIGKILL)
