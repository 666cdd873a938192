"""Pictures of one result, or of several over each other, as matplotlib figures.

Needs matplotlib, without pyplot: no window opens and nothing that the user has set of matplotlib is changed. Promises
the kinds of picture in a fixed order, only those that the results have data for, and names as plain text.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autotune.errors import UsageError
from autotune.reports.findings import refused_sizes
from autotune.reports.labels import in_common, labels
from autotune.reports.palette import INK, MARKERS, MUTED, SERIES
from autotune.reports.panels import PANELS
from autotune.reports.plain_text import printable
from autotune.reports.strokes import CROSS, PANEL_INCHES, RING, Series, entitle
from autotune.reports.svg import as_svg, standalone, styled
from autotune.result import Result, write_whole
from autotune.units import format_count

__all__ = ["Picture", "as_png", "as_svg", "figures", "overview", "write_figure"]

PNG_DOTS_PER_INCH = 160  # twice a plain screen's, for screens with fine dots
_LEGEND_COLUMN_CHARACTERS = 34  # from here on labels stand below each other
_MOST_PANELS_ACROSS = 2
_LONGEST_NAME = 60  # characters; a longer one would leave no room for what is drawn
_HEADING_LEFT = 0.012  # share of the width left free beside the heading
_HEADING_POINTS = 12
_HEADING_CHARACTER = 0.7  # what a letter of it takes, as a share of its size; most take less


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook, whichever backend is active there."""

    def _repr_png_(self) -> bytes:
        return as_png(self)


def figures(results: Sequence[Result], kinds: Sequence[str] = tuple(PANELS)) -> dict[str, Figure]:
    """The pictures by kind, those that there is data for: all in the order of a report, or only these kinds.

    Several results are drawn over each other, with a legend that says how they differ.
    """
    drawn = _series(results)
    return {name: _single(name, chosen) for name in kinds if (chosen := _with_data(name, drawn))}


def overview(results: Sequence[Result]) -> Picture:
    """All pictures in one figure."""
    drawn = _series(results)
    kinds = {name: chosen for name in PANELS if (chosen := _with_data(name, drawn))}
    across = min(len(kinds), _MOST_PANELS_ACROSS)
    down = math.ceil(len(kinds) / across)
    heading = _heading(results, across)
    with styled():
        size = (PANEL_INCHES[0] * across, PANEL_INCHES[1] * down + 0.7)
        figure = Picture(figsize=size, layout="constrained", label=heading)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr,call-arg]
        figure.suptitle(heading, x=_HEADING_LEFT, ha="left", fontsize=_HEADING_POINTS, fontweight="bold", color=INK)
        axes = figure.subplots(down, across, squeeze=False).ravel()
        _draw_rows([list(axes[start : start + across]) for start in range(0, len(axes), across)], kinds)
        for empty in axes[len(kinds) :]:
            empty.set_axis_off()
        if len(drawn) > 1:
            _legend(figure, drawn, kinds)
    return figure


