"""Does the batch size advised for time to quality train fastest to a given loss?

Needs torch, scikit-learn and matplotlib; one thread does. For each task every batch size trains with every learning
rate, from several seeds, and reaches several losses on held-out samples in so many steps; times its step, that is the
time to each loss, of which the best learning rate's counts.

    python -m benchmarks.quality [NAME ...]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autotune import find_batch_size
from autotune.bench import Bench
from autotune.devices import open_device
from autotune.executors import GradientsRequest
from autotune.gradient_noise import measure_gradients
from autotune.noise_scale import noise_scale
from autotune.quality import quality, quality_of
from autotune.result import Result
from autotune.spec import LiveWorkload, ProbeSpec
from autotune.workloads import BuildOptions
from autotune.workloads.live import LiveParts, from_live
from benchmarks.quality_tasks import TASKS, Task
from benchmarks.recording import RESULTS, Cells, Recording, Row

SIZES = tuple(2**k for k in range(3, 11))
BASE = 32
BASE_STEPS = 600
TARGETS = (0.5, 0.75, 0.9)
"""The losses to reach, as shares of the way from the first held-out loss to the lowest of the base batch size."""

MOST_STEPS, MOST_SAMPLES = 4000, 16 * BASE * BASE_STEPS
LOOK_SAMPLES = 4 * BASE  # between two looks at the held-out loss

EXPLANATION = f"""\
Each batch size trained with each of seven learning rates, a factor of two apart, from several seeds, until it had come
{", ".join(f"{t:.0%}" for t in TARGETS)} of the way from the first held-out loss to the lowest that batch size {BASE}
sees in {BASE_STEPS} steps. Time is the median number of steps times the step time, for the best learning rate. A figure
is the geometric mean over the losses reached of that time as a multiple of the best batch size's, and in brackets the
worst: 'never' where a loss was not reached in {MOST_STEPS:,} steps or {MOST_SAMPLES:,} samples at any learning rate.
'Advised' is `find_batch_size(..., objective="time-to-quality")` at the learning rate that is best for {BASE}, 'fastest'
the highest throughput, 'knee' the smallest within 5% of it, 'h' half of it. The last five are the advice when the
warm-up is shorter, the learning rate off, or the base batch size another one, with step times taken here."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What came of one way to choose: the batch size, and its time to each target as a multiple of the best."""

    way: str
    batch_size: int
    ratios: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One task: the noise scale, the best batch size for each target, and the ways to choose."""

    task: str
    noise: tuple[float | None, float | None, float | None]
    half: float | None
    best: tuple[int, ...]
    advice: tuple[Advice, ...]
    seconds: float


def compared(task: Task, seeds: int) -> Outcome:
    """Train everything, ask for advice, and see how far it is from the best."""
    began = time.monotonic()
    arena = Arena(task, *task.split(), seeds)
    sizes = [size for size in SIZES if size <= len(arena.train[0]) // 2]
    targets, rate = arena.targets()
    step_seconds = arena.step_seconds(sizes)
    times = {size: arena.times(size, targets, step_seconds[size]) for size in sizes}
    least = [min(times[size][t] for size in sizes) for t in range(len(targets))]
    ratios = {size: tuple(times[size][t] / least[t] for t in range(len(targets))) for size in sizes}
    result = _asked(arena, rate, sizes[-1])
    found = quality_of(result)
    chosen = {"advised": result.batch_size} | _simple_ways(step_seconds) | _worse_ways(arena, rate, step_seconds)
    return Outcome(
        task=task.name,
        noise=(found.noise.value, found.noise.low, found.noise.high),
        half=found.half_throughput_batch_size,
        best=tuple(min(sizes, key=lambda size: times[size][t]) for t in range(len(targets))),
        advice=tuple(
            Advice(way=way, batch_size=size, ratios=ratios[_nearest(size, sizes)]) for way, size in chosen.items()
        ),
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class Arena:
    """A task with its data, on which batch sizes are compared."""

    task: Task
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    seeds: int

    def targets(self) -> tuple[list[float], float]:
        """The losses to reach, and the learning rate that is best for the base batch size."""
        curves = {
            rate: [self._curve(BASE, rate, seed, BASE_STEPS) for seed in range(self.seeds)]
            for rate in self.task.learning_rates
        }

        first = median(found[0][1] for found in curves[self.task.learning_rates[0]])
        lowest = min(median(found[-1][1] for found in of_rate) for of_rate in curves.values())
        targets = [first - share * (first - lowest) for share in TARGETS]
        best = min(curves, key=lambda rate: median(_steps_to(targets[-1], found) for found in curves[rate]))
        return targets, best

    def times(self, size: int, targets: Sequence[float], step_seconds: float) -> list[float]:
        """Seconds to each target with the best learning rate for it; infinite where none reaches it."""
        most = min(MOST_STEPS, MOST_SAMPLES // size)
        least = [math.inf] * len(targets)
        for rate in self.task.learning_rates:
            curves = [self._curve(size, rate, seed, most, targets[-1]) for seed in range(self.seeds)]
            for t, target in enumerate(targets):
                least[t] = min(least[t], median(_steps_to(target, found) for found in curves))
            if least[-1] < math.inf:
                most = min(most, math.ceil(1.5 * least[-1]))  # what takes longer is not the best
        return [steps * step_seconds for steps in least]

    def step_seconds(self, sizes: Sequence[int]) -> dict[int, float]:
        """The median step time of each size, timed in turns."""
        steps = {size: self._step(size) for size in sizes}
        rounds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(15):
            for size, step in steps.items():
                began = time.perf_counter()
                for _ in range(10):
                    step()
                rounds[size].append((time.perf_counter() - began) / 10)
        return {size: median(seconds) for size, seconds in rounds.items()}

    def _curve(
        self, size: int, rate: float, seed: int, steps: int, target: float = -math.inf
    ) -> list[tuple[int, float]]:
        """Steps and the lowest held-out loss seen by then, looked at after equally many samples; ends at the target."""
        torch.manual_seed(seed)
        model = self.task.build_model()
        optimizer = self.task.build_optimizer(list(model.parameters()), rate)
        found = [(0, self._held_out_loss(model))]
        lowest, every = math.inf, max(1, LOOK_SAMPLES // size)
        for step, batch in zip(range(1, steps + 1), self._batches(size, seed), strict=False):
            self._train(model, optimizer, batch)
            if step % every == 0:
                lowest = min(lowest, self._held_out_loss(model))
                found.append((step, lowest))
            if lowest <= target:
                break
        return found

    def _held_out_loss(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float(self.task.loss(model(self.held_out[0]), self.held_out[1]))

    def _batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train[0]), generator=generator)
            for start in range(0, len(order) - size + 1, size):
                rows = order[start : start + size]
                yield self.train[0][rows], self.train[1][rows]

    def _step(self, size: int) -> Callable[[], None]:
        model = self.task.build_model()
        optimizer = self.task.build_optimizer(list(model.parameters()), self.task.learning_rates[0])
        batch = self.train[0][:size], self.train[1][:size]
        return lambda: self._train(model, optimizer, batch)

    def _train(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss: Any = self.task.loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()


def _steps_to(target: float, found: Sequence[tuple[int, float]]) -> float:
    return next((step for step, loss in found if loss <= target), math.inf)


# Ways to choose


def _asked(arena: Arena, rate: float, largest: int) -> Result:
    task = arena.task
    torch.manual_seed(100)
    return find_batch_size(
        task.build_model(),
        TensorDataset(*arena.train),
        loss=task.loss,
        optimizer=lambda parameters: task.build_optimizer(parameters, rate),
        objective="time-to-quality",
        start=SIZES[0],
        max_batch_size=largest,
        device="cpu",
        forecast=False,
        quiet=True,
    )


def _simple_ways(step_seconds: Mapping[int, float]) -> dict[str, int]:
    speed = {size: size / seconds for size, seconds in step_seconds.items()}
    top = max(speed.values())
    return {
        "fastest": max(speed, key=lambda size: speed[size]),
        "knee": min(size for size in speed if speed[size] >= 0.95 * top),
        "h": min(speed, key=lambda size: abs(math.log(speed[size] / (top / 2)))),
        "32": BASE,
    }


def _worse_ways(arena: Arena, rate: float, step_seconds: Mapping[int, float]) -> dict[str, int]:
    """The advice from another warm-up, with the benchmark's own step times."""
    task = arena.task
    usual = GradientsRequest(batch_size=BASE, steps=160, learning_rate=rate)
    requests = {
        "warm-up of 40": msgspec.structs.replace(usual, steps=40),
        "rate / 4": msgspec.structs.replace(usual, learning_rate=rate / 4),
        "rate x 4": msgspec.structs.replace(usual, learning_rate=rate * 4),
        "base of 8": msgspec.structs.replace(usual, batch_size=8),
        "base of 128": msgspec.structs.replace(usual, batch_size=128),
    }
    speed = {size: size / seconds for size, seconds in step_seconds.items()}
    found = {}
    for way, request in requests.items():
        torch.manual_seed(200)
        parts = LiveParts(
            model=task.build_model(),
            data=TensorDataset(*arena.train),
            loss=task.loss,
            optimizer=lambda parameters: task.build_optimizer(parameters, rate),
        )
        workload = from_live(parts, BuildOptions(device="cpu", mode="train"))
        gradients = measure_gradients(Bench(workload=workload, device=open_device("cpu"), mode="train"), request)
        found[way] = quality(speed, noise_scale(gradients), ProbeSpec(workload=LiveWorkload()), None).batch_size
    return found


