"""An estimate as tables for a terminal, or as JSON for a program.

Needs rich and the estimate. Promises that every figure is called predicted, that the tables keep to the width they
are given from 60 columns on (a table of many batch sizes is cut into several), that nothing depends on colour, and
that no name of a model or an operator is taken for markup or obeyed by a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.estimate import Estimate, Place, Variant
from autotune.forecast.records import LARGEST, Footprint, Rules
from autotune.reports.plain_text import printable
from autotune.reports.terminal import WIDEST_TEXT, as_text, empty_table, gap_columns
from autotune.spec import Mode
from autotune.units import format_bytes, format_count, format_share

JSON_VERSION = 1
"""Raised when a key of the JSON changes its meaning or goes; new keys may come at any time."""

_UNKNOWN = "-"
_PART_COLUMNS = 16  # the longest name of a part, and a blank
_SIZE_COLUMNS = 9  # of a size such as "1.52 GiB", and a blank

_PARTS = {
    "parameters": "parameters_bytes",
    "gradients": "gradients_bytes",
    "optimizer state": "optimizer_bytes",
    "activations": "activations_bytes",
    "batch": "batch_bytes",
    "temporary": "temporary_bytes",
}


def render(estimate: Estimate, width: int = WIDEST_TEXT) -> str:
    """The whole estimate as plain text, `width` columns wide."""
    return as_text(report(estimate, width), width)


def report(estimate: Estimate, width: int) -> RenderableType:
    """The whole estimate for a console `width` columns wide."""
    parts: list[RenderableType] = [_heading(estimate)]
    forecast = [variant for variant in estimate.variants if not variant.no_forecast]
    for title, tables in _sections(estimate, forecast, width):
        parts += [Text(), Text(title, style="bold"), *tables]
    parts += [Text(), *_notes(estimate)]
    return Group(*parts)


def _heading(estimate: Estimate) -> Text:
    question, workload = estimate.question, estimate.workload
    size = f", {format_count(workload.parameters)} parameters" if workload.parameters is not None else ""
    steps = question.accumulation_steps
    step = "a training step" if question.mode is Mode.TRAIN else "a step of inference"
    accumulated = f" of {format_count(steps)} micro-batches" if steps > 1 else ""
    where = "a GPU" if estimate.rules is Rules.CUDA else "this machine's processor"
    lines = [
        f"predicted memory of {step}{accumulated} on {where}; nothing was run",
        *(f"assumed: {printable(assumption)}" for assumption in workload.assumptions),
    ]
    head = Text.assemble((printable(workload.name), "bold"), size)
    return Text("\n").join([head, *(Text(line, style="dim") for line in lines)])


def _sections(
    estimate: Estimate, variants: Sequence[Variant], width: int
) -> Iterator[tuple[str, list[RenderableType]]]:
    first = variants[0]
    micro = "micro-batch" if estimate.question.accumulation_steps > 1 else "batch"
    if len(variants) > 1:
        widest = max(len("batch"), *(len(format_count(size)) for size in estimate.batch_sizes))
        groups = _groups(variants, width - widest, width)
        yield f"Predicted peak by {micro} size", _apart(_peaks_table(estimate, group, width) for group in groups)
    sizes = [size for size in estimate.batch_sizes if first.footprint(size)]
    has_minus = any(_allocator_bytes(one) < 0 for one in first.footprints)
    chunk = max(1, (width - _PART_COLUMNS) // (_SIZE_COLUMNS + has_minus + gap_columns(width)))
    chunks = [sizes[start : start + chunk] for start in range(0, len(sizes), chunk)]
    tables = _apart(_parts_table(estimate, first, sizes, width) for sizes in chunks)
    yield f"What the predicted peak is made of, in {first.label}", [*tables, *_worst_moments(first, sizes)]
    widest = max(len(printable(place.name)) for place in estimate.places)
    groups = _groups(variants, width - widest - _SIZE_COLUMNS - 2 * gap_columns(width), width)
    yield f"Predicted largest {micro} size", _apart(_places_table(estimate, group, width) for group in groups)


def _groups(variants: Sequence[Variant], columns: int, width: int) -> list[list[Variant]]:
    """All variants side by side where the columns suffice, else those with checkpointing apart."""
    if len(variants) * (_SIZE_COLUMNS + gap_columns(width)) <= columns:
        return [list(variants)]
    groups = [[one for one in variants if one.checkpointing is checkpointing] for checkpointing in (False, True)]
    return [group for group in groups if group]


def _apart(tables: Iterable[Table]) -> list[RenderableType]:
    """Tables with a blank line between them."""
    parts: list[RenderableType] = [part for table in tables for part in (Text(), table)]
    return parts[1:]


def _peaks_table(estimate: Estimate, variants: Sequence[Variant], width: int) -> Table:
    """A row a batch size, a column a variant."""
    made = empty_table(width)
    made.add_column("batch\nsize", justify="right", no_wrap=True)
    for variant in variants:
        made.add_column(_column_head(variant), justify="right", no_wrap=True)
    for size in estimate.batch_sizes:
        made.add_row(format_count(size), *(_peak(estimate, variant, size) for variant in variants))
    return made


def _column_head(variant: Variant) -> str:
    """The variant's label, broken so that it is no wider than a size."""
    return variant.precision.value + (",\ncheck-\npointed" if variant.checkpointing else "")


