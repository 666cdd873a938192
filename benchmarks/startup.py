"""How long the tool takes to say anything: importing it, and `autotune --help`.

Needs nothing of ours. Each is run in fresh interpreters, in turns with an interpreter that does nothing, whose
time is Python's own. Also says whether torch was imported, which alone takes seconds.

    python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.recording import RESULTS, Cells, Recording, Row, machine

RUNS = 20
TORCH_CHECK = "import sys; assert 'torch' not in sys.modules"
HELP = "from autotune.cli import main; main(['--help'])"
COMMANDS = {
    "python alone": ["-c", "pass"],
    "import autotune": ["-c", "import autotune"],
    "autotune --help": ["-m", "autotune", "--help"],
}
CHECKS = {
    "import autotune": f"import autotune; {TORCH_CHECK}",
    "autotune --help": f"{HELP}; {TORCH_CHECK}",
}

EXPLANATION = """\
Wall time of fresh interpreters, the three commands in turns. 'Imports torch' says whether torch was among the
modules at the end."""


@dataclass(frozen=True, kw_only=True)
class Startup:
    """Wall seconds of each run of one command. `imports_torch` is None where it was not asked."""

    command: str
    seconds: tuple[float, ...]
    imports_torch: bool | None


def measure(runs: int) -> list[Startup]:
    """Run every command so many times."""
    rounds = [[_wall_seconds(arguments) for arguments in COMMANDS.values()] for _ in range(runs)]
    return [
        Startup(command=command, seconds=seconds, imports_torch=_imports_torch(command))
        for command, seconds in zip(COMMANDS, zip(*rounds, strict=True), strict=True)
    ]


def _wall_seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _imports_torch(command: str) -> bool | None:
    if command not in CHECKS:
        return None
    done = subprocess.run([sys.executable, "-c", CHECKS[command]], capture_output=True, text=True, check=False)
    if done.returncode and "AssertionError" not in done.stderr:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.returncode != 0


def _cells(row: Row) -> Cells:
    seconds = row["seconds"]
    torch = {None: "", True: "yes", False: "no"}[row["imports_torch"]]
    times = {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    return {
        "command": row["command"],
        "runs": str(len(seconds)),
        **{name: f"{value * 1e3:.0f} ms" for name, value in times.items()},
        "imports torch": torch,
    }


def _summary(rows: Sequence[Row]) -> str:
    alone = median(rows[0]["seconds"])
    added = [f"{row['command']} {(median(row['seconds']) - alone) * 1e3:.0f} ms" for row in rows[1:]]
    return f"Over Python's own start: {', '.join(added)}."


def main() -> None:
    """Measure how long the tool takes to start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    recording = Recording(
        name="startup",
        title="Start-up time",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
        machine=machine("cpu"),
        folder=options.results,
    )
    rows = measure(options.runs)
    recording.write(rows)
    print((options.results / "startup.md").read_text())


if __name__ == "__main__":
    main()
