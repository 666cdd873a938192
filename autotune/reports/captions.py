"""What each picture shows, in words with its figures: for whoever cannot see it, and for whoever wants to copy them.

Needs the records and what the pictures are drawn from (`findings`). Promises text that has passed `words.printable`
and says nothing of a result that the picture beside it does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autotune.reports.findings import energy_by_size, knee, latencies, plateau, progress, refused_sizes, step_line
from autotune.reports.plain_text import printable
from autotune.reports.rows import batches_per_epoch, epoch_seconds, row_of
from autotune.result import Result
from autotune.units import format_bytes, format_count, format_number, format_rate, format_seconds

_ALPHA, _BETA = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}"

_SHARES = (0.5, 0.95, 0.99)  # of the steps, as the picture of latencies shows them
MOST_NAMED = 4  # batch sizes in one sentence


def caption(kind: str, results: Sequence[Result]) -> str:
    """The words below the picture of this kind, as `figures` names it."""
    general, particular = _CAPTIONS[kind]
    if len(results) > 1:
        return _OF_SEVERAL.get(kind, general)
    return printable(f"{general} {particular(results[0])}".strip())


def _throughput(result: Result) -> str:
    best = result.recommendation
    text = (
        f"The fastest is {format_count(best.fastest_batch_size)} with {format_rate(best.fastest_samples_per_second)}."
    )
    turning = knee(result)
    if turning is not None and turning != best.fastest_batch_size:
        tolerance = f"{result.spec.tolerance * 100:.3g}%"
        text += f" The knee, where larger batches gain no more than {tolerance}, is at {format_count(turning)}."
    return text + _plateau(result)


def _plateau(result: Result) -> str:
    flat = plateau(result)
    if flat is None:
        return ""
    sizes, tolerance = f"From {format_count(flat[0])} to {format_count(flat[1])}", f"{result.spec.tolerance * 100:.3g}%"
    return f" {sizes} lies the plateau, where none is surely more than {tolerance} slower."


def _progress(result: Result) -> str:
    least = max(progress(result)["progress"], key=lambda point: point[1])[0]
    return f"The least time is predicted for {format_count(least)}."


def _held_out(result: Result) -> str:
    curves = result.verification.curves if result.verification else ()
    reached = [f"{format_number(curve.reached_loss)} at {format_count(curve.batch_size)}" for curve in curves]
    return f"Reached: {', '.join(reached)}."


def _memory(result: Result) -> str:
    refused = refused_sizes(result)
    text = f"The budget is {format_bytes(result.budget_bytes)}."
    if not refused:
        return f"{text} No size was refused."
    named = ", ".join(map(format_count, refused[:MOST_NAMED]))
    more = f" and {format_count(len(refused) - MOST_NAMED)} more" if len(refused) > MOST_NAMED else ""
    return f"{text} Refused: {named}{more}."


def _step_time(result: Result) -> str:
    line = step_line(result)
    if line is None:
        return ""
    text = (
        f"The line is t(b) = {_ALPHA} + {_BETA}·b with {_ALPHA} = {format_seconds(line.alpha_seconds)} for each step "
        f"and {_BETA} = {format_seconds(line.beta_seconds)} for each sample."
    )
    half = line.half_throughput_batch_size
    return text + (
        f" Half of the highest throughput is reached at h = {_ALPHA}/{_BETA} = {format_number(half)}." if half else ""
    )


def _epoch_time(result: Result) -> str:
    chosen, dataset_size = row_of(result, result.batch_size), result.workload.dataset_size
    if not dataset_size or not chosen.speed:
        return ""
    batches = format_count(batches_per_epoch(dataset_size, chosen.batch_size))
    duration = format_seconds(epoch_seconds(dataset_size, chosen.batch_size, chosen.speed))
    size, samples = format_count(chosen.batch_size), format_count(dataset_size)
    return f"With batch size {size} its {samples} samples are {batches} batches and take about {duration}."


def _latency(result: Result) -> str:
    quantiles = {share: dict(latencies(result, share)).get(result.batch_size) for share in _SHARES}
    at_most = [f"{share:.0%} within {format_seconds(seconds)}" for share, seconds in quantiles.items() if seconds]
    limit = result.spec.latency_seconds
    bound = f" The limit is {format_seconds(limit)} for 95% of the steps." if limit else ""
    size = format_count(result.batch_size)
    return f"In the trials of {size}: {', '.join(at_most)}.{bound}" if at_most else bound.strip()


def _energy(result: Result) -> str:
    joules = energy_by_size(result)
    least = min(joules, key=joules.__getitem__, default=None)
    return f"The least is {format_number(joules[least])} J at {format_count(least)}." if least is not None else ""


_CAPTIONS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "throughput": (
        "Samples per second, with an interval that holds the true median with 95%, or is the whole range where fewer "
        "than six times were taken.",
        _throughput,
    ),
    "time to quality": (
        "Larger batches process more samples per second and learn less from each; progress is what both come to, and "
        "its inverse the time to a given quality. Predicted, from the step times and the gradient noise scale.",
        _progress,
    ),
    "held-out loss": (
        "The loss on data held out while the batch sizes were trained, one after the other, from the same start, each "
        "with the learning rate advised for it.",
        _held_out,
    ),
    "memory": ("Peak memory of the whole process, and the budget that it must stay within.", _memory),
    "step time": ("Median time of a step by batch size, from the final round where a size was in it.", _step_time),
    "epoch time": ("Time for every sample once, the loading of data not counted.", _epoch_time),
    "latency": (
        "How long 50%, 95% and 99% of the steps in each size's trials take at most; the final round keeps no single "
        "steps.",
        _latency,
    ),
    "energy": ("Energy for each sample, as the device's own meter gave it.", _energy),
}

_OF_SEVERAL = {"latency": "How long a step takes, except for the slowest 5% in each size's trials."}
"""What differs from the general words where several results share a picture."""
