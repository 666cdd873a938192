"""Can this machine process N samples at once? If not, by how much it falls short, and what to do instead.

Needs the probe's own way of running trials. Promises that a shortfall says whether it was measured, and that
a plan was run as it stands, with its gradients accumulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Protocol

from autotune.edge import edge_of, refusal
from autotune.executors import Effort, Opened, TrialRequest
from autotune.recommend import throughput
from autotune.result import AccumulationPlan, TargetAnswer
from autotune.trial import Outcome, Purpose, Trial
from autotune.units import format_count

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


def answer_target(target: int, probe: Runner, effort: Effort = TRY) -> TargetAnswer:
    """Find out by running it; where it is refused, run what it would need, and a plan that gets there."""
    smallest = probe.opened.workload.smallest_batch_size
    if target < smallest:
        needed = f"the model takes no fewer than {format_count(smallest)} samples"
        return TargetAnswer(batch_size=target, fits=False, refused_by=needed)
    known = [trial for trial in probe.trials if trial.is_plain and trial.batch_size == target]
    request = TrialRequest(batch_size=target, effort=effort)
    refused = [trial for trial in known if not trial.accepted]
    trial = (refused or known or [probe.run_trial(request, "target", "does the target fit?")])[-1]
    if trial.accepted:
        return _accepted(trial, probe)
    return _refused(trial, probe)


def _accepted(trial: Trial, probe: Runner) -> TargetAnswer:
    """What ran once does not fit yet, where a smaller size was refused."""
    target, edge = trial.batch_size, edge_of(probe.trials, 1)
    if edge.smallest_refused is None or target < edge.smallest_refused:
        return TargetAnswer(batch_size=target, fits=True, peak_bytes=_peak(trial))
    luck = f"it ran once, but {format_count(edge.smallest_refused)} was refused: {edge.refused_by}"
    return TargetAnswer(
        batch_size=target, fits=False, peak_bytes=_peak(trial), refused_by=luck, plan=_plan(target, probe)
    )


def _refused(trial: Trial, probe: Runner) -> TargetAnswer:
    target = trial.batch_size
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
    workload = probe.opened.workload
    can_accumulate = workload.can_accumulate
    splits = _splits(target, edge_of(probe.trials, 1).largest_fits, workload.smallest_batch_size)
    for size, steps in islice(splits, PLANS_TRIED):
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


def _splits(target: int, largest: int, smallest: int) -> Iterator[tuple[int, int]]:
    """Micro-batch sizes with their number of steps, the fewest steps first.

    For each number of steps the smallest micro-batch that reaches the target; an exact division is taken
    instead where it costs at most half as many steps again.
    """
    if largest < 1:
        return
    steps = -(-target // largest)
    while steps <= target:
        near = range(steps, steps + steps // 2 + 1)
        exact = next((k for k in near if target % k == 0 and target // k >= smallest), None)
        steps = exact or steps
        size = -(-target // steps)
        if size < smallest:
            return
        yield size, steps
        steps += 1
