"""Trials as CSV, for a spreadsheet or a data frame: raw numbers, one row a trial, the unit in each heading.

Needs the standard library and the records. Promises the same columns for every result, empty where nothing was
measured; times of one batch, also where a step accumulated several; and that no spreadsheet takes a text for a formula:
one that begins like a formula gets an apostrophe before it (OWASP, CSV Injection).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO

from autotune.reports.labels import labels
from autotune.reports.plain_text import printable
from autotune.reports.rows import trial_speed
from autotune.reports.words import evidence_line
from autotune.result import Result
from autotune.stats import median, quantile
from autotune.trial import Measurement, Trial

Value = str | int | float | None

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - full-width forms, which some spreadsheets obey, too


def csv_text(results: Sequence[Result]) -> str:
    """All trials of all results, in the order in which they ran, lines ended as RFC 4180 has them."""
    records = [
        dict(_columns(name, result, trial))
        for result, name in zip(results, labels(results), strict=True)
        for trial in result.trials
    ]
    file = StringIO()
    writer = csv.writer(file)
    writer.writerow(records[0])
    writer.writerows([_safe(value) for value in record.values()] for record in records)
    return file.getvalue()


def _safe(value: Value) -> Value:
    """Text that no spreadsheet evaluates; numbers as they are."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA_STARTS) else text


def _columns(name: str, result: Result, trial: Trial) -> Iterator[tuple[str, Value]]:
    spec = result.spec
    yield "result", name
    yield "model", result.workload.name
    yield "device", result.environment.device_name
    yield "mode", spec.mode.value
    yield "precision", spec.precision.value
    yield "trial", trial.number
    yield "batch_size", trial.batch_size
    yield "purpose", trial.purpose
    yield "why", trial.why
    yield "outcome", trial.outcome.value
    yield "evidence", evidence_line(trial.evidence) if trial.evidence else ""
    yield "fresh_process", str(trial.fresh_process).lower()
    yield "trial_seconds", trial.seconds
    yield "budget_bytes", result.budget_bytes
    yield "forecast_bytes", trial.forecast_bytes
    yield from _speed(trial)
    yield from _measured(trial.measurement)


def _speed(trial: Trial) -> Iterator[tuple[str, Value]]:
    speed = trial_speed(trial)
    low, high = speed.interval if speed and speed.interval else (None, None)
    yield "samples_per_second", speed.samples_per_second if speed else None
    yield "samples_per_second_low", low
    yield "samples_per_second_high", high


def _measured(measurement: Measurement | None) -> Iterator[tuple[str, Value]]:
    times = measurement.batch_seconds if measurement else ()
    yield "timed_steps", len(times)
    yield "accumulation_steps", measurement.accumulation_steps if measurement else None
    yield "step_seconds_median", median(times) if times else None
    yield "step_seconds_p95", quantile(times, 0.95) if times else None
    yield "step_seconds_p99", quantile(times, 0.99) if times else None
    memory = measurement.memory if measurement else None
    for field in ("peak_bytes", "base_bytes", "allocated_bytes", "reserved_bytes", "allocator_retries"):
        yield field, getattr(memory, field, None)
    conditions = measurement.conditions if measurement else None
    for field in ("energy_joules_per_sample", "power_watts", "clock_mhz", "cpu_stall_fraction"):
        yield field, getattr(conditions, field, None)
