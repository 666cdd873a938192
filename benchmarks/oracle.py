"""The truth that the tool's answers are held against: the largest batch size that really fits.

Needs torch in its children only, and Linux. Promises an answer for which ten steps were run in fresh processes,
each with a peak within the budget, and whose successor exceeded it. Nothing is forecast, and nothing of the
package measures here. Peaks near the budget differ from process to process, so there a size must pass more
than once.

Memory need not grow with the batch size. glibc serves blocks of up to 32 MiB from heaps that fragment, and larger
ones exactly, from the kernel (mallopt(3), M_MMAP_THRESHOLD); so where the largest tensors pass that size, a
larger batch may fit again. A maximum with gaps below it is of little use, so the truth is the first edge, and
`--look-beyond` tells whether there is more.

Each run is kept as a line of a file, so that asking again costs nothing.

    python -m benchmarks.oracle run benchmarks/workloads/mlp.py --batch-size 64
    python -m benchmarks.oracle maximum mlp gpt
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from os import sysconf
from pathlib import Path
from typing import IO, Any

from autotune.devices.host import allocator_settings, variables
from benchmarks import steps
from benchmarks.steps import Observed, Order, run_steps
from benchmarks.suite import MIB, Entry, chosen

WATCH_SECONDS = 0.01
"""How often a child's memory is looked at; pages arrive at up to 3 GiB/s, so 30 MiB late at most."""

KILL_FACTOR = 1.25
"""A child over the budget by this is ended: it has shown that it does not fit, and shall not harm the machine."""

REPEATS = 12
"""Equal processes differ in their peaks by several percent. A size that half of all processes hold passes three runs
one time in eight, and a bisection asks of several such sizes; twelve runs it passes one time in 4,096."""

NEAR_EDGE = 0.9
"""A peak under this share of the budget passes without being repeated: runs differ by a few percent."""

BEYOND = tuple(1.1**power for power in range(1, 11))
"""Where it is looked beyond an edge, in multiples of it, to 2.6 times: fragments at most double what is in use, and
a tenth is about as narrow as a range of sizes that fit again was seen to be."""

RUN_TIMEOUT_SECONDS = 600.0
FIRST_BATCH_SIZE = 16
DEFAULT_CACHE = Path("build/oracle-runs.jsonl")


class RunFailedError(Exception):
    """A workload failed for another reason than memory, so that there is no truth to tell."""


@dataclass(frozen=True)
class Truth:
    """The largest batch size that fits, and its largest peak; 0 where not even one sample fits."""

    batch_size: int
    peak_bytes: int
    step_seconds: float