def _nearest(size: int, sizes: Sequence[int]) -> int:
    return min(sizes, key=lambda other: abs(math.log(other / size)))


# What is written


def _cells(row: Row) -> Cells:
    noise = [("?" if value is None else f"{value:.3g}") for value in row["noise"]]
    cells = {
        "task": row["task"],
        "noise scale": f"{noise[0]} ({noise[1]} to {noise[2]})",
        "h in samples": "" if row["half"] is None else f"{row['half']:.3g}",
        "best": ", ".join(map(str, row["best"])),
    }
    for advice in row["advice"]:
        ratios = advice["ratios"]
        cells[advice["way"]] = f"{advice['batch_size']}: {_mean(ratios):.2f} ({_worst(ratios)})"
    return cells | {"minutes": f"{row['seconds'] / 60:.1f}"}


def _failures_first(row: Row) -> float:
    """By how long the advised size took at worst."""
    return min(-float(ratio) for advice in row["advice"] if advice["way"] == "advised" for ratio in advice["ratios"])


def _mean(ratios: Sequence[float]) -> float:
    """Over the losses that were reached."""
    return geometric_mean([ratio for ratio in ratios if ratio < math.inf] or [math.inf])


def _worst(ratios: Sequence[float]) -> str:
    return "never" if math.inf in ratios else f"{max(ratios):.2f}"


