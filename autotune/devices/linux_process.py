"""What Linux lets a process do to and learn about itself and its children.

Needs Linux; elsewhere each function does nothing and says so (False, None, no descendants), so that a caller
needs no test of the platform. No torch. One small function per kernel facility, with the manual page that
describes it.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

IS_LINUX = sys.platform == "linux"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9  # signal(7); Windows' signal module has no name for it
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): resets VmHWM to the present resident size
_FIRST_TO_DIE = "1000"  # proc_pid_oom_score_adj(5): the highest; may be raised without privileges

_SELF = Path("/proc/self")


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Resident memory in bytes: private and anonymous, backed by files, and shared (shmem, tmpfs)."""

    anonymous_bytes: int
    file_bytes: int
    shared_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three."""
        return self.anonymous_bytes + self.file_bytes + self.shared_bytes


def environment_at_start() -> dict[str, str] | None:
    """The variables that this process was started with (proc_pid_environ(5)).

    None where that can't be told, as in a process that has written its title over them.
    """
    try:
        text = os.fsdecode((_SELF / "environ").read_bytes())
    except OSError:
        return None
    whole = text.replace("\0glibc.", ":glibc.")  # GLIBC_TUNABLES, which glibc cuts into its parts where it lies
    entries = whole.split("\0")[:-1]
    told = bool(entries) and all("=" in entry for entry in entries)
    return dict(entry.split("=", 1) for entry in entries) if told else None


def die_with_parent() -> bool:
    """Have the kernel kill this process when the thread that started it ends. See prctl(2)."""
    return _prctl(_PR_SET_PDEATHSIG, SIGKILL)


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ends, so that none escapes. See prctl(2)."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> bool:
    if not IS_LINUX:
        return False
    prctl = ctypes.CDLL(None).prctl
    return int(prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))) == 0


def volunteer_for_oom_kill() -> bool:
    """Have the kernel, short of memory, kill this process before any other."""
    return _write(_SELF / "oom_score_adj", _FIRST_TO_DIE)


def reset_peak() -> bool:
    """Let `peak_resident_bytes`, where there is one, start again from what is resident now."""
    return peak_resident_bytes() is not None and _write(_SELF / "clear_refs", _RESET_PEAK)


def _write(path: Path, text: str) -> bool:
    if not IS_LINUX:
        return False
    try:
        path.write_text(text)
    except OSError:  # a kernel built without it, or a sandbox
        return False
    return True


def resident() -> Resident:
    """What this process holds. Where the kernel does not tell them apart, all of it reads as anonymous."""
    found = _status_bytes("RssAnon", "RssFile", "RssShmem")
    if found is None:
        return Resident(anonymous_bytes=psutil.Process().memory_info().rss, file_bytes=0, shared_bytes=0)
    return Resident(anonymous_bytes=found[0], file_bytes=found[1], shared_bytes=found[2])


def peak_resident_bytes() -> int | None:
    """The most that was ever resident since `reset_peak`, or since this program began; None where nothing tells.

    `getrusage` is no substitute: its `ru_maxrss` survives exec and so may show the peak of the parent.
    """
    found = _status_bytes("VmHWM")
    return None if found is None else found[0]


def data_bytes() -> int | None:
    """Private writable address space in bytes, touched or not: what `limit_data` limits. None where nothing tells."""
    found = _status_bytes("VmData")
    return None if found is None else found[0]


def _status_bytes(*names: str) -> list[int] | None:
    """Fields of /proc/self/status, which are in KiB; None where not all are there: gVisor has but a few."""
    if not IS_LINUX:
        return None
    fields = _kibibyte_fields((_SELF / "status").read_text())
    return [fields[name] for name in names] if fields.keys() >= set(names) else None


def _kibibyte_fields(text: str) -> dict[str, int]:
    return {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def limit_data(limit_bytes: int) -> bool:
    """Refuse this process private writable address space past a limit.

    It bounds brk and private mappings, not shared memory nor copy-on-write pages. See getrlimit(2), RLIMIT_DATA
    (mappings count since Linux 4.7).
    """
    if sys.platform != "linux":
        return False
    import resource  # there is none on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return True


def descendants(pid: int) -> list[int]:
    """The process ids of all that a process started and that still run, grandchildren included."""
    if IS_LINUX and _kernel_lists_children():
        children = _children(pid)
        return children + [below for child in children for below in descendants(child)]
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _kernel_lists_children() -> bool:
    """True where the kernel was built with CONFIG_PROC_CHILDREN."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _children(pid: int) -> list[int]:
    """Children are listed by the thread that started them."""
    children: list[int] = []
    with suppress(OSError):  # the process has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                children += map(int, (thread / "children").read_text().split())
    return children


def tree_resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants in bytes, shared pages counted once; 0 if it is gone.

    No figure of the kernel's is that exactly. Two are known to be at most that, and the larger is returned:
    the sum of the proportional sizes (Pss, which gives a share of each page to processes outside the tree too),
    and the resident size of the first process with what is private to each of the others (which leaves out
    pages that only the others share). See proc_pid_smaps(5).
    """
    first = _mapped(pid)
    others = [_mapped(child) for child in descendants(pid)]
    if not others:
        return first.resident_bytes
    proportional = first.proportional_bytes + sum(other.proportional_bytes for other in others)
    return max(proportional, first.resident_bytes + sum(other.private_bytes for other in others))


@dataclass(frozen=True)
class _Mapped:
    resident_bytes: int
    proportional_bytes: int
    private_bytes: int


def _mapped(pid: int) -> _Mapped:
    """From smaps_rollup (Linux 4.14 and later); where it can't be read, all that is resident is as private."""
    try:
        fields = _kibibyte_fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
        private = fields["Private_Clean"] + fields["Private_Dirty"]
        return _Mapped(fields["Rss"], fields["Pss"], private)
    except (OSError, KeyError):
        return _unrolled(pid)


def _unrolled(pid: int) -> _Mapped:
    try:
        resident_bytes = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        resident_bytes = 0
    return _Mapped(resident_bytes, resident_bytes, resident_bytes)
