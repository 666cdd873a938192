"""What the settings of malloc that the tool advises do to peak memory and to speed.

Needs Linux and glibc. Each workload at the true maximum that `benchmarks.accuracy` found, ten steps in each of some
fresh processes with glibc's defaults and with either setting, in turns.

    python -m benchmarks.allocating [NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, geometric_mean, median

from autotune.cautions import KEEPING, MAPPED
from benchmarks.oracle import RunFailedError, known_maxima, run_fresh
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell
from benchmarks.steps import Observed, Order
from benchmarks.suite import MIB, Entry, chosen

PROCESSES = 3
SETTINGS = {"default": "", "mapped": MAPPED, "kept": KEEPING}

EXPLANATION = f"""\
Ten steps in each of {PROCESSES} fresh processes with glibc's defaults and with either setting, in turns. 'Mapped' is
`{MAPPED}`,
'kept' is `{KEEPING}`. 'Peak' is the smallest and the largest of these
processes in MiB, 'step' the time of a step (the median of a process) as a share of that by default in the same turn:
the median of the turns, and their range."""


@dataclass(frozen=True, kw_only=True)
class Allocating:
    """One workload at one batch size. By setting, the peak and the seconds of a step, of each process."""

    workload: str
    batch_size: int
    peaks_bytes: dict[str, list[int]]
    step_seconds: dict[str, list[float]]
    failure: str = ""


def compare(entry: Entry, batch_size: int) -> Allocating:
    """Run the settings in turns, each turn beginning with another of them; a failure is part of the row."""
    row = Allocating(
        workload=entry.name,
        batch_size=batch_size,
        peaks_bytes={name: [] for name in SETTINGS},
        step_seconds={name: [] for name in SETTINGS},
    )
    order = Order(path=str(entry.path), batch_size=batch_size, mode=entry.mode)
    names = list(SETTINGS)
    try:
        for turn in range(PROCESSES):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                observed = _completed(order, entry, SETTINGS[name])
                row.peaks_bytes[name].append(observed.peak_bytes)
                row.step_seconds[name].append(median(observed.step_seconds))
    except RunFailedError as error:
        return replace(row, failure=str(error))
    return row


def _completed(order: Order, entry: Entry, setting: str) -> Observed:
    """Bounded by twice the budget, and so by nothing but a mistake."""
    observed = run_fresh(order, 2 * entry.budget_bytes("cpu"), setting)
    if not observed.completed:
        raise RunFailedError(f"{entry.name} at {order.batch_size} took over twice its budget")
    return observed


def _cells(row: Row) -> Cells:
    peaks, steps = row["peaks_bytes"], row["step_seconds"]
    return {
        "workload": row["workload"],
        "batch size": str(row["batch_size"]),
        **{f"peak, {name}": _range_mib(peaks[name]) for name in SETTINGS},
        **{f"step, {name}": _ratios(steps[name], steps["default"]) for name in SETTINGS if name != "default"},
        "failure": cell(row["failure"]),
    }


def _range_mib(peaks: Sequence[int]) -> str:
    return f"{min(peaks) / MIB:.0f} to {max(peaks) / MIB:.0f}" if peaks else ""


def _ratios(seconds: Sequence[float], by_default: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(seconds, by_default, strict=False)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def _summary(rows: Sequence[Row]) -> str:
    whole = [row for row in rows if not row["failure"]]
    return " ".join(_told(name, whole) for name in SETTINGS) if whole else "No comparison yet."


def _told(name: str, rows: Sequence[Row]) -> str:
    """What a setting does over all workloads."""
    ranges = [(max(peaks) - min(peaks)) / fmean(peaks) for peaks in (row["peaks_bytes"][name] for row in rows)]
    differ = f"peaks of equal processes differ by {min(ranges):.1%} to {max(ranges):.1%}"
    if name == "default":
        return f"By default {differ}."
    peak, step = (
        geometric_mean(fmean(row[kind][name]) / fmean(row[kind]["default"]) for row in rows)
        for kind in ("peaks_bytes", "step_seconds")
    )
    return f"With '{name}' {differ}, they are {peak - 1:+.0%} in the mean, and a step takes {step - 1:+.0%}."


def main() -> None:
    """Compare the settings on each workload named, or on all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocating", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--maxima-of", type=Path, default=RESULTS / "accuracy-cpu.json", help="gives the batch sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    recording = Recording.on(
        "cpu",
        options.results,
        "allocating",
        title="What settings of malloc do",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
    )
    maxima, entries = known_maxima(options.maxima_of), chosen(options.names)
    recording.record((compare(entry, maxima[entry.name]) for entry in entries), len(entries))


if __name__ == "__main__":
    main()
