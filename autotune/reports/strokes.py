"""The strokes that all pictures share: a curve with its intervals, a ring, labels above the axes, a remark, a legend.

Needs matplotlib. Promises that labels above the axes never overlap, and that no text is taken for markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from autotune.reports.palette import INK, MARKERS, MUTED, PAPER, SERIES
from autotune.result import Result

PANEL_INCHES = (5.6, 3.9)
"""Width and height of one picture: narrow, so that its text stays readable on a phone."""

DENSE = 40
"""From so many points on, bars and markers would hide each other: a band and small dots stand in."""

_LABEL_POINTS = 8.5
_ROW_POINTS = 12.0  # height of a row of labels above the axes
_CHARACTER, _BOLD_CHARACTER = 0.56, 0.64  # mean widths in DejaVu Sans as shares of its size, rounded up
_AXES_SHARE = 0.82  # of a picture's width, beside the texts of its ticks

_GAP = 4.0  # sizes further apart than this factor are not joined: what lies between is not known

RING: dict[str, Any] = {
    "marker": "o",
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 1.5,
    "linestyle": "",
}
"""The sign of the recommended batch size."""

CROSS: dict[str, Any] = {"marker": "x", "markersize": 6.5, "markeredgewidth": 1.6, "linestyle": ""}
"""The sign of a batch size that was refused."""

Point = tuple[int, float]
"""A batch size and what was measured there."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A result to be drawn, and by what its curve is known; `is_only` where its report holds no other."""

    result: Result
    label: str
    colour: str
    marker: str
    is_only: bool


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A batch size that a label above the axes names, and the height of its point."""

    batch_size: int
    text: str
    height: float
    strong: bool = False


def curve(
    axes: Axes,
    series: Series,
    points: Sequence[Point],
    intervals: Sequence[tuple[float, float]] = (),
    *,
    label: str = "",
    line: bool = True,
) -> None:
    """Points joined by a line, with their intervals as bars, or as a band where there are many."""
    dense = len(points) > DENSE
    style: dict[str, Any] = {"color": series.colour, "marker": series.marker, "label": label or series.label}
    style |= {"markersize": 2.5 if dense else 5.5, "linewidth": 1.0 if dense else 1.5, "zorder": 3}
    style |= {"markeredgecolor": series.colour if dense else PAPER, "markeredgewidth": 0.0 if dense else 0.6}
    axes.plot(*columns(_broken(points)), **style, linestyle="-" if line else "")
    if not intervals:
        return
    ends = [[(size, interval[end]) for (size, _), interval in zip(points, intervals, strict=True)] for end in (0, 1)]
    (xs, lows), (_, highs) = (columns(_broken(end)) for end in ends)
    if dense:
        axes.fill_between(xs, lows, highs, color=series.colour, alpha=0.22, linewidth=0)
    else:
        axes.vlines(xs, lows, highs, color=series.colour, linewidth=1.3, zorder=2.5)


def _broken(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The points, with one that cannot be drawn between neighbours that no line shall join."""
    gap = (math.nan, math.nan)
    joined: list[tuple[float, float]] = []
    for point in points:
        joined += [gap, point] if joined and point[0] > _GAP * joined[-1][0] else [point]
    return joined


def ring(axes: Axes, series: Series, points: Sequence[Point]) -> None:
    """A ring around the recommended batch size."""
    height = dict(points).get(series.result.batch_size)
    if height is not None:
        axes.plot(series.result.batch_size, height, **RING, markersize=11, zorder=6)


def variant(series: Series, order: int) -> Series:
    """The series in another colour and with another marker."""
    colour, marker = SERIES[order % len(SERIES)], MARKERS[order % len(MARKERS)]
    return replace(series, colour=colour, marker=marker)


def mark_sizes(axes: Axes, marks: Sequence[Mark]) -> int:
    """Name batch sizes above the axes, each with a thin line down to its point; returns how many rows they need."""
    width = PANEL_INCHES[0] * 72 * _AXES_SHARE
    ends: list[float] = []  # where the last label of each row ends, the lowest row first
    for mark in sorted(marks, key=lambda mark: mark.batch_size):
        place = width * _position(axes, mark.batch_size)
        length = len(mark.text) * _LABEL_POINTS * (_BOLD_CHARACTER if mark.strong else _CHARACTER)
        left = min(max(place - length / 2, 0.0), max(width - length, 0.0))
        row = next((row for row, end in enumerate(ends) if end < left), len(ends))
        ends[row : row + 1] = [left + length + _LABEL_POINTS]
        _label(axes, mark, row, "left" if left == 0 else "right" if left + length >= width else "center")
    return len(ends)


def entitle(axes: Axes, title: str, rows: int) -> None:
    """Set the title above so many rows of labels."""
    axes.set_title(title, loc="left", pad=8 + _ROW_POINTS * rows)


def _label(axes: Axes, mark: Mark, row: int, side: Literal["left", "center", "right"]) -> None:
    """Centre the text over its size, or end it with the axes where it would reach over them."""
    place = {"left": 0.0, "center": _position(axes, mark.batch_size), "right": 1.0}[side]
    axes.annotate(
        mark.text,
        (place, 1),
        xycoords="axes fraction",
        xytext=(0, 3 + _ROW_POINTS * row),
        textcoords="offset points",
        ha=side,
        fontsize=_LABEL_POINTS,
        fontweight="bold" if mark.strong else "normal",
        color=INK if mark.strong else MUTED,
        annotation_clip=False,
    )
    axes.plot([mark.batch_size] * 2, [mark.height, axes.get_ylim()[1]], color=MUTED, linewidth=0.7, zorder=1.6)


def _position(axes: Axes, batch_size: int) -> float:
    """Where a batch size lies on its axis, from 0 at the left end to 1 at the right."""
    low, high = axes.get_xlim()
    return math.log(batch_size / low) / math.log(high / low)


def note(
    axes: Axes,
    place: tuple[float, float],
    text: str,
    *,
    ha: str,
    va: str,
    transformed: float | None = None,
) -> None:
    """A quiet remark inside the axes; `place` is a batch size and a share of the height.

    The name of a line has its height in `transformed`, in place of the share, and is struck by nothing that is drawn.
    """
    pad = {"left": 4.0, "right": -4.0, "center": 0.0}[ha]
    lift = {"bottom": 2.5, "top": -2.5, "center": 0.0}[va]
    height = place[1] if transformed is None else transformed
    axes.annotate(
        text,
        (place[0], height),
        xycoords=axes.get_xaxis_transform() if transformed is None else "data",
        xytext=(pad, lift),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=8,
        color=MUTED,
        zorder=4,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.6 if transformed is None else 1.0, "pad": 0.5},
    )


def sign_legend(axes: Axes, columns: int = 3) -> None:
    """What the signs mean, below the axes; each sign once."""
    handles, texts = axes.get_legend_handles_labels()
    chosen = dict(zip(texts, handles, strict=True))
    if len(chosen) > 1:
        figure = axes.get_figure(root=True)
        assert figure is not None
        # by points, since by shares of the axes, whose height depends on this legend, no layout would settle
        below = ScaledTranslation(-7 / 72, -33 / 72, figure.dpi_scale_trans)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": columns}
        place["bbox_transform"] = axes.transAxes + below
        axes.legend(list(chosen.values()), list(chosen), **place, columnspacing=1.4)


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The points' coordinates, those along each axis together."""
    return [x for x, _ in points], [y for _, y in points]
