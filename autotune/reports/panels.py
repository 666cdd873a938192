"""One drawing for each question: how fast, how much memory, how long a step, an epoch, a batch, how much energy.

Needs matplotlib. Each function draws on the axes it is given. Promises the same look whether one result is drawn,
with its marks and what explains them, or several over each other, where a curve and its recommended size must do.
Nothing is told by colour alone: markers, line styles and words say it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.axes import Axes

from autotune.reports.findings import (
    energy_by_size,
    first_forecast,
    knee,
    latencies,
    peaks,
    plateau,
    step_line,
    timed_rows,
)
from autotune.reports.palette import INK, MUTED, SERIES
from autotune.reports.rows import batches_per_epoch, epoch_seconds, rows
from autotune.reports.scales import amount_axis, batch_axis, bytes_axis, seconds_axis
from autotune.reports.strokes import Mark, Point, Series, columns, curve, mark_sizes, note, ring, sign_legend, variant
from autotune.result import Result
from autotune.spec import Mode, Objective
from autotune.stats import median
from autotune.step_line import StepLine
from autotune.trial import Outcome
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

_FAR_BELOW = 0.35  # where the highest peak is below this share of the budget, the line would flatten the curve
Roles = dict[str, int | None]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A kind of picture: what it shows, of which results it can be drawn, and how."""

    title: str
    applies: Callable[[Result], bool]
    draw: Callable[[Axes, Sequence[Series]], None]


def draw_throughput(axes: Axes, drawn: Sequence[Series]) -> None:
    """Samples/s with 95% intervals; knee, recommendation, fastest and plateau, where one result is drawn."""
    highest, sizes = 0.0, set[int]()
    for series in drawn:
        timed = [(row.batch_size, row.speed) for row in timed_rows(series.result) if row.speed]
        points = [(size, speed.samples_per_second) for size, speed in timed]
        intervals = [speed.interval or (speed.samples_per_second,) * 2 for _, speed in timed]
        curve(axes, series, points, intervals)
        ring(axes, series, points)
        highest = max(highest, *(high for _, high in intervals))
        sizes |= {size for size, _ in points}
    batch_axis(axes, sorted(sizes))
    amount_axis(axes, highest)
    if len(drawn) == 1:
        _explain_throughput(axes, drawn[0].result)


def _explain_throughput(axes: Axes, result: Result) -> None:
    speeds = {row.batch_size: row.speed.samples_per_second for row in timed_rows(result) if row.speed}
    roles = _roles(result) | ({} if result.spec.objective is Objective.THROUGHPUT else {"knee": knee(result)})
    mark_sizes(axes, _marks(roles, speeds, result))
    span = plateau(result)
    if span is None:
        return
    tolerance = f"{result.spec.tolerance * 100:.3g}%"
    best = result.recommendation.fastest_samples_per_second
    axes.axhspan(best * (1 - result.spec.tolerance), best, color=SERIES[0], alpha=0.13, linewidth=0)
    axes.axvspan(*span, color=MUTED, alpha=0.09, linewidth=0)
    text = f"plateau: no larger batch\nis over {tolerance} faster"
    right = span[1] / span[0] < 4
    place = span[1] if right else math.sqrt(span[0] * span[1])
    note(axes, (place, 0.03), text, ha="right" if right else "center", va="bottom")
    if speeds[min(speeds)] < 0.8 * best:
        height = best / axes.get_ylim()[1]
        note(axes, (axes.get_xlim()[0], height), f"within {tolerance} of the fastest", ha="left", va="bottom")


def draw_memory(axes: Axes, drawn: Sequence[Series]) -> None:
    """Peak memory of the process, what was forecast after the first trial, the budget, and what was refused."""
    tried = sorted({row.batch_size for series in drawn for row in rows(series.result)})
    highest = 0.0
    for series in drawn:
        measured = peaks(series.result)
        points = [(size, float(max(found))) for size, found in measured.items()]
        label = "measured peak" if len(drawn) == 1 else ""
        curve(axes, series, points, [(min(found), max(found)) for found in measured.values()], label=label)
        highest = max([highest, *(peak for _, peak in points)])
        _refused(axes, series, measured)
        if len(drawn) > 1:
            ring(axes, series, points)
    batch_axis(axes, tried)
    top = _budgets(axes, drawn, highest)
    bytes_axis(axes, top)
    if len(drawn) == 1:
        _explain_memory(axes, drawn[0].result)


