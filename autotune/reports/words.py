"""A result in plain words, for someone who has never tuned a batch size.

Needs the records and `rows`. Promises text without control characters, whatever a model is called, and that
an estimate is called one: what was measured, what is a bound and what is unknown are worded apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from autotune.reports.plain_text import printable
from autotune.reports.rows import Row, Speed, batches_per_epoch, epoch_seconds, row_of
from autotune.reports.training_words import quality_words, verification_words
from autotune.result import AccumulationPlan, Edge, Result, StopReason, TargetAnswer
from autotune.stats import median
from autotune.trial import Evidence, Feeding, Outcome, Trial
from autotune.units import format_bytes, format_count, format_number, format_rate, format_seconds, format_share

_WHAT_BECAME = {
    Outcome.OUT_OF_MEMORY: "ran out of memory",
    Outcome.KERNEL_LIMIT: "reached a limit of a kernel",
    Outcome.TIMED_OUT: "took too long",
    Outcome.CRASHED: "crashed",
    Outcome.FAILED: "failed",
}
_PASSED_A_LIMIT = {
    "budget": "peaked over the memory budget",
    "spread": "may pass the memory budget, as peaks differ from run to run",
    "latency": "took longer than the latency limit",
}
"""What is said of a trial that ran to its end, by which limit it passed."""

_NOTICED_BY = {
    "exception": "exception",
    "watchdog": "watchdog",
    "kernel": "killed by the system",
    "budget": "over budget",
    "spread": "peaks spread over budget",
    "latency": "over latency limit",
    "exit": "exit status",
    "clock": "time limit",
}
_SAME = 0.0005  # a difference that would be written as 0.0%
_MANIFOLD = 2.0  # from here a ratio says more than a percentage


def outcome(trial: Trial) -> str:
    """What became of a trial and who noticed: "fits", "out of memory (watchdog)"."""
    if trial.evidence is None:
        return trial.outcome.value
    return f"{trial.outcome.value} ({_NOTICED_BY[trial.evidence.source]})"


def verdict(row: Row, result: Result) -> str:
    """What became of a batch size, in how many runs, and what it stands out by: "recommended x2, fastest"."""
    if row.refusal is not None:
        fitted = f"; fitted in {row.accepted_runs}" if row.accepted_runs else ""
        return outcome(row.refusal) + fitted
    runs = f" x{row.accepted_runs}" if row.accepted_runs > 1 else ""
    fits = "recommended" if row.batch_size == result.batch_size else "fits"
    notable = [(result.recommendation.fastest_batch_size, "fastest"), (result.max_batch_size, "largest")]
    return ", ".join([fits + runs, *(word for size, word in notable if size == row.batch_size)])


def paragraph(result: Result) -> str:
    """The answer, the model's side, the data, each caution and each piece of advice, each on a line of its own."""
    lines = [f"Caution: {caution}" for caution in cautions(result)] + [f"Advice: {text}" for text in advice(result)]
    return "\n".join(
        [*filter(None, [answer(result), quality_words(result), verification_words(result), feeding(result)]), *lines]
    )


def answer(result: Result) -> str:
    """The recommendation and why, what else was weighed, and the target where one was asked for."""
    return printable(" ".join(_sentences(result)))


def cautions(result: Result) -> tuple[str, ...]:
    """What the reader should know before trusting the answer; one line each.

    That trials were not isolated is among the result's own warnings.
    """
    found = list(result.warnings)
    if result.edge.band:
        found.append(_band(result))
    return tuple(printable(caution) for caution in found)


def advice(result: Result) -> tuple[str, ...]:
    """What a change of the batch size means for training; one line each."""
    return tuple(map(printable, result.advice))


MUCH_WAITING = 0.10
"""The share of a step from which waiting for data deserves a remedy. Where workers read meanwhile it is the bottleneck:
who still waits for them is as slow as they are."""

MOSTLY_WAITING = 0.50
"""The share from which data is the bottleneck where there are no workers, and one comes after the other."""


def feeding(result: Result) -> str:
    """How the caller's DataLoader keeps up with the batch size recommended; empty where that was not timed."""
    return printable(" ".join(_feeding(result.feeding, result))) if result.feeding is not None else ""


