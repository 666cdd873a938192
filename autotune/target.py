"""Can this machine process N samples at once? If not, by how much it falls short, and what to do instead.

Needs the probe's own way of running trials. Promises that a shortfall says whether it was measured, that
a plan was run as it stands, with its gradients accumulated, and that it says so where there is no plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import linear_regression
from typing import Literal, Protocol

import msgspec

from autotune.edge import edge_of, refusal
from autotune.executors import Effort, Opened, TrialRequest
from autotune.guide import measured_peaks
from autotune.recommend import throughput
from autotune.result import AccumulationPlan, Edge, TargetAnswer
from autotune.search import rounded_up
from autotune.spec import Mode, Objective, ProbeSpec
from autotune.trial import Outcome, Trial
from autotune.units import format_count

TRY = Effort(warmup_steps=2, min_steps=8, max_steps=20, seconds=0.5)
PLAN = Effort(warmup_steps=2, min_steps=8, max_steps=8, seconds=0.0)  # each step with other data, as micro-batches have

Certainty = Literal["measured", "estimated"]


class Runner(Protocol):
    """The part of a probe that is needed here."""

    spec: ProbeSpec
    opened: Opened
    trials: list[Trial]

    def run_trial(self, request: TrialRequest, purpose: Literal["plan", "target"], why: str) -> Trial:
        """Run one trial and write it down."""
        ...


def answer_target(target: int, probe: Runner, effort: Effort = TRY) -> TargetAnswer:
    """Find out by running it; where it is refused, run what it would need, and a plan that gets there."""
    smallest = probe.opened.workload.smallest_batch_size
    if target < smallest:
        needed = f"the model takes no fewer than {format_count(smallest)} samples"
        return TargetAnswer(batch_size=target, fits=False, refused_by=needed)
    runs = _runs(target, probe.trials) or [
        probe.run_trial(TrialRequest(batch_size=target, effort=effort), "target", "does the target fit?")
    ]
    if _decisive(runs).outcome is Outcome.OUT_OF_MEMORY and _highest_peak(runs) is None:
        request = TrialRequest(batch_size=target, effort=TRY, enforce=False)
        probe.run_trial(request, "target", "how much would the target need?")
    answer = _judged(_runs(target, probe.trials), probe)
    return answer if answer.fits else _with_plan(answer, probe)


def known_answer(target: int | None, probe: Runner) -> TargetAnswer | None:
    """What is known of a target where the probe ended before its answer was complete; None where it never ran."""
    runs = _runs(target, probe.trials)
    if not runs:
        return None
    answer = _judged(runs, probe)
    no_plan = _no_plan_wanted(probe.spec) or "the probe ended before a plan of accumulation was found"
    return answer if answer.fits else msgspec.structs.replace(answer, no_plan=no_plan)


# Whether it fits


def _runs(target: int | None, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.is_plain and trial.batch_size == target]


def _decisive(runs: Sequence[Trial]) -> Trial:
    """The last that was refused, if any was."""
    return ([run for run in runs if not run.accepted] or runs)[-1]


def _highest_peak(runs: Sequence[Trial]) -> int | None:
    return max((run.measurement.memory.peak_bytes for run in runs if run.measurement), default=None)


def _judged(runs: Sequence[Trial], probe: Runner) -> TargetAnswer:
    """The answer from the runs of the target, without a plan. What ran once does not fit if a smaller size did not."""
    trial = _decisive(runs)
    if not trial.accepted:
        return _refused(trial, runs, probe)
    luck = _only_luck(trial.batch_size, edge_of(probe.trials, probe.spec.multiple_of))
    return TargetAnswer(batch_size=trial.batch_size, fits=not luck, peak_bytes=_highest_peak(runs), refused_by=luck)


def _only_luck(target: int, edge: Edge) -> str:
    """Why a target that ran still doesn't fit, in words; empty where nothing speaks against it."""
    if edge.no_room_from is not None and target >= edge.no_room_from:
        size = format_count(edge.no_room_from)
        return f"it ran once, but from {size} on peaks may pass the budget, as they differ from run to run"
    if edge.smallest_refused is not None and target >= edge.smallest_refused:
        by = {"latency": "it took too long"}.get(edge.refused_by, edge.refused_by)
        return f"it ran once, but {format_count(edge.smallest_refused)} was refused: {by}"
    return ""


def _refused(trial: Trial, runs: Sequence[Trial], probe: Runner) -> TargetAnswer:
    peak_bytes, certainty = _peak_needed(trial, runs, probe)
    lacking_bytes = max(0, (peak_bytes or 0) - probe.opened.budget_bytes)
    return TargetAnswer(
        batch_size=trial.batch_size,
        fits=False,
        peak_bytes=peak_bytes,
        shortfall_bytes=lacking_bytes or None,
        shortfall_is=certainty if lacking_bytes else None,
        refused_by=_reason(trial, is_short=lacking_bytes > 0),
    )


