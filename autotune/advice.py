"""What a batch size other than the caller's present one means for how they train: advice in words, never applied. Pure.

The learning rate is advised by the family of the optimizer, from published rules:

- SGD: in proportion to the batch size. Goyal et al. 2017, arXiv 1706.02677, held it from 256 to 8192 on ImageNet, with
  a warm-up; elsewhere it broke earlier (Shallue et al. 2019, arXiv 1811.03600), so it is given up to a factor of 4.
- Adam and its relatives: with the square root of the batch size. Malladi et al. 2022, arXiv 2205.10287, whose rule also
  moves the betas; it was shown up to factors of 16 and more, with the learning rate near its best before.

Both assume that the present learning rate suits the present batch size, and both are where a search may start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autotune.trial import Training
from autotune.units import format_count


@dataclass(frozen=True)
class Rule:
    """How a learning rate follows the batch size: `gain(ratio)` by a ratio of batch sizes up to `most` either way."""

    words: str
    gain: Callable[[float], float]
    most: float
    source: str


LINEAR = Rule("in proportion", lambda ratio: ratio, 4.0, "Goyal et al. 2017, arXiv 1706.02677")
SQUARE_ROOT = Rule("with the square root", math.sqrt, 16.0, "Malladi et al. 2022, arXiv 2205.10287")
RULES = {"sgd": LINEAR, "adam": SQUARE_ROOT, "lamb": SQUARE_ROOT, "rmsprop": SQUARE_ROOT}
"""By what the name of an optimizer contains."""


def advice(training: Training | None, batch_size: int) -> tuple[str, ...]:
    """What to think of when the batch size changes to this; in general, where the present one is not known.

    Args:
        training: how the caller trains now.
        batch_size: the one recommended; the caller accumulates as many of them as before.
    """
    if training is None:
        return ()
    if training.batch_size is None:
        return (_in_general(training.optimizer),)
    if training.batch_size == batch_size * training.accumulation_steps:
        return ()
    return tuple(_advice(training, training.batch_size, batch_size))


def rule_of(optimizer: str) -> Rule | None:
    """The rule for an optimizer by its name; None where none is known."""
    return next((rule for part, rule in RULES.items() if part in optimizer.lower()), None)


def _in_general(optimizer: str) -> str:
    rule = rule_of(optimizer)
    if rule is None:
        return f"If this changes your batch size, tune the learning rate: no rule for that of {optimizer} is known."
    return (
        f"If this changes your batch size, the learning rate of {optimizer} changes {rule.words}, up to a factor of "
        f"{rule.most:.0f} either way ({rule.source}). Try half and double of it, too."
    )


def _advice(training: Training, now: int, batch_size: int) -> Iterator[str]:
    """Args: how training goes, the samples that a step of the optimizer sees now, and the batch size recommended."""
    steps = training.accumulation_steps
    then = batch_size * steps
    if batch_size < now and now % batch_size == 0:
        yield (
            f"To train exactly as with {format_count(now)}, accumulate the gradients of {now // batch_size} batches of "
            f"{format_count(batch_size)}; then the learning rate stays as it is."
        )
    rule, ratio = rule_of(training.optimizer), then / now
    product = f", {steps} x {format_count(batch_size)}" if steps > 1 else ""
    changed = f"from {format_count(now)} to {format_count(then)}{product}"
    if rule is None:
        name = training.optimizer
        yield f"The batch size changes {changed}: no rule for the learning rate of {name} is known; tune it."
    elif max(ratio, 1 / ratio) > rule.most:
        yield (
            f"The batch size changes {changed}, further than {rule.words} is known to hold for the learning rate of "
            f"{training.optimizer} ({rule.most:.0f} times; {rule.source}): tune it, or choose a size between."
        )
    else:
        yield (
            f"The batch size changes {changed}: the learning rate of {training.optimizer} then changes {rule.words}"
            f"{_values(training.learning_rate, rule.gain(ratio))} ({rule.source}). Try half and double of it, too."
        )


def _values(learning_rate: float | None, gain: float) -> str:
    if learning_rate is None:
        return f", by {gain:.3g}"
    return f", from {learning_rate:.3g} to {learning_rate * gain:.3g}"
