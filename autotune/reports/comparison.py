"""A comparison as tables for a terminal, as Markdown for a pull request, or as JSON for a program.

Needs rich and the comparison. Promises that every change stands beside its verdict, that the tables keep to the
width they are given from 80 columns on, that nothing depends on colour, and that no name is obeyed by a terminal
or read as markup, Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.comparison import Comparison, Figure, Quantity, SizeChange, Verdict
from autotune.reports.markdown import escaped
from autotune.reports.plain_text import printable
from autotune.reports.terminal import WIDEST_TEXT, as_text, empty_table
from autotune.result import Result
from autotune.stats import Ratio
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

JSON_VERSION = 1
"""Raised when a key of the JSON changes its meaning or goes; new keys may come at any time."""

_UNKNOWN = "-"
_MANIFOLD = 10.0  # from here a change is written as a factor
_SUMMARY = ("", "old", "new", "change", "95% interval", "verdict")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A comparison with what the reader knows of it.

    `names` are what the old and the new result are called; `allowed` is the share by which each quantity may get
    worse, none for one that is not judged.
    """

    comparison: Comparison
    names: tuple[str, str]
    allowed: Mapping[Quantity, float]

    def verdict(self, figure: Figure) -> str:
        """The verdict, and what it is too much for: "slower, over 5%"."""
        share = self.allowed.get(figure.quantity)
        if share is None or not figure.is_regression(share):
            return figure.verdict.value
        return f"{figure.verdict.value}, over {share * 100:.3g}%"


# ---------------------------------------------------------------------- what is said


def _opening(shown: Shown) -> Iterator[str]:
    """What is compared, and what else changed besides."""
    results = (shown.comparison.old, shown.comparison.new)
    for word, name, result in zip(("old", "new"), shown.names, results, strict=True):
        spec = result.spec
        yield (
            f"{word}: {name}, {result.workload.name}, {spec.mode.value} in {spec.precision.value} on "
            f"{result.environment.device}, {result.created_at[:16].replace('T', ' ')}"
        )
    changed = [f"{d.name} {d.old}, now {d.new}" for d in shown.comparison.differences if not d.matters]
    if changed:
        yield f"also changed: {'; '.join(changed)}"


def _cautions(shown: Shown) -> Iterator[str]:
    """What speaks against taking the figures for the effect of one change."""
    for difference in shown.comparison.differences:
        if difference.matters:
            yield f"The {difference.name} is not the same: {difference.old}, now {difference.new}."
    old, new = shown.comparison.old.warnings, shown.comparison.new.warnings
    yield from (f"In both results: {warning}" for warning in old if warning in new)
    yield from (f"In the old result: {warning}" for warning in old if warning not in new)
    yield from (f"In the new result: {warning}" for warning in new if warning not in old)


def _notes(shown: Shown) -> Iterator[str]:
    """Where the figures of the table come from, as they stand beside those of a report."""
    yield "Samples/s as in each result's report; peaks are medians of a size's runs, where a report has the highest."
    if shown.comparison.pools_trials:
        yield "The speed over all sizes compares single trials: they are independent, unlike times of a final round."


def _conclusion(shown: Shown) -> Iterator[str]:
    """What the figures over all sizes say, and how small a change for the worse they could have missed."""
    for name, figure in (("Speed", shown.comparison.speed), ("Peak memory", shown.comparison.memory)):
        if figure.verdict is Verdict.NOT_TOLD_APART:
            yield f"{name} {figure.subject}: {figure.verdict.value} from noise. {_hidden(figure)}"
        else:
            yield (
                f"{name} {figure.subject}: {figure.verdict.value}, {_change(figure.ratio.median)} "
                f"(with 95% confidence {_interval(figure.ratio)})."
            )


def _hidden(figure: Figure) -> str:
    ratio = figure.ratio
    if _tells_nothing(ratio):
        return "There is too much noise to tell anything."
    missed = 1 - ratio.median / ratio.high if figure.quantity is Quantity.SPEED else ratio.median / ratio.low - 1
    return f"A change of more than {format_share(missed)} for the worse would have shown."


