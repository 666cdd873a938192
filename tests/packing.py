"""A caller's parts as they travel to another process, as bytes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from autotune.workloads import live
from autotune.workloads.live import LiveParts


def pack(parts: LiveParts) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "parts"
        live.pack(parts, path)
        return path.read_bytes()


def unpack(packed: bytes) -> LiveParts:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "parts"
        path.write_bytes(packed)
        return live.unpack(path)
