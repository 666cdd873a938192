"""What NVIDIA's management library says of a GPU: memory of all processes, clocks, throttling, energy.

Needs the `nvidia-ml-py` package and NVIDIA's driver. Promises never to raise: without either there is one
line that says which is missing, and a reading that this GPU does not support is None.

The device is found by its UUID or its PCI address, since NVML's numbering knows nothing of
CUDA_VISIBLE_DEVICES. Units are NVML's turned into plain ones: bytes, watts, joules, MHz.
Source: NVML API Reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

THROTTLE_WORDS: tuple[tuple[str, str], ...] = (
    ("nvmlClocksEventReasonSwPowerCap", "power cap"),
    ("nvmlClocksEventReasonHwSlowdown", "hardware slowdown"),
    ("nvmlClocksEventReasonSwThermalSlowdown", "too hot (driver)"),
    ("nvmlClocksEventReasonHwThermalSlowdown", "too hot (hardware)"),
    ("nvmlClocksEventReasonHwPowerBrakeSlowdown", "power brake"),
    ("nvmlClocksEventReasonSyncBoost", "held to a slower GPU's clock"),
    ("nvmlClocksEventReasonApplicationsClocksSetting", "clock set by hand"),
)
"""The reasons that slow a computation down. Being idle, and a clock for the display, are none."""


def open_nvml(names: Sequence[str]) -> Nvml | str:
    """A device by the first of its names that NVML knows, or why there is none, in one line.

    Args:
        names: UUIDs ("GPU-..." or "MIG-...") or PCI addresses ("00000000:01:00.0").
    """
    try:
        import pynvml
    except ImportError:
        return "NVML is not used: the package nvidia-ml-py is missing (pip install nvidia-ml-py)."
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML is not used: {error}. NVIDIA's driver is missing, or not visible here."
    for name in names:
        by_uuid = name.startswith(("GPU-", "MIG-"))
        find = pynvml.nvmlDeviceGetHandleByUUID if by_uuid else pynvml.nvmlDeviceGetHandleByPciBusId
        try:
            return Nvml(pynvml, find(name))
        except pynvml.NVMLError:
            continue
    return f"NVML is not used: it does not know the device {' or '.join(names)}."


class Nvml:
    """One GPU as NVML sees it, every process on it included. Each reading is None where it's not supported."""

    def __init__(self, library: Any, handle: Any) -> None:
        """Made by `open_nvml`, which has started the library and found the device."""
        self._library = library
        self._handle = handle

    def used_bytes(self) -> int | None:
        """What all processes hold, and the driver."""
        memory = self._read("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def process_bytes(self, pid: int) -> int | None:
        """What one process holds; None where NVML does not list it, as in a container, or does not say."""
        used = {process.pid: process.usedGpuMemory for process in self._processes() or ()}.get(pid)
        return None if used is None else int(used)

    def other_processes(self) -> int | None:
        """How many other processes compute on the device, this one being among those that do.

        In a container this process is listed under a number that it can't know. So where its own is not there,
        one of those listed is taken for it.
        """
        processes = self._processes()
        if processes is None:
            return None
        others = [process for process in processes if process.pid != os.getpid()]
        return len(others) if len(others) < len(processes) else max(0, len(others) - 1)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Why the clocks are held back now, in words; empty where nothing holds them back."""
        mask = self._read("nvmlDeviceGetCurrentClocksEventReasons")  # driver 535 and later
        if mask is None:
            mask = self._read("nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is None:
            return None
        return tuple(words for name, words in THROTTLE_WORDS if mask & getattr(self._library, name, 0))

    def clock_mhz(self) -> int | None:
        """The clock of the multiprocessors now."""
        clock: int | None = self._read("nvmlDeviceGetClockInfo", self._library.NVML_CLOCK_SM)
        return clock

    def power_watts(self) -> float | None:
        """Power drawn by the whole board, as an average over the last second (Ampere and later) or now."""
        milliwatts = self._read("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def energy_joules(self) -> float | None:
        """Energy used since the driver was loaded (Volta and later)."""
        millijoules = self._read("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def driver_version(self) -> str | None:
        """The driver's version, as in "570.86.15"."""
        try:
            version = self._library.nvmlSystemGetDriverVersion()
        except self._library.NVMLError:
            return None
        return version.decode() if isinstance(version, bytes) else str(version)

    def _processes(self) -> list[Any] | None:
        found = self._read("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else list(found)

    def _read(self, function: str, *arguments: Any) -> Any:
        """A reading of the device; None where the driver, the GPU or the package has none."""
        call = getattr(self._library, function, None)
        if call is None:
            return None
        try:
            return call(self._handle, *arguments)
        except self._library.NVMLError:
            return None
