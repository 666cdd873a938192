"""Batch sizes timed in turns in this process, so that whatever drifts, drifts for all of them alike; or one alone.

Needs a bench. What they share besides the clock they share here: the heap, on a processor. See `autotune.final_round`
for what that does to their speed, and who has a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from autotune.bench import Bench, Step
from autotune.executors import ContestRequest
from autotune.trial import Contest

TURN_SECONDS = 0.05
"""A turn lasts at least this long, so that neither the clock nor the switch between sizes counts."""

WARMUP_STEPS = 2  # before the first turn; the last of them tells how many steps a turn takes

Turn = Callable[[], float]
"""Runs some steps at one batch size and returns the mean wall seconds of a step."""


def contest(bench: Bench, request: ContestRequest) -> Contest:
    """Time the batch sizes of a request against each other."""
    turns = [turn_of(bench, size) for size in request.batch_sizes]
    return Contest(batch_sizes=request.batch_sizes, rounds=_rounds(turns, request))


def _rounds(turns: Sequence[Turn], request: ContestRequest) -> tuple[tuple[float, ...], ...]:
    """Every other round goes backwards, so that no size is always first."""
    rounds: list[tuple[float, ...]] = []
    end = time.perf_counter() + request.seconds
    while len(rounds) < request.min_rounds or time.perf_counter() < end:
        step = -1 if len(rounds) % 2 else 1
        rounds.append(tuple([turn() for turn in turns[::step]][::step]))
    return tuple(rounds)


def turn_of(bench: Bench, batch_size: int) -> Turn:
    """A turn at one batch size in this process, warmed up."""
    step = Step(bench, batch_size)
    for _ in range(WARMUP_STEPS - 1):
        step.rehearse()
    steps = max(1, math.ceil(TURN_SECONDS / _mean_seconds(step, bench, 1)))
    return lambda: _mean_seconds(step, bench, steps)


def _mean_seconds(step: Step, bench: Bench, steps: int) -> float:
    """Of a batch: a step of the optimizer may accumulate several."""
    bench.device.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    bench.device.synchronize()
    return (time.perf_counter() - start) / (steps * step.accumulation_steps)
