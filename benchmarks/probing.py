"""The tool's own answer, asked for as a user would: by the command line, and read from the file it saves."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotune.result import Result, load_result
from benchmarks.suite import Entry

PROBE_TIMEOUT_SECONDS = 1800.0


class ProbeFailedError(Exception):
    """The tool gave no answer; its own words say why."""


def probe(entry: Entry, device: str, objective: str, *options: str) -> tuple[Result, float]:
    """The tool's result for an entry under its budget, and the wall seconds from start to answer.

    Raises:
        ProbeFailedError: the tool ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, "-m", "autotune", "probe", str(entry.path), "--quiet", "--output", str(output)]
        command += ["--device", device, "--mode", entry.mode, "--objective", objective]
        command += ["--memory-budget", str(entry.budget_bytes(device)), *options]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ProbeFailedError(f"no answer in {PROBE_TIMEOUT_SECONDS:.0f} s") from error
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise ProbeFailedError(f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
        return load_result(output), seconds
