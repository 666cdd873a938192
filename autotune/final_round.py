"""The final round, as the parent holds it: the sizes that may yet win, timed against each other until one has won.

Needs an executor and the pure rules of who may yet win and who has. Promises rounds of which each times every size that
may, and the rounds that were held where one cannot be: too little time, or a failure, which is told.

On a processor the heap returns memory to the system after a step and faults it in again in the next. What it returns
depends on where things lie, by chance, for as long as a process lives, and on what else ran in it: of several sizes
that take turns in one process only the largest pays. Measured on two cores: a small ResNet ran at 32 samples at 1.12
times the speed of 64 where they shared a process (four of them), and at 0.93 where each was alone, as in training; an
LSTM at 32 alone at 615 to 1,355 samples/s, with 15,000 and 4,000 page faults in a step.
So where processes cost little, each size has one of its own in each round, but for the sizes that are far behind by
then; so each had in its trial, which counts as the first round. Where they cost seconds, sizes share one, and several
have a say; on a GPU memory stays with the process, and one is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autotune.executors import ContestRequest, Executor, Opened
from autotune.recommend import is_decided, may_yet_win, merged
from autotune.result import StopReason
from autotune.stats import median
from autotune.trial import Contest

MOST = 3  # one more takes a fifth more processes, for answers 0.1% faster (simulated; docs/architecture.md)
TOGETHER_SECONDS = 3.0  # for all sizes
TOGETHER_SHARE = 0.8  # of the free memory, for all sizes
ALONE_SECONDS = 0.3  # for each size, in each round
ALONE_TURNS = 2  # of long steps; equal processes differ by more than the turns of one

SecondsAllowed = Callable[[], float]
"""For how long what is asked for now may run; 0 where nothing more may be."""

Round = Callable[[Executor, tuple[int, ...], int, SecondsAllowed], Contest | str]
"""Holds the how many-th round; a text says why it could not be."""


@dataclass(frozen=True)
class Form:
    """How a final round is held.

    Attributes:
        hold: holds one round.
        least: rounds that are held at least: equal processes differ in speed, and one or two may be lucky ones.
        follows_trials: whether the trials were held as its rounds are, and count as the first.
        fresh_processes: new interpreters that these will ask for.
        room_bytes: the memory that all sizes together may need.
    """

    hold: Round
    least: int
    follows_trials: bool
    fresh_processes: int
    room_bytes: float

    def rounds(
        self,
        executor: Executor,
        contest: Contest,
        tolerance: float,
        seconds_allowed: SecondsAllowed,
        warned: Callable[[str], None],
    ) -> Iterator[Contest]:
        """A contest after each further round, until it is decided who wins, or no more may be held."""
        counted = len(contest.counted)
        for number in range(MOST):
            held = counted + number
            left = may_yet_win(contest, tolerance, held) if held else contest.batch_sizes
            if len(left) == 1 or not seconds_allowed():
                return
            found = self.hold(executor, left, number, seconds_allowed)
            if isinstance(found, str):
                why = found if seconds_allowed() else StopReason.SECONDS.value
                warned(f"The final round did not finish ({why}); what was timed before it decides.")
                return
            contest = merged(contest, found)
            yield contest
            if number + 1 >= self.least and is_decided(contest, tolerance):
                return


def form_of(opened: Opened) -> Form:
    """The form that suits where trials run."""
    if opened.forks:
        return Form(_alone, least=2, follows_trials=True, fresh_processes=0, room_bytes=math.inf)
    room_bytes = TOGETHER_SHARE * opened.free_bytes
    if opened.environment.device == "cpu":
        return Form(_in_fresh_processes, least=2, follows_trials=False, fresh_processes=1, room_bytes=room_bytes)
    return Form(_together, least=1, follows_trials=False, fresh_processes=0, room_bytes=room_bytes)


def _alone(
    executor: Executor, batch_sizes: tuple[int, ...], number: int, seconds_allowed: SecondsAllowed
) -> Contest | str:
    """Each size in a process of its own; every other round goes backwards."""
    step_seconds = {}
    for size in batch_sizes[:: -1 if number % 2 else 1]:
        request = ContestRequest(
            batch_sizes=(size,), seconds=ALONE_SECONDS, min_rounds=ALONE_TURNS, timeout_seconds=seconds_allowed()
        )
        found = _run(executor, request)
        if isinstance(found, str):
            return found
        step_seconds[size] = median(found.step_seconds(size))
    return Contest(batch_sizes=batch_sizes, rounds=(tuple(step_seconds[size] for size in batch_sizes),))


def _in_fresh_processes(
    executor: Executor, batch_sizes: tuple[int, ...], number: int, seconds_allowed: SecondsAllowed
) -> Contest | str:
    """All sizes in one process, each time in another one."""
    return _together(executor, batch_sizes, number, seconds_allowed, fresh_process=number > 0)


def _together(
    executor: Executor,
    batch_sizes: tuple[int, ...],
    _number: int,
    seconds_allowed: SecondsAllowed,
    *,
    fresh_process: bool = False,
) -> Contest | str:
    """All sizes in one process."""
    request = ContestRequest(
        batch_sizes=batch_sizes,
        seconds=TOGETHER_SECONDS,
        fresh_process=fresh_process,
        timeout_seconds=seconds_allowed(),
    )
    return _run(executor, request)


def _run(executor: Executor, request: ContestRequest) -> Contest | str:
    if not request.timeout_seconds:
        return StopReason.SECONDS.value
    attempt = executor.run(request)
    return attempt.contest or attempt.reason
