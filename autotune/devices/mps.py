"""Apple's GPU through Metal: memory that it shares with the processor.

Needs torch on macOS with Apple silicon. Promises what little there is to read: Metal keeps no peak, so the
driver's figure is sampled whenever the device has caught up with the host. That comes close to the true peak,
since torch's allocator keeps what it once took; the record's `method` says that it is sampled.
"""

from __future__ import annotations

import gc
import time

import torch

from autotune.devices import DeviceFacts, host
from autotune.devices.cpu import stall_fraction
from autotune.trial import Conditions, Memory


class MpsDevice:
    """Apple's GPU, seen from the process that runs a trial."""

    torch_device = "mps"

    def __init__(self) -> None:
        """Read nothing yet."""
        self._base_bytes = 0
        self._peak_bytes = 0
        self._start = _counters()

    def facts(self) -> DeviceFacts:
        """The memory that Metal recommends to use at most, and what of it the machine has free."""
        total_bytes = torch.mps.recommended_max_memory()
        return DeviceFacts(
            name=f"{host.processor_name()} GPU",
            total_bytes=total_bytes,
            free_bytes=min(total_bytes - self.held_bytes(), host.available_bytes()),
        )

    def held_bytes(self) -> int:
        """What Metal has allocated for this process."""
        return torch.mps.driver_allocated_memory()

    def limit(self, budget_bytes: int) -> None:
        """Have the allocator raise past the budget. A share of 0 would mean no limit, so one byte is the least."""
        fraction = max(1, budget_bytes) / torch.mps.recommended_max_memory()
        torch.mps.set_per_process_memory_fraction(min(1.0, fraction))

    def synchronize(self) -> None:
        """Wait for the device, then look at its memory."""
        torch.mps.synchronize()
        self._peak_bytes = max(self._peak_bytes, self.held_bytes())

    def start_reading(self) -> None:
        """Forget the highest sample so far; what is held now is the base."""
        torch.mps.synchronize()
        self._base_bytes = self._peak_bytes = self.held_bytes()

    def memory(self) -> Memory:
        """The base, and the highest sample since `start_reading`."""
        self.synchronize()
        return Memory(
            base_bytes=self._base_bytes,
            peak_bytes=self._peak_bytes,
            method="driver-allocated memory, sampled between steps",
            allocated_bytes=torch.mps.current_allocated_memory(),
        )

    def start_conditions(self) -> None:
        """Note the stall time so far."""
        self._start = _counters()

    def conditions(self, steps: int, samples: int) -> Conditions:
        """The share of time that tasks waited for a processor, where the system records it."""
        (start_seconds, start_stall), (seconds, stall) = self._start, _counters()
        return Conditions(cpu_stall_fraction=stall_fraction(start_stall, stall, seconds - start_seconds))

    def release(self) -> None:
        """Collect garbage and give the allocator's cache back to the system."""
        gc.collect()
        torch.mps.empty_cache()


def _counters() -> tuple[float, int | None]:
    return time.perf_counter(), host.cpu_stall_microseconds()
