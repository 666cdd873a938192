"""Cgroups of our own, as a container has one, on a machine that lets us make them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")
"""Of version 2; version 1 has a folder in it for each controller."""


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """One that may use that much memory."""
    first = MOUNT / "memory"
    mount, name = (first, "memory.limit_in_bytes") if first.is_dir() else (MOUNT, "memory.max")
    with _cgroup(mount, {name: str(limit_bytes)}) as folder:
        yield folder


@contextmanager
def processor_cgroup(quota_us: int, period_us: int) -> Iterator[Path]:
    """One that may use so much processor time in each period."""
    first = MOUNT / "cpu"
    mount, files = (
        (first, {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(quota_us)})
        if first.is_dir()
        else (MOUNT, {"cpu.max": f"{quota_us} {period_us}"})
    )
    with _cgroup(mount, files) as folder:
        yield folder


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
