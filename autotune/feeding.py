"""Steps fed by the caller's DataLoader, beside the same steps on batches in memory, in the process it is called in.

Needs a bench whose workload has a loader. The difference between the two is what a step waits for its data, or loses to
the workers that share its processors: on a device that runs behind the host, neither shows in a single call's duration.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import cycle, islice
from typing import Any

from autotune.bench import Bench
from autotune.errors import WorkloadError
from autotune.executors import FeedRequest
from autotune.trial import Feed, Feeding
from autotune.workloads.batches import move

ROUNDS = 2  # where one of several numbers of workers is to be found; whether one waits for its data shows in one
SECONDS = 0.5  # for each of a round's timings
WARMUP_STEPS = 2
MIN_STEPS = 3
KEPT_BATCHES = 4
PREFETCHED = 2  # batches that each worker makes ahead, torch's own default; so many are there when the first one is


def feed(bench: Bench, request: FeedRequest) -> Feeding:
    """Time steps from memory and with each number of workers, in turns.

    Raises:
        WorkloadError: the loader yields no batch.
    """
    kept = _first_batches(bench, request.batch_size)
    _run_steps(bench, islice(cycle(kept), WARMUP_STEPS))
    from_memory: list[float] = []
    fed: dict[int, list[float]] = {workers: [] for workers in request.num_workers}
    for _ in range(ROUNDS if len(fed) > 1 else 1):
        from_memory.append(_seconds_per_step(bench, cycle(kept)))
        for workers, seconds in fed.items():
            with closing(_batches(bench, request.batch_size, workers)) as batches:
                seconds.append(_seconds_per_step(bench, batches, skipped=1 + PREFETCHED * workers))
    return Feeding(
        batch_size=request.batch_size,
        from_memory_seconds=tuple(from_memory),
        feeds=tuple(Feed(num_workers=workers, step_seconds=tuple(seconds)) for workers, seconds in fed.items()),
    )


def _first_batches(bench: Bench, batch_size: int) -> list[Any]:
    with closing(_batches(bench, batch_size, 0)) as batches:
        return list(islice(batches, KEPT_BATCHES))


def _batches(bench: Bench, batch_size: int, num_workers: int) -> Generator[Any]:
    """Epoch after epoch, each with a new iterator, as in training."""
    make_loader = bench.workload.make_loader
    assert make_loader is not None  # or else nobody asks
    loader = make_loader(batch_size, num_workers)
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise WorkloadError(
                f"The DataLoader yields no whole batch of {batch_size}.", remedy="Check the length of its dataset."
            )


def _seconds_per_step(bench: Bench, batches: Iterator[Any], skipped: int = 0) -> float:
    """The mean over a while; the steps skipped use up what was made ahead, which a long training has not."""
    _run_steps(bench, islice(batches, skipped))
    bench.device.synchronize()
    steps, began = 0, time.perf_counter()
    while steps < MIN_STEPS or time.perf_counter() < began + SECONDS:
        _step(bench, next(batches))
        steps += 1
    bench.device.synchronize()
    return (time.perf_counter() - began) / steps


def _run_steps(bench: Bench, batches: Iterator[Any]) -> None:
    for batch in batches:
        _step(bench, batch)


def _step(bench: Bench, batch: Any) -> None:
    bench.run(move(batch, bench.device.torch_device))
