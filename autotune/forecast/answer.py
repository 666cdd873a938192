"""A request for a forecast, answered in a process that may be thrown away afterwards.

Needs a bench, which it uses up. Promises that every size it names was forecast, not interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from autotune.bench import Bench
from autotune.executors import ForecastRequest
from autotune.forecast.inversion import largest_within
from autotune.forecast.records import Footprint, Forecast
from autotune.forecast.run import Forecaster
from autotune.workloads.checkpointing import switch_on_checkpointing

LARGEST = 1 << 20  # where nothing else bounds the batch size
AROUND = (0.9, 0.95, 1.05)
"""Sizes around an edge that are forecast too, in multiples of it, so that between them a straight line will do."""


def answer(bench: Bench, request: ForecastRequest) -> Forecast:
    """The footprints asked for, and those met on the way to the largest sizes that fit.

    Raises:
        NoForecastError: the step can't be followed without data.
    """
    if request.checkpointing:
        switch_on_checkpointing(bench.workload.model)
    forecaster = Forecaster(bench, request.rules, accumulation_steps=request.accumulation_steps)
    known: dict[int, Footprint] = {}

    @cache
    def footprint(batch_size: int) -> Footprint:
        known[batch_size] = forecaster.footprint(batch_size)
        return known[batch_size]

    for size in request.batch_sizes:
        footprint(size)
    besides_bytes = _besides(request, forecaster.base_bytes, footprint)
    largest = [
        _largest(lambda size: footprint(size).held_bytes, budget - besides_bytes, bench, request)
        for budget in request.budgets_bytes
    ]
    return Forecast(
        rules=request.rules,
        footprints=tuple(known[size] for size in sorted(known)),
        base_bytes=forecaster.base_bytes,
        largest_batch_sizes=tuple(largest),
        guesses=tuple(forecaster.guesses),
    )


def _besides(request: ForecastRequest, base_bytes: int, footprint: Callable[[int], Footprint]) -> int:
    """What a process holds besides what is forecast: measured by a trial, or taken from this process."""
    if request.measured is None:
        return base_bytes
    batch_size, peak_bytes = request.measured
    return peak_bytes - footprint(batch_size).held_bytes


def _largest(held_bytes: Callable[[int], int], room_bytes: int, bench: Bench, request: ForecastRequest) -> int:
    """The largest size that fits, with its surroundings forecast besides."""
    most = request.largest or LARGEST
    edge = largest_within(held_bytes, room_bytes, bench.smallest_batch_size, max(most, bench.smallest_batch_size))
    for size in {*(round(share * edge) for share in AROUND), edge + 1}:
        if bench.smallest_batch_size <= size <= most:
            held_bytes(size)
    return edge
