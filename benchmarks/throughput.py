"""How near the recommended batch size comes to the fastest one.

Needs Linux and the oracle's maxima. For each workload: the tool's answer with `--objective throughput`, against
every power of two and every 1.5 times one up to the largest size that fits. In one fresh process all sizes are
timed in turns, which shows the fastest; then that one and the recommended one alone, since whichever looks
fastest among many was in part lucky. Nothing of the package measures here.

    python -m benchmarks.throughput [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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

TURN_SECONDS = 0.1
"""A turn takes as many steps as this needs, so that neither the clock nor the first step after a switch counts."""

SWEEP_TIMEOUT_SECONDS = 1800.0

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


# What runs in the fresh process


def sweep(order: Order, sizes: Sequence[int], recommended: int) -> Sweep:
    """Time all sizes in turns, then the fastest against the recommended one."""
    workload = build(order)
    turns = [_turn(workload, replace(order, batch_size=size)) for size in sizes]
    survey = _rounds(turns, SURVEY_ROUNDS)
    best = max(range(len(sizes)), key=lambda j: median(speeds[j] for speeds in survey))
    duel = _rounds([turns[best], turns[sizes.index(recommended)]], DUEL_ROUNDS)
    return Sweep(
        sizes=tuple(sizes),
        survey=survey,
        best=sizes[best],
        duel=tuple((first, second) for first, second in duel),
    )


def _turn(workload: object, order: Order) -> Callable[[], float]:
    """A function that takes one turn at a batch size and returns its samples per second."""
    batch, _ = one_step(workload, order)
    _, seconds = one_step(workload, order, batch)
    steps = max(1, math.ceil(TURN_SECONDS / seconds))

    def turn() -> float:
        return order.batch_size * steps / sum(one_step(workload, order, batch)[1] for _ in range(steps))

    return turn


def _rounds(turns: Sequence[Callable[[], float]], rounds: int) -> tuple[tuple[float, ...], ...]:
    """Each turn once a round, in the other direction every other round, so that none is always first."""
    found = []
    for number in range(rounds):
        step = -1 if number % 2 else 1
        found.append(tuple([turn() for turn in turns[::step]][::step]))
    return tuple(found)


# What runs around it


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
        swept = _sweep_fresh(entry, device, sweep_sizes(row.largest, row.recommended), row.recommended)
    except (ProbeFailedError, RunFailedError) as error:
        return replace(row, failure=str(error))
    return replace(row, sweep=swept, ratios=swept.ratios)


def _sweep_fresh(entry: Entry, device: str, sizes: Sequence[int], recommended: int) -> Sweep:
    command = [sys.executable, "-m", "benchmarks.throughput", entry.name, "--device", device]
    command += ["--sweep", ",".join(map(str, sizes)), "--recommended", str(recommended)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SWEEP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"the sweep of {entry.name} took over {SWEEP_TIMEOUT_SECONDS:.0f} s.") from error
    if done.returncode != 0:
        raise RunFailedError(f"the sweep of {entry.name} failed: {done.stderr.strip()[-400:]}")
    return Sweep(**json.loads(done.stdout.splitlines()[-1]))


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
    entries = chosen(options.names)
    if options.sweep:
        order = Order(path=str(entries[0].path), batch_size=1, mode=entries[0].mode, device=options.device)
        sizes = [int(size) for size in options.sweep.split(",")]
        print(json.dumps(asdict(sweep(order, sizes, options.recommended))))
        return
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
    parser.add_argument("--sweep", help=argparse.SUPPRESS)
    parser.add_argument("--recommended", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