def write_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, or as .svg that follows a reader's light or dark setting.

    Raises:
        UsageError: the suffix is another one.
        ResultFileError: the file cannot be written.
    """
    target = Path(path)
    match target.suffix.lower():
        case ".png":
            write_whole(target, as_png(figure))
        case ".svg":
            write_whole(target, standalone(figure).encode())
        case _:
            raise UsageError(f"{target} is neither .png nor .svg.", remedy="Give the file one of these suffixes.")
    return target


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots per inch."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def _series(results: Sequence[Result]) -> list[Series]:
    return [
        Series(
            result=result,
            label=_shortened(label),
            colour=SERIES[number % len(SERIES)],
            marker=MARKERS[number % len(MARKERS)],
            is_only=len(results) == 1,
        )
        for number, (result, label) in enumerate(zip(results, labels(results), strict=True))
    ]


def _with_data(name: str, drawn: Sequence[Series]) -> list[Series]:
    return [series for series in drawn if PANELS[name].applies(series.result)]


def _single(name: str, drawn: Sequence[Series]) -> Figure:
    is_only = drawn[0].is_only
    with styled():
        rows = 0 if is_only else math.ceil(len(drawn) / _legend_columns(drawn))
        size = (PANEL_INCHES[0], PANEL_INCHES[1] + 0.19 * rows)
        figure = Picture(figsize=size, layout="constrained", label=_description(name, drawn))
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr,call-arg]
        kinds = {name: list(drawn)}
        _draw_rows([[figure.add_subplot()]], kinds)
        if not is_only:
            _legend(figure, drawn, kinds)
    return figure


def _draw_rows(grid: Sequence[Sequence[Axes]], kinds: dict[str, list[Series]]) -> None:
    """Draw the kinds row by row, the titles of a row at the same height."""
    names = iter(kinds)
    for row in grid:
        drawn = {name: axes for axes, name in zip(row, names, strict=False)}
        label_rows = max(PANELS[name].draw(axes, kinds[name]) for name, axes in drawn.items())
        for name, axes in drawn.items():
            entitle(axes, PANELS[name].title, label_rows)


def _legend(figure: Figure, drawn: Sequence[Series], kinds: dict[str, list[Series]]) -> None:
    """Which curve is whose, below the pictures, and what the ring means, and the cross where there is one."""
    from matplotlib.lines import Line2D

    handles = [(s.label, Line2D([], [], color=s.colour, marker=s.marker, markersize=5.5)) for s in drawn]
    handles.append(("recommended", Line2D([], [], **RING, markersize=9)))
    if any(refused_sizes(series.result) for series in kinds.get("memory", ())):
        handles.append(("refused", Line2D([], [], **CROSS, color=MUTED)))
    legend = figure.legend(
        [handle for _, handle in handles],
        [str(number) for number in range(len(handles))],  # a label that begins with "_" would be left out
        loc="outside lower left",
        ncols=_legend_columns(drawn),
        labelcolor=MUTED,
    )
    for text, (label, _) in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)


def _legend_columns(drawn: Sequence[Series]) -> int:
    longest = max(len(series.label) for series in drawn)
    return 1 if longest > _LEGEND_COLUMN_CHARACTERS else 2 if longest > _LEGEND_COLUMN_CHARACTERS // 2 else 3


def _shortened(text: str, end: int = _LONGEST_NAME // 2) -> str:
    """A long text without its middle, since what tells two names apart mostly stands at an end; `end` is kept there."""
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 1 - end]}…{text[len(text) - end :]}"


def _heading(results: Sequence[Result], across: int) -> str:
    """What a picture of so many panels across is of."""
    if len(results) > 1:
        count = f"{len(results)} results"
        width = (1 - 2 * _HEADING_LEFT) * across * PANEL_INCHES[0] * 72
        room = int(width / (_HEADING_CHARACTER * _HEADING_POINTS))
        alike = _fitting(in_common(results), room - len(f"{count} ()"))
        return f"{count} ({alike})" if alike else count
    result = results[0]
    environment, spec = result.environment, result.spec
    name = f"{_shortened(printable(result.workload.name))}: batch size {format_count(result.batch_size)}"
    return f"{name} ({spec.mode.value} in {spec.precision.value} on {_shortened(printable(environment.device_name))})"


def _fitting(text: str, room: int) -> str:
    """As many of the parts between commas as so many characters have room for; of a long one, its beginning."""
    if len(text) <= room:
        return text
    start = text[: room - 2].rpartition(", ")[0]
    return f"{start}, …" if start else f"{text[: room - 1]}…"


def _description(name: str, drawn: Sequence[Series]) -> str:
    """What a picture shows, in words, for whoever cannot see it."""
    whose = ", ".join(series.label for series in drawn)
    recommended = ", ".join(format_count(series.result.batch_size) for series in drawn)
    return f"{PANELS[name].title} against the batch size, of {whose}. Recommended: {recommended}."
