"""A CUDA or ROCm device: memory as torch's caching allocator and the driver count it.

Needs torch and such a device; NVML where it is NVIDIA's. Promises a peak that covers the whole process, and a
budget that the allocator itself holds to, so that passing it fails exactly as a full device would.

Two parts make up what a process holds of a device. The allocator's part (reserved) has a peak that is exact.
The other part, the context, the kernels' code and what libraries allocate themselves, is known to no counter
of torch's: it is what the driver says that this process holds, less what is reserved. Where the driver can't
name this process, as in a container, it is what the device's use has grown by since before the context was
made, less what is reserved. Where neither is known it counts as nothing, for the peak as for what is free, so
that the two still agree, and the record's `method` says so.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from autotune.devices import DeviceFacts, host
from autotune.devices.cpu import stall_fraction
from autotune.devices.nvml import Nvml, open_nvml
from autotune.trial import Conditions, Memory


@dataclass(frozen=True)
class _Counters:
    """Readings at one moment, from which differences are taken; None where there are none."""

    seconds: float
    stall_microseconds: int | None
    energy_joules: float | None


class CudaDevice:
    """One CUDA or ROCm device, seen from the process that runs a trial."""

    def __init__(self, index: int) -> None:
        """Find the device. To be made before anything else touches it, or its context stays unknown.

        Args:
            index: as torch counts, CUDA_VISIBLE_DEVICES applied.
        """
        untouched = not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self.torch_device = f"cuda:{index}"
        self._index = index
        self._properties = torch.cuda.get_device_properties(index)  # makes no context
        opened = open_nvml(nvml_names(self._properties)) if torch.version.hip is None else "NVML is NVIDIA's."
        self._nvml: Nvml | None = None if isinstance(opened, str) else opened
        self._without_nvml = opened if isinstance(opened, str) else ""
        self._used_before_bytes = self._nvml.used_bytes() if self._nvml and untouched else None
        self._own_fraction = 1.0 if untouched else fraction_set(index)
        self._base_bytes = 0
        self._retries_before = 0
        self._start = self._counters()

    def facts(self) -> DeviceFacts:
        """What the device is. This process' own context counts as free: a new process has one of its own.

        No more is free than what the process may take that has bound its own allocator.
        """
        free_bytes, total_bytes = torch.cuda.mem_get_info(self._index)
        allowed_bytes = int(self._own_fraction * total_bytes) - torch.cuda.memory_reserved(self._index)
        hip = torch.version.hip
        return DeviceFacts(
            name=self._properties.name,
            total_bytes=total_bytes,
            free_bytes=min(total_bytes, min(free_bytes, max(0, allowed_bytes)) + (self._outside_bytes() or 0)),
            driver_version=self._nvml.driver_version() if self._nvml else None,
            runtime_version=f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}",
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        others = self._nvml.other_processes() if self._nvml else None
        shared = f"{others} other process(es) compute on {self.torch_device}; speed and free memory may change."
        missing = self._without_nvml if torch.version.hip is None else ""
        return tuple(text for text in (shared if others else "", missing) if text)

    def held_bytes(self) -> int:
        """What torch's allocator holds for this process. The context is not in it: `facts` counts that as free."""
        return torch.cuda.memory_reserved(self._index)

    def limit(self, budget_bytes: int) -> None:
        """Have the allocator raise torch.OutOfMemoryError past the budget, context and libraries included.

        A limit of the process' own holds below it, and alone where the budget is the whole device.
        """
        _, total_bytes = torch.cuda.mem_get_info(self._index)
        ours = allocator_fraction(budget_bytes, self._outside_bytes() or 0, total_bytes)
        fraction = self._own_fraction if budget_bytes >= total_bytes else min(self._own_fraction, ours)
        torch.cuda.set_per_process_memory_fraction(fraction, self._index)

    def synchronize(self) -> None:
        """Wait for every stream of the device."""
        torch.cuda.synchronize(self._index)

    def start_reading(self) -> None:
        """Forget the allocator's peaks; what is held now is the base."""
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self._index)
        self._base_bytes = torch.cuda.memory_reserved(self._index) + (self._outside_bytes() or 0)
        self._retries_before = self._retries()

    def memory(self) -> Memory:
        """The base, and the peak since `start_reading`: the most that was reserved, and what is outside now."""
        outside_bytes = self._outside_bytes()
        reserved_bytes = torch.cuda.max_memory_reserved(self._index)
        return Memory(
            base_bytes=self._base_bytes,
            peak_bytes=reserved_bytes + (outside_bytes or 0),
            method="reserved by the allocator, " + ("context not known" if outside_bytes is None else "plus context"),
            allocated_bytes=torch.cuda.max_memory_allocated(self._index),
            reserved_bytes=reserved_bytes,
            allocator_retries=self._retries() - self._retries_before,
        )

    def _retries(self) -> int:
        """How often the allocator had to empty its cache to serve a request: thrash, near the edge."""
        return int(torch.cuda.memory_stats(self._index).get("num_alloc_retries", 0))

    def _outside_bytes(self) -> int | None:
        """What this process holds outside the allocator: context, kernels, libraries. None if that's unknown."""
        if self._nvml is None:
            return None
        process_bytes = self._nvml.process_bytes(os.getpid())
        reserved_bytes = torch.cuda.memory_reserved(self._index)
        return outside_bytes(process_bytes, self._used_before_bytes, self._nvml.used_bytes(), reserved_bytes)

    def start_conditions(self) -> None:
        """Note energy and stall time so far."""
        self._start = self._counters()

    def conditions(self, steps: int, samples: int) -> Conditions:
        """Energy per sample, mean power, clock, throttling, other processes, and the host's stall time."""
        start, now = self._start, self._counters()
        seconds = now.seconds - start.seconds
        stall = stall_fraction(start.stall_microseconds, now.stall_microseconds, seconds)
        if self._nvml is None:
            return Conditions(cpu_stall_fraction=stall)
        joules = None
        if start.energy_joules is not None and now.energy_joules is not None:
            joules = now.energy_joules - start.energy_joules
        return Conditions(
            cpu_stall_fraction=stall,
            energy_joules_per_sample=None if joules is None or samples <= 0 else joules / samples,
            power_watts=self._nvml.power_watts() if joules is None or seconds <= 0 else joules / seconds,
            clock_mhz=self._nvml.clock_mhz(),
            throttle_reasons=self._nvml.throttle_reasons() or (),
            other_device_processes=self._nvml.other_processes(),
        )

    def _counters(self) -> _Counters:
        joules = self._nvml.energy_joules() if self._nvml else None
        return _Counters(time.perf_counter(), host.cpu_stall_microseconds(), joules)

    def release(self) -> None:
        """Collect garbage and give the allocator's cache back to the device."""
        gc.collect()
        with suppress(RuntimeError):  # after a failed assertion of a kernel all calls raise it again, this one too
            torch.cuda.empty_cache()


