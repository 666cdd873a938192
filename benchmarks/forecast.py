"""How near the forecast of memory comes to what a training step really takes.

Needs torch in its children only, but for the list of architectures, and Linux. For each architecture, precision
and batch size, five fresh processes: one forecasts, one runs three steps and counts their live tensors, and three run
three steps and nothing else and read their own peaks, whose median counts, since a heap lies elsewhere in each. The
second tells whether the steps were followed rightly, the others what the product promises. A batch size whose forecast
exceeds `--memory-limit` is not run.

On a CUDA device the truth is the allocator's own, from one process: `max_memory_allocated` for the live tensors and
`max_memory_reserved` for what is held. The context lies outside of both.

Each precision has a table of its own: in bf16 a processor runs other kernels, and one without instructions for it
(see the table's head) takes ten times as long, so that it may be measured elsewhere.

    python -m benchmarks.forecast [NAME ...] [--precision fp32 bf16] [--batch-sizes 1 8 64]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from autotune.bench import Bench, build_bench
from autotune.devices import linux_process, open_device
from autotune.errors import NoForecastError
from autotune.forecast.records import Rules
from autotune.spec import LiveWorkload, Precision, ProbeSpec
from autotune.workloads.live import LiveParts
from benchmarks.architectures import chosen
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell, recorded, recorded_machine
from benchmarks.steps import Order, life_peak_bytes, timed_steps
from benchmarks.suite import MIB

STEPS = 3
"""The first makes the optimizer's state, and the peak on CPU still rises until the third."""

RUNS = 3
"""Processes whose median peak is the truth on CPU. On a GPU the allocator counts, and every process alike."""

MEMORY_LIMIT_GIB = 8.0
LIMIT_FACTOR = 1.5
"""A real run is refused memory past the limit by this, where the forecast was so wrong as to let it start."""

TIMEOUT_SECONDS = 300.0
"""For each of the three processes."""

QUANTILE = 0.95
"""The share of forecasts that the product's margin is to cover."""

EXPLANATION = f"""\
'Tensors' is the forecast peak of all live tensors; 'process' that of the whole process (on a GPU: of the allocator's
reserved memory). 'Off' is by how much each is above (+) or below (-) the truth: a count of the live tensors in
{STEPS} real steps, and the median peak of {RUNS} fresh processes that ran {STEPS} steps and nothing else. 'Spread' is
how far those three lie apart, which no forecast can foresee. 'Cost' is the processor time of one forecast."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One architecture in one precision at one batch size, on one device."""

    architecture: str
    precision: str
    batch_size: int
    device: str

    @property
    def rules(self) -> Rules:
        """Whose memory it is."""
        return Rules.CUDA if self.device.startswith("cuda") else Rules.CPU


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One forecast against the truth. What is not known, because something failed before, is 0."""

    architecture: str
    precision: str
    batch_size: int
    forecast_live_bytes: int = 0
    real_live_bytes: int = 0
    forecast_process_bytes: int = 0
    real_process_bytes: int = 0
    real_process_bytes_of_runs: tuple[int, ...] = ()
    base_bytes: int = 0
    forecast_seconds: float = 0.0
    operator: str = ""
    real_operator: str = ""
    guesses: tuple[str, ...] = ()
    failure: str = ""


# What runs in a fresh process: each returns fields of a comparison


def forecast(case: Case) -> dict[str, Any]:
    """Forecast one step. Where it cannot be followed, that is the failure."""
    from autotune.forecast.run import Forecaster

    try:
        forecaster = Forecaster(bench_of(case), case.rules)
        footprint = forecaster.footprint(case.batch_size)
    except NoForecastError as error:
        return {"failure": f"no forecast: {error.message}"}
    return {
        "forecast_live_bytes": footprint.peak_bytes,
        "forecast_process_bytes": forecaster.base_bytes + footprint.held_bytes,
        "base_bytes": forecaster.base_bytes,
        "forecast_seconds": footprint.seconds,
        "operator": footprint.operator,
        "guesses": list(forecaster.guesses),
    }


def track(case: Case) -> dict[str, Any]:
    """Run the steps, and count their live tensors."""
    from autotune.forecast.run import track_real

    footprint = track_real(bench_of(case), case.batch_size, steps=STEPS, rules=case.rules)
    return {"real_live_bytes": footprint.peak_bytes, "real_operator": footprint.operator}


def run(case: Case) -> dict[str, Any]:
    """Run the steps, and read the peak of this process, or of the device's allocator."""
    order = Order(path="", batch_size=case.batch_size, steps=STEPS, device=case.device)
    timed_steps(bench_of(case).workload, order)
    if case.rules is Rules.CPU:
        return {"real_process_bytes": life_peak_bytes()}
    import torch

    return {
        "real_live_bytes": torch.cuda.max_memory_allocated(case.device),
        "real_process_bytes": torch.cuda.max_memory_reserved(case.device),
    }


