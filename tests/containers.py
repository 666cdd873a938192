"""Cgroups of our own, as a container has one, on a machine that lets us make them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")
"""Of version 2; version 1 has a folder in it for each controller."""


def memory_cgroup(limit_bytes: int) -> AbstractContextManager[Path]:
    """One that may use that much memory."""
    if (first := MOUNT / "memory").is_dir():
        return _cgroup(first, {"memory.limit_in_bytes": str(limit_bytes)})
    return _cgroup(MOUNT, {"memory.max": str(limit_bytes)})


def processor_cgroup(quota_us: int, period_us: int) -> AbstractContextManager[Path]:
    """One that may use so much processor time in each period."""
    if (first := MOUNT / "cpu").is_dir():
        return _cgroup(first, {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(quota_us)})
    return _cgroup(MOUNT, {"cpu.max": f"{quota_us} {period_us}"})


@contextmanager
def _cgroup(mount: Path, files: dict[str, str]) -> Iterator[Path]:
    folder = mount / f"autotune-test-{os.getpid()}"
    try:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"may not make a cgroup here: {error}")
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except OSError:  # the last process has not quite left it
            time.sleep(0.1)