def nvml_names(properties: Any) -> list[str]:
    """The names under which NVML may know a device of torch's: its UUID, and its PCI address.

    torch gives the UUID without NVML's prefix, which says whether it is a GPU or a part of one (MIG).
    """
    names = [prefix + str(properties.uuid) for prefix in ("GPU-", "MIG-") if hasattr(properties, "uuid")]
    if hasattr(properties, "pci_bus_id"):
        domain = getattr(properties, "pci_domain_id", 0)
        names.append(f"{domain:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0")
    return names


def outside_bytes(
    process_bytes: int | None, used_before_bytes: int | None, used_now_bytes: int | None, reserved_bytes: int
) -> int | None:
    """What a process holds of a device outside torch's allocator, in bytes; None where it can't be known.

    Args:
        process_bytes: what the driver says that the process holds; None where it doesn't say.
        used_before_bytes: what all processes held before this one made its context; None if it wasn't read.
        used_now_bytes: what all processes hold now.
        reserved_bytes: what the allocator holds.
    """
    if process_bytes is not None:
        return max(0, process_bytes - reserved_bytes)
    if used_before_bytes is None or used_now_bytes is None:
        return None
    return max(0, used_now_bytes - used_before_bytes - reserved_bytes)


def fraction_set(index: int) -> float:
    """The share of the device that this process has left to its allocator, in [0, 1]."""
    read = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # older versions of torch tell of none
    return 1.0 if read is None else float(read(index))


def allocator_fraction(budget_bytes: int, outside_bytes: int, total_bytes: int) -> float:
    """The share of the device that the allocator may take, in (0, 1], so that the whole process keeps a budget."""
    return min(1.0, max(1, budget_bytes - outside_bytes) / total_bytes)