PARTS: Mapping[str, Callable[[Case], dict[str, Any]]] = {"forecast": forecast, "track": track, "run": run}


def bench_of(case: Case) -> Bench:
    """The architecture, ready for steps on its device."""
    architecture = chosen([case.architecture])[0]
    parts = LiveParts(
        model=architecture.build_model,
        data=architecture.make_batch,
        loss=architecture.loss,
        optimizer=architecture.optimizer,
        name=architecture.name,
    )
    spec = ProbeSpec(
        workload=LiveWorkload(name=architecture.name), device=case.device, precision=Precision(case.precision)
    )
    return build_bench(spec, open_device(case.device), parts)


# What runs around it


class PartFailedError(Exception):
    """A process raised, was ended or took too long."""


def compare(case: Case, limit_bytes: int) -> Comparison:
    """Forecast, and where that stays within the limit, run it; a failure is part of the row."""
    row = Comparison(architecture=case.architecture, precision=case.precision, batch_size=case.batch_size)
    try:
        row = replace(row, **in_fresh_process("forecast", case, limit_bytes))
        if row.failure:
            return row
        if row.forecast_process_bytes > limit_bytes:
            return replace(row, failure="not run: forecast to exceed the memory limit")
        if case.rules is not Rules.CPU:
            return replace(row, **in_fresh_process("run", case, limit_bytes))
        row = replace(row, **in_fresh_process("track", case, limit_bytes))
        runs = [in_fresh_process("run", case, limit_bytes)["real_process_bytes"] for _ in range(RUNS)]
        row = replace(row, real_process_bytes=int(median(runs)), real_process_bytes_of_runs=tuple(runs))
    except PartFailedError as error:
        return replace(row, failure=str(error))
    return row


def forecast_again(row: Comparison, parts: Sequence[str], device: str, limit_bytes: int) -> Comparison:
    """The row with some parts done again, beside the peaks that it has, where it has some."""
    if not row.real_process_bytes:
        return row
    case = Case(architecture=row.architecture, precision=row.precision, batch_size=row.batch_size, device=device)
    try:
        for part in parts:
            row = replace(row, **in_fresh_process(part, case, limit_bytes))
    except PartFailedError as error:
        return replace(row, failure=str(error))
    return row