def _feeding(fed: Feeding, result: Result) -> Iterator[str]:
    best = fed.best(result.spec.tolerance)
    speed, share = format_rate(fed.batch_size / best.mean_seconds), fed.waiting_fraction(best)
    workers = f"{best.num_workers} worker{'' if best.num_workers == 1 else 's'}"
    memory = format_rate(fed.batch_size / fmean(fed.from_memory_seconds))
    if len(fed.feeds) > 1:
        numbers = ", ".join(str(feed.num_workers) for feed in fed.feeds)
        yield f"Use num_workers={best.num_workers}, of {numbers} the fewest that are about as fast as any."
    yield f"Fed by a DataLoader with {workers} it processes {speed}, from memory {memory}, timed in turns:"
    yield f"data takes {format_share(share)} of each step."
    if share < MUCH_WAITING:
        return
    if dataset_size := result.workload.dataset_size:
        seconds = dataset_size / fed.batch_size * best.mean_seconds
        yield f"So an epoch takes about {format_seconds(seconds)}."
    remedy = "--tune-workers finds out whether other numbers of workers help." if len(fed.feeds) == 1 else ""
    if share >= (MUCH_WAITING if best.num_workers else MOSTLY_WAITING):
        yield "The data is the bottleneck, not the batch size" + (f"; {remedy}" if remedy else ".")
    elif remedy:
        yield remedy


def _sentences(result: Result) -> Iterator[str]:
    chosen = row_of(result, result.batch_size)
    yield from _recommended(result, chosen)
    yield from _others(result, chosen)
    if result.target is not None:
        yield from _target(result.target, result)


def _recommended(result: Result, chosen: Row) -> Iterator[str]:
    recommendation = result.recommendation
    yield f"Use batch size {format_count(result.batch_size)}: {recommendation.why}."
    peak = f" and peaks at {_peak(chosen.peak_bytes, result)}" if chosen.peak_bytes else ""
    yield f"It processes {format_rate(recommendation.samples_per_second)}{peak}."
    if (dataset_size := result.workload.dataset_size) and chosen.speed:
        batches = batches_per_epoch(dataset_size, result.batch_size)
        noun = "batch" if batches == 1 else "batches"
        duration = format_seconds(epoch_seconds(dataset_size, chosen.batch_size, chosen.speed))
        yield f"An epoch of {format_count(dataset_size)} samples is {format_count(batches)} {noun}, about {duration}."


def _others(result: Result, chosen: Row) -> Iterator[str]:
    """The fastest and the largest, where they are not the one recommended, and where the border lies."""
    fastest, largest = result.recommendation.fastest_batch_size, result.max_batch_size
    if fastest not in (chosen.batch_size, largest):
        yield f"The fastest is {format_count(fastest)}{_cost(row_of(result, fastest), chosen)}."
    if largest == chosen.batch_size:
        border = _border(result)
        yield f"{border[0].upper()}{border[1:]}."
        return
    name, known = format_count(largest), largest_is(result.edge)
    subject = f"The fastest, {name}, is also {known}" if fastest == largest else f"{known.capitalize()} is {name}"
    yield f"{subject}{_cost(row_of(result, largest), chosen)}: {_border(result)}."
    if result.edge.is_unconfirmed:
        yield _not_confirmed(result)


def _not_confirmed(result: Result) -> str:
    """What the largest size has not been through, and what would take it there."""
    size, contest = result.max_batch_size, result.contest
    is_once = row_of(result, size).accepted_runs == 1 and (contest is None or size not in contest.batch_sizes)
    remedy = "" if result.spec.objective.seeks_edge else "; --objective memory confirms the largest"
    return f"{format_count(size)} {'ran once and ' if is_once else ''}was not confirmed{remedy}."


def _cost(other: Row, chosen: Row) -> str:
    """What another batch size gains and costs relative to the one recommended."""
    parts = []
    if other.speed and chosen.speed:
        ratio = other.speed.samples_per_second / chosen.speed.samples_per_second
        parts.append(_times(ratio, "samples/s", less="fewer") + _doubt(other.speed, chosen.speed, ratio))
    if other.peak_bytes and chosen.peak_bytes:
        parts.append(_times(other.peak_bytes / chosen.peak_bytes, "memory", less="less"))
    return f", with {' and '.join(parts)} compared with {format_count(chosen.batch_size)}" if parts else ""


def _doubt(speed: Speed, other: Speed, ratio: float) -> str:
    """What is said of a difference that the measurements do not show to be more than noise."""
    return "" if speed.is_told_from(other) or abs(ratio - 1) < _SAME else " (perhaps by noise alone)"


def _times(ratio: float, of: str, less: str) -> str:
    if abs(ratio - 1) < _SAME:
        return f"the same {of}"
    if ratio >= _MANIFOLD:
        return f"{format_number(ratio)} times the {of}"
    return f"{format_share(abs(ratio - 1))} {'more' if ratio > 1 else less} {of}"


def largest_is(edge: Edge) -> str:
    """What the largest size may be called: that it fits is known of one alone that ran again to confirm it."""
    if edge.smallest_refused is None:
        return "the largest tried"
    if edge.refused_by == "latency":
        return "the largest within the latency limit"
    if edge.is_unconfirmed:
        return "the largest that fitted"
    return "the largest that fits" if edge.is_exact else "the largest known to fit"


