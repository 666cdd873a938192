"""The tables of the written reports, as plain data: what a column is called, what a cell shows and sorts by.

Needs the records and `rows`. Promises text that a reader understands and, apart from it, the raw number that it came
from, so that a page can sort by it; a cell without a number sorts last. All text has passed `words.printable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autotune.quality import Outlook, Span, quality_of
from autotune.reports.findings import energy_by_size, step_seconds_by_size
from autotune.reports.labels import in_common, labels
from autotune.reports.plain_text import printable
from autotune.reports.rows import Row, Speed, batches_per_epoch, epoch_seconds, row_of, rows, trial_speed
from autotune.reports.words import evidence_line, outcome, verdict
from autotune.result import Result
from autotune.spec import Mode, Objective
from autotune.stats import quantile
from autotune.trial import Curve, Trial
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

UNKNOWN = "-"
LATENCY_SHARES = (0.5, 0.95, 0.99)
"""The quantiles of the step time that matter to whoever waits for an answer.

The median is among them, though the step time has a column: a round of the final round keeps the mean of its steps
alone, so that these are the steps of the trials and not comparable with a step time that comes from there.
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows, and the raw number behind it in the column's base unit; None where there is none."""

    text: str
    number: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells in rows under headings. `is_text` marks the columns of words, `marked_row` the row that is the answer."""

    caption: str
    headings: tuple[str, ...]
    is_text: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked_row: int | None = None


_TEXT_COLUMNS = frozenset({"outcome", "why", "result"})


def _table(caption: str, records: Sequence[dict[str, Cell]], marked_row: int | None = None) -> Table:
    """Rows, each a mapping of the same headings to cells, as a table; there must be at least one."""
    headings = tuple(records[0])
    return Table(
        caption=caption,
        headings=headings,
        is_text=tuple(heading in _TEXT_COLUMNS for heading in headings),
        rows=tuple(tuple(record.values()) for record in records),
        marked_row=marked_row,
    )


def _cell(value: float | None, show: Callable[[float], str]) -> Cell:
    return Cell(text=UNKNOWN) if value is None else Cell(text=show(value), number=value)


def _count(value: int | None) -> Cell:
    return Cell(text=UNKNOWN) if value is None else Cell(text=format_count(value), number=value)


def _words(text: str) -> Cell:
    return Cell(text=printable(text) or UNKNOWN)


def _speed_cells(speed: Speed | None) -> dict[str, Cell]:
    return {
        "samples/s": _rate(speed),
        "±": _cell(speed.margin if speed else None, format_share),
    }


def _peak_cells(peak_bytes: int | None, budget_bytes: int) -> dict[str, Cell]:
    return {
        "peak memory": _cell(peak_bytes, format_bytes),
        "of budget": _cell(peak_bytes / budget_bytes if peak_bytes is not None else None, format_share),
    }


def sizes_table(result: Result) -> Table:
    """One row a batch size: speed, step time, memory, and where known epoch, latency quantiles and energy."""
    merged = rows(result)
    marked = next((index for index, row in enumerate(merged) if row.batch_size == result.batch_size), None)
    latencies, energies = step_seconds_by_size(result), energy_by_size(result)
    records = [
        {
            "batch size": _count(row.batch_size),
            **_speed_cells(row.speed),
            "step time": _cell(row.step_seconds, format_seconds),
            **_latency_cells(result, latencies.get(row.batch_size, [])),
            **_peak_cells(row.peak_bytes, result.budget_bytes),
            **_epoch_cells(result, row),
            **({"J/sample": _cell(energies.get(row.batch_size), format_number)} if energies else {}),
            "outcome": Cell(text=verdict(row, result)),
        }
        for row in merged
    ]
    return _table(_sizes_caption(result), records, marked)


def _sizes_caption(result: Result) -> str:
    general = "Every batch size tried, its trials taken together"
    if result.contest is None or result.spec.mode is not Mode.INFERENCE:
        return general
    sizes = ", ".join(map(format_count, result.contest.batch_sizes))
    return f"{general}; speed and step time of {sizes} come from the final round, which keeps no single steps"


def _latency_cells(result: Result, step_seconds: Sequence[float]) -> dict[str, Cell]:
    if result.spec.mode is not Mode.INFERENCE:
        return {}
    return {
        f"{share:.0%} within, in trials": _cell(quantile(step_seconds, share) if step_seconds else None, format_seconds)
        for share in LATENCY_SHARES
    }


def _epoch_cells(result: Result, row: Row) -> dict[str, Cell]:
    dataset_size = result.workload.dataset_size
    if not dataset_size:
        return {}
    return {
        "batches per epoch": _count(batches_per_epoch(dataset_size, row.batch_size)),
        "epoch time": _cell(
            epoch_seconds(dataset_size, row.batch_size, row.speed) if row.speed else None, format_seconds
        ),
    }


def quality_table(result: Result) -> Table | None:
    """One row a batch size: what training with it is predicted to be like; None where that was not asked for."""
    if result.spec.objective is not Objective.TIME_TO_QUALITY:
        return None
    outlooks = quality_of(result).outlooks
    sizes = [outlook.batch_size for outlook in outlooks]
    return _table(
        "Time to a given quality, predicted",
        [_quality_cells(outlook, result) for outlook in outlooks],
        marked_row=sizes.index(result.batch_size),
    )


def _quality_cells(outlook: Outlook, result: Result) -> dict[str, Cell]:
    size, dataset_size, epochs = outlook.batch_size, result.workload.dataset_size, result.spec.epochs
    cells = {"batch size": _count(size)}
    if dataset_size:
        batches = batches_per_epoch(dataset_size, size)
        cells["batches/epoch"] = _count(batches)
        if epochs:
            cells[f"steps in {format_count(epochs)} epochs"] = _count(epochs * batches)
        speed = row_of(result, size).speed
        cells["epoch time"] = _cell(epoch_seconds(dataset_size, size, speed) if speed else None, format_seconds)
    if outlook.efficiency and outlook.relative_time:
        cells["sample efficiency"] = _span(outlook.efficiency, format_share)
        cells["time to quality"] = _span(outlook.relative_time, "{:.2f}x".format)
    cells["learning rate"] = _cell(outlook.learning_rate, "{:.3g}".format)
    return cells


def _span(span: Span, show: Callable[[float], str]) -> Cell:
    """A figure with its interval, where they differ."""
    low, high = show(span.low), show(span.high)
    interval = f" ({low.rstrip('%x')}-{high})" if low != high else ""  # the unit once
    return Cell(text=show(span.value) + interval, number=span.value)


def verification_table(result: Result) -> Table | None:
    """One row a batch size that was trained: how the loss on data held out fell; None where none was."""
    if result.verification is None:
        return None
    curves = sorted(result.verification.curves, key=lambda curve: curve.batch_size)
    sizes = [curve.batch_size for curve in curves]
    return _table(
        f"Trained for {format_seconds(result.verification.seconds_each)} each: loss on data held out",
        [_training_cells(curve, result.verification.seconds_each) for curve in curves],
        marked_row=sizes.index(result.batch_size) if result.batch_size in sizes else None,
    )


def _training_cells(curve: Curve, seconds: float) -> dict[str, Cell]:
    learning = f"{curve.learning_rate:.3g}" if curve.learning_rate is not None else "its own"
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return {
        "batch size": _count(curve.batch_size),
        "learning rate": Cell(text=learning, number=curve.learning_rate),
        "steps": _count(curve.steps),
        **{f"loss at {share:.0%}": _cell(_loss_at(curve, share * seconds), format_number) for share in shares},
        "reached": _cell(curve.reached_loss, format_number),
    }


def _loss_at(curve: Curve, seconds: float) -> float | None:
    """The last look up to then, with room for the step that ended later; None where training had diverged."""
    if curve.seconds[-1] < seconds * (1 - 1e-9) and curve.has_diverged:
        return None
    return min(zip(curve.seconds, curve.losses, strict=True), key=lambda look: abs(look[0] - seconds))[1]


def workers_table(result: Result) -> Table | None:
    """One row a number of workers of the DataLoader; None where fewer than two were timed."""
    fed = result.feeding
    if fed is None or len(fed.feeds) < 2:
        return None
    counts = [feed.num_workers for feed in fed.feeds]
    return _table(
        f"Batch size {format_count(fed.batch_size)}, fed by the DataLoader",
        [
            {
                "num_workers": _count(feed.num_workers),
                "samples/s": _cell(fed.batch_size / feed.mean_seconds, format_number),
                "step time": _cell(feed.mean_seconds, format_seconds),
                "data's share": _cell(fed.waiting_fraction(feed), format_share),
            }
            for feed in fed.feeds
        ],
        marked_row=counts.index(fed.best(result.spec.tolerance).num_workers),
    )


def trials_table(result: Result) -> Table:
    """One row a trial, in the order in which they ran."""
    has_forecast = any(trial.forecast_bytes is not None for trial in result.trials)
    records = [
        {
            "trial": _count(trial.number),
            "batch size": _count(trial.batch_size),
            **_speed_cells(trial_speed(trial)),
            **_trial_peak_cells(trial, result, has_forecast=has_forecast),
            "took": _cell(trial.seconds, format_seconds),
            "outcome": _words(_outcome(trial)),
            "why": _words(trial.why),
        }
        for trial in result.trials
    ]
    return _table("Every trial, in the order in which they ran", records)


def _trial_peak_cells(trial: Trial, result: Result, *, has_forecast: bool) -> dict[str, Cell]:
    peak = trial.measurement.memory.peak_bytes if trial.measurement else None
    cells = _peak_cells(peak, result.budget_bytes)
    return cells | ({"forecast peak": _cell(trial.forecast_bytes, format_bytes)} if has_forecast else {})


def _outcome(trial: Trial) -> str:
    if trial.evidence is None or not (line := evidence_line(trial.evidence)):
        return outcome(trial)
    return f"{outcome(trial)}: {line}"


def comparison_table(results: Sequence[Result]) -> Table:
    """One row a result, so that machines, precisions and models stand below each other."""
    records = [dict(_summary(result, name)) for result, name in zip(results, labels(results), strict=True)]
    common = in_common(results)
    return _table(f"All of them: {common}" if common else "The answers", records)


def _summary(result: Result, name: str) -> Iterator[tuple[str, Cell]]:
    chosen, dataset_size = row_of(result, result.batch_size), result.workload.dataset_size
    yield "result", _words(name)
    yield "recommended", _count(result.batch_size)
    yield from _speed_cells(chosen.speed).items()
    yield from _peak_cells(chosen.peak_bytes, result.budget_bytes).items()
    yield "largest", _largest(result)
    yield (
        "epoch time",
        _cell(
            epoch_seconds(dataset_size, chosen.batch_size, chosen.speed) if dataset_size and chosen.speed else None,
            format_seconds,
        ),
    )


def _largest(result: Result) -> Cell:
    doubt = " (not confirmed)" if result.edge.is_unconfirmed else ""
    return Cell(text=format_count(result.max_batch_size) + doubt, number=result.max_batch_size)


def speeds_table(results: Sequence[Result]) -> Table:
    """Samples/s of each batch size that any of the results tried, a column a result."""
    names = labels(results)
    by_result = [{row.batch_size: row for row in rows(result)} for result in results]
    sizes = sorted(set().union(*by_result))
    return Table(
        caption="Samples per second by batch size",
        headings=("batch size", *names),
        is_text=(False,) * (1 + len(names)),
        rows=tuple((_count(size), *(_accepted_rate(found.get(size)) for found in by_result)) for size in sizes),
    )


def _accepted_rate(row: Row | None) -> Cell:
    """The speed of a size to train with; a word, which sorts last, for one that was refused, however fast it was."""
    if row is None or row.refusal is None:
        return _rate(row.speed if row else None)
    return Cell(text="too slow" if row.refusal.fits else "refused")


def _rate(speed: Speed | None) -> Cell:
    return _cell(speed.samples_per_second if speed else None, format_number)