def in_fresh_process(part: str, case: Case, limit_bytes: int) -> dict[str, Any]:
    """What one part of a comparison found.

    Raises:
        PartFailedError: it found nothing.
    """
    command = [sys.executable, "-m", "benchmarks.forecast", case.architecture, "--part", part]
    command += ["--precision", case.precision, "--batch-sizes", str(case.batch_size), "--device", case.device]
    command += ["--memory-limit", str(limit_bytes / 2**30)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PartFailedError(f"{part} took over {TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise PartFailedError(f"{part} failed with exit code {done.returncode}: {last[:300]}")
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


# The table and what it comes to


def live_error(row: Row) -> float | None:
    """By what share of the truth the forecast of the live tensors is above it; None where one is missing."""
    return _error(row["forecast_live_bytes"], row["real_live_bytes"])


def process_error(row: Row) -> float | None:
    """Likewise for the process."""
    return _error(row["forecast_process_bytes"], row["real_process_bytes"])


def _error(forecast_bytes: int, real_bytes: int) -> float | None:
    return forecast_bytes / real_bytes - 1 if forecast_bytes and real_bytes else None


def _cells(row: Row) -> Cells:
    return {
        "architecture": row["architecture"],
        "precision": row["precision"],
        "batch size": str(row["batch_size"]),
        "tensors": _mebibytes(row["forecast_live_bytes"]),
        "off ": _percent(live_error(row)),
        "process": _mebibytes(row["forecast_process_bytes"]),
        "off": _percent(process_error(row)),
        "spread": _spread(row["real_process_bytes_of_runs"]),
        "cost": f"{row['forecast_seconds']:.1f} s" if row["forecast_seconds"] else "",
        "failure": cell(row["failure"]),
    }


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB" if size_bytes else ""


def _spread(runs: Sequence[int]) -> str:
    return f"{(max(runs) - min(runs)) / median(runs):.1%}" if runs else ""


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:+.1%}"


def summary(rows: Sequence[Row]) -> str:
    """What the rows come to: a line for each precision and comparison, one for cost and failures."""
    lines = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        those = [row for row in rows if row["precision"] == precision]
        lines.append(f"- {precision}, tensors: {_errors(those, live_error)}")
        lines.append(f"- {precision}, process: {_errors(those, process_error)}")
    costs = [row["forecast_seconds"] for row in rows if row["forecast_seconds"]]
    failed = sum(bool(row["failure"]) for row in rows)
    lines.append(f"- a forecast took {max(costs, default=0.0):.1f} s at most; {failed} of {len(rows)} rows failed")
    return "\n".join(lines)


def _errors(rows: Sequence[Row], error_of: Callable[[Row], float | None]) -> str:
    """Median, worst, shares and quantile of the errors, regardless of their sign."""
    signed = [(error, row) for row in rows if (error := error_of(row)) is not None]
    if not signed:
        return "none compared"
    sizes = sorted(abs(error) for error, _ in signed)
    worst, where = max(signed, key=lambda pair: abs(pair[0]))
    near, wide = (sum(size <= bound for size in sizes) / len(sizes) for bound in (0.02, 0.10))
    return (
        f"{len(sizes)} compared, median {median(sizes):.1%} off, {QUANTILE:.0%} within {quantile(sizes):.1%}, "
        f"worst {worst:+.1%} ({where['architecture']} at {where['batch_size']}); "
        f"{near:.0%} within 2%, {wide:.0%} within 10%"
    )


def quantile(sizes: Sequence[float]) -> float:
    """The smallest of some ascending sizes that at least the share `QUANTILE` of them does not exceed."""
    return sizes[math.ceil(QUANTILE * len(sizes)) - 1]


def main() -> None:
    """Compare forecasts with real runs, for each architecture named, or for all."""
    options = _parser().parse_args()
    limit_bytes = int(options.memory_limit * 2**30)
    cases = [
        Case(architecture=architecture.name, precision=precision, batch_size=batch_size, device=options.device)
        for architecture in chosen(options.names)
        for precision in options.precision
        for batch_size in options.batch_sizes
    ]
    if options.part:
        if options.part != "forecast" and cases[0].rules is Rules.CPU:
            linux_process.limit_data(int(LIMIT_FACTOR * limit_bytes))
        print(json.dumps(PARTS[options.part](cases[0])))
        return
    for precision in options.precision:
        _record([case for case in cases if case.precision == precision], precision, options, limit_bytes)


def _record(cases: Sequence[Case], precision: str, options: argparse.Namespace, limit_bytes: int) -> None:
    """Make the table of one precision: by comparing, or from what was compared earlier."""
    recording = Recording.on(
        options.device,
        options.results,
        f"forecast-{precision}",
        title=f"Accuracy of the forecast of memory in {precision}",
        explanation=EXPLANATION,
        cells=_cells,
        summary=summary,
    )
    if options.merge:
        if rows := _merged(options.merge, precision):  # else the table that is there would be lost
            recording.join(options.merge, rows)
    elif options.forecast_again:
        names = {case.architecture for case in cases}
        rows = [row for row in _merged([options.forecast_again], precision) if row.architecture in names]
        earlier = recorded_machine([options.forecast_again])
        kept = f"{'peaks' if options.count_again else 'peaks and counts'} of {earlier['date']}"
        recording = replace(recording, machine={**recording.machine, "kept": f"{kept}, {earlier['processor']}"})
        parts = ("forecast", "track") if options.count_again else ("forecast",)
        recording.record((forecast_again(row, parts, options.device, limit_bytes) for row in rows), len(rows))
    else:
        recording.record((compare(case, limit_bytes) for case in cases), len(cases))


def _merged(files: Sequence[Path], precision: str) -> list[Comparison]:
    """The rows of several runs of this benchmark, a later one's in the place of an earlier one's."""
    rows = (row for row in recorded(Comparison, files) if row.precision == precision)
    cases = {(row.architecture, row.batch_size): row for row in rows}
    return [cases[key] for key in sorted(cases)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--precision", nargs="+", choices=[*Precision], default=["fp32", "bf16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--merge", nargs="+", type=Path, help="run nothing: join the JSON files of earlier runs")
    parser.add_argument("--forecast-again", type=Path, help="the JSON file of an earlier run, whose peaks are kept")
    parser.add_argument("--count-again", action="store_true", help="then count live tensors again, too, by new rules")
    parser.add_argument("--memory-limit", type=float, default=MEMORY_LIMIT_GIB, help="in GiB, for a whole process")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
