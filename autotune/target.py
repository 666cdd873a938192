"""Can this machine process N samples at once? If not, by how much it falls short, and what to do instead.

Needs the probe's own way of running trials. Promises that a shortfall says whether it was measured, and that
a plan was run as it stands, with its gradients accumulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from autotune.edge import refusal
from autotune.executors import Effort, Opened, TrialRequest
from autotune.recommend import throughput
from autotune.result import AccumulationPlan, TargetAnswer
from autotune.store import Purpose
from autotune.trial import Outcome, Trial

TRY = Effort(warmup_steps=2, min_steps=8, max_steps=20, seconds=0.5)
PLANS_TRIED = 4

Certainty = Literal["measured", "estimated"]


class Runner(Protocol):
    """The part of a probe that is needed here."""

    opened: Opened
    trials: list[Trial]

    def run_trial(self, request: TrialRequest, purpose: Purpose, why: str) -> Trial:
        """Run one trial and write it down."""
        ...


def answer_target(target: int, probe: Runner) -> TargetAnswer:
    """Find out by running it; where it is refused, run what it would need, and a plan that gets there."""
    known = [trial for trial in probe.trials if trial.is_plain and trial.batch_size == target]
    request = TrialRequest(batch_size=target, effort=TRY)
    refused = [trial for trial in known if not trial.accepted]
    trial = (refused or known or [probe.run_trial(request, "target", "does the target fit?")])[-1]
    if trial.accepted:
        return TargetAnswer(batch_size=target, fits=True, peak_bytes=_peak(trial))
    peak_bytes, certainty = _peak_needed(target, trial, probe)
    lacking_bytes = max(0, (peak_bytes or 0) - probe.opened.budget_bytes)
    return TargetAnswer(
        batch_size=target,
        fits=False,
        peak_bytes=peak_bytes,
        shortfall_bytes=lacking_bytes or None,
        shortfall_is=certainty if lacking_bytes else None,
        refused_by=_reason(trial, within_budget=peak_bytes is not None and not lacking_bytes),
        plan=_plan(target, probe),
    )


def _peak(trial: Trial) -> int | None:
    return trial.measurement.memory.peak_bytes if trial.measurement else None


def _reason(trial: Trial, *, within_budget: bool) -> str:
    """Why it was refused; where the budget would do, in full: the machine lacked memory, or peaks differ."""
    return trial.reason if within_budget else refusal(trial)


def _peak_needed(target: int, trial: Trial, probe: Runner) -> tuple[int | None, Certainty | None]:
    """Peak in bytes, measured with the limits lifted where the machine has the memory, else estimated."""
    if trial.outcome is not Outcome.OUT_OF_MEMORY:
        return None, None
    if trial.measurement is None:
        request = TrialRequest(batch_size=target, effort=TRY, enforce=False)
        trial = probe.run_trial(request, "target", "how much would the target need?")
    if (measured := _peak(trial)) is not None:
        return measured, "measured"
    estimated = _estimate(target, probe.trials)
    return estimated, None if estimated is None else "estimated"


def _estimate(target: int, trials: Sequence[Trial]) -> int | None:
    """Peak memory on the line through the two largest sizes that ran."""
    peaks = {t.batch_size: _peak(t) for t in trials if t.is_plain and t.measurement}
    if len(peaks) < 2:  # two points make a line
        return None
    (a, peak_a), (b, peak_b) = sorted(peaks.items())[-2:]
    assert peak_a is not None and peak_b is not None  # trials without a measurement were left out
    return round(peak_b + (target - b) * (peak_b - peak_a) / (b - a))


def _plan(target: int, probe: Runner) -> AccumulationPlan | None:
    """The first split of the target that fits with its gradients accumulated."""
    fits = [trial.batch_size for trial in probe.trials if trial.is_plain and trial.accepted]
    can_accumulate = probe.opened.workload.can_accumulate
    for _, (size, steps) in zip(range(PLANS_TRIED), _splits(target, max(fits, default=0)), strict=False):
        request = TrialRequest(batch_size=size, effort=TRY, accumulation_steps=steps if can_accumulate else 1)
        trial = probe.run_trial(request, "plan", f"{steps} steps of {size} make {size * steps}")
        if trial.accepted:
            return AccumulationPlan(
                micro_batch_size=size,
                accumulation_steps=steps,
                samples_per_second=throughput(trial),
                includes_accumulation=can_accumulate,
            )
    return None


def _splits(target: int, largest: int) -> Iterator[tuple[int, int]]:
    """Micro-batch sizes with their number of steps, the fewest steps first.

    For each number of steps the smallest micro-batch that reaches the target; an exact division is taken
    instead where it costs at most half as many steps again.
    """
    if largest < 1:
        return
    steps = -(-target // largest)
    while steps <= target:
        exact = next((k for k in range(steps, steps + steps // 2 + 1) if target % k == 0), None)
        steps = exact or steps
        yield -(-target // steps), steps
        steps += 1
