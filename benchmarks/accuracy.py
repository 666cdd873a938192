"""How near the tool's largest batch size comes to the true one, and whether it really fits.

Needs Linux. For each workload: the truth by the oracle, the tool's answer with `--objective memory` under the
same budget, and ten steps at that answer in each of a dozen fresh processes that neither of them has seen. With
`--mapped` all of them allocate as the tool advises where peaks of equal processes differ.

    python -m benchmarks.accuracy [--mapped] [NAME ...]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cautions import MAPPED
from autotune.devices.host import variables
from benchmarks.oracle import DEFAULT_CACHE, REPEATS, RunFailedError, known_maxima, oracle_for, within
from benchmarks.probing import ProbeFailedError, probe
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell, latest_rows
from benchmarks.suite import MIB, SUITE, Entry, chosen

CHECKS = 12

EXPLANATION = f"""\
The truth is the largest batch size whose ten steps stay within the budget in each of {REPEATS} fresh processes, found
by doubling and bisection, without the tool; a range of larger sizes that fits again, as in the MLP, is not its maximum.
'Share' is the tool's answer as a share of it. 'Fits again' counts in how many of {CHECKS} more fresh processes ten
steps at that answer stayed within the budget; 'peaks' is the smallest and the largest peak of these, as a share of the
budget."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One probe of one workload. `check_peaks_bytes` has the peak of each fresh process at the answer."""

    workload: str
    budget_bytes: int
    true_maximum: int = 0
    answer: int = 0
    fits_again: int = 0
    check_peaks_bytes: tuple[int, ...] = ()
    trials: int = 0
    probe_seconds: float = 0.0
    failure: str = ""


def compare(entry: Entry, device: str, cache: Path, known: int | None = None) -> Accuracy:
    """The tool against the oracle on one workload, or what it said before; a failure of either is part of the row."""
    row = Accuracy(workload=entry.name, budget_bytes=entry.budget_bytes(device))
    oracle = oracle_for(entry, device, cache)
    try:
        row = replace(row, true_maximum=known or oracle.maximum().batch_size)
        result, seconds = probe(entry, device, "memory")
        row = replace(row, answer=result.batch_size, trials=len(result.trials), probe_seconds=seconds)
        unseen = replace(oracle, cache=None)
        checks = [unseen.observe(result.batch_size, repeat) for repeat in range(CHECKS)]
    except (ProbeFailedError, RunFailedError) as error:
        return replace(row, failure=str(error))
    return replace(
        row,
        fits_again=sum(within(check, row.budget_bytes) for check in checks),
        check_peaks_bytes=tuple(check.peak_bytes for check in checks),
    )


def _cells(row: Row) -> Cells:
    peaks = [peak / row["budget_bytes"] for peak in row["check_peaks_bytes"]]
    return {
        "workload": row["workload"],
        "budget": f"{row['budget_bytes'] // MIB} MiB",
        "true maximum": str(row["true_maximum"]),
        "answer": str(row["answer"]),
        "share": _share(row),
        "fits again": f"{row['fits_again']} of {CHECKS}",
        "peaks": f"{min(peaks):.1%} to {max(peaks):.1%}" if peaks else "",
        "trials": str(row["trials"]),
        "seconds": f"{row['probe_seconds']:.0f}",
        "failure": cell(row["failure"]),
    }


def _share(row: Row) -> str:
    return f"{row['answer'] / row['true_maximum']:.1%}" if row["true_maximum"] else ""


def _summary(rows: Sequence[Row]) -> str:
    shares = [row["answer"] / row["true_maximum"] for row in rows if row["true_maximum"] and not row["failure"]]
    if not shares:
        return "No answer yet."
    held, missing = sum(row["fits_again"] == CHECKS for row in rows), len(rows) - len(shares)
    return (
        f"{len(shares)} answers: {min(shares):.1%} to {max(shares):.1%} of the truth, mean "
        f"{sum(shares) / len(shares):.1%}. {held} fitted every time. {missing} probes gave no answer."
    )


def main() -> None:
    """Compare the tool with the oracle on each workload named, or on all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--probes", type=int, default=1, help="probes of each workload, to see how answers differ")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the oracle's runs")
    parser.add_argument("--maxima-of", type=Path, help="the JSON file of an earlier run, whose true maxima are kept")
    parser.add_argument("--mapped", action="store_true", help=f"run all with {MAPPED}")
    parser.add_argument("--merge", nargs="+", type=Path, help="run nothing: join the JSON files of earlier runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    if options.mapped:
        os.environ |= variables(MAPPED)
    recording = Recording.on(
        options.device,
        options.results,
        "accuracy-mapped" if options.mapped else "accuracy",
        title="Accuracy of the largest batch size" + (", each large block mapped" if options.mapped else ""),
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
    )
    if options.merge:
        recording.join(options.merge, latest_rows(Accuracy, options.merge, [entry.name for entry in SUITE]))
        return
    entries = [entry for entry in chosen(options.names) for _ in range(options.probes)]
    known = known_maxima(options.maxima_of)
    rows = (compare(entry, options.device, options.cache, known.get(entry.name)) for entry in entries)
    recording.record(rows, len(entries))


if __name__ == "__main__":
    main()
