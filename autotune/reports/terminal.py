"""A result as a table and a paragraph, for a terminal, a log or a file.

Needs rich and the records. Promises that no figure depends on colour (the recommended row says so in words),
that all columns stand side by side from 80 columns on, and that nothing in a model's name is taken for markup.
Only the named colours of the terminal's own theme are used, so light and dark backgrounds both work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import StringIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.reports.plain_text import printable
from autotune.reports.rows import Row, batches_per_epoch, epoch_seconds, rows
from autotune.reports.sheet_tables import Table as Plain
from autotune.reports.sheet_tables import quality_table, verification_table
from autotune.reports.training_words import quality_words, verification_words
from autotune.reports.words import advice, answer, cautions, feeding, forecast_quality, verdict
from autotune.result import Result
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

WIDEST_TEXT = 120  # columns; longer lines are hard to follow from one to the next
ROOMY_WIDTH = 100  # columns; from here two blanks between columns fit
_UNKNOWN = "-"
_NARROWEST_OUTCOME = 13  # columns, so that no word of an outcome is broken


def render(result: Result, width: int = WIDEST_TEXT) -> str:
    """The whole report as plain text, `width` columns wide."""
    return as_text(report(result, width), width)


def as_text(shown: RenderableType, width: int) -> str:
    """Anything that rich shows as plain text, `width` columns wide."""
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def empty_table(width: int) -> Table:
    """A table in the look of all of ours, for a console `width` columns wide."""
    padding = (0, gap_columns(width), 0, 0)
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding, header_style="bold")


def gap_columns(width: int) -> int:
    """How many blanks stand between two columns, beside the one that is always there."""
    return 1 if width >= ROOMY_WIDTH else 0


def report(result: Result, width: int) -> RenderableType:
    """The whole report for a console `width` columns wide: what ran, the table, the answer and the cautions."""
    parts: list[RenderableType] = [_heading(result), Text(), table(result, width), Text(), Text(answer(result))]
    if (figures := quality_table(result)) is not None:
        parts += [Text(), as_rich(figures, width, without=("batches/epoch", "epoch time")), Text()]
    parts += [Text.assemble(("Model: ", "bold"), text) for text in filter(None, [quality_words(result)])]
    if result.verification is not None:
        parts += [Text(), verification(result, width)]
    parts += [Text.assemble(("Data: ", "bold"), text) for text in filter(None, [feeding(result)])]
    parts += [Text.assemble(("Caution: ", "bold yellow"), caution) for caution in cautions(result)]
    parts += [Text.assemble(("Advice: ", "bold"), text) for text in advice(result)]
    return Group(*parts)


def verification(result: Result, width: int) -> RenderableType:
    """What training some batch sizes has shown, for a console `width` columns wide."""
    figures = verification_table(result)
    assert figures is not None  # there is something to show
    words = Text.assemble(("Verified: ", "bold"), verification_words(result))
    return Group(as_rich(figures, width), Text(), words)


def _heading(result: Result) -> Text:
    spec, environment, workload = result.spec, result.environment, result.workload
    size = f", {format_count(workload.parameters)} parameters" if workload.parameters is not None else ""
    place = "" if result.isolated else ", in the caller's process (not isolated)"
    lines = [
        f"{spec.mode.value} in {spec.precision.value} on {environment.device} ({environment.device_name}), "
        f"{environment.threads} thread{'' if environment.threads == 1 else 's'}{place}",
        f"memory budget {format_bytes(result.budget_bytes)} of {format_bytes(result.free_bytes)} free",
        *(f"assumed: {assumption}" for assumption in workload.assumptions),
        *filter(None, [forecast_quality(result)]),
    ]
    head = Text.assemble((printable(workload.name), "bold"), size)
    return Text("\n").join([head, *(Text(printable(line), style="dim") for line in lines)])


def table(result: Result, width: int = WIDEST_TEXT) -> Table:
    """One row a batch size, ascending, for a console `width` columns wide."""
    made = empty_table(width)
    for name in _headings(result):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("outcome", min_width=_NARROWEST_OUTCOME)
    for row in rows(result):
        made.add_row(
            *_figures(row, result),
            Text(verdict(row, result), style="red" if row.refusal is not None else ""),
            style="bold green" if row.batch_size == result.batch_size else "",
        )
    return made


def as_rich(figures: Plain, width: int, without: Collection[str] = ()) -> Table:
    """A table of the written reports for a terminal, without the columns of these headings."""
    made = empty_table(width)
    shown = [place for place, heading in enumerate(figures.headings) if heading not in without]
    for place in shown:
        made.add_column(figures.headings[place].replace(" ", "\n", 1), justify="right", no_wrap=True)
    for index, row in enumerate(figures.rows):
        style = "bold green" if index == figures.marked_row else ""
        made.add_row(*(row[place].text for place in shown), style=style)
    return made


def _headings(result: Result) -> list[str]:
    names = ["batch\nsize", "samples\n/s", "±", "step\ntime", "peak\nmemory", "of\nbudget"]
    return names + (["batches\n/epoch", "epoch\ntime"] if result.workload.dataset_size else [])


def _figures(row: Row, result: Result) -> Iterator[str]:
    speed, peak_bytes, dataset_size = row.speed, row.peak_bytes, result.workload.dataset_size
    margin = speed.margin if speed else None
    yield format_count(row.batch_size)
    yield format_number(speed.samples_per_second) if speed else _UNKNOWN
    yield format_share(margin) if margin is not None else _UNKNOWN
    yield format_seconds(row.step_seconds, compact=True) if row.step_seconds else _UNKNOWN
    yield format_bytes(peak_bytes) if peak_bytes is not None else _UNKNOWN
    yield format_share(peak_bytes / result.budget_bytes) if peak_bytes is not None else _UNKNOWN
    if dataset_size:
        yield format_count(batches_per_epoch(dataset_size, row.batch_size))
        yield format_seconds(epoch_seconds(dataset_size, row.batch_size, speed), compact=True) if speed else _UNKNOWN