def _explain_memory(axes: Axes, result: Result) -> None:
    forecast = first_forecast(result)
    if forecast:
        label = "forecast after the first trial"
        axes.plot(*columns(forecast), color=SERIES[1], linestyle=(0, (4, 2)), linewidth=1.5, label=label, zorder=2)
    heights = {size: float(max(found)) for size, found in peaks(result).items()}
    roles: Roles = {"recommended": result.batch_size, "largest": result.max_batch_size}
    marks = _marks(roles, heights, result)
    if (refused := result.edge.smallest_refused) is not None:
        marks.append(Mark(batch_size=refused, text=f"{format_count(refused)}: refused", height=result.budget_bytes))
    mark_sizes(axes, marks)
    sign_legend(axes)


def _refused(axes: Axes, series: Series, measured: dict[int, list[int]]) -> None:
    """A cross at each size that did not fit: at its peak, or on the budget's line where that was not seen."""
    refused = [row.batch_size for row in rows(series.result) if row.refusal and not row.refusal.fits]
    heights = [float(max(measured.get(size, [series.result.budget_bytes]))) for size in refused]
    if refused:
        style = {"color": INK, "marker": "x", "markersize": 6.5, "markeredgewidth": 1.6, "linestyle": ""}
        axes.plot(refused, heights, **style, label="refused", zorder=5)  # type: ignore[arg-type]


def _budgets(axes: Axes, drawn: Sequence[Series], highest: float) -> float:
    """Draw the budgets that the curves come near; returns where the axis shall end, in bytes."""
    top = highest * 1.25
    for budget, same in _grouped((series.result.budget_bytes, series) for series in drawn).items():
        alone = len(same) == len(drawn)
        if highest < _FAR_BELOW * budget and not _has_refused(same):
            text = f"↑ the budget is {format_bytes(budget)}, far above"
            if alone:
                note(axes, (axes.get_xlim()[0], 0.97), text, ha="left", va="top")
            continue
        top = max(top if alone else 0, highest * 1.08, budget * 1.08)
        colour = INK if alone else same[0].colour
        axes.axhline(budget, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.4, zorder=1.5)
        text = f"memory budget {format_bytes(budget)}" if alone else f"budget {format_bytes(budget)}"
        note(axes, (axes.get_xlim()[0], budget / top), text, ha="left", va="top", transformed=budget)
    return top


def _has_refused(drawn: Iterable[Series]) -> bool:
    return any(row.refusal and row.refusal.outcome is Outcome.OUT_OF_MEMORY for s in drawn for row in rows(s.result))


def draw_step_time(axes: Axes, drawn: Sequence[Series]) -> None:
    """The median time of a step, and the line through it with the batch size h where its two parts are equal."""
    points: dict[str, list[Point]] = {}
    for series in drawn:
        found = [(row.batch_size, row.step_seconds) for row in timed_rows(series.result) if row.step_seconds]
        points[series.label] = found
        curve(axes, series, found, label="median of the steps" if len(drawn) == 1 else "", line=len(drawn) > 1)
        ring(axes, series, found)
    batch_axis(axes, _sizes(points.values()))
    seconds_axis(axes, [value for found in points.values() for _, value in found])
    if len(drawn) == 1:
        _explain_step_time(axes, drawn[0].result, points[drawn[0].label])


def _explain_step_time(axes: Axes, result: Result, points: Sequence[Point]) -> None:
    marks = _marks({"recommended": result.batch_size}, dict(points), result)
    line = step_line(result)
    if line is not None:
        first, last = min(points)[0], max(points)[0]
        sizes = [first * (last / first) ** (i / 80) for i in range(81)]
        style = {"color": SERIES[1], "linestyle": (0, (4, 2)), "linewidth": 1.5, "zorder": 2}
        axes.plot(sizes, [line.seconds(size) for size in sizes], **style, label=_equation(line, points))  # type: ignore[arg-type]
        h = line.half_throughput_batch_size
        if h is not None and first <= h <= last:
            text = f"h = {format_number(h)}: half of the top speed"
            marks.append(Mark(batch_size=round(h), text=text, height=line.seconds(h)))
    mark_sizes(axes, marks)
    sign_legend(axes, columns=1)


def _equation(line: StepLine, points: Sequence[Point]) -> str:
    alpha, beta = format_seconds(line.alpha_seconds), format_seconds(line.beta_seconds)
    h = line.half_throughput_batch_size
    off = format_share(median([abs(line.seconds(size) / seconds - 1) for size, seconds in points]))
    known = f", h = {format_number(h)}" if h is not None else ""
    return f"t(b) = {alpha} + {beta} · b{known}; off by {off} in the median"