def _summary_rows(shown: Shown) -> Iterator[tuple[str, ...]]:
    """Cells in the order of the headings, the figures over all sizes first."""
    comparison = shown.comparison
    old, new = comparison.old, comparison.new
    over = "1 size" if len(comparison.sizes) == 1 else f"{format_count(len(comparison.sizes))} sizes"
    yield (f"speed, {over}", _UNKNOWN, _UNKNOWN, *_judged(shown, comparison.speed))
    yield (f"peak memory, {over}", _UNKNOWN, _UNKNOWN, *_judged(shown, comparison.memory))
    yield _plain("recommended size", format_count(old.batch_size), format_count(new.batch_size))
    if (figure := comparison.recommended) is not None:
        yield ("samples/s there", _speed(figure.old), _speed(figure.new), *_judged(shown, figure))
        yield from _epochs(figure, old, new)
    yield _plain("largest that fitted", format_count(old.max_batch_size), format_count(new.max_batch_size))


def _plain(name: str, old: str, new: str) -> tuple[str, ...]:
    """A row without a verdict of its own."""
    return (name, old, new, "same" if old == new else "differs", "", "")


def _epochs(figure: Figure, old: Result, new: Result) -> Iterator[tuple[str, ...]]:
    samples = (old.workload.dataset_size, new.workload.dataset_size)
    if samples[0] and samples[1] and figure.old and figure.new:
        seconds = (samples[0] / figure.old, samples[1] / figure.new)
        times = [format_seconds(value, compact=True) for value in seconds]
        yield ("epoch there", *times, _change(seconds[1] / seconds[0]), "", "")


def _judged(shown: Shown, figure: Figure) -> tuple[str, str, str]:
    return _change(figure.ratio.median), _interval(figure.ratio), shown.verdict(figure)


def _change(ratio: float) -> str:
    """A ratio as a change, and as a factor where a percentage says little."""
    return _factor(ratio) if ratio >= _MANIFOLD or ratio <= 1 / _MANIFOLD else _percentage(ratio)


def _factor(ratio: float) -> str:
    return f"x {format_number(ratio)}"


def _percentage(ratio: float) -> str:
    """A ratio as "-3.2%", "+12%", "0%"."""
    share = format_share(ratio - 1)
    return f"+{share}" if ratio > 1 and share != "0.0%" else share.replace("-0.0%", "0.0%")


def _interval(ratio: Ratio) -> str:
    """Both ends in one notation: factors where the change itself is one, or where the upper end would be."""
    if ratio.is_tie and _tells_nothing(ratio):
        return "unknown"
    written = _factor if ratio.median <= 1 / _MANIFOLD or ratio.high >= _MANIFOLD else _percentage
    return f"{written(ratio.low)} to {written(ratio.high)}"


def _tells_nothing(ratio: Ratio) -> bool:
    return ratio.high >= _MANIFOLD**2 * ratio.low


def _speed(samples_per_second: float | None) -> str:
    return _UNKNOWN if samples_per_second is None else format_number(samples_per_second)


def _bytes(size_bytes: float | None) -> str:
    return _UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def _size_headings(*, intervals: bool) -> list[str]:
    interval = ["95%\ninterval"] if intervals else []
    speeds = ["old\nsamples/s", "new\nsamples/s", "change", *interval]
    return ["batch\nsize", *speeds, "old\npeak", "new\npeak", "change", *interval, "verdict"]


def _size_row(shown: Shown, size: SizeChange, *, intervals: bool) -> list[str]:
    speed, memory = size.speed, size.memory
    cells = [format_count(size.batch_size)]
    for figure, written in ((speed, _speed), (memory, _bytes)):
        cells += [written(figure.old), written(figure.new), _change(figure.ratio.median)]
        cells += [_interval(figure.ratio)] if intervals else []
    return [*cells, _size_verdict(shown, size)]


def _size_verdict(shown: Shown, size: SizeChange) -> str:
    """What is real of a batch size's two changes."""
    real = [shown.verdict(f) for f in (size.speed, size.memory) if f.verdict is not Verdict.NOT_TOLD_APART]
    return "; ".join(real) or Verdict.NOT_TOLD_APART.value


# ---------------------------------------------------------------------- for a terminal


def render(shown: Shown, width: int = WIDEST_TEXT) -> str:
    """The whole comparison as plain text, `width` columns wide."""
    return as_text(report(shown, width), width)