def _reason(trial: Trial, *, is_short: bool) -> str:
    """Why it was refused; in full where no shortfall tells: it was too slow, or the machine lacked memory."""
    is_told = is_short or trial.outcome not in (Outcome.FITS, Outcome.OUT_OF_MEMORY)
    return refusal(trial) if is_told else trial.reason


def _peak_needed(trial: Trial, runs: Sequence[Trial], probe: Runner) -> tuple[int | None, Certainty | None]:
    """The peak in bytes that was measured; else an estimate, unless it says that what was refused would fit."""
    if (measured := _highest_peak(runs)) is not None:
        return measured, "measured"
    if trial.outcome is not Outcome.OUT_OF_MEMORY:
        return None, None
    estimated = runs[-1].forecast_bytes or _on_the_line(trial.batch_size, probe.trials)
    return (estimated, "estimated") if (estimated or 0) > probe.opened.budget_bytes else (None, None)


def _on_the_line(target: int, trials: Sequence[Trial]) -> int | None:
    """The peak on the straight line through all that was measured; None where memory does not rise along it.

    Peaks differ by chance: two sizes that are near each other, as those at the edge are, tell nothing of a slope.
    """
    peaks = measured_peaks(trials)
    if len({size for size, _ in peaks}) < 2:  # two points make a line
        return None
    line = linear_regression(*zip(*peaks, strict=True))
    return round(line.intercept + line.slope * target) if line.slope > 0 else None


# What to do instead


def _with_plan(answer: TargetAnswer, probe: Runner) -> TargetAnswer:
    """The answer with the first split of the target that fits with its gradients accumulated, or why there is none."""
    if no_plan := _no_plan_wanted(probe.spec):
        return msgspec.structs.replace(answer, no_plan=no_plan)
    no_plan = "there is no smaller batch whose gradients could be accumulated"
    for size, steps in _splits(answer.batch_size, probe):
        trial = _run_plan(size, steps, probe)
        if trial.accepted:
            return msgspec.structs.replace(answer, plan=_plan_of(trial, steps, probe))
        tried = f"{format_count(steps)} micro-batches of {format_count(size)}"
        no_plan = f"no plan of accumulation was found: {tried}, the last that were tried, did not fit ({trial.reason})"
        if trial.outcome is Outcome.TIMED_OUT:  # smaller micro-batches take no less time
            break
    return msgspec.structs.replace(answer, no_plan=no_plan)


def _no_plan_wanted(spec: ProbeSpec) -> str:
    """Why accumulation is no way out, in words; empty where it is one."""
    if spec.mode is Mode.INFERENCE:
        return "inference has no gradients to accumulate: smaller batches can simply follow each other"
    return "accumulation would take no less time" if spec.objective is Objective.LATENCY else ""


def _run_plan(size: int, steps: int, probe: Runner) -> Trial:
    """Run it; where the loop is the user's own, a plain step of the micro-batch."""
    accumulated = steps if probe.opened.workload.can_accumulate else 1
    request = TrialRequest(batch_size=size, effort=PLAN, accumulation_steps=accumulated)
    return probe.run_trial(request, "plan", f"{steps} steps of {size} make {size * steps}")


def _plan_of(trial: Trial, steps: int, probe: Runner) -> AccumulationPlan:
    return AccumulationPlan(
        micro_batch_size=trial.batch_size,
        accumulation_steps=steps,
        samples_per_second=throughput(trial),
        includes_accumulation=probe.opened.workload.can_accumulate,
    )


def _splits(target: int, probe: Runner) -> Iterator[tuple[int, int]]:
    """Micro-batch sizes with their number of steps: the largest first, each at most half the one before."""
    multiple_of = probe.spec.multiple_of
    smallest = rounded_up(probe.opened.workload.smallest_batch_size, multiple_of)
    largest = min(edge_of(probe.trials, multiple_of).largest_fits, (target - 1) // multiple_of * multiple_of)
    while largest >= smallest:
        size = max(_micro_batch(target, largest, smallest, multiple_of), smallest)
        yield size, -(-target // size)
        if size == smallest:
            return
        largest = max(size // 2 // multiple_of * multiple_of, smallest)


def _micro_batch(target: int, largest: int, smallest: int, multiple_of: int) -> int:
    """The smallest micro-batch that reaches the target in as few steps as the largest does.

    An exact division is taken instead where it costs at most half as many steps again.
    """
    steps = -(-target // largest)
    for exact_steps in range(steps, steps + steps // 2 + 1):
        size, rest = divmod(target, exact_steps)
        if rest == 0 and size >= smallest and size % multiple_of == 0:
            return size
    return rounded_up(-(-target // steps), multiple_of)
