"""What the forecast saves: trials and wall time of the search for the largest batch size, with and without it.

Needs Linux. Each workload is probed both ways, one after the other, under the suite's budget.

    python -m benchmarks.guidance [NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median

from autotune.result import Result
from benchmarks.probing import ProbeFailedError, probe
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell
from benchmarks.suite import Entry, chosen

EXPLANATION = """\
`autotune probe --objective memory` with the forecast and with `--no-forecast`, one after the other in one run. 'To the
edge' counts the trials until the largest size had fitted and its successor had been refused for the first time, 'all'
those of the whole probe, with the confirmations that follow and what these sent back. 'Forecast error' is the median
of |predicted - measured| over the trials that ran with a prediction, as a share of the measured peak."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One probe of one workload."""

    answer: int
    trials_to_edge: int
    trials: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Both ways; `no_forecast` says why there was no forecast, `errors` how far off each prediction was."""

    workload: str
    guided: Way | None = None
    plain: Way | None = None
    errors: tuple[float, ...] = ()
    no_forecast: str = ""
    failure: str = ""


def compare(entry: Entry, device: str) -> Guidance:
    """Probe both ways; a failure is part of the row."""
    row = Guidance(workload=entry.name)
    try:
        guided, seconds = probe(entry, device, "memory")
        row = replace(row, guided=_way(guided, seconds), errors=_errors(guided), no_forecast=guided.no_forecast)
        plain, seconds = probe(entry, device, "memory", "--no-forecast")
    except ProbeFailedError as error:
        return replace(row, failure=str(error))
    return replace(row, plain=_way(plain, seconds))


def _way(result: Result, seconds: float) -> Way:
    return Way(
        answer=result.batch_size,
        trials_to_edge=trials_to_edge(result),
        trials=len(result.trials),
        seconds=seconds,
    )


def trials_to_edge(result: Result) -> int:
    """How many trials there were until some size had fitted and its successor had not."""
    step, fitted, refused = result.edge.multiple_of, set[int](), set[int]()
    for count, trial in enumerate(result.trials, start=1):
        (fitted if trial.accepted else refused).add(trial.batch_size)
        if any(size + step in refused for size in fitted):
            return count
    return len(result.trials)


def _errors(result: Result) -> tuple[float, ...]:
    return tuple(
        trial.forecast_bytes / trial.measurement.memory.peak_bytes - 1
        for trial in result.trials
        if trial.measurement is not None and trial.forecast_bytes is not None
    )


def _cells(row: Row) -> Cells:
    guided, plain, errors = row["guided"], row["plain"], [abs(error) for error in row["errors"]]
    return {
        "workload": row["workload"],
        "answer with / without": f"{_of(guided, 'answer')} / {_of(plain, 'answer')}",
        "trials to the edge": f"{_of(guided, 'trials_to_edge')} / {_of(plain, 'trials_to_edge')}",
        "all trials": f"{_of(guided, 'trials')} / {_of(plain, 'trials')}",
        "seconds": f"{guided['seconds']:.0f} / {plain['seconds']:.0f}" if guided and plain else "",
        "forecast error": f"{median(errors):.1%}, at most {max(errors):.1%}" if errors else row["no_forecast"],
        "failure": cell(row["failure"]),
    }


def _of(way: Row | None, name: str) -> str:
    return str(way[name]) if way else ""


def _summary(rows: Sequence[Row]) -> str:
    both = [row for row in rows if row["guided"] and row["plain"]]
    if not both:
        return "No comparison yet."
    edge, trials, seconds = (
        geometric_mean(row["guided"][name] / row["plain"][name] for row in both)
        for name in ("trials_to_edge", "trials", "seconds")
    )
    return (
        f"Over {len(both)} workloads the forecast leaves {edge:.0%} of the trials to the edge, {trials:.0%} of all "
        f"trials and {seconds:.0%} of the time (geometric means). {len(rows) - len(both)} failed."
    )


def main() -> None:
    """Probe each workload named, or all, with and without the forecast."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guidance", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    recording = Recording.on(
        options.device,
        options.results,
        "guidance",
        title="Trials with and without the forecast",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
    )
    entries = chosen(options.names)
    recording.record((compare(entry, options.device) for entry in entries), len(entries))


if __name__ == "__main__":
    main()
