"""Do the predictions hold? A few batch sizes are really trained, for equal wall time, on a part of the data.

Needs an executor and the pure parts, no framework. Each size is trained from the same start, in a fresh process, with
the learning rate advised for it, and judged by the loss on data held out. Promises that its cost is told before it is
spent, that every difference is weighed against chance, and that a run of less than half of the training that is planned
overrules nothing: what is ahead early need not be ahead in the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from autotune.advice import advice
from autotune.errors import NoTrialFinishedError, UsageError, WorkloadError
from autotune.executors import Attempt, Executor, Opened, TrainRequest
from autotune.listener import Listener
from autotune.quality import NEAR, quality_of
from autotune.recommend import shown_speeds, speeds
from autotune.result import Result, Verification
from autotune.spec import Mode, Objective
from autotune.stats import median_interval
from autotune.trial import Curve, Outcome
from autotune.units import format_count, format_seconds

APART = 1.9
"""The factor between two candidates at least: nearer sizes train too much alike to be told apart."""

HELD_OUT_SHARE = 0.2
MOST_HELD_OUT = 2048
FEWEST_HELD_OUT = 16
PARTS = 16
"""So many parts of what is held out make a 95% interval of the median that leaves out the outer three at either end."""

LOOKS = 20
LOOK_SHARE = 0.1
"""Looking at the held-out loss shall take no more than this share of the time."""

ENOUGH = 0.5
"""The share of the planned training from which a run may overrule a prediction."""

START_SECONDS = 120.0
"""Granted to a process, besides twice its training, before it is taken to hang."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be trained: batch sizes, the predicted one first, and for how long each."""

    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float | None, ...]
    seconds_each: float
    held_out_samples: int
    part_size: int
    planned_seconds: float | None

    @property
    def seconds(self) -> float:
        """Of training in all."""
        return self.seconds_each * len(self.batch_sizes)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the curves say of the prediction.

    Attributes:
        predicted: the batch size that was predicted to train fastest.
        best: the one that reached the lowest loss.
        gain: by how much its loss is lower: the ends of the 95% interval of the median over the parts held out.
        time_share: in which share of the predicted size's time it came to the loss that this one reached.
        is_enough: whether the run was long enough to overrule the prediction.
    """

    predicted: int
    best: int
    gain: tuple[float, float]
    time_share: float
    is_enough: bool

    @property
    def is_lower(self) -> bool:
        """True where another size than the predicted one reached a lower loss by more than chance."""
        return self.best != self.predicted and self.gain[0] > 0

    @property
    def is_sooner(self) -> bool:
        """True where it was ahead in time, too, by more than what predictions are good for."""
        return self.time_share <= 1 - NEAR

    @property
    def overrules(self) -> bool:
        """True where all of that is reason to use it."""
        return self.is_lower and self.is_sooner and self.is_enough


def judgement(verification: Verification) -> Judgement:
    """What came of it."""
    first = verification.curves[0]
    best = min(verification.curves, key=lambda curve: curve.reached_loss)
    gains = [a - b for a, b in zip(first.reached_losses, best.reached_losses, strict=True)]
    planned = verification.planned_seconds
    return Judgement(
        predicted=first.batch_size,
        best=best.batch_size,
        gain=median_interval(gains),
        time_share=_seconds_to(first.reached_loss, best) / _seconds_to(first.reached_loss, first),
        is_enough=planned is not None and verification.seconds_each >= ENOUGH * planned,
    )


def _seconds_to(loss: float, curve: Curve) -> float:
    """When a training was first seen to have reached a loss; infinite where it never was."""
    looks = zip(curve.seconds[1:], curve.losses[1:], strict=True)
    return next((seconds for seconds, seen in looks if seen <= loss), math.inf)


def candidates(result: Result, count: int) -> tuple[int, ...]:
    """The recommended batch size, then those with the least predicted time, or the nearest, each well apart."""
    times = {o.batch_size: o.relative_time.value for o in quality_of(result).outlooks if o.relative_time}
    away = {size: abs(math.log(size / result.batch_size)) for size in speeds(result.trials)}
    chosen = [result.batch_size]
    for size in sorted(away, key=lambda size: (times.get(size, 0.0), away[size])):
        if len(chosen) < count and all(max(size, other) >= APART * min(size, other) for other in chosen):
            chosen.append(size)
    return tuple(chosen)


def plan(result: Result, opened: Opened, count: int, budget_seconds: float, epochs: int | None) -> Plan:
    """What to train, in so many seconds in all.

    Raises:
        UsageError: the result is not about training, has one size alone, or there is too little data to hold any out.
    """
    _check(result, opened, count, budget_seconds)
    sizes = candidates(result, count)
    if len(sizes) < 2:
        raise UsageError(
            f"Only batch size {result.batch_size} was measured, so there is nothing to compare it with.",
            remedy="Probe again without --max-batch-size or --start.",
        )
    rates = {outlook.batch_size: outlook.learning_rate for outlook in quality_of(result).outlooks}
    seconds_each = budget_seconds / len(sizes)
    speed = result.recommendation.samples_per_second
    held_out = _held_out_samples(opened.workload.dataset_size, LOOK_SHARE * seconds_each * speed / LOOKS)
    epochs, dataset_size = epochs or result.spec.epochs, result.workload.dataset_size
    return Plan(
        batch_sizes=sizes,
        learning_rates=tuple(rates.get(size) for size in sizes),
        seconds_each=seconds_each,
        held_out_samples=held_out,
        part_size=max(result.workload.smallest_batch_size, min(max(sizes), held_out // PARTS)),
        planned_seconds=epochs * dataset_size / speed if epochs and dataset_size else None,
    )


def _check(result: Result, opened: Opened, count: int, budget_seconds: float) -> None:
    if result.spec.mode is not Mode.TRAIN:
        raise UsageError("This result is about inference, which trains nothing.", remedy="Probe with --mode train.")
    if count < 2 or budget_seconds <= 0:
        raise UsageError("It takes at least two candidates and some time.", remedy="--candidates 3 --budget 20m")
    then, now = result.workload.parameters, opened.workload.parameters
    if then != now:
        raise UsageError(
            f"The model has {format_count(now or 0)} parameters now, but had {format_count(then or 0)} when probed.",
            remedy="Probe again.",
        )


def _held_out_samples(dataset_size: int | None, affordable: float) -> int:
    most = MOST_HELD_OUT if dataset_size is None else min(MOST_HELD_OUT, int(HELD_OUT_SHARE * dataset_size))
    if most < FEWEST_HELD_OUT:
        raise UsageError(
            f"A dataset of {format_count(dataset_size or 0)} samples is too small to hold any of it out.",
            remedy=f"It takes {format_count(math.ceil(FEWEST_HELD_OUT / HELD_OUT_SHARE))} samples.",
        )
    return max(FEWEST_HELD_OUT, min(most, int(affordable)))


def verify(
    result: Result,
    opened: Opened,
    executor: Executor,
    listener: Listener,
    *,
    count: int = 3,
    budget_seconds: float = 1200.0,
    epochs: int | None = None,
) -> Result:
    """Train some batch sizes, and return the result with what came of it.

    Args:
        result: what was found.
        opened: what the executor knows.
        executor: of the same workload, opened.
        listener: is told of each training.
        count: how many batch sizes.
        budget_seconds: of training in all.
        epochs: how many are planned; those of the probe where it is None.

    Raises:
        UsageError: there is nothing to train, or this workload's loss or data is out of reach.
        WorkloadError: the user's code raised.
        NoTrialFinishedError: the predicted size, or every other, could not be trained.
        KeyboardInterrupt: interrupted before two sizes were trained.
    """
    made = plan(result, opened, count, budget_seconds, epochs)
    listener.trainings_planned(made.batch_sizes, made.seconds_each, made.held_out_samples)
    outcomes: list[Curve | str] = []
    interrupted = False
    try:
        for outcome in _trained(made, executor, listener, result.spec.seed):
            outcomes.append(outcome)  # one by one: an interruption leaves those before it
    except KeyboardInterrupt:
        interrupted = True
    curves = tuple(outcome for outcome in outcomes if isinstance(outcome, Curve))
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, str))
    if len(curves) < 2:
        if interrupted:
            raise KeyboardInterrupt
        raise NoTrialFinishedError(failures[0], remedy="So there is nothing to compare with.")
    verification = Verification(
        curves=curves,
        failures=failures,
        is_interrupted=interrupted,
        seconds_each=made.seconds_each,
        held_out_samples=made.held_out_samples // made.part_size * made.part_size,
        planned_seconds=made.planned_seconds,
    )
    return verified(result, verification)


def _trained(made: Plan, executor: Executor, listener: Listener, seed: int) -> Iterator[Curve | str]:
    """The curve of each batch size, or why there is none; ends where the predicted one has none."""
    for number, (size, rate) in enumerate(zip(made.batch_sizes, made.learning_rates, strict=True)):
        listener.training_started(size, rate, made.seconds - number * made.seconds_each)
        attempt = executor.run(
            TrainRequest(
                batch_size=size,
                seconds=made.seconds_each,
                held_out_samples=made.held_out_samples,
                part_size=made.part_size,
                learning_rate=rate,
                looks=LOOKS,
                seed=seed,
                timeout_seconds=2 * made.seconds_each + START_SECONDS,
            )
        )
        if attempt.curve is not None:
            listener.training_ended(attempt.curve)
            yield attempt.curve
            continue
        failure = _failure(size, attempt)
        listener.warned(failure)
        yield failure
        if number == 0:
            return


def _failure(size: int, attempt: Attempt) -> str:
    text = attempt.reason
    if attempt.outcome is Outcome.FAILED and attempt.evidence is not None:
        if attempt.evidence.user_traceback:
            raise WorkloadError(
                f"Training failed at batch size {size}: {text}", user_traceback=attempt.evidence.user_traceback
            )
        raise UsageError(f"This training cannot be verified: {text}.")
    return f"Batch size {size} could not be trained: {text}."


def verified(result: Result, verification: Verification) -> Result:
    """The result with this verification, and with another recommendation where that overrules the prediction."""
    found = judgement(verification)
    changed = msgspec.structs.replace(result, verification=verification)
    if not found.overrules:
        return changed
    duration = format_seconds(verification.seconds_each)
    recommendation = msgspec.structs.replace(
        result.recommendation,
        batch_size=found.best,
        samples_per_second=shown_speeds(speeds(result.trials), result.contest)[found.best],
        why=f"in {duration} of training it reached a lower loss than {format_count(found.predicted)}",
    )
    about_quality = result.spec.objective is Objective.TIME_TO_QUALITY
    return msgspec.structs.replace(
        changed,
        recommendation=recommendation,
        advice=() if about_quality else advice(result.workload.training, found.best),
    )
