"""The processor as a device: memory of the process itself, as the kernel counts it.

Needs psutil; imports no torch, since nothing here is asked of it. Promises that the peak is what a whole
training process would hold, though it may be read in a forked child.

Where the peak comes from. Linux keeps the highest resident size of a process (VmHWM) and can reset it, so the
peak of a trial is exact. Windows keeps a peak that can't be reset. Elsewhere a thread samples. The record's
`method` says which.

A forked child lacks pages that a fresh process would hold; `library_pages` gives them to it, or else their size is
told to the device, which adds it.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from autotune.devices import DeviceFacts, host
from autotune.devices import linux_process as linux
from autotune.trial import Conditions, Memory

SAMPLE_SECONDS = 0.005
"""Pages arrive at up to 3 GiB/s, so that a sampler this quick misses at most some 15 MiB of a peak."""

LIMIT_FACTOR = 2.0
LIMIT_SLACK_BYTES = 64 * 2**20
"""A limit on data counts address space that was never touched and trips early: by up to 30% over random limits and
workloads, and by 43% for an LSTM, whose kernel asks for more than it uses. So it stands well above the budget; the peak
decides, the limit ends what runs away."""


@dataclass(frozen=True)
class _Counters:
    """Readings at one moment, from which differences are taken; None where the system has none."""

    seconds: float
    stall_microseconds: int | None
    page_faults: int | None


class CpuDevice:
    """The processor, seen from the process that runs a trial."""

    torch_device = "cpu"

    def __init__(self, missing_bytes: int = 0) -> None:
        """Read nothing yet.

        Args:
            missing_bytes: what this process lacks, being forked, of the pages that a fresh one would hold.
        """
        self._missing_bytes = missing_bytes
        self._base_bytes = 0
        self._peak = _Peak("", _resident_bytes)
        self._sampler: _Sampler | None = None
        self._start = _counters()

    def facts(self) -> DeviceFacts:
        """The processor's name, the memory it has and the memory that is free, a container's limit included."""
        return DeviceFacts(
            name=host.processor_name(), total_bytes=host.total_bytes(), free_bytes=host.available_bytes()
        )

    def held_bytes(self) -> int:
        """What this process holds now, as a fresh one would."""
        return _resident_bytes() + self._missing_bytes

    def limit(self, budget_bytes: int) -> None:
        """Refuse address space well past the budget (Linux); the peak and the watchdog hold the budget itself."""
        data_bytes = linux.data_bytes()
        if data_bytes is not None:
            room_bytes = max(0, budget_bytes - self.held_bytes())
            linux.limit_data(data_bytes + int(LIMIT_FACTOR * room_bytes) + LIMIT_SLACK_BYTES)

    def synchronize(self) -> None:
        """Nothing runs behind the host here."""

    def start_reading(self) -> None:
        """Forget the peak so far, and take what is resident now as the base."""
        self._stop_sampler()
        if linux.reset_peak():
            self._peak = _Peak("VmHWM", _high_water_mark)
        elif sys.platform == "win32":
            self._peak = _Peak("peak working set", _peak_working_set)
        else:
            self._sampler = _Sampler()
            self._peak = _Peak(f"sampled every {SAMPLE_SECONDS * 1000:.0f} ms", self._sampler.peak_bytes)
        self._base_bytes = _resident_bytes()

    def memory(self) -> Memory:
        """The base, and the peak since `start_reading`."""
        base_bytes = self._base_bytes + self._missing_bytes
        return Memory(
            base_bytes=base_bytes,
            peak_bytes=max(self._peak.read() + self._missing_bytes, base_bytes),
            method=self._peak.method + (" and the libraries' pages" if self._missing_bytes else ""),
        )

    def start_conditions(self) -> None:
        """Note the stall time and the page faults so far."""
        self._start = _counters()

    def conditions(self, steps: int, samples: int) -> Conditions:
        """The share of time that tasks waited for a processor, and page faults per step."""
        start, now = self._start, _counters()
        return Conditions(
            cpu_stall_fraction=stall_fraction(
                start.stall_microseconds, now.stall_microseconds, now.seconds - start.seconds
            ),
            page_faults_per_step=_difference_over(start.page_faults, now.page_faults, steps),
        )

    def release(self) -> None:
        """Collect garbage, and end the sampler where there is one."""
        self._stop_sampler()
        gc.collect()

    def _stop_sampler(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None


def stall_fraction(before_microseconds: int | None, now_microseconds: int | None, seconds: float) -> float | None:
    """The share of some seconds that passed between two readings of the stall time; None where there is none."""
    return _difference_over(before_microseconds, now_microseconds, seconds * 1e6)


def _difference_over(before: int | None, now: int | None, divisor: float) -> float | None:
    if before is None or now is None or divisor <= 0:
        return None
    return (now - before) / divisor


def _counters() -> _Counters:
    return _Counters(time.perf_counter(), host.cpu_stall_microseconds(), _page_faults())


def _page_faults() -> int | None:
    """Page faults of this process so far, those that read from disk included."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().num_page_faults)
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


# ---------------------------------------------------------------------- the peak


@dataclass(frozen=True)
class _Peak:
    """How the peak is read here, and the name of that."""

    method: str
    read: Callable[[], int]


def _resident_bytes() -> int:
    return linux.resident().total_bytes


def _high_water_mark() -> int:
    return linux.peak_resident_bytes() or 0


def _peak_working_set() -> int:
    return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]


class _Sampler:
    """A thread that reads the resident size over and over, and remembers the highest."""

    def __init__(self) -> None:
        self._peak_bytes = _resident_bytes()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory sampler", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._peak_bytes = max(self._peak_bytes, _resident_bytes())

    def peak_bytes(self) -> int:
        self._look()
        return self._peak_bytes

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
