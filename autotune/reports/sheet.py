"""What every written report holds, as plain data, so that a page and a Markdown comment say the same.

Needs the records, `words` and the tables. Promises text that has passed `words.printable` and is escaped nowhere yet:
each format escapes by its own rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from autotune.breakdown import breakdown
from autotune.reports.labels import labels
from autotune.reports.plain_text import printable
from autotune.reports.reproduce import Recipe, recipe
from autotune.reports.rows import row_of
from autotune.reports.sheet_tables import (
    Table,
    comparison_table,
    quality_table,
    sizes_table,
    speeds_table,
    trials_table,
    verification_table,
    workers_table,
)
from autotune.reports.training_words import quality_words, verification_words
from autotune.reports.words import advice, answer, cautions, feeding, forecast_quality, largest_is
from autotune.result import Result
from autotune.spec import Mode
from autotune.trial import Environment
from autotune.units import format_bytes, format_count, format_rate, format_seconds, format_share

_SMALL_SHARE = 0.05  # of a probe's time; less is not worth a word


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing known of a probe, in words."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ResultSheet:
    """One result. `headline` is the answer in one sentence, `details` the rest of the paragraph.

    `numbers` are the two that a reader copies: the recommended batch size, and the largest, called what it is. `data`
    tells how the DataLoader keeps up, `workers` in figures where several numbers of workers were timed. `model` and
    `quality` are the words and the figures of the model's side, where it was asked for; `verified` and `trainings` what
    became of its predictions in training.
    """

    label: str
    subtitle: str
    headline: str
    details: str
    numbers: tuple[Fact, Fact]
    facts: tuple[Fact, ...]
    snippet: str
    sizes: Table
    trials: Table
    workers: Table | None
    quality: Table | None
    trainings: Table | None
    environment: tuple[Fact, ...]
    warnings: tuple[str, ...]
    data: str
    model: str
    verified: str
    advice: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One or several results, and the tables that line up several (none for one)."""

    title: str
    results: tuple[ResultSheet, ...]
    comparisons: tuple[Table, ...]


def sheet(results: Sequence[Result]) -> Sheet:
    """All that a report of these results, at least one, holds."""
    several = len(results) > 1
    return Sheet(
        title=_title(results),
        results=tuple(result_sheet(result, label) for result, label in zip(results, labels(results), strict=True)),
        comparisons=(comparison_table(results), speeds_table(results)) if several else (),
    )


def _title(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(printable(result.workload.name) for result in results))
    if len(results) == 1:
        return names[0]
    return f"{names[0]}, {len(results)} results" if len(names) == 1 else f"{len(results)} results"


def result_sheet(result: Result, label: str) -> ResultSheet:
    """All that a report holds of one result, called `label` where there are several."""
    headline = printable(f"Use batch size {format_count(result.batch_size)}: {result.recommendation.why}.")
    return ResultSheet(
        label=label,
        subtitle=_subtitle(result),
        headline=headline,
        details=answer(result).removeprefix(headline).strip(),
        numbers=(
            Fact(name="recommended batch size", value=str(result.batch_size)),
            Fact(name=_largest(result), value=str(result.max_batch_size)),
        ),
        facts=tuple(_facts(result)),
        snippet=_snippet(result),
        sizes=sizes_table(result),
        trials=trials_table(result),
        workers=workers_table(result),
        quality=quality_table(result),
        trainings=verification_table(result),
        environment=tuple(_environment(result)),
        warnings=cautions(result),
        data=feeding(result),
        model=quality_words(result),
        verified=verification_words(result),
        advice=advice(result),
        recipe=recipe(result),
    )


def _subtitle(result: Result) -> str:
    spec, environment = result.spec, result.environment
    what = "training" if spec.mode is Mode.TRAIN else "inference"
    return printable(f"{what} in {spec.precision.value} on {environment.device_name}, {_date(result.created_at)}")


