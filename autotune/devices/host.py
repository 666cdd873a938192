"""The machine itself: its processor, its memory, and how busy it is.

Needs psutil, no torch, so that the parent process may ask. Promises figures for what this process may use: a
container's limit and the scheduler's affinity count, not what the board holds. On Linux the readings that a
watchdog repeats every few milliseconds are single reads below /proc.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from autotune.devices import cgroups, linux_process


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What the machine is. `memory_bytes` is what is built in, whatever a container leaves of it.

    `container_processors` is how many processors' time the container may use, where it limits that.
    """

    processor: str
    physical_cores: int | None
    logical_cores: int
    memory_bytes: int
    container_limit_bytes: int | None
    container_processors: float | None
    platform: str
    python_version: str


def facts() -> HostFacts:
    """What the machine is and what it runs."""
    return HostFacts(
        processor=processor_name(),
        physical_cores=physical_cores(),
        logical_cores=logical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        container_limit_bytes=container_limit_bytes(),
        container_processors=cgroups.processors(),
        platform=platform.platform(),
        python_version=platform.python_version(),
    )


_ALLOCATORS = ("GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONMALLOC", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def allocator_settings(environment: Mapping[str, str] = os.environ) -> str:
    """What the environment says of how memory is allocated, as in a shell: peaks and speed depend on it."""
    names = sorted(name for name in environment if name in _ALLOCATORS or name.startswith("MALLOC_"))
    return " ".join(shlex.quote(f"{name}={environment[name]}") for name in names)


def variables(settings: str) -> dict[str, str]:
    """The variables that settings name, as `allocator_settings` writes them."""
    return dict(setting.split("=", 1) for setting in shlex.split(settings))


def tunes_malloc(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks malloc for anything but its defaults."""
    return any(_is_mallocs(name, value) for name, value in environment.items())


def heeded_by_malloc(
    environment: Mapping[str, str] = os.environ, at_start: Mapping[str, str] | None = None
) -> dict[str, str]:
    """An environment for processes that shall allocate as this one, and so as a training in it.

    The C library and its loader read their variables once, when a process starts. What was set since would change
    the processes started from here on, and not this one.

    Args:
        environment: what this process' children would be given.
        at_start: what this process was given; asked of the system where it is omitted.
    """
    given = linux_process.environment_at_start() if at_start is None else at_start
    if given is None:
        return dict(environment)
    others = {name: value for name, value in environment.items() if not _is_mallocs(name, value)}
    return others | {name: value for name, value in given.items() if _is_mallocs(name, value)}


def set_too_late(environment: Mapping[str, str] = os.environ, at_start: Mapping[str, str] | None = None) -> list[str]:
    """The names of malloc's variables that have changed since this process started, to no effect on it."""
    heeded = heeded_by_malloc(environment, at_start)
    names = sorted({*environment, *heeded})
    return [name for name in names if environment.get(name) != heeded.get(name)]


def _is_mallocs(name: str, value: str) -> bool:
    """Whether a variable changes how malloc works, or puts another in its place (jemalloc, tcmalloc, mimalloc)."""
    return name.startswith("MALLOC_") or (name in ("LD_PRELOAD", "GLIBC_TUNABLES") and "malloc" in value)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor as its maker names it, or its architecture where the system doesn't say (ARM on Linux)."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def logical_cores() -> int:
    """Hardware threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int | None:
    """Cores that this process may run on; at most, where its affinity leaves out some threads of a core."""
    cores = psutil.cpu_count(logical=False)
    return None if cores is None else min(cores, logical_cores())


def total_bytes() -> int:
    """The memory that processes here may hold in all: the machine's, or the container's limit below it."""
    return min(int(psutil.virtual_memory().total), container_limit_bytes() or sys.maxsize)


def container_limit_bytes() -> int | None:
    """The container's memory limit, where there is one that binds before the machine's memory does."""
    limit = cgroups.limit_bytes()
    return limit if limit is not None and limit < psutil.virtual_memory().total else None


def available_bytes() -> int:
    """What can still be taken without swapping: what the machine has left, or the container if that's less."""
    machine = int(psutil.virtual_memory().available)
    container = cgroups.available_bytes()
    return machine if container is None else min(machine, container)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 where it is gone."""
    try:
        if sys.platform == "linux":
            resident_pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
            return int(resident_pages) * os.sysconf("SC_PAGE_SIZE")
        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, IndexError, psutil.Error):  # a process that ends while it is read gives any of these
        return 0


def private_bytes(pid: int) -> int:
    """Resident memory of a process that it does not share with others by its files; 0 where it is gone."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def cpu_stall_microseconds(pressure: Path = Path("/proc/pressure/cpu")) -> int | None:
    """Time, since the machine started, in which some task waited for a processor; None where not recorded.

    Linux 4.20 and later with pressure stall information; see Documentation/accounting/psi.rst in its tree.
    """
    try:
        found = re.search(r"^some .*total=(\d+)", pressure.read_text(), re.MULTILINE)
    except OSError:  # missing, or recorded but switched off
        return None
    return int(found[1]) if found else None
