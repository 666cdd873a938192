"""A request for a forecast, answered in a process that may be thrown away afterwards.

Needs a bench, which it uses up. Promises that a size that it names as the largest was forecast itself, and its
successor too, unless trials will correct it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache

from autotune.bench import Bench
from autotune.errors import NoForecastError
from autotune.executors import ForecastRequest
from autotune.forecast.inversion import largest_within
from autotune.forecast.records import LARGEST, Footprint, Forecast
from autotune.forecast.run import Forecaster
from autotune.workloads.checkpointing import switch_on_checkpointing

AROUND = (0.9, 1.05)
"""Sizes around an edge that are forecast too, in multiples of it, so that between them a straight line will do."""

NEAR_ENOUGH = 0.03
"""How near to an edge a forecast comes that trials will correct, as a share of it: its own scatter is about that."""


def answer(bench: Bench, request: ForecastRequest) -> Forecast:
    """The footprints asked for, and those met on the way to the largest sizes that fit.

    Raises:
        NoForecastError: the step can't be followed without data.
    """
    if request.checkpointing:
        switch_on_checkpointing(bench.workload.model)
    forecaster = Forecaster(
        bench, request.rules, accumulation_steps=request.accumulation_steps or bench.accumulation_steps
    )
    known: dict[int, Footprint] = {}

    @cache
    def footprint(batch_size: int) -> Footprint:
        known[batch_size] = forecaster.footprint(batch_size)
        return known[batch_size]

    for size in request.batch_sizes:
        footprint(size)
    besides_bytes = _besides(request, forecaster.base_bytes, footprint)
    smallest = _smallest(footprint, bench.smallest_batch_size) if request.budgets_bytes else 0
    rooms_bytes = [budget - besides_bytes for budget in request.budgets_bytes]
    edges = _edges(rooms_bytes, footprint, known, smallest, request)
    return Forecast(
        rules=request.rules,
        footprints=tuple(known[size] for size in sorted(known)),
        base_bytes=forecaster.base_bytes,
        largest_batch_sizes=tuple(edges[room_bytes] for room_bytes in rooms_bytes),
        guesses=tuple(forecaster.guesses),
    )


def _besides(request: ForecastRequest, base_bytes: int, footprint: Callable[[int], Footprint]) -> int:
    """What a process holds besides what is forecast: measured by a trial, or taken from this process."""
    if request.measured is None:
        return base_bytes
    batch_size, peak_bytes = request.measured
    return peak_bytes - footprint(batch_size).held_bytes


def _smallest(footprint: Callable[[int], Footprint], first: int) -> int:
    """The smallest size that runs: BatchNorm refuses a single sample, but not two."""
    with suppress(NoForecastError):
        footprint(first)
        return first
    footprint(first + 1)
    return first + 1


def _edges(
    rooms_bytes: Sequence[int],
    footprint: Callable[[int], Footprint],
    known: Mapping[int, Footprint],
    smallest: int,
    request: ForecastRequest,
) -> dict[int, int]:
    """By room, the largest size that fits; where trials will correct the forecast, its surroundings are forecast too.

    The largest room comes first: between the sizes that were looked at for it lie the edges of the others.
    """
    most = max(request.largest or LARGEST, smallest)
    edges = {}
    for room_bytes in sorted(set(rooms_bytes), reverse=True):
        edges[room_bytes] = edge = _edge(room_bytes, footprint, known, (smallest, most), request)
        around = [round(share * edge) for share in AROUND] if request.measured else [edge + 1]
        for size in around:
            if smallest <= size <= most:
                footprint(size)
    return edges


def _edge(
    room_bytes: int,
    footprint: Callable[[int], Footprint],
    known: Mapping[int, Footprint],
    bounds: tuple[int, int],
    request: ForecastRequest,
) -> int:
    """The largest size within bounds that fits, looked for between the known sizes on both sides of it."""
    smallest, most = bounds
    peaks_bytes = {size: found.held_bytes for size, found in known.items() if smallest <= size <= most}
    low = max((size for size, peak_bytes in peaks_bytes.items() if peak_bytes <= room_bytes), default=smallest)
    over = min((size for size in peaks_bytes if size > low), default=most + 1)
    return largest_within(
        lambda size: footprint(size).held_bytes,
        room_bytes,
        low,
        over - 1,
        resolution=NEAR_ENOUGH if request.measured else 0.0,
        beyond_bytes=peaks_bytes.get(over, math.nan),
    )