def _date(text: str) -> str:
    """The minute, in universal time; text that is no date stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return text


def _largest(result: Result) -> str:
    doubt = ", not confirmed" if result.edge.is_unconfirmed else ""
    return largest_is(result.edge).removeprefix("the ") + doubt


def _snippet(result: Result) -> str:
    shuffle = ", shuffle=True" if result.spec.mode is Mode.TRAIN else ""
    workers = f", num_workers={result.num_workers}" if result.num_workers else ""
    return f"DataLoader(dataset, batch_size={result.batch_size}{shuffle}{workers})"


def _facts(result: Result) -> Iterator[Fact]:
    """The recommended batch size in figures."""
    chosen = row_of(result, result.batch_size)
    if chosen.speed and chosen.step_seconds:
        margin = f" ±{format_share(chosen.speed.margin)}" if chosen.speed.margin is not None else ""
        yield Fact(name="throughput", value=format_rate(chosen.speed.samples_per_second) + margin)
        yield Fact(name="step time", value=format_seconds(chosen.step_seconds))
    if chosen.peak_bytes is not None:
        share = format_share(chosen.peak_bytes / result.budget_bytes)
        yield Fact(name="peak memory", value=f"{format_bytes(chosen.peak_bytes)}, {share} of the budget")


def _environment(result: Result) -> Iterator[Fact]:
    """Where, with what and on what the probe ran; what is unknown is left out."""
    for name, value in (*_question(result), *_machine(result), *_software(result)):
        if value:
            yield Fact(name=name, value=printable(value))


def _question(result: Result) -> Iterator[tuple[str, str]]:
    spec, workload = result.spec, result.workload
    yield "model", workload.name
    yield "parameters", format_count(workload.parameters) if workload.parameters is not None else ""
    yield "batch", workload.batch_description
    yield "samples in the dataset", format_count(workload.dataset_size) if workload.dataset_size else ""
    yield "assumed", "; ".join(workload.assumptions)
    yield "step", f"{spec.mode.value} in {spec.precision.value}{', compiled' if spec.compile else ''}"
    yield "best at", spec.objective.value
    yield "latency limit", format_seconds(spec.latency_seconds) if spec.latency_seconds else ""
    budget, free = format_bytes(result.budget_bytes), format_bytes(result.free_bytes)
    yield "memory budget", f"{budget} of {free} that were free"
    yield "forecast", forecast_quality(result).removeprefix("the forecast of peak memory was ")
    trials = f"{len(result.trials)} trial{'' if len(result.trials) == 1 else 's'}"
    yield "search", f"{trials} in {format_seconds(result.seconds)}; {result.stop_reason}"
    yield "time went into", _spent(result)
    yield "isolation", "trials in processes of their own" if result.isolated else "none: trials in the caller's process"


def _spent(result: Result) -> str:
    """What most of the probe's time went into, the largest share first; empty where that was not recorded."""
    recorded = breakdown(result) if result.spent.opening_seconds else {}
    shares = {part: seconds / result.seconds for part, seconds in recorded.items()}
    worth_naming = sorted((part for part in shares if shares[part] >= _SMALL_SHARE), key=lambda part: -shares[part])
    return ", ".join(f"{part} {format_share(shares[part])}" for part in worth_naming)


def _machine(result: Result) -> Iterator[tuple[str, str]]:
    environment = result.environment
    device_memory = environment.device_memory_bytes
    cores = f"{environment.physical_cores} cores, " if environment.physical_cores else ""
    threads = f"{environment.threads} of {environment.logical_cores} threads used"
    yield "device", f"{environment.device}, {environment.device_name}"
    yield "device memory", format_bytes(device_memory) if device_memory else ""
    yield "processor", f"{environment.processor}, {cores}{threads}"
    yield "host memory", format_bytes(environment.host_memory_bytes)
    yield "container's limits", _limits(environment)


def _limits(environment: Environment) -> str:
    """What the container may use of the machine; empty where it may use all."""
    memory_bytes, processors = environment.container_limit_bytes, environment.container_processors
    memory = format_bytes(memory_bytes) if memory_bytes else ""
    time = f"the time of {processors:g} processor{'' if processors == 1 else 's'}" if processors else ""
    return ", ".join(filter(None, (memory, time)))


def _software(result: Result) -> Iterator[tuple[str, str]]:
    environment = result.environment
    yield "system", environment.platform
    yield "driver", environment.driver_version or ""
    yield "runtime", environment.runtime_version or ""
    yield "allocator settings", environment.allocator_settings
    yield "Python", environment.python_version
    yield "torch", environment.torch_version
    yield "autotune", environment.autotune_version
    yield "date", _date(result.created_at)