def _border(result: Result) -> str:
    """What is known of the sizes above the largest that fits."""
    edge = result.edge
    if edge.smallest_refused is None:
        has_target = result.target is not None and result.target.batch_size > edge.largest_fits
        what = "the search went no further" if has_target else "nothing larger was tried"
        return f"{what}, since {result.stop.value}"
    refused = f"{format_count(edge.smallest_refused)} {_refusal(result)}"
    if edge.is_exact:
        return f"already {refused}"
    if edge.no_room_from is not None:
        spread = "peaks may pass the budget, as they differ from process to process"
        return f"from {format_count(edge.no_room_from)} on {spread}, and {refused}"
    between = "the sizes between were not tried"
    return f"{refused}, and {between}" + ("" if result.stop is StopReason.EDGE else f", since {result.stop.value}")


def _refusal(result: Result) -> str:
    refusal = row_of(result, result.edge.smallest_refused or 0).refusal
    if refusal is None:
        return f"was refused: {result.edge.refused_by}"
    source = refusal.evidence.source if refusal.evidence else ""
    return _PASSED_A_LIMIT.get(source) or _WHAT_BECAME[refusal.outcome]


def _peak(peak_bytes: int, result: Result) -> str:
    share = format_share(peak_bytes / result.budget_bytes)
    return f"{format_bytes(peak_bytes)}, {share} of the memory budget of {format_bytes(result.budget_bytes)}"


def _target(target: TargetAnswer, result: Result) -> Iterator[str]:
    size = format_count(target.batch_size)
    if target.fits:
        peak = f", with a peak of {_peak(target.peak_bytes, result)}" if target.peak_bytes else ""
        yield f"Yes, a batch of {size} fits at once{peak}{_few_data(target, result)}."
        return
    yield f"No, a batch of {size} cannot be processed at once: {_shortfall(target)}."
    if target.plan is not None:
        yield _plan(target.plan)
    elif target.no_plan:
        yield f"{target.no_plan[0].upper()}{target.no_plan[1:]}."


def _few_data(target: TargetAnswer, result: Result) -> str:
    """What is said of a target that the dataset cannot fill."""
    samples = result.workload.dataset_size
    if not samples or samples >= target.batch_size:
        return ""
    return f", though the dataset has but {format_count(samples)} {'sample' if samples == 1 else 'samples'}"


def _shortfall(target: TargetAnswer) -> str:
    if target.shortfall_bytes is None:
        return target.refused_by or "it was refused"
    kind = {"measured": "", "estimated": "an estimated ", None: "about "}[target.shortfall_is]
    measured = ", as measured" if target.shortfall_is == "measured" else ""
    return f"the memory budget falls short by {kind}{format_bytes(target.shortfall_bytes)}{measured}"


def _plan(plan: AccumulationPlan) -> str:
    way = (
        f"Instead, accumulate gradients over {format_count(plan.accumulation_steps)} micro-batches of "
        f"{format_count(plan.micro_batch_size)}"
    )
    if plan.includes_accumulation:
        return f"{way}, which was measured at {format_rate(plan.samples_per_second)}."
    return (
        f"{way}; a plain step of {format_count(plan.micro_batch_size)} was measured at "
        f"{format_rate(plan.samples_per_second)}, the accumulation itself was not."
    )


def _band(result: Result) -> str:
    """Sizes that passed once and failed another time, and why, where memory alone refused them."""
    sizes = ", ".join(format_count(size) for size in result.edge.band)
    refused = [t for t in result.trials if t.is_plain and t.batch_size in result.edge.band and not t.accepted]
    is_memory = all(trial.outcome is Outcome.OUT_OF_MEMORY for trial in refused)
    why = ": memory near the limit differs between runs" if is_memory else ""
    return f"Batch size {sizes} passed once and failed another time{why}."


def forecast_quality(result: Result) -> str:
    """How far the predictions of the trials' peaks were off, or why there were none; empty where none was asked for."""
    if result.forecast is None:
        return f"no forecast: {printable(result.no_forecast)}" if result.no_forecast else ""
    errors = [
        abs(trial.forecast_bytes / trial.measurement.memory.peak_bytes - 1)
        for trial in result.trials
        if trial.measurement is not None and trial.forecast_bytes is not None
    ]
    if not errors:
        return ""
    off = f"off by {format_share(max(errors))}"
    if len(errors) > 1:
        middle = format_share(median(errors))
        off = f"off by {middle} in the median of {len(errors)} trials, {format_share(max(errors))} at most"
    return f"the forecast of peak memory was {off}"


def evidence_line(evidence: Evidence) -> str:
    """The first line of what spoke against a batch size."""
    lines = evidence.text.strip().splitlines()
    return printable(lines[0]) if lines else ""
