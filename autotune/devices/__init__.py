"""Where a trial's memory and time are read: one file a device, one protocol for all.

`host` and `cgroups` read the machine without torch, for the parent process; `cpu`, `cuda` and `mps` import
torch, and only the worker imports them, through `open_device`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autotune.trial import Conditions, Memory


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What a device is. `free_bytes` is what a new process could use of it now, `total_bytes` all it has."""

    name: str
    total_bytes: int
    free_bytes: int
    driver_version: str | None = None
    runtime_version: str | None = None
    warnings: tuple[str, ...] = ()


class Device(Protocol):
    """One device, seen from the process that runs a trial."""

    torch_device: str
    """As torch spells it: "cpu", "cuda:0", "mps"."""

    def facts(self) -> DeviceFacts:
        """What the device is, and what of its memory is free."""
        ...

    def held_bytes(self) -> int:
        """What this process holds of the device's memory now, in bytes."""
        ...

    def limit(self, budget_bytes: int) -> None:
        """Make the budget real where the device can: whatever passes it shall fail cleanly."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was asked of the device is done."""
        ...

    def start_reading(self) -> None:
        """Forget the peak so far: the base is what is in use now. Called after the warm-up step."""
        ...

    def memory(self) -> Memory:
        """Base and peak since `start_reading`."""
        ...

    def start_conditions(self) -> None:
        """Note the counters (energy, stall time) from which `conditions` takes its differences."""
        ...

    def conditions(self, steps: int, samples: int) -> Conditions:
        """What the machine was like since `start_conditions`, in which so many steps and samples were run."""
        ...

    def release(self) -> None:
        """Give back what caches hold, so that the next trial in this process starts level."""
        ...


def is_dead(device: Device) -> bool:
    """True where an error stays with the device, as a kernel's failed assertion does: all calls then raise it again."""
    try:
        device.synchronize()
    except RuntimeError:
        return True
    return False


def open_device(name: str) -> Device:
    """The device by its torch name ("cpu", "cuda", "cuda:1", "mps"), or the best there is for "auto".

    Raises:
        DeviceError: the device is not there; the message lists what is.
    """
    from autotune.devices.choose import open_device as choose  # imports torch, so only when called

    return choose(name)
