"""The final round: several batch sizes timed in turns, so that whatever drifts, drifts for all of them alike.

Needs a bench. Where processes may be forked, each size has one of its own, which waits while others take their
turn: in one process a size is as fast as the sizes before it have left the allocator. (Measured with glibc: an
MLP at 128 ran a quarter faster after steps at 469 than it does in a training of its own, since freeing large
blocks raises the threshold below which memory is kept rather than given back.) On a GPU they share a process,
where torch's allocator serves all of them from one cache.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from autotune.bench import Bench, Step
from autotune.executors import ContestRequest
from autotune.executors.channel import Channel, ClosedError, pair
from autotune.trial import Contest

TURN_SECONDS = 0.25
"""A turn lasts at least this long. In turns of 50 ms processes ran at half of their speed; from 250 ms on they
agree with what they do alone."""

WARMUP_STEPS = 3  # untimed steps before the first turn
LEAD_STEPS = 2  # untimed steps at the start of each turn, while threads wake and caches fill
READY, SECONDS = b"ready", struct.Struct("d")

Turn = Callable[[], float]
"""Runs some steps at one batch size and returns the mean wall seconds of a step."""


def contest(bench: Bench, request: ContestRequest, *, forks: bool = False) -> Contest:
    """Time the batch sizes of a request against each other, in processes of their own where `forks` allows it.

    Raises:
        MemoryError: they do not all fit at the same time.
    """
    with ExitStack() as stack:
        turns = [_forked_turn(bench, size, stack) if forks else turn_of(bench, size) for size in request.batch_sizes]
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
    for _ in range(WARMUP_STEPS):
        step()
    steps = max(1, math.ceil(TURN_SECONDS / _mean_seconds(step, bench, 1)))
    return lambda: _mean_seconds(step, bench, steps)


def _mean_seconds(step: Step, bench: Bench, steps: int) -> float:
    for _ in range(LEAD_STEPS):
        step()
    bench.device.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    bench.device.synchronize()
    return (time.perf_counter() - start) / steps


def _forked_turn(bench: Bench, batch_size: int, stack: ExitStack) -> Turn:
    """A turn at one batch size in a child that waits until it is asked."""
    ours, theirs = pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _take_turns(bench, batch_size, theirs)
    theirs.close()
    stack.callback(os.waitpid, pid, 0)
    stack.callback(ours.close)  # called before the line above: it tells the child to leave
    _received(ours)

    def turn() -> float:
        ours.send_packed(READY)
        return float(SECONDS.unpack(_received(ours))[0])

    return turn


def _received(channel: Channel) -> bytes:
    try:
        received = channel.receive()
    except ClosedError as error:
        raise MemoryError("a contender ended, most likely for want of memory") from error
    assert received is not None  # without a time-out, receive waits
    return received


def _take_turns(bench: Bench, batch_size: int, channel: Channel) -> None:
    """The child's part: warm up, then one turn whenever it is asked, until nobody asks any more."""
    try:
        turn = turn_of(bench, batch_size)
        channel.send_packed(READY)
        while channel.receive() is not None:
            channel.send_packed(SECONDS.pack(turn()))
    finally:
        os._exit(0)
