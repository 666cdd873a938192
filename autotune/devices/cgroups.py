"""What the container allows: memory, what is left of it, whom the kernel killed for it, and processor time.

Needs Linux's /proc and /sys, no torch; elsewhere every answer is None. Promises the tightest answer: a
process is bound by its own cgroup and by each one above it, so all of them are read.

Both versions are read, since both are in use: version 2 (`memory.max`, `memory.current`, `memory.events`) and
version 1 (`memory.limit_in_bytes`, `memory.usage_in_bytes`, `memory.oom_control`), and so of processor time
(`cpu.max`; `cpu.cfs_quota_us`). Cached file pages that no process maps count as free: the kernel drops them before it
kills. Its own `MemAvailable` counts so, too; Kubernetes' working set only those not read lately (`inactive_file`), and
so counts a dataset that was read twice as memory in use. Sources: Documentation/admin-guide/cgroup-v2.rst,
cgroup-v1/memory.rst and scheduler/sched-bwc.rst in the Linux tree.

Every function takes a `root` to read below, so that a recorded tree can stand in for the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NO_LIMIT_BYTES = 1 << 62
"""Version 1 writes 'no limit' as the largest whole number of pages, 2**63 - 4096 on x86: anything like it."""


@dataclass(frozen=True)
class _Files:
    """Where one version of cgroups keeps its figures."""

    limit: str
    usage: str
    inactive: str
    active: str
    mapped: str
    events: str


_MEMORY = {
    1: _Files(
        limit="memory.limit_in_bytes",
        usage="memory.usage_in_bytes",
        inactive="total_inactive_file",
        active="total_active_file",
        mapped="total_mapped_file",
        events="memory.oom_control",
    ),
    2: _Files(
        limit="memory.max",
        usage="memory.current",
        inactive="inactive_file",
        active="active_file",
        mapped="file_mapped",
        events="memory.events",
    ),
}
_QUOTA = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
"""By the version of cgroups."""


def limit_bytes(root: Path = Path("/")) -> int | None:
    """The memory that the container may hold, in bytes; None where nothing limits it."""
    limits = [limit for folder, files in _memory_levels(root) if (limit := _limit(folder, files)) is not None]
    return min(limits, default=None)


def available_bytes(root: Path = Path("/")) -> int | None:
    """What is left below the limit, in bytes, at the tightest level; None where nothing limits it."""
    left = [
        max(0, limit - _used(folder, files))
        for folder, files in _memory_levels(root)
        if (limit := _limit(folder, files)) is not None
    ]
    return min(left, default=None)


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this cgroup the kernel has killed for memory; the machine's where that's unknown.

    The cgroup's count also contains kills for want of memory on the whole machine, if the victim was in it.
    The machine's count, from /proc/vmstat, stands in on version 2's root, which keeps none of its own.
    """
    for folder, files in _memory_levels(root):
        own = _fields(folder / files.events).get("oom_kill")
        return own if own is not None else machine_oom_kills(root)
    return machine_oom_kills(root)


def machine_oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has killed for memory since the machine started (Linux 4.13 and later)."""
    return _fields(root / "proc/vmstat").get("oom_kill")


def processors(root: Path = Path("/")) -> float | None:
    """How many processors' time the container may use at most, 1.5 for example; None where nothing limits it."""
    quotas = [_quota(folder, _QUOTA[version]) for folder, version in _levels(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _memory_levels(root: Path) -> Iterator[tuple[Path, _Files]]:
    return ((folder, _MEMORY[version]) for folder, version in _levels(root, "memory"))


def _levels(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The process' own cgroup and each one above it, up to the root of what is mounted here, and its version."""
    place = _place(root, controller)
    if place is None:
        return
    mount, listed, version = place
    folder = mount / listed.lstrip("/")
    if ".." in Path(listed).parts or not folder.is_dir():
        folder = mount  # in a container the list may name a path outside it; what is mounted is then ours
    while True:
        yield folder, version
        if folder == mount:
            return
        folder = folder.parent


def _place(root: Path, controller: str) -> tuple[Path, str, int] | None:
    """Mount point, listed path and version. Where both versions run, a controller belongs to the one that lists it."""
    lines = _text(root / "proc/self/cgroup").splitlines()
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    for _, controllers, path in entries:
        if controller in controllers.split(","):
            return root / "sys/fs/cgroup" / controller, path, 1
    for number, _, path in entries:
        if number == "0":
            return root / "sys/fs/cgroup", path, 2
    return None


def _quota(folder: Path, files: tuple[str, ...]) -> float | None:
    """Processor time per time that passes: both stand in one file or in two; -1 or "max" stands for no limit."""
    figures = " ".join(_text(folder / name) for name in files).split()
    if len(figures) != 2 or not all(figure.isdigit() for figure in figures):
        return None
    return int(figures[0]) / int(figures[1])


def _limit(folder: Path, files: _Files) -> int | None:
    text = _text(folder / files.limit).strip()
    return int(text) if text.isdigit() and int(text) < NO_LIMIT_BYTES else None


def _used(folder: Path, files: _Files) -> int:
    text = _text(folder / files.usage).strip()
    stat = _fields(folder / "memory.stat")
    inactive, active, mapped = (stat.get(name, 0) for name in (files.inactive, files.active, files.mapped))
    droppable = inactive + max(0, active - mapped)  # what is mapped is in use, and so as a rule among the active
    return max(0, int(text) - droppable) if text.isdigit() else 0


def _fields(path: Path) -> dict[str, int]:
    """The lines of the form `name number` of a file; none where it can't be read."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
