"""How near the recommended batch size comes to the fastest one.

Needs Linux and the oracle's maxima. For each workload: the tool's answer with `--objective throughput`, against
every power of two and every 1.5 times one up to the largest size that fits. Each size has a fresh process of its
own, as in a training; they are timed in turns, which shows the fastest; then that one and the recommended one
alone, since whichever looks fastest among many was in part lucky. Nothing of the package measures here.

    python -m benchmarks.throughput [NAME ...]
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.oracle import DEFAULT_CACHE, RunFailedError, oracle_for
from benchmarks.probing import ProbeFailedError, probe
from benchmarks.recording import RESULTS, Cells, Recording, Row, machine
from benchmarks.steps import Order, build, one_step
from benchmarks.suite import MIB, Entry, chosen

SURVEY_ROUNDS = 5

DUEL_ROUNDS = 12
INTERVAL_RANK = 3
"""The third smallest and the third largest of twelve hold the median of what they are drawn from in 96% of cases:
1 - 2 * (1 + 12 + 66) / 2**12 (David and Nagaraja, Order Statistics, 2003, section 7.1). No one turn that something
else disturbed can widen it."""

TURN_SECONDS = 0.3
"""A turn takes as many steps as this needs, so that neither the clock nor the switch between processes counts."""

LEAD_STEPS = 2  # not timed, while threads wake and caches fill

EXPLANATION = f"""\
'Best' is the fastest of the sizes of the sweep, by the median of {SURVEY_ROUNDS} rounds. 'Speed' is samples per
second at the recommended size as a share of that at the best one: the median of {DUEL_ROUNDS} rounds of these two
alone, with the interval that holds the true median with 96%. The recommendation is meant to be the smallest size
within 5% of the best."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """`survey[i][j]` is the samples per second of `sizes[j]` in round i; a duel is best against recommended."""

    sizes: tuple[int, ...]
    survey: tuple[tuple[float, ...], ...]
    best: int
    duel: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Speed at the recommended size as a share of that at the best, in each round."""
        return tuple(recommended / best for best, recommended in self.duel)


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


# What runs in a fresh process of each size


def take_turns(order: Order) -> None:
    """Warm up, then one turn for each line that is read: prints its samples per second."""
    workload = build(order)
    batch, _ = one_step(workload, order)
    _, seconds = one_step(workload, order, batch)
    steps = max(1, math.ceil(TURN_SECONDS / seconds))
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(LEAD_STEPS):
            one_step(workload, order, batch)
        elapsed = sum(one_step(workload, order, batch)[1] for _ in range(steps))
        print(order.batch_size * steps / elapsed, flush=True)


# What runs around it


def sweep(order: Order, sizes: Sequence[int], recommended: int) -> Sweep:
    """Time all sizes in turns, each in a process of its own, then the fastest against the recommended one.

    Raises:
        RunFailedError: a process ended before its time.
    """
    with ExitStack() as stack:
        turns = [_turn_in_process(replace(order, batch_size=size), stack) for size in sizes]
        survey = _rounds(turns, SURVEY_ROUNDS)
        best = max(range(len(sizes)), key=lambda j: median(speeds[j] for speeds in survey))
        duel = _rounds([turns[best], turns[sizes.index(recommended)]], DUEL_ROUNDS)
    return Sweep(
        sizes=tuple(sizes),
        survey=survey,
        best=sizes[best],
        duel=tuple((first, second) for first, second in duel),
    )


def _turn_in_process(order: Order, stack: ExitStack) -> Callable[[], float]:
    """A function that has a fresh process take one turn; the process waits in between."""
    command = [sys.executable, "-m", "benchmarks.throughput", order.path, "--turns", str(order.batch_size)]
    command += ["--device", order.device, "--mode", order.mode]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.enter_context(process)
    stack.callback(process.kill)
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    asked, answered = process.stdin, process.stdout
    if answered.readline().strip() != "ready":
        raise RunFailedError(f"{order.path} at batch size {order.batch_size} did not start.")

    def turn() -> float:
        asked.write("\n")
        asked.flush()
        if not (line := answered.readline()):
            raise RunFailedError(f"{order.path} at batch size {order.batch_size} ended.")
        return float(line)

    return turn


