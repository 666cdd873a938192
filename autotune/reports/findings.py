"""What pictures and tables derive from a result: knee, plateau, step line, latencies, energy, the first forecast.

Needs the records and `rows`. Promises plain numbers by batch size, ascending, from what was measured; a forecast is
what was known before the trials that it is compared with.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import takewhile

from autotune.forecast.curve import corrected, curve_of
from autotune.guide import measured_peaks
from autotune.quality import quality_of
from autotune.reports.rows import Row, rows
from autotune.result import Result
from autotune.spec import Objective
from autotune.stats import median, quantile
from autotune.step_line import StepLine, fit_step_line


def progress(result: Result) -> dict[str, list[tuple[int, float]]]:
    """What makes a batch size train fast, in percent by batch size: throughput and efficiency, and what both come to.

    Throughput and progress are shares of the best among the sizes tried. Empty where that was not asked for, or the
    noise scale is undetermined.
    """
    if result.spec.objective is not Objective.TIME_TO_QUALITY:
        return {}
    found = quality_of(result)
    outlooks = [
        (o.batch_size, o.efficiency.value, 1 / o.relative_time.value)
        for o in found.outlooks
        if o.efficiency and o.relative_time
    ]
    if not outlooks or found.line is None:
        return {}
    rates = {size: size / found.line.seconds(size) for size, _, _ in outlooks}
    return {
        "throughput": [(size, 100 * rate / max(rates.values())) for size, rate in rates.items()],
        "sample efficiency": [(size, 100 * efficiency) for size, efficiency, _ in outlooks],
        "progress": [(size, 100 * speed) for size, _, speed in outlooks],
    }


def timed_rows(result: Result) -> list[Row]:
    """The batch sizes whose speed counts: those never refused for memory; those over a limit on latency are here."""
    return [row for row in rows(result) if row.speed and (row.refusal is None or row.refusal.fits)]


def accepted_speeds(result: Result) -> dict[int, float]:
    """Samples/s of each batch size that was accepted and never refused, as the pictures show them."""
    found = [(row, row.speed) for row in rows(result) if row.refusal is None]
    return {row.batch_size: speed.samples_per_second for row, speed in found if speed}


def refused_sizes(result: Result) -> list[int]:
    """The batch sizes that were refused for what they need, not for how long they take."""
    return [row.batch_size for row in rows(result) if row.refusal and not row.refusal.fits]


def knee(result: Result) -> int | None:
    """The smallest batch size whose throughput is within the tolerance of the best; None where nothing was timed.

    Where throughput was the objective, this is what was recommended, since that was judged by times taken in turns,
    as long as no training has put another size in its place.
    """
    if result.spec.objective is Objective.THROUGHPUT and result.verification is None:
        return result.batch_size
    speeds = accepted_speeds(result)
    mark = (1 - result.spec.tolerance) * max(speeds.values(), default=0.0)
    return min((size for size, speed in speeds.items() if speed >= mark), default=None)


def plateau(result: Result) -> tuple[int, int] | None:
    """From the knee to the last size before one that is slower than the tolerance allows; None where there is none.

    A size is slower where its whole interval lies below the mark: what noise may have made ends no plateau.
    """
    start, mark = knee(result), (1 - result.spec.tolerance) * best_speed(result)
    if start is None:
        return None
    speeds = [(row.batch_size, row.speed) for row in rows(result) if row.refusal is None and row.speed]
    above = [(size, speed) for size, speed in speeds if start < size <= result.max_batch_size]
    flat = list(takewhile(lambda sized: sized[1].highest >= mark, above))
    return (start, flat[-1][0]) if flat else None


def best_speed(result: Result) -> float:
    """Samples/s of the size that is called the fastest, or the highest of all where that has none; 0 without any."""
    speeds = accepted_speeds(result)
    return speeds.get(result.recommendation.fastest_batch_size, max(speeds.values(), default=0.0))


def step_line(result: Result) -> StepLine | None:
    """The line through the median step times; None below three batch sizes."""
    return fit_step_line([(row.batch_size, row.step_seconds) for row in timed_rows(result) if row.step_seconds])


def step_seconds_by_size(result: Result) -> dict[int, list[float]]:
    """All times in seconds of a batch of each size, from its trials that fitted the memory budget."""
    found: dict[int, list[float]] = defaultdict(list)
    for trial in result.trials:
        if trial.is_plain and trial.fits and trial.measurement and trial.measurement.step_seconds:
            found[trial.batch_size] += trial.measurement.batch_seconds
    return {size: found[size] for size in sorted(found)}


def latencies(result: Result, share: float) -> list[tuple[int, float]]:
    """Batch size and the seconds that this share of its steps kept to."""
    return [(size, quantile(seconds, share)) for size, seconds in step_seconds_by_size(result).items()]


def energy_by_size(result: Result) -> dict[int, float]:
    """Joules per sample of each batch size, the median of its trials; empty where the device does not tell."""
    found: dict[int, list[float]] = defaultdict(list)
    for trial in result.trials:
        joules = trial.measurement.conditions.energy_joules_per_sample if trial.measurement else None
        if trial.is_plain and joules is not None:
            found[trial.batch_size].append(joules)
    return {size: median(found[size]) for size in sorted(found)}


def peaks(result: Result) -> dict[int, list[int]]:
    """The peaks in bytes of each batch size, one for each run that was measured, refused ones included."""
    found: dict[int, list[int]] = defaultdict(list)
    for size, peak_bytes in sorted(measured_peaks(result.trials)):
        found[size].append(round(peak_bytes))
    return dict(found)


def first_forecast(result: Result) -> list[tuple[float, float]]:
    """Batch size and predicted peak in bytes, as forecast when the first trial alone had corrected it.

    The later trials are left out: a forecast that they corrected would agree with them by construction.
    """
    measured = measured_peaks(result.trials)
    if result.forecast is None or not measured:
        return []
    prediction = corrected(curve_of(result.forecast), measured[:1])
    sizes = [trial.batch_size for trial in result.trials if trial.is_plain]
    return [(size, prediction.at(size)) for size in _between(min(sizes), max(sizes))]


def _between(first: int, last: int) -> list[int]:
    """Whole numbers from the first to the last, evenly apart on a logarithmic axis."""
    points = 80  # so many look like a curve
    return sorted({round(first * (last / first) ** (i / points)) for i in range(points + 1)})