def _peak(estimate: Estimate, variant: Variant, batch_size: int) -> str:
    footprint = variant.footprint(batch_size)
    return format_bytes(_peak_bytes(estimate, variant, footprint)) if footprint else _UNKNOWN


def _peak_bytes(estimate: Estimate, variant: Variant, footprint: Footprint) -> int:
    return estimate.peak_bytes(footprint.batch_size, precision=variant.precision, checkpointing=variant.checkpointing)


def _parts_table(estimate: Estimate, variant: Variant, sizes: Sequence[int], width: int) -> Table:
    """A column a batch size, a row for each part of the peak, so that it reads like a sum."""
    made = empty_table(width)
    made.add_column("batch size", no_wrap=True)
    for size in sizes:
        made.add_column(format_count(size), justify="right", no_wrap=True)
    found = [footprint for size in sizes if (footprint := variant.footprint(size))]
    for name, key in _PARTS.items():
        made.add_row(name, *(format_bytes(getattr(one.composition, key)) for one in found))
    made.add_row("allocator", *(_signed(_allocator_bytes(one)) for one in found))
    base = ("CUDA context", estimate.context_bytes) if estimate.rules is Rules.CUDA else ("process", variant.base_bytes)
    made.add_row(base[0], *(format_bytes(base[1]) for _ in found))
    made.add_section()  # a blank line
    made.add_row("predicted peak", *(format_bytes(_peak_bytes(estimate, variant, one)) for one in found), style="bold")
    made.add_row(
        "with margin", *(format_bytes(estimate.with_margin(_peak_bytes(estimate, variant, one))) for one in found)
    )
    return made


def _allocator_bytes(footprint: Footprint) -> int:
    """What the allocator holds beyond the tensors; below zero where they are more than the memory that they touch."""
    return footprint.held_bytes - footprint.peak_bytes


def _signed(size_bytes: int) -> str:
    return ("-" if size_bytes < 0 else "") + format_bytes(abs(size_bytes))


def _worst_moments(variant: Variant, sizes: Sequence[int]) -> Iterator[Text]:
    """Where the peak is: one line for all neighbouring sizes whose worst moment is the same."""
    found = [footprint for size in sorted(sizes) if (footprint := variant.footprint(size))]
    for (phase, operator), same in groupby(found, key=lambda one: (one.phase, one.operator)):
        ends = list(dict.fromkeys(one.batch_size for one in same))
        span = f"batch size {format_count(ends[0])}"
        if len(ends) > 1:
            span = f"batch sizes {format_count(ends[0])} to {format_count(ends[-1])}"
        yield Text(printable(f"At {span} the peak is in {_PHASES.get(phase, phase)}, at {operator}."))


