"""The workers of a test's own process, for any test file."""

from __future__ import annotations

import time
from collections.abc import Collection

import psutil


def workers(others: Collection[psutil.Process] = ()) -> list[psutil.Process]:
    """Those of this process, but for these, which another test may have."""
    found = [child for child in psutil.Process().children() if "autotune.worker" in _command_line(child)]
    return [child for child in found if child not in others]


def _command_line(process: psutil.Process) -> list[str]:
    """What a process was started with. On a busy machine the kernel shows none of it for a moment after the exec."""
    try:
        while not (line := process.cmdline()):
            time.sleep(0.001)
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return []
    return line