def _rounds(turns: Sequence[Callable[[], float]], rounds: int) -> tuple[tuple[float, ...], ...]:
    """Each turn once a round, in the other direction every other round, so that none is always first."""
    found = []
    for number in range(rounds):
        step = -1 if number % 2 else 1
        found.append(tuple([turn() for turn in turns[::step]][::step]))
    return tuple(found)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The order statistics between which the median of the ratios lies in 96% of cases, for twelve of them."""
    ranked = sorted(ratios)
    return ranked[INTERVAL_RANK - 1], ranked[-INTERVAL_RANK]


def sweep_sizes(largest: int, recommended: int) -> tuple[int, ...]:
    """Every power of two and every 1.5 times one up to the largest, that one, and the recommended one."""
    powers = [2**power for power in range(largest.bit_length())]
    candidates = {*powers, *(power + power // 2 for power in powers), largest, recommended}
    return tuple(sorted(size for size in candidates if size <= largest or size == recommended))


def compare(entry: Entry, device: str, cache: Path) -> Comparison:
    """The recommendation for one workload against the sweep; a failure is part of the row."""
    row = Comparison(workload=entry.name, budget_bytes=entry.budget_bytes(device))
    try:
        row = replace(row, largest=oracle_for(entry, device, cache).maximum().batch_size)
        result, seconds = probe(entry, device, "throughput")
        row = replace(row, recommended=result.batch_size, trials=len(result.trials), probe_seconds=seconds)
        order = Order(path=str(entry.path), batch_size=1, mode=entry.mode, device=device)
        swept = sweep(order, sweep_sizes(row.largest, row.recommended), row.recommended)
    except (ProbeFailedError, RunFailedError) as error:
        return replace(row, failure=str(error))
    return replace(row, sweep=swept, ratios=swept.ratios)


def _cells(row: Row) -> Cells:
    ratios = row["ratios"]
    return {
        "workload": row["workload"],
        "budget": f"{row['budget_bytes'] // MIB} MiB",
        "largest": str(row["largest"]),
        "recommended": str(row["recommended"]),
        "best": str(row["sweep"]["best"]) if row["sweep"] else "",
        "speed": f"{median(ratios):.1%}" if ratios else "",
        "interval": "{:.1%} to {:.1%}".format(*interval(ratios)) if ratios else "",
        "trials": str(row["trials"]),
        "seconds": f"{row['probe_seconds']:.0f}",
        "failure": " ".join(row["failure"].split()).replace("|", "/"),
    }


def _summary(rows: Sequence[Row]) -> str:
    speeds = [median(row["ratios"]) for row in rows if row["ratios"]]
    if not speeds:
        return "No recommendation yet."
    mean = math.exp(sum(map(math.log, speeds)) / len(speeds))
    return (
        f"Over {len(speeds)} workloads the recommended size reaches {mean:.1%} of the best speed (geometric mean), "
        f"{min(speeds):.1%} at worst. {len(rows) - len(speeds)} failed."
    )


def main() -> None:
    """Compare recommendations with a sweep, for each workload named, or for all."""
    options = _parser().parse_args()
    if options.turns:
        take_turns(Order(path=options.names[0], batch_size=options.turns, mode=options.mode, device=options.device))
        return
    entries = chosen(options.names)
    recording = Recording(
        name=f"throughput-{options.device.partition(':')[0]}",
        title="Speed at the recommended batch size",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
        machine=machine(options.device),
        folder=options.results,
    )
    rows: list[Comparison] = []
    for entry in entries:
        rows.append(compare(entry, options.device, options.cache))
        recording.write(rows)
        print(rows[-1], flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the oracle's runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--turns", type=int, help=argparse.SUPPRESS)  # the batch size of a process that takes turns
    parser.add_argument("--mode", default="train", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