_PHASES = {"forward": "the forward pass", "backward": "the backward pass", "optimizer": "the optimizer"}


def _places_table(estimate: Estimate, variants: Sequence[Variant], width: int) -> Table:
    """A row a place, a column a variant."""
    made = empty_table(width)
    made.add_column("on", overflow="fold")
    made.add_column("memory", justify="right", no_wrap=True)
    for variant in variants:
        made.add_column(_column_head(variant), justify="right", no_wrap=True)
    for row, place in enumerate(estimate.places):
        largest = [variant.largest_batch_sizes[row] for variant in variants]
        made.add_row(Text(printable(place.name)), format_bytes(place.memory_bytes), *map(_fitting, largest))
    return made


def _fitting(largest: int) -> str:
    if largest == 0:
        return "none"
    return format_count(largest) + ("+" if largest >= LARGEST else "")


def _notes(estimate: Estimate) -> Iterator[Text]:
    """What is not in the tables: refused variants, the margin, the guesses, and how to be sure."""
    reasons: dict[str, list[str]] = {}
    for variant in estimate.variants:
        if variant.no_forecast:
            reasons.setdefault(variant.no_forecast, []).append(variant.label)
    for reason, labels in reasons.items():
        yield Text.assemble(("No forecast: ", "bold yellow"), printable(f"{'; '.join(labels)}: {reason}"))
    margin = format_share(estimate.margin_share)
    yield Text(f"A size fits where its predicted peak and a margin of {margin} are within the memory.")
    for guess in estimate.guesses:
        yield Text.assemble(("Guess: ", "bold yellow"), printable(guess))
    yield Text("All of this is predicted. To be sure, measure it where it shall run: autotune probe.")


def as_json(estimate: Estimate) -> str:
    """The estimate as JSON of two-space indentation. README lists the keys; see `JSON_VERSION` for what is stable."""
    question, workload = estimate.question, estimate.workload
    document = {
        "version": JSON_VERSION,
        "predicted": True,
        "workload": workload.name,
        "parameters": workload.parameters,
        "assumptions": workload.assumptions,
        "rules": estimate.rules.value,
        "mode": question.mode.value,
        "accumulation_steps": question.accumulation_steps,
        "margin_share": estimate.margin_share,
        "guesses": estimate.guesses,
        "batch_sizes": estimate.batch_sizes,
        "devices": [_place_keys(place) for place in estimate.places],
        "variants": [_variant_keys(estimate, variant) for variant in estimate.variants],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _place_keys(place: Place) -> dict[str, Any]:
    return {"name": place.name, "memory_bytes": place.memory_bytes, "context_bytes": place.context_bytes}


def _variant_keys(estimate: Estimate, variant: Variant) -> dict[str, Any]:
    return {
        "precision": variant.precision.value,
        "checkpointing": variant.checkpointing,
        "no_forecast": variant.no_forecast or None,
        "largest_batch_sizes": variant.largest_batch_sizes,
        "sizes": [_footprint_keys(estimate, variant, one) for one in variant.footprints],
    }


def _footprint_keys(estimate: Estimate, variant: Variant, footprint: Footprint) -> dict[str, Any]:
    peak_bytes = _peak_bytes(estimate, variant, footprint)
    return {
        "batch_size": footprint.batch_size,
        "peak_bytes": peak_bytes,
        "peak_with_margin_bytes": estimate.with_margin(peak_bytes),
        **{key: getattr(footprint.composition, key) for key in _PARTS.values()},
        "allocator_bytes": _allocator_bytes(footprint),
        "process_bytes": peak_bytes - footprint.held_bytes,
        "phase": footprint.phase,
        "phase_peak_bytes": footprint.phase_peak_bytes,
        "operator": footprint.operator,
    }
