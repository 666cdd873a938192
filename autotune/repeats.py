"""The runs of a result, and how far equal ones came apart: what a change has to pass to be called real. Pure.

Needs the records and the statistics. Promises that nothing here depends on which of two results is called the old
one. Two results never share a process, and equal processes differ, each for as long as it lives: in memory by
several per cent, in speed by up to 40% on some processors. But one result holds pairs of equal processes: a batch
size alone and in the final round, or run again to confirm it. How far these came apart shows what to expect.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import msgspec

from autotune.recommend import DRIFT_BETWEEN_TRIALS
from autotune.result import Result
from autotune.stats import Ratio, median

PEAK_SPREAD = 0.15
"""How far the peaks of equal processes may come apart. With glibc's malloc those of an MLP at one batch size ranged
from 398 to 446 MiB in six processes, those of a ResNet from 564 to 623 MiB."""
SPEED_DRIFT = 0.05
"""How far equal probes may come apart as a whole. On two cores on which no other load showed, the medians over all
sizes of two processes differed by 1.7% in the middle of 12 pairs and by 6.4% at most, of which the scatter of the
sizes explains the rest (the processes of `benchmarks/throughput.py`: an MLP, a transformer encoder, a GPT, a U-Net)."""
PEAK_DRIFT = 0.01
"""The same of peaks: the trials of a probe are forked from one process, so they share where its memory came to lie.
Equal probes of an MLP came apart by up to 0.5%."""
ENOUGH_PAIRS = 6
"""Of n equal pairs the largest difference is passed by the next with a chance of 1 in n + 1; fewer say too little."""


@dataclass(frozen=True)
class Run:
    """A batch size in one process. Runs of one `kind` are timed alike: for as long, and from the same start.

    `step_seconds` are those of one batch, as in the final round, of a step that accumulates several, too.
    """

    kind: tuple[str, bool]
    step_seconds: tuple[float, ...]
    peak_bytes: int


@dataclass(frozen=True)
class Series:
    """The runs of a result that count, by batch size: of single batches that fitted.

    `turns` holds the step seconds of the final round; `waited` is the share of the time in which some task waited
    for a processor, in the median of the trials on a CPU; 0 where that is not known.
    """

    runs: dict[int, list[Run]]
    turns: dict[int, tuple[float, ...]]
    waited: float

    def alone(self, batch_size: int) -> tuple[float, ...]:
        """Step seconds of the longest series that was timed in a trial."""
        return max((run.step_seconds for run in self.runs[batch_size]), key=len)

    def peaks(self, batch_size: int) -> list[float]:
        """The peak in bytes of each run."""
        return [float(run.peak_bytes) for run in self.runs[batch_size]]


def series_of(result: Result) -> Series:
    """The runs of a result that count."""
    runs: dict[int, list[Run]] = defaultdict(list)
    stalls = []
    for trial in result.trials:
        measured = trial.measurement
        if not (trial.accepted and trial.is_plain and measured and min(measured.step_seconds, default=0.0) > 0):
            continue
        run = Run((trial.purpose, trial.fresh_process), measured.batch_seconds, measured.memory.peak_bytes)
        runs[trial.batch_size].append(run)
        stalls.append(measured.conditions.cpu_stall_fraction or 0.0)
    held = result.contest and msgspec.structs.replace(result.contest, trials=())  # a trial is no process beside itself
    turns = {size: held.step_seconds(size) for size in held.remaining} if held and held.rounds else {}
    on_cpu = kind_of(result.environment.device) == "cpu"
    return Series(dict(runs), turns, min(median(stalls), 1.0) if stalls and on_cpu else 0.0)


# ---------------------------------------------------------------------- what equal things differ by


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far figures come apart where nothing changed, as shares.

    `spread` is between two processes, `drift` between two probes. Without waiting, the old and the new speed would
    be up to 1 / (1 - `waited`) times as high.
    """

    spread: float
    drift: float = 0.0
    old_waited: float = 0.0
    new_waited: float = 0.0

    def between_processes(self, ratio: Ratio) -> Ratio:
        """The interval of one process against another, at least as wide as equal ones differ."""
        factor = 1 + self.spread
        low, high = min(ratio.low, ratio.median / factor), max(ratio.high, ratio.median * factor)
        return self.between_probes(Ratio(ratio.median, low, high))

    def between_probes(self, ratio: Ratio) -> Ratio:
        """The interval with what may have moved one of the probes as a whole."""
        low = ratio.low / (1 + self.drift) * (1 - self.old_waited)
        high = ratio.high * (1 + self.drift)
        return Ratio(ratio.median, low, high / (1 - self.new_waited) if self.new_waited < 1 else math.inf)


def noises_of(before: Series, after: Series, sizes: int) -> tuple[Noise, Noise]:
    """The noise of speed and that of memory between two results that have so many batch sizes in common."""
    speed = Noise(
        spread=_spread([*_speed_pairs(before), *_speed_pairs(after)], sizes, unknown=DRIFT_BETWEEN_TRIALS),
        drift=SPEED_DRIFT,
        old_waited=before.waited,
        new_waited=after.waited,
    )
    memory = Noise(
        spread=_spread([*_peak_pairs(before), *_peak_pairs(after)], sizes, unknown=PEAK_SPREAD), drift=PEAK_DRIFT
    )
    return speed, memory


def _spread(pairs: Sequence[tuple[float, float]], sizes: int, unknown: float) -> float:
    """The share by which equal runs may differ, so that hardly any of so many sizes passes it by chance.

    The largest difference of n equal pairs is passed by one of m further pairs with a chance of m / (n + m), so it
    counts 1 + m/n times. Simulated, one of 12 sizes then passed it in at most 1.5% of comparisons where processes
    differed by 2 to 10%, and in 9% where besides a tenth of them were 1.4 to 1.7 times as slow as the others.
    """
    largest = max((max(pair) / min(pair) - 1 for pair in pairs), default=0.0)
    return largest * (1 + sizes / len(pairs)) if len(pairs) >= ENOUGH_PAIRS else max(largest, unknown)


def _speed_pairs(series: Series) -> Iterator[tuple[float, float]]:
    """Median step seconds of one batch size in two processes: in turns and alone, or in two runs of one kind."""
    for size in series.turns.keys() & series.runs.keys():
        yield median(series.turns[size]), median(series.alone(size))
    for runs in series.runs.values():
        ordered = sorted(runs, key=lambda run: run.kind)
        for one, other in pairwise(ordered):
            if one.kind == other.kind:
                yield median(one.step_seconds), median(other.step_seconds)


def _peak_pairs(series: Series) -> Iterator[tuple[float, float]]:
    """Peaks in bytes of one batch size in two processes."""
    return chain.from_iterable(pairwise(series.peaks(size)) for size in series.runs)


def kind_of(device: str) -> str:
    """The device without its index: "cuda" of "cuda:1"."""
    return device.split(":", maxsplit=1)[0]