def draw_epoch_time(axes: Axes, drawn: Sequence[Series]) -> None:
    """How long the steps of an epoch take; below the batch sizes, how many batches they make."""
    points: dict[str, list[Point]] = {}
    for series in drawn:
        dataset_size = series.result.workload.dataset_size or 0
        timed = [(row.batch_size, row.speed) for row in timed_rows(series.result) if row.speed]
        points[series.label] = found = [(size, epoch_seconds(dataset_size, speed)) for size, speed in timed]
        curve(axes, series, found)
        ring(axes, series, found)
    datasets = {series.result.workload.dataset_size or 0 for series in drawn}
    batches = (lambda size: format_count(batches_per_epoch(max(datasets), size))) if len(datasets) == 1 else None
    batch_axis(axes, _sizes(points.values()), below=batches)
    if batches:
        axes.set_xlabel("batch size\nbatches per epoch")
    seconds_axis(axes, [value for found in points.values() for _, value in found])
    if len(drawn) == 1:
        result = drawn[0].result
        mark_sizes(axes, _marks(_roles(result), dict(points[drawn[0].label]), result))


def draw_latency(axes: Axes, drawn: Sequence[Series]) -> None:
    """How long a batch takes: median and two tails, or one tail of several results; and the limit."""
    shares = (0.50, 0.95, 0.99) if len(drawn) == 1 else (0.95,)
    everything: list[list[Point]] = []
    for series in drawn:
        for order, share in enumerate(shares):
            found = latencies(series.result, share)
            shown = series if len(drawn) > 1 else variant(series, order)
            curve(axes, shown, found, label=f"{share:.0%} of the batches" if len(drawn) == 1 else "")
            everything.append(found)
        if len(drawn) > 1:
            ring(axes, series, found)
    batch_axis(axes, _sizes(everything))
    limits = sorted({s.result.spec.latency_seconds for s in drawn if s.result.spec.latency_seconds is not None})
    seconds_axis(axes, [*(value for found in everything for _, value in found), *limits])
    for limit in limits:
        axes.axhline(limit, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.4, zorder=1.5)
        text = f"limit {format_seconds(limit)} for 95%"
        note(axes, (axes.get_xlim()[0], 0), text, ha="left", va="bottom", transformed=limit)
    if len(drawn) == 1:
        result = drawn[0].result
        mark_sizes(axes, _marks({"recommended": result.batch_size}, dict(everything[1]), result))
        sign_legend(axes)


def draw_energy(axes: Axes, drawn: Sequence[Series]) -> None:
    """Joules per sample, as the device's own meter gave it."""
    points: dict[str, list[Point]] = {}
    for series in drawn:
        points[series.label] = found = list(energy_by_size(series.result).items())
        curve(axes, series, found)
        ring(axes, series, found)
    batch_axis(axes, _sizes(points.values()))
    amount_axis(axes, max(value for found in points.values() for _, value in found))
    if len(drawn) == 1:
        result = drawn[0].result
        mark_sizes(axes, _marks(_roles(result), dict(points[drawn[0].label]), result))


PANELS: dict[str, Panel] = {
    "throughput": Panel(
        title="Samples per second, with 95% intervals",
        applies=lambda result: bool(timed_rows(result)),
        draw=draw_throughput,
    ),
    "memory": Panel(title="Peak memory", applies=lambda result: bool(peaks(result)), draw=draw_memory),
    "step time": Panel(title="Time of a step", applies=lambda result: bool(timed_rows(result)), draw=draw_step_time),
    "epoch time": Panel(
        title="Time of an epoch",
        applies=lambda result: bool(result.workload.dataset_size and timed_rows(result)),
        draw=draw_epoch_time,
    ),
    "latency": Panel(
        title="Latency: a batch takes at most",
        applies=lambda result: result.spec.mode is Mode.INFERENCE and bool(latencies(result, 0.5)),
        draw=draw_latency,
    ),
    "energy": Panel(
        title="Energy per sample, in joules", applies=lambda result: bool(energy_by_size(result)), draw=draw_energy
    ),
}
"""The kinds of picture in the order in which a report shows them."""


def _roles(result: Result) -> Roles:
    return {
        "recommended": result.batch_size,
        "fastest": result.recommendation.fastest_batch_size,
        "largest": result.max_batch_size,
    }


def _marks(roles: Roles, heights: dict[int, float], result: Result) -> list[Mark]:
    """A mark for each batch size that plays a role and has a point; "recommended" says so of the knee too."""
    by_size = _grouped((size, role) for role, size in roles.items() if size in heights)
    is_knee = knee(result) == result.batch_size and plateau(result) is not None
    marks = []
    for size, names in by_size.items():
        assert size is not None
        strong = size == result.batch_size
        shown = [f"{name} (knee)" if name == "recommended" and is_knee else name for name in names]
        text = f"{format_count(size)}: {', '.join(shown)}"
        marks.append(Mark(batch_size=size, text=text, height=heights[size], strong=strong))
    return marks


def _sizes(found: Iterable[Sequence[Point]]) -> list[int]:
    return sorted({size for points in found for size, _ in points})


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