def report(shown: Shown, width: int) -> RenderableType:
    """The whole comparison for a console `width` columns wide."""
    opening = Text("\n").join(Text(printable(line), style="dim") for line in _opening(shown))
    notes = Text("\n").join(Text(line, style="dim") for line in _notes(shown))
    parts: list[RenderableType] = [opening, Text(), _sizes_table(shown, width), notes, Text()]
    parts += [_summary_table(shown, width), Text()]
    parts += [Text(line) for line in _conclusion(shown)]
    parts += [Text.assemble(("Caution: ", "bold yellow"), printable(line)) for line in _cautions(shown)]
    return Group(*parts)


def _sizes_table(shown: Shown, width: int) -> Table:
    """One row a batch size, with intervals where there is room for them."""
    intervals = width >= WIDEST_TEXT
    made = empty_table(width)
    *figures, verdict = _size_headings(intervals=intervals)
    for name in figures:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column(verdict)
    for size in shown.comparison.sizes:
        cells = _size_row(shown, size, intervals=intervals)
        made.add_row(*cells, style=_style(size.speed, size.memory))
    return made


def _summary_table(shown: Shown, width: int) -> Table:
    made = empty_table(width)
    first, *figures, verdict = _SUMMARY
    made.add_column(first)
    for name in figures:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column(verdict)
    for cells in _summary_rows(shown):
        made.add_row(*cells)
    return made


def _style(*figures: Figure) -> str:
    """Red where something got worse, else green where something got better."""
    verdicts = {figure.verdict for figure in figures}
    if verdicts & {Verdict.SLOWER, Verdict.MORE_MEMORY}:
        return "red"
    return "green" if verdicts & {Verdict.FASTER, Verdict.LESS_MEMORY} else ""


# ---------------------------------------------------------------------- for a pull request


def as_markdown(shown: Shown) -> str:
    """The whole comparison in GitHub's flavour of Markdown, the batch sizes folded away."""
    sizes = [_size_row(shown, size, intervals=True) for size in shown.comparison.sizes]
    headings = [heading.replace("\n", " ") for heading in _size_headings(intervals=True)]
    cautions = "\n".join(["> [!WARNING]", *(f"> - {_escaped(line)}" for line in _cautions(shown))])
    blocks = [
        "### Batch sizes compared",
        "  \n".join(_escaped(line) for line in _conclusion(shown)),
        *([cautions] if any(_cautions(shown)) else []),
        _markdown_table(_SUMMARY, list(_summary_rows(shown))),
        "<details>\n<summary>By batch size</summary>",
        _markdown_table(headings, sizes),
        "  \n".join(_escaped(line) for line in _notes(shown)),
        "  \n".join(_escaped(line) for line in _opening(shown)),
        "</details>",
    ]
    return "\n\n".join(blocks)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 2), "---"]
    lines = [[_escaped(cell) for cell in headings], rule, *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return escaped(printable(text))


# ---------------------------------------------------------------------- for a program


def as_json(shown: Shown) -> str:
    """The whole comparison as JSON. Shares and ratios are fractions, memory is in bytes, speed in samples/s."""
    comparison = shown.comparison
    content: dict[str, Any] = {
        "version": JSON_VERSION,
        "names": dict(zip(("old", "new"), shown.names, strict=True)),
        "allowed": {quantity.value: share for quantity, share in shown.allowed.items()},
        "regressions": [_record(shown, figure) for figure in comparison.regressions(shown.allowed)],
        "speed": _record(shown, comparison.speed),
        "memory": _record(shown, comparison.memory),
        "recommended": None if comparison.recommended is None else _record(shown, comparison.recommended),
        "recommended_batch_size": {"old": comparison.old.batch_size, "new": comparison.new.batch_size},
        "max_batch_size": {"old": comparison.old.max_batch_size, "new": comparison.new.max_batch_size},
        "sizes": [
            {
                "batch_size": size.batch_size,
                "speed": _record(shown, size.speed),
                "memory": _record(shown, size.memory),
            }
            for size in comparison.sizes
        ],
        "differences": [
            {"name": d.name, "old": d.old, "new": d.new, "matters": d.matters} for d in comparison.differences
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _record(shown: Shown, figure: Figure) -> dict[str, Any]:
    """A figure; an interval without an upper end has null there."""
    share = shown.allowed.get(figure.quantity)
    return {
        "subject": figure.subject,
        "old": figure.old,
        "new": figure.new,
        "ratio": figure.ratio.median,
        "low": figure.ratio.low,
        "high": figure.ratio.high,
        "verdict": figure.verdict.value,
        "is_regression": share is not None and figure.is_regression(share),
    }
