"""What the model's side says of an answer, in plain words: the noise of its gradients, and what training showed.

Needs the records and the rules of quality and verification. Promises text without control characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from autotune.quality import CLAMP, FEW_STEPS, MOST_GAIN, NEAR, Outlook, Quality, quality_of
from autotune.reports.plain_text import printable
from autotune.reports.rows import batches_per_epoch
from autotune.result import Result, Verification
from autotune.spec import Objective
from autotune.trial import Gradients
from autotune.units import format_count, format_number, format_seconds, format_share
from autotune.verify import ENOUGH, Judgement, judgement


def quality_words(result: Result) -> str:
    """What the model's side says of the answer, and how far to trust it; empty where it was not asked for."""
    if result.spec.objective is not Objective.TIME_TO_QUALITY:
        return ""
    return printable(" ".join(_quality(quality_of(result), result)))


def _quality(found: Quality, result: Result) -> Iterator[str]:
    yield from _noise(found, result.gradients)
    yield from _clamping(found)
    if len(found.near_best) > 1:
        sizes = f"{format_count(found.near_best[0])} to {format_count(found.near_best[-1])}"
        yield f"From {sizes}, every size that was tried is predicted within {NEAR:.0%} of the least time."
    outlook = next(o for o in found.outlooks if o.batch_size == result.batch_size)
    yield from _learning_rate(outlook)
    yield from _few_steps(result)
    yield "This predicts time to a given quality with the learning rate tuned again, not the quality that is reached."


def _noise(found: Quality, gradients: Gradients | None) -> Iterator[str]:
    noise = found.noise
    if noise.value is None or noise.low is None or noise.high is None:
        least = f" (at least {format_number(noise.low)} samples)" if noise.low else ""
        yield f"The gradient noise scale is undetermined{least}: {noise.why_not}."
        return
    if gradients is None:
        yield f"The gradient noise scale was given as {format_number(noise.value)} samples."
        return
    steps, samples = len(gradients.losses), gradients.micro_batch_size * gradients.micro_batches
    yield (
        f"The gradient noise scale is {format_number(noise.value)} samples ({format_number(noise.low)} to "
        f"{format_number(noise.high)}), measured in the second half of {steps} steps of {samples} samples with "
        f"{gradients.optimizer}{_rate(gradients.learning_rate)}; it grows as training goes on, and is a proxy within a "
        "factor of 2 to 3."
    )
    yield from (f"{note[0].upper()}{note[1:]}." for note in gradients.notes)


def _clamping(found: Quality) -> Iterator[str]:
    half, counted = found.half_throughput_batch_size, found.counted_noise
    if half and counted is not None and counted != found.noise.value:
        bound = f"{CLAMP:.0f} times" if counted > half else f"one part in {CLAMP:.0f} of"
        yield (
            f"Times are predicted with {format_number(counted)}, {bound} the batch size at which half of the top "
            "throughput is reached: estimates further out misled in tests."
        )


def _rate(learning_rate: float | None) -> str:
    return f" at a learning rate of {learning_rate:.3g}" if learning_rate is not None else ""


def _learning_rate(outlook: Outlook) -> Iterator[str]:
    gain = outlook.learning_rate_gain
    if gain is None:
        yield "No rule for the learning rate is known to hold that far: tune it."
        return
    value = f"{outlook.learning_rate:.3g}, " if outlook.learning_rate is not None else ""
    yield f"Look for the learning rate around {value}{gain:.3g} times the present one, from half to double of it."
    if gain > MOST_GAIN:
        yield "So large a step may be unstable: warm it up, and go down first."


def _few_steps(result: Result) -> Iterator[str]:
    epochs, dataset_size = result.spec.epochs, result.workload.dataset_size
    if epochs is None or dataset_size is None:
        return
    steps = epochs * batches_per_epoch(dataset_size, result.batch_size)
    if steps < FEW_STEPS:
        yield (
            f"That is only {format_count(steps)} steps of the optimizer in {format_count(epochs)} epochs: plan by "
            "steps, not by epochs, or large batches look worse than they are."
        )


def verification_words(result: Result) -> str:
    """What came of training some batch sizes for a while; empty where that was not done."""
    return printable(" ".join(_verification(result.verification))) if result.verification else ""


def _verification(trained: Verification) -> Iterator[str]:
    sizes = _listed([format_count(curve.batch_size) for curve in trained.curves])
    yield (
        f"{sizes} were trained for {format_seconds(trained.seconds_each)} each from the same start, and judged by the "
        f"loss on {format_count(trained.held_out_samples)} samples held out."
    )
    yield from _judgement(trained, judgement(trained))
    yield from trained.failures
    if trained.is_interrupted:
        yield "It was interrupted before all were trained."
    yield "Each was trained once: with another seed it may come out otherwise."


def _judgement(trained: Verification, found: Judgement) -> Iterator[str]:
    losses = {curve.batch_size: format_number(curve.reached_loss) for curve in trained.curves}
    best, predicted = format_count(found.best), format_count(found.predicted)
    if found.best == found.predicted:
        yield f"The prediction holds: {best} reached the lowest loss, {losses[found.best]}."
        return
    against = f"{losses[found.best]} against {losses[found.predicted]}"
    if not found.is_lower:
        yield f"The prediction holds: no size did better than {predicted} by more than chance ({best}: {against})."
        return
    if not found.is_sooner:
        yield f"The prediction holds: {best} reached a lower loss, {against}, but not that of {predicted} any sooner."
        return
    share = format_share(found.time_share)
    yield (
        f"{best} trained better than {predicted}, which was predicted: a loss of {against}, and to the latter it took "
        f"{share} of the time."
    )
    if found.overrules:
        yield f"So use {best}."
    elif trained.planned_seconds is None:
        yield "How long the whole training takes is not known, so this overrules nothing: give --epochs."
    else:
        share = format_share(trained.seconds_each / trained.planned_seconds)
        minutes = math.ceil(ENOUGH * trained.planned_seconds * len(trained.curves) / 60)
        yield f"But this is only {share} of the training planned, too little to overrule it: take --budget {minutes}m."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
