"""Where a benchmark ran, and its results as JSON with a Markdown table beside it.

Needs psutil. Written after each workload, so that a benchmark that is cut short loses nothing; failures are
rows like all others. The table is made from the rows alone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import psutil

from autotune.devices.host import allocator_settings
from autotune.units import format_seconds

RESULTS = Path(__file__).parent / "results"

VECTORS = {"avx512_bf16": "AVX-512 and its bf16", "avx512f": "AVX-512", "avx2": "AVX2"}

Row = Mapping[str, Any]
Cells = Mapping[str, str]
Kind = TypeVar("Kind")


def recorded(kind: Callable[..., Kind], files: Iterable[Path]) -> list[Kind]:
    """The rows of the JSON files that earlier runs of a benchmark wrote, each as the dataclass that it was."""
    return [kind(**row) for file in files for row in _content(file)["rows"]]


def latest_rows(kind: Callable[..., Kind], files: Iterable[Path], workloads: Iterable[str]) -> list[Kind]:
    """The rows of several runs of a benchmark, by workload in this order; of each, and each tool, the last file's."""
    latest: dict[tuple[str, str], list[Kind]] = {}
    for file in files:
        of_run: dict[tuple[str, str], list[Kind]] = {}
        for row in _content(file)["rows"]:
            of_run.setdefault((row["workload"], row.get("tool", "")), []).append(kind(**row))
        latest |= of_run
    return [row for name in workloads for (workload, _), rows in latest.items() if workload == name for row in rows]


def recorded_machine(files: Sequence[Path]) -> dict[str, str]:
    """What those runs' figures depend on, for their rows together: where runs differ, each one's in turn."""
    told = [_content(file)["machine"] for file in files]
    names = dict.fromkeys(name for facts in told for name in facts)
    return {name: "; ".join(dict.fromkeys(facts[name] for facts in told if facts.get(name))) for name in names}


def _content(file: Path) -> Any:
    return json.loads(file.read_text())


def machine(device: str) -> dict[str, str]:
    """What the figures depend on, in words. The load tells how busy the machine was at the start."""
    threads = f"{psutil.cpu_count(logical=False) or '?'} cores, {_usable_threads()} of {os.cpu_count()} threads used"
    memory_gib = psutil.virtual_memory().total / 2**30
    allocator = allocator_settings()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device if device == "cpu" else _device_name(device),
        "processor": f"{_processor()}, {threads}, {memory_gib:.0f} GiB",
        "load at start": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, autotune {_own_version()}",
    } | ({"allocator": f"`{allocator}`"} if allocator else {})


def _processor() -> str:
    """Its name, and the widest vectors that it knows of those that torch's kernels are chosen by."""
    try:
        told = dict(re.findall(r"^(model name|flags)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except OSError:
        told = {}
    name = told.get("model name") or platform.processor() or platform.machine()
    flags = told.get("flags", "").split()
    vectors = next((label for flag, label in VECTORS.items() if flag in flags), "")
    return f"{name} with {vectors}" if vectors else name


def _usable_threads() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _own_version() -> str:
    try:
        return version("batch-autotune")
    except PackageNotFoundError:
        from autotune import __version__

        return __version__


def cell(text: str) -> str:
    """A text of any lines as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")


def remaining(done: int, total: int, seconds: float) -> str:
    """What is done and what remains: "3 of 10 done in 2 min, about 5 min to go"."""
    ahead = seconds / done * (total - done)
    to_go = f", about {format_seconds(math.ceil(ahead))} to go" if total > done else ""
    return f"{done} of {total} done in {format_seconds(round(seconds))}{to_go}"


@dataclass(frozen=True)
class Recording:
    """A benchmark's results on disk: `NAME.json` and `NAME.md`.

    `cells` makes a row's cells, by their headings; `explanation` says above the table what they mean; `summary`
    is a line made from all rows; `order` is by what the rows are sorted, where not as they come.
    """

    name: str
    title: str
    explanation: str
    cells: Callable[[Row], Cells]
    summary: Callable[[Sequence[Row]], str]
    machine: Mapping[str, str]
    folder: Path = RESULTS
    order: Callable[[Row], Any] = lambda _: 0

    @classmethod
    def on(cls, device: str, folder: Path, topic: str, **what: Any) -> Recording:
        """The recording of a topic's benchmark on a device, such as "accuracy-cpu"."""
        return cls(name=f"{topic}-{device.partition(':')[0]}", machine=machine(device), folder=folder, **what)

    def record(self, made: Iterable[Any], total: int) -> None:
        """Write and print each of so many rows as soon as it is made, and what remains to be done."""
        rows: list[Any] = []
        began = time.monotonic()
        for row in made:
            rows.append(row)
            self.write(rows)
            print(" | ".join(self.cells(asdict(row)).values()), flush=True)
            print(remaining(len(rows), total, time.monotonic() - began), file=sys.stderr, flush=True)

    def join(self, files: Sequence[Path], rows: Sequence[Any]) -> None:
        """Write rows that earlier runs recorded in these files, under what their figures depend on."""
        replace(self, machine=recorded_machine(files)).write(rows)

    def write(self, rows: Sequence[Any]) -> None:
        """Write the rows (dataclasses) so far, and the table that they make."""
        fields = sorted((asdict(row) for row in rows), key=self.order)
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"machine": dict(self.machine), "rows": fields}
        (self.folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        (self.folder / f"{self.name}.md").write_text(self._markdown(fields))

    def _markdown(self, rows: Sequence[Row]) -> str:
        facts = "\n".join(f"- {key}: {value}" for key, value in self.machine.items())
        cells = [self.cells(row) for row in rows]
        headings = list(cells[0]) if cells else []
        lines = [headings, ["---"] * len(headings), *([*row.values()] for row in cells)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"# {self.title}\n\n{self.explanation}\n\n{facts}\n\n{table}\n\n{self.summary(rows)}\n"
