"""One workload under one budget, which every tool and the truth alike are held to.

Needs Linux; imports no torch. The budget is made real by the kernel (a data limit, RLIMIT_DATA) or by CUDA's
allocator, so that running out of memory raises what it would raise on a full machine. A batch size fits where ten
steps come to their end under that limit in a fresh process; the true maximum is the largest that does so each time,
and up to which smaller ones do.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.oracle import largest_passing
from benchmarks.suite import Entry

REPOSITORY = Path(__file__).parents[2]
DEFAULT_CACHE = Path("build/peers-truth.json")

SEARCH_TIMEOUT_SECONDS = 600.0
STEPS_TIMEOUT_SECONDS = 180.0
"""Short of memory, a process now and then hangs instead of failing (a thread that could not be started is waited for).
Ten steps take some 20 seconds at most."""

REPEATS = 8
"""A size near the edge must pass so often: equal processes differ by several percent, so that one which half of them
hold would pass three times in one case of eight."""

NEAR_EDGE = 0.9
"""A size that passes with this share of the room has passed; only others are repeated."""

FIRST_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What became of a fresh process. `report` is None where it did not reach its end."""

    seconds: float
    exit_code: int
    report: dict[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """The budget of a workload in bytes, and what makes it real: see `benchmarks.peers.child.reference`.

    `limit_bytes` is the data limit for a process as a whole, None on CUDA.
    """

    entry: Entry
    device: str
    budget_bytes: int
    room_bytes: int
    limit_bytes: int | None
    maximum: int = 0

    def steps(self, batch_size: int, share: float = 1.0) -> Ran:
        """Ten steps in a fresh process under the limit, or with a share of the room that it leaves."""
        room_bytes = int(share * self.room_bytes)
        options = {"batch_size": batch_size, "room_bytes": room_bytes}
        return child("steps", self.entry, self.device, STEPS_TIMEOUT_SECONDS, **options)

    def holds(self, batch_size: int) -> bool:
        """True where they come to their end with room to spare, or each time of several."""
        if self.steps(batch_size, NEAR_EDGE).report is not None:
            return True
        return all(self.steps(batch_size).report is not None for _ in range(REPEATS))


def open_arena(entry: Entry, device: str, cache: Path, told: Callable[[str], None]) -> Arena:
    """The arena of a workload with its true maximum, from the file or measured now (some minutes).

    Raises:
        SystemExit: not even one sample can be run without a limit.
    """
    key = _identity(entry, device)
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key in known:
        return Arena(entry=entry, device=device, **known[key])
    told(f"{entry.name}: looking for the true maximum")
    budget_bytes = entry.budget_bytes(device)
    ran = child("reference", entry, device, budget_bytes=budget_bytes)
    if ran.report is None:
        raise SystemExit(f"{entry.name} cannot be run: {ran.error}")
    arena = Arena(entry=entry, device=device, budget_bytes=budget_bytes, **ran.report)
    maximum = largest_passing(arena.holds, FIRST_BATCH_SIZE) if arena.room_bytes > 0 else 0
    facts = {**ran.report, "budget_bytes": budget_bytes, "maximum": maximum}
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps({**known, key: facts}, indent=1))
    return Arena(entry=entry, device=device, **facts)


def _identity(entry: Entry, device: str) -> str:
    content = sha256(entry.path.read_bytes()).hexdigest()[:16]
    return f"{entry.name} {content} on {device}, torch {version('torch')}, {REPEATS} times"


# Fresh processes


def child(task: str, entry: Entry, device: str, timeout_seconds: float = SEARCH_TIMEOUT_SECONDS, **options: Any) -> Ran:
    """Run a task of `benchmarks.peers.child` in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.peers.child", task, str(entry.path)]
    named = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        return fresh([*command, str(report), "--device", device, *named], report, timeout_seconds)


def fresh(
    command: Sequence[str],
    report: Path,
    timeout_seconds: float = SEARCH_TIMEOUT_SECONDS,
    limit_bytes: int | None = None,
) -> Ran:
    """Run a command to its end or its time-out, and read the report that it wrote.

    Args:
        command: what to run, in the repository.
        report: a JSON file that it writes when it succeeds.
        timeout_seconds: after which it is ended.
        limit_bytes: a data limit for it and all that it starts.
    """
    prepare = None if limit_bytes is None else partial(_limit, limit_bytes)
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  (this process has one thread)
        )
        exit_code = _wait(process, timeout_seconds)
        seconds = time.perf_counter() - start
        errors.seek(0)
        written = json.loads(report.read_text()) if exit_code == 0 and report.exists() else None
        return Ran(seconds=seconds, exit_code=exit_code, report=written, error=_last_words(errors.read(), exit_code))


def _limit(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> int:
    """Wait for a process; what it started does not outlive it."""
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(text: str, exit_code: int) -> str:
    """The last line of an error, and how the process ended."""
    if exit_code == 0:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ended = f"exit code {exit_code}" if exit_code > 0 else signal.Signals(-exit_code).name
    return f"{ended}: {lines[-1][:200]}" if lines else ended
