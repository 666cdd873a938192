"""How near the recommended batch size comes to the fastest one.

Needs Linux and the oracle's maxima. For each workload: the tool's answer with `--objective throughput`, against
every power of two and every 1.5 times one up to the largest size that fits. Each is timed alone in a process, as one
trains, which shows the fastest; then that one and the recommended one again, in other processes, since whichever looks
fastest among many was in part lucky. Nothing of the package measures here.

    python -m benchmarks.throughput [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

from benchmarks.oracle import DEFAULT_CACHE, RunFailedError, known_maxima, oracle_for
from benchmarks.probing import ProbeFailedError, probe
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell
from benchmarks.steps import Order, build, new_batch, step_seconds
from benchmarks.suite import MIB, Entry, chosen

SURVEY_PROCESSES = 3
DUEL_PROCESSES = 7
"""Interpreters in which each size has its say. Equal processes differ in speed by up to a factor of two (an LSTM), each
for as long as it lives: where its heap happens to lie decides how much memory each step returns to the system and
faults in again. And sizes that share a process change each other's heap, so that only the largest pays."""

TURNS = 5
TURN_SECONDS = 0.1
"""A turn takes as many steps as this needs, so that neither the clock nor a single interruption counts."""

SWEEP_TIMEOUT_SECONDS = 1800.0

EXPLANATION = f"""\
'Best' is the fastest of the sizes of the sweep: each was timed alone in a process, once in each of
{SURVEY_PROCESSES} rounds. 'Speed' is samples per second at the recommended size as a share of that at the best one:
these two again, alone, in {DUEL_PROCESSES} more rounds, which range as said; their geometric mean counts. Such a range
holds the median of all processes in {1 - 2 ** (1 - DUEL_PROCESSES):.0%} of cases: where it is wide, the speed is known
no better. Where both are the same size it is 100%. The recommendation is meant to be the smallest size within 5% of
the best."""

Speeds = tuple[float, ...]
"""Samples per second of each size, in one interpreter."""

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Speeds in each interpreter: `survey` of all `sizes`, `duel` of the `duellists`, the best of them first."""

    sizes: tuple[int, ...]
    survey: tuple[Speeds, ...]
    duellists: tuple[int, ...]
    duel: tuple[Speeds, ...]

    @property
    def best(self) -> int:
        """The fastest size of the survey."""
        return self.duellists[0]

    def ratios(self, answer: int) -> tuple[float, ...]:
        """Speed at an answer as a share of that at the best, in each interpreter."""
        column = self.duellists.index(answer)
        return tuple(speeds[column] / speeds[0] for speeds in self.duel)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One recommendation against the sweep."""

    workload: str
    budget_bytes: int
    largest: int = 0
    recommended: int = 0
    sweep: Sweep | None = None
    ratios: tuple[float, ...] = ()
    trials: int = 0
    probe_seconds: float = 0.0
    failure: str = ""


# What runs in a fresh process


def timed(order: Order, sizes: Sequence[int]) -> Speeds:
    """Each size's samples per second.

    On CPU each is a process: forked from this one, which has run no step, it begins as a fresh one does. So this
    must be a process that nothing ran in. Elsewhere the sizes take turns in this one.
    """
    import torch

    threads = torch.get_num_threads()
    if order.device == "cpu" and FORK is not None:
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        workload = build(order)
        orders = [replace(order, batch_size=size) for size in sizes]
        return tuple(_in_child(partial(_alone, workload, each, threads)) for each in orders)
    workload = build(order)
    turns = [_turn(workload, replace(order, batch_size=size)) for size in sizes]
    rounds = [[turn() for turn in turns] for _ in range(TURNS)]
    return tuple(median(speeds) for speeds in zip(*rounds, strict=True))


def _alone(workload: object, order: Order, threads: int) -> float:
    """Samples per second at the one size that this process runs: the median of turns."""
    import torch

    torch.set_num_threads(threads)
    turn = _turn(workload, order)
    turn()  # the heap takes some steps to come to rest
    return median(turn() for _ in range(TURNS))


def _in_child(work: Callable[[], float]) -> float:
    """What some work returns in a forked process.

    Raises:
        EOFError: it died before.
    """
    assert FORK is not None
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=lambda: theirs.send(work()))
    child.start()
    theirs.close()
    try:
        return float(ours.recv())
    finally:
        child.join()


def _turn(workload: object, order: Order) -> Callable[[], float]:
    """A function that takes one turn at a batch size and returns its samples per second."""
    batch = new_batch(workload, order)
    step_seconds(workload, order, batch)  # the first is another one: it makes the optimizer's state
    steps = max(1, math.ceil(TURN_SECONDS / step_seconds(workload, order, batch)))

    def turn() -> float:
        return order.batch_size * steps / sum(step_seconds(workload, order, batch) for _ in range(steps))

    return turn


# What runs around it


def fastest(sizes: Sequence[int], survey: Sequence[Speeds]) -> int:
    """The size whose speed is the highest in the geometric mean of the interpreters."""
    columns = dict(zip(sizes, zip(*survey, strict=True), strict=True))
    return max(sizes, key=lambda size: geometric_mean(columns[size]))