@dataclass(frozen=True)
class Oracle:
    """Answers for one workload under one budget. `repeats` runs are asked of a size near the edge."""

    order: Order
    budget_bytes: int
    repeats: int = REPEATS
    cache: Path | None = DEFAULT_CACHE

    def observe(self, batch_size: int, repeat: int = 0) -> Observed:
        """The run of this number at this batch size, from the file or from a fresh process."""
        limit_bytes = self.budget_bytes if self.order.device != "cpu" else None
        order = replace(self.order, batch_size=batch_size, limit_bytes=limit_bytes)
        key = {**_identity(order), "repeat": repeat}
        for seen in _remembered(self.cache, key):
            if seen.completed or seen.peak_bytes > self.budget_bytes:
                return seen
        observed = run_fresh(order, self.budget_bytes)
        _remember(self.cache, key, observed)
        return observed

    def fits(self, batch_size: int) -> bool:
        """True where the peak stays within the budget, in every repeat where it comes near."""
        for repeat in range(self.repeats):
            observed = self.observe(batch_size, repeat)
            if not within(observed, self.budget_bytes):
                return False
            if observed.peak_bytes < NEAR_EDGE * self.budget_bytes:
                return True
        return True

    def maximum(self, start: int = FIRST_BATCH_SIZE, *, look_beyond: bool = False) -> Truth:
        """The largest batch size up to which all that were tried fit; or, looking beyond, of all that fit."""
        largest = (largest_of_all if look_beyond else largest_passing)(self.fits, start)
        if largest == 0:
            return Truth(0, 0, 0.0)
        runs = [self.observe(largest, repeat) for repeat in range(self.repeats)]
        seconds = sorted(second for run in runs for second in run.step_seconds)
        return Truth(largest, max(run.peak_bytes for run in runs), seconds[len(seconds) // 2])


def oracle_for(entry: Entry, device: str, cache: Path | None = DEFAULT_CACHE) -> Oracle:
    """The oracle of an entry of the suite, under the entry's budget."""
    order = Order(path=str(entry.path), batch_size=1, mode=entry.mode, device=device)
    return Oracle(order, entry.budget_bytes(device), cache=cache)


def known_maxima(accuracy: Path | None) -> dict[str, int]:
    """The true maxima that an earlier run of `benchmarks.accuracy` found, by workload; none without its JSON file."""
    rows = json.loads(accuracy.read_text())["rows"] if accuracy else []
    return {row["workload"]: row["true_maximum"] for row in rows if row["true_maximum"]}


def within(observed: Observed, budget_bytes: int) -> bool:
    """True where a run came to its end within the budget."""
    return observed.completed and observed.peak_bytes <= budget_bytes


def largest_passing(passes: Callable[[int], bool], start: int = 1) -> int:
    """The largest size that passes, where every smaller one passes too; 0 where none does.

    Doubles from `start` until a size is refused, then bisects. A predicate that never refuses has no answer.
    """
    low, high = 0, start
    while passes(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def largest_of_all(passes: Callable[[int], bool], start: int = 1) -> int:
    """The largest size that passes, also where some smaller ones don't; 0 where none up to `start` passes."""
    largest = largest_passing(passes, start)
    while largest and (beyond := _first_passing(passes, largest)):
        largest = largest_passing(passes, beyond)
    return largest


def _first_passing(passes: Callable[[int], bool], edge: int) -> int | None:
    sizes = (math.ceil(edge * factor) for factor in BEYOND)
    return next((size for size in sizes if size > edge + 1 and passes(size)), None)


def run_fresh(order: Order, budget_bytes: int, setting: str = "") -> Observed:
    """Run the steps in a fresh interpreter, under watch.

    Args:
        order: what to run.
        budget_bytes: a process on CPU is ended where it is far over this.
        setting: further variables of its environment, as in a shell.

    Raises:
        RunFailedError: it failed, and not because it was over the budget.
    """
    arguments = ["--batch-size", str(order.batch_size), "--steps", str(order.steps)]
    arguments += ["--mode", order.mode, "--device", order.device]
    arguments += [] if order.limit_bytes is None else ["--limit-bytes", str(order.limit_bytes)]
    command = [sys.executable, "-m", "benchmarks.oracle", "run", order.path, *arguments]
    kill_bytes = int(KILL_FACTOR * budget_bytes) if order.device == "cpu" else None
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=output, stderr=errors, env={**os.environ, **variables(setting)}) as child:
            killed_at_bytes = _watch(child, kill_bytes)
        if killed_at_bytes is not None:
            return Observed(completed=False, peak_bytes=killed_at_bytes)
        if child.returncode != 0:
            raise RunFailedError(f"{order.path} at batch size {order.batch_size}:\n{_tail(errors)}")
        return _observed(json.loads(_tail(output).splitlines()[-1]))


def _watch(child: subprocess.Popen[bytes], kill_bytes: int | None) -> int | None:
    """Wait for a child; its resident bytes when it had to be ended, or None."""
    end = time.monotonic() + RUN_TIMEOUT_SECONDS
    while child.poll() is None:
        resident = _resident_bytes(child.pid)
        if kill_bytes is not None and resident > kill_bytes:
            child.kill()
            return resident
        if time.monotonic() > end:
            child.kill()
            raise RunFailedError(f"{' '.join(map(str, child.args))} took over {RUN_TIMEOUT_SECONDS:.0f} s.")  # type: ignore[arg-type]
        time.sleep(WATCH_SECONDS)
    return None


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has just ended
        return 0


def _tail(file: IO[str], characters: int = 4000) -> str:
    file.seek(0)
    return file.read()[-characters:]


# The file of runs


def _identity(order: Order) -> dict[str, Any]:
    """What makes two runs the same run: the workload's text, and that of the steps, stand for their paths."""
    texts = Path(order.path).read_bytes() + Path(steps.__file__).read_bytes()
    content = sha256(texts).hexdigest()[:16]
    where = {"torch": version("torch"), "allocator": allocator_settings()}
    return {**asdict(order), "path": Path(order.path).name, "content": content, **where}


def _remembered(cache: Path | None, key: dict[str, Any]) -> list[Observed]:
    if cache is None or not cache.exists():
        return []
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    return [_observed(line["observed"]) for line in lines if line["key"] == key]


def _remember(cache: Path | None, key: dict[str, Any], observed: Observed) -> None:
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a") as file:
        file.write(json.dumps({"key": key, "observed": asdict(observed)}) + "\n")


def _observed(fields: dict[str, Any]) -> Observed:
    return Observed(**{**fields, "step_seconds": tuple(fields["step_seconds"])})


# The command line


def main() -> None:
    """Run one batch size in this process, or find the true maxima of the suite."""
    options = _parser().parse_args()
    if options.command == "run":
        order = Order(**{name: value for name, value in vars(options).items() if name != "command"})
        print(json.dumps(asdict(run_steps(order))))
        return
    for entry in chosen(options.names):
        oracle = oracle_for(entry, options.device, options.cache)
        truth = oracle.maximum(look_beyond=options.look_beyond)
        budget_mib = entry.budget_bytes(options.device) // MIB
        print(
            f"{entry.name}: {truth.batch_size} in {budget_mib} MiB, peak {truth.peak_bytes / MIB:.0f} MiB, "
            f"{truth.step_seconds:.2f} s a step",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="ten steps in this process; prints JSON")
    run.add_argument("path")
    run.add_argument("--batch-size", type=int, required=True)
    run.add_argument("--steps", type=int, default=10)
    run.add_argument("--mode", choices=("train", "inference"), default="train")
    run.add_argument("--device", default="cpu")
    run.add_argument("--limit-bytes", type=int)
    maximum = commands.add_parser("maximum", help="the largest batch size that fits, of each workload named")
    maximum.add_argument("names", nargs="*")
    maximum.add_argument("--device", default="cpu")
    maximum.add_argument("--look-beyond", action="store_true", help="search above the first edge too")
    maximum.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    return parser


if __name__ == "__main__":
    main()
