"""A request for a forecast, answered in a process that may be thrown away afterwards.

Needs a bench, which it uses up. Promises that a size that it names as the largest was forecast itself, and its
successor too, unless many were asked for at once, or trials will correct it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache

from autotune.bench import Bench
from autotune.errors import NoForecastError
from autotune.executors import ForecastRequest
from autotune.forecast.curve import Curve
from autotune.forecast.inversion import largest_within
from autotune.forecast.records import Footprint, Forecast
from autotune.forecast.run import Forecaster
from autotune.workloads.checkpointing import switch_on_checkpointing

LARGEST = 1 << 20  # where nothing else bounds the batch size
AROUND = (0.9, 1.05)
"""Sizes around an edge that are forecast too, in multiples of it, so that between them a straight line will do."""

NEAR_ENOUGH = 0.03
"""How near to an edge a forecast comes that trials will correct, as a share of it: its own scatter is about that."""

MOST_EXACT = 3
"""For so many budgets each edge is forecast itself; for more, such as a table of GPUs, it is read off a curve."""


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
    find = _exactly if len(rooms_bytes) <= MOST_EXACT else _on_a_grid
    largest = find(rooms_bytes, footprint, known, smallest, request)
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


def _smallest(footprint: Callable[[int], Footprint], first: int) -> int:
    """The smallest size that runs: BatchNorm refuses a single sample, but not two."""
    with suppress(NoForecastError):
        footprint(first)
        return first
    footprint(first + 1)
    return first + 1


def _exactly(
    rooms_bytes: Sequence[int],
    footprint: Callable[[int], Footprint],
    known: Mapping[int, Footprint],
    smallest: int,
    request: ForecastRequest,
) -> list[int]:
    """The largest sizes that fit; where trials will correct the forecast, with their surroundings forecast besides."""
    most = max(request.largest or LARGEST, smallest)
    resolution = NEAR_ENOUGH if request.measured else 0.0
    edges = []
    for room_bytes in rooms_bytes:
        fits = max((size for size, found in known.items() if found.held_bytes <= room_bytes), default=smallest)
        over = min((size for size, found in known.items() if size > fits), default=most + 1)
        low, high = min(fits, most), max(over - 1, smallest)
        edges.append(largest_within(lambda size: footprint(size).held_bytes, room_bytes, low, high, resolution))
        around = [round(share * edges[-1]) for share in AROUND] if request.measured else [edges[-1] + 1]
        for size in around:
            if smallest <= size <= most:
                footprint(size)
    return edges


def _on_a_grid(
    rooms_bytes: Sequence[int],
    footprint: Callable[[int], Footprint],
    known: Mapping[int, Footprint],
    smallest: int,
    request: ForecastRequest,
) -> list[int]:
    """The same for many rooms at the cost of one: sizes that double, and straight lines between them.

    Peaks grow in straight lines or faster, so that a line between two of them errs towards the smaller size.
    """
    most = max(request.largest or LARGEST, smallest)
    size = smallest
    while footprint(size).held_bytes <= max(rooms_bytes) and size < most:
        size = min(2 * size, most)
    sizes = tuple(sorted(known))
    curve = Curve(sizes, tuple(float(known[size].held_bytes) for size in sizes))
    sought = range(smallest, most + 1)
    fitting = [bisect_right(sought, room_bytes, key=curve.at) for room_bytes in map(float, rooms_bytes)]
    return [smallest + count - 1 if count else 0 for count in fitting]