def sweep_sizes(largest: int, recommended: int) -> tuple[int, ...]:
    """Every power of two and every 1.5 times one up to the largest, that one, and the recommended one."""
    powers = [2**power for power in range(largest.bit_length())]
    candidates = {*powers, *(power + power // 2 for power in powers), largest, recommended}
    return tuple(sorted(size for size in candidates if size <= largest or size == recommended))


def compare(entry: Entry, device: str, cache: Path, known: int | None = None) -> Comparison:
    """The recommendation for one workload against the sweep; a failure is part of the row."""
    row = Comparison(workload=entry.name, budget_bytes=entry.budget_bytes(device))
    try:
        row = replace(row, largest=known or oracle_for(entry, device, cache).maximum().batch_size)
        result, seconds = probe(entry, device, "throughput")
        row = replace(row, recommended=result.batch_size, trials=len(result.trials), probe_seconds=seconds)
        swept = sweep(entry, device, sweep_sizes(row.largest, row.recommended), [row.recommended])
    except (ProbeFailedError, RunFailedError) as error:
        return replace(row, failure=str(error))
    return replace(row, sweep=swept, ratios=swept.ratios(row.recommended))


def sweep(entry: Entry, device: str, sizes: tuple[int, ...], answers: Sequence[int]) -> Sweep:
    """The fastest of some sizes, and, in other processes, it and the answers again.

    Raises:
        RunFailedError: a process failed, or took too long.
    """
    survey = _in_interpreters(entry, device, sizes, SURVEY_PROCESSES)
    best = fastest(sizes, survey)
    duellists = (best, *(answer for answer in answers if answer != best))
    duel = _in_interpreters(entry, device, duellists, DUEL_PROCESSES) if len(duellists) > 1 else ((1.0,),)
    return Sweep(sizes=sizes, survey=survey, duellists=duellists, duel=duel)


def _in_interpreters(entry: Entry, device: str, sizes: tuple[int, ...], count: int) -> tuple[Speeds, ...]:
    """The speeds in so many, each in the other direction than the one before, so that none is always first."""
    directions = [-1 if number % 2 else 1 for number in range(count)]
    return tuple(timed_fresh(entry, device, sizes[::step])[::step] for step in directions)


def timed_fresh(entry: Entry, device: str, sizes: Sequence[int]) -> Speeds:
    """Each size's samples per second, in a new interpreter.

    Raises:
        RunFailedError: it failed, or took too long.
    """
    command = [sys.executable, "-m", "benchmarks.throughput", entry.name, "--device", device]
    command += ["--time", ",".join(map(str, sizes))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SWEEP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"the sweep of {entry.name} took over {SWEEP_TIMEOUT_SECONDS:.0f} s.") from error
    if done.returncode != 0:
        raise RunFailedError(f"the sweep of {entry.name} failed: {done.stderr.strip()[-400:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _cells(row: Row) -> Cells:
    ratios = row["ratios"]
    return {
        "workload": row["workload"],
        "budget": f"{row['budget_bytes'] // MIB} MiB",
        "largest": str(row["largest"]),
        "recommended": str(row["recommended"]),
        "best": str(row["sweep"]["duellists"][0]) if row["sweep"] else "",
        "speed": f"{geometric_mean(ratios):.1%}" if ratios else "",
        "processes": f"{min(ratios):.1%} to {max(ratios):.1%}" if len(ratios) > 1 else "",
        "trials": str(row["trials"]),
        "seconds": f"{row['probe_seconds']:.0f}",
        "failure": cell(row["failure"]),
    }


def _summary(rows: Sequence[Row]) -> str:
    speeds = [geometric_mean(row["ratios"]) for row in rows if row["ratios"]]
    if not speeds:
        return "No recommendation yet."
    within = geometric_mean(min(speed, 1.0) for speed in speeds)
    return (
        f"Over {len(speeds)} workloads the recommended size reaches {geometric_mean(speeds):.1%} of the best speed "
        f"(geometric mean; {within:.1%} where one that turned out faster than the best counts as 100%), "
        f"{min(speeds):.1%} at worst. {len(rows) - len(speeds)} failed."
    )


def main() -> None:
    """Compare recommendations with a sweep, for each workload named, or for all."""
    options = _parser().parse_args()
    entries = chosen(options.names)
    if options.time:
        order = Order(path=str(entries[0].path), batch_size=1, mode=entries[0].mode, device=options.device)
        sizes = [int(size) for size in options.time.split(",")]
        print(json.dumps(timed(order, sizes)))
        return
    recording = Recording.on(
        options.device,
        options.results,
        "throughput",
        title="Speed at the recommended batch size",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
    )
    known = known_maxima(options.maxima_of)
    rows = (compare(entry, options.device, options.cache, known.get(entry.name)) for entry in entries)
    recording.record(rows, len(entries))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the oracle's runs")
    parser.add_argument("--maxima-of", type=Path, help="a JSON file of benchmarks.accuracy, whose maxima are taken")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--time", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
