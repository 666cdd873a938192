"""Going on from a journal: is it about the same thing, and which of its trials still hold? Pure.

Needs the records. A spec says how a probe was asked, not what it met: live objects have no more than a name, a file may
have been edited, and a share of the free memory is another figure an hour later.
"""

from __future__ import annotations

from collections.abc import Sequence

from autotune.errors import ResultFileError
from autotune.executors import Opened
from autotune.store import Place
from autotune.trial import Outcome, Trial
from autotune.units import format_bytes, format_count

MORE = 0.02
"""Free memory is never twice the same; a budget that is larger by no more than this share counts as what it was."""

_NAMES = {
    "workload": "the model",
    "parameters": "the number of parameters",
    "batch_description": "the shape of a batch",
    "dataset_size": "the size of the dataset",
    "device_name": "the device",
}


def place_of(opened: Opened) -> Place:
    """What the trials of a probe are about."""
    workload = opened.workload
    return Place(
        workload=workload.name,
        parameters=workload.parameters,
        batch_description=workload.batch_description,
        dataset_size=workload.dataset_size,
        device_name=opened.environment.device_name,
        budget_bytes=opened.budget_bytes,
    )


def check_same(then: Place, now: Place) -> None:
    """See that a journal's trials are about what is probed now.

    Raises:
        ResultFileError: they are about something else.
    """
    others = [words for name, words in _NAMES.items() if getattr(then, name) != getattr(now, name)]
    if others:
        raise ResultFileError(
            f"The journal is about something else: {', '.join(others)} differ{'s' if len(others) == 1 else ''}.",
            remedy="Leave out --resume to start anew.",
        )


def sifted(trials: Sequence[Trial], then_bytes: int, now_bytes: int) -> tuple[list[Trial], list[Trial]]:
    """The trials whose outcome would be the same within another memory budget, and those of which it would not."""
    kept: list[Trial] = []
    dropped: list[Trial] = []
    for trial in trials:
        (kept if _still_true(trial, then_bytes, now_bytes) else dropped).append(trial)
    return kept, dropped


def _still_true(trial: Trial, then_bytes: int, now_bytes: int) -> bool:
    is_more = now_bytes > (1 + MORE) * then_bytes
    if trial.measurement is None:
        return trial.outcome is not Outcome.OUT_OF_MEMORY or not is_more
    within = trial.measurement.memory.peak_bytes <= now_bytes
    if trial.outcome is Outcome.OUT_OF_MEMORY:
        return not (within and is_more)
    return within


def dropped_warning(count: int, then_bytes: int, now_bytes: int) -> str:
    """Says that trials do not count any more."""
    trials = "1 trial does" if count == 1 else f"{format_count(count)} trials do"
    return (
        f"The memory budget is {format_bytes(now_bytes)} now and was {format_bytes(then_bytes)}, so that "
        f"{trials} not count any more."
    )