def _summary(rows: Sequence[Row]) -> str:
    ways: dict[str, list[float]] = {}
    for row in rows:
        for advice in row["advice"]:
            ways.setdefault(advice["way"], []).extend(advice["ratios"])
    lines = [
        f"- {way}: {_mean(ratios):.2f} in the geometric mean, {_reached_worst(ratios)}, within 1.15 in "
        f"{sum(ratio <= 1.15 for ratio in ratios)} of {len(ratios)}"
        for way, ratios in ways.items()
    ]
    return "\n".join(["Time to a loss as a multiple of the best batch size's, over all tasks and losses:", "", *lines])


def _reached_worst(ratios: Sequence[float]) -> str:
    reached = [ratio for ratio in ratios if ratio < math.inf]
    worst = f"{max(reached):.2f} at worst" if reached else "none reached"
    missed = len(ratios) - len(reached)
    return f"{worst}, {missed} never reached" if missed and reached else worst


def main() -> None:
    """Train each task named, or all, at every batch size, and compare the ways to choose one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    chosen = [task for task in TASKS if not options.names or task.name in options.names]
    torch.set_num_threads(1)
    recording = Recording.on(
        "cpu",
        options.results,
        "quality",
        title="Time to quality",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
        order=_failures_first,
    )
    recording.record((compared(task, options.seeds) for task in chosen), len(chosen))


if __name__ == "__main__":
    main()
