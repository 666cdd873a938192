"""One drawing for each question: how fast, how much memory, how long a step, an epoch, a batch, how much energy.

Needs matplotlib. Each function draws on the axes it is given. Promises the same look whether one result is drawn,
with its marks and what explains them, or several over each other, where a curve and its recommended size must do.
Nothing is told by colour alone: markers, line styles and words say it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes

from autotune.reports.findings import (
    accepted_speeds,
    best_speed,
    energy_by_size,
    first_forecast,
    knee,
    latencies,
    peaks,
    plateau,
    progress,
    refused_sizes,
    step_line,
    timed_rows,
)
from autotune.reports.palette import INK, MUTED, PAPER, SERIES
from autotune.reports.rows import batches_per_epoch, epoch_seconds, rows
from autotune.reports.scales import (
    amount_axis,
    batch_axis,
    bytes_axis,
    loss_axis,
    seconds_axis,
    training_axis,
    wide_amount_axis,
)
from autotune.reports.strokes import (
    CROSS,
    DENSE,
    Mark,
    Point,
    Series,
    columns,
    curve,
    mark_sizes,
    note,
    ring,
    sign_legend,
    variant,
)
from autotune.result import Result
from autotune.spec import Mode
from autotune.stats import median
from autotune.step_line import StepLine
from autotune.trial import Curve, Outcome
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

_FAR_BELOW = 0.35  # where the highest peak is below this share of the budget, the line would flatten the curve
_FAR_APART = 10.0  # where the best of results differ by more, a linear axis would flatten the slower ones on 0
_NARROW = 8  # a span of sizes up to this factor holds no remark
_UNDER_LABELS = 0.97  # a sign at this share of the height stays clear of the labels above the axes
_NAME_HEIGHT = 0.06  # of the height of the axes, that of a line of text
Roles = dict[str, int | None]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A kind of picture: what it shows, of which results it can be drawn, and how.

    `draw` returns how many rows of labels it has put above the axes, so that the title can stand above them.
    """

    title: str
    applies: Callable[[Result], bool]
    draw: Callable[[Axes, Sequence[Series]], int]


def draw_throughput(axes: Axes, drawn: Sequence[Series]) -> int:
    """Samples/s with their intervals; knee, recommendation, fastest and plateau, where one result is drawn."""
    everything: list[list[Point]] = []
    ends: list[float] = []
    for series in drawn:
        timed = [(row.batch_size, row.speed) for row in timed_rows(series.result) if row.speed]
        points = [(size, speed.samples_per_second) for size, speed in timed]
        intervals = [speed.interval or (speed.samples_per_second,) * 2 for _, speed in timed]
        curve(axes, series, points, intervals, label="measured" if series.is_only else "")
        _too_slow(axes, series, dict(points))
        ring(axes, series, points)
        everything.append(points)
        ends += [end for interval in intervals for end in interval]
    batch_axis(axes, _sizes(everything))
    bests = [max(speed for _, speed in points) for points in everything]
    _speed_axis(axes, ends, is_wide=max(bests) > _FAR_APART * min(bests))
    return _explain_throughput(axes, drawn[0].result) if drawn[0].is_only else 0


def _speed_axis(axes: Axes, speeds: Sequence[float], *, is_wide: bool) -> None:
    if is_wide:
        wide_amount_axis(axes, min(speeds), max(speeds))
    else:
        amount_axis(axes, max(speeds))


def _too_slow(axes: Axes, series: Series, speeds: dict[int, float]) -> None:
    """Empty markers for sizes that fit and take longer than the limit on latency."""
    found = [(size, speeds[size]) for size in speeds if size not in accepted_speeds(series.result)]
    if found:
        style: dict[str, Any] = {"marker": series.marker, "markersize": 5.5, "linestyle": "", "zorder": 3.5}
        style |= {"markerfacecolor": PAPER, "markeredgecolor": series.colour, "markeredgewidth": 1.3}
        axes.plot(*columns(found), **style, label="over the limit on latency")


def _explain_throughput(axes: Axes, result: Result) -> int:
    speeds = accepted_speeds(result)
    tolerance = f"{result.spec.tolerance * 100:.3g}%"
    if len(speeds) > 1:
        _show_tolerance(axes, result, f"within {tolerance} of the fastest")
    if (span := plateau(result)) is not None:
        _show_plateau(axes, span, "plateau")
    sign_legend(axes)
    return mark_sizes(axes, _marks(_roles(result) | {"knee": knee(result)}, speeds, result))


def _show_tolerance(axes: Axes, result: Result, text: str) -> None:
    """The band of speeds that count as the best; its name stands below, since it has many curves and marks across."""
    best = best_speed(result)
    axes.axhspan(best * (1 - result.spec.tolerance), best, color=SERIES[0], alpha=0.13, linewidth=0, label=text)


def _show_plateau(axes: Axes, span: tuple[int, int], text: str) -> None:
    """The sizes that are as fast as any; where they are few, their name ends with them and reaches over to the left."""
    axes.axvspan(*span, color=MUTED, alpha=0.09, linewidth=0)
    narrow = span[1] / span[0] < _NARROW
    place = span[1] if narrow else math.sqrt(span[0] * span[1])
    note(axes, (place, 0.03), text, ha="right" if narrow else "center", va="bottom")


def draw_progress(axes: Axes, drawn: Sequence[Series]) -> int:
    """Throughput against sample efficiency, and the progress that both make; that alone of several results."""
    everything: list[list[Point]] = []
    for series in drawn:
        found = progress(series.result)
        chosen = found if series.is_only else {"progress": found["progress"]}
        for order, (name, points) in enumerate(chosen.items()):
            shown = variant(series, order) if series.is_only else series
            curve(axes, shown, points, label=name if series.is_only else "")
            everything.append(points)
        ring(axes, series, found["progress"])
    batch_axis(axes, _sizes(everything))
    amount_axis(axes, 100.0)
    if not drawn[0].is_only:
        return 0
    result = drawn[0].result
    sign_legend(axes)
    return mark_sizes(axes, _marks({"recommended": result.batch_size}, dict(everything[-1]), result))


def draw_held_out(axes: Axes, drawn: Sequence[Series]) -> int:
    """The loss on data held out while each batch size was trained; of several results the recommended one's."""
    everything: list[Curve] = []
    for series in drawn:
        curves = series.result.verification.curves if series.result.verification else ()
        for order, found in enumerate(curves):
            if not series.is_only and found.batch_size != series.result.batch_size:
                continue
            shown = variant(series, order) if series.is_only else series
            label = f"batch size {format_count(found.batch_size)}" if series.is_only else series.label
            style: dict[str, Any] = {"color": shown.colour, "marker": shown.marker, "markersize": 4, "linewidth": 1.5}
            axes.plot(found.seconds, found.losses, **style, label=label)
            everything.append(found)
    training_axis(axes, max(found.seconds[-1] for found in everything))
    loss_axis(axes, [loss for found in everything for loss in found.losses])
    if drawn[0].is_only:
        sign_legend(axes)
    return 0


def draw_memory(axes: Axes, drawn: Sequence[Series]) -> int:
    """Peak memory of the process, what was forecast after the first trial, the budget, and what was refused."""
    tried = sorted({row.batch_size for series in drawn for row in rows(series.result)})
    highest = 0.0
    for series in drawn:
        measured = peaks(series.result)
        points = [(size, float(max(found))) for size, found in measured.items()]
        label = "measured peak" if series.is_only else ""
        curve(axes, series, points, [(min(found), max(found)) for found in measured.values()], label=label)
        highest = max([highest, *(peak for _, peak in points)])
        ring(axes, series, points)
    batch_axis(axes, tried)
    top = _budgets(axes, drawn, highest)
    bytes_axis(axes, top)
    for series in drawn:
        _refused(axes, series, top)
    return _explain_memory(axes, drawn[0].result) if drawn[0].is_only else 0


def _explain_memory(axes: Axes, result: Result) -> int:
    forecast = first_forecast(result)
    if forecast:
        label = "forecast after the first trial"
        axes.plot(*columns(forecast), color=SERIES[1], linestyle=(0, (4, 2)), linewidth=1.5, label=label, zorder=2)
    heights = {size: float(max(found)) for size, found in peaks(result).items()}
    roles: Roles = {"recommended": result.batch_size, "largest": result.max_batch_size}
    marks = _marks(roles, heights, result)
    crosses, refused = _crosses(result, axes.get_ylim()[1]), result.edge.smallest_refused
    if refused is not None and refused in crosses:
        marks.append(Mark(batch_size=refused, text=f"{format_count(refused)}: refused", height=crosses[refused]))
    sign_legend(axes)
    return mark_sizes(axes, marks)


def _refused(axes: Axes, series: Series, top: float) -> None:
    """A cross at each size that did not fit."""
    crosses = _crosses(series.result, top)
    if crosses:
        colour = INK if series.is_only else series.colour
        axes.plot(*columns(list(crosses.items())), **CROSS, color=colour, label="refused", zorder=5)


def _crosses(result: Result, top: float) -> dict[int, float]:
    """How high the cross of each size that did not fit stands: at its peak, or on the budget's line if none was seen.

    That line may be above the axis, as where a time limit refused a size far below the budget.
    """
    measured, unseen = peaks(result), min(float(result.budget_bytes), _UNDER_LABELS * top)
    return {size: float(max(measured.get(size, []), default=unseen)) for size in refused_sizes(result)}


def _budgets(axes: Axes, drawn: Sequence[Series], highest: float) -> float:
    """Draw the budgets that the curves come near; returns where the axis shall end, in bytes."""
    grouped = _grouped((series.result.budget_bytes, series) for series in drawn)
    near = {budget: same for budget, same in grouped.items() if highest >= _FAR_BELOW * budget or _has_refused(same)}
    top = max([highest * 1.25, *(budget * 1.08 for budget in near)])
    for budget, same in near.items():
        colour = INK if len(grouped) == 1 else same[0].colour
        axes.axhline(budget, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.4, zorder=1.5)
    if len(grouped) == 1:
        _name_budget(axes, *grouped, is_near=bool(near))
    else:
        _name_budgets(axes, sorted(near, reverse=True), top)
    return top


def _name_budget(axes: Axes, budget: int, *, is_near: bool) -> None:
    """The name of the one budget, below its line, or where that would lead to."""
    left, amount = axes.get_xlim()[0], format_bytes(budget)
    if is_near:
        note(axes, (left, 0), f"memory budget {amount}", ha="left", va="top", transformed=budget)
    else:
        note(axes, (left, _UNDER_LABELS), f"↑ the budget is {amount}, far above", ha="left", va="top")


def _name_budgets(axes: Axes, budgets: Sequence[int], top: float) -> None:
    """A name on each line, from the highest on; a bit below its line where the one above would cover it."""
    above = math.inf
    for budget in budgets:
        above = min(budget, above - _NAME_HEIGHT * top)
        text = f"budget {format_bytes(budget)}"
        note(axes, (axes.get_xlim()[0], 0), text, ha="left", va="center", transformed=above)


def _has_refused(drawn: Iterable[Series]) -> bool:
    return any(row.refusal and row.refusal.outcome is Outcome.OUT_OF_MEMORY for s in drawn for row in rows(s.result))


def draw_step_time(axes: Axes, drawn: Sequence[Series]) -> int:
    """The median time of a step, and the line through it with the batch size h where its two parts are equal."""
    everything: list[list[Point]] = []
    for series in drawn:
        found = [(row.batch_size, row.step_seconds) for row in timed_rows(series.result) if row.step_seconds]
        everything.append(found)
        curve(axes, series, found, label="median of the steps" if series.is_only else "", line=not series.is_only)
        ring(axes, series, found)
    batch_axis(axes, _sizes(everything))
    seconds_axis(axes, [value for found in everything for _, value in found])
    return _explain_step_time(axes, drawn[0].result, everything[0]) if drawn[0].is_only else 0


def _explain_step_time(axes: Axes, result: Result, points: Sequence[Point]) -> int:
    marks = _marks({"recommended": result.batch_size}, dict(points), result)
    line = step_line(result)
    if line is not None:
        first, last = min(points)[0], max(points)[0]
        sizes = [first * (last / first) ** (i / 80) for i in range(81)]
        style: dict[str, Any] = {"color": SERIES[1], "linestyle": (0, (4, 2)), "linewidth": 1.5}
        style["zorder"] = 4 if len(points) > DENSE else 2  # many points would hide it
        axes.plot(sizes, [line.seconds(size) for size in sizes], **style, label=_equation(line, points))
        h = line.half_throughput_batch_size
        if h is not None and first <= h <= last:
            text = f"h = {format_number(h)}: half of the top speed"
            marks.append(Mark(batch_size=round(h), text=text, height=line.seconds(h)))
    sign_legend(axes, columns=1)
    return mark_sizes(axes, marks)


def _equation(line: StepLine, points: Sequence[Point]) -> str:
    alpha, beta = format_seconds(line.alpha_seconds), format_seconds(line.beta_seconds)
    h = line.half_throughput_batch_size
    off = format_share(median([abs(line.seconds(size) / seconds - 1) for size, seconds in points]))
    known = f", h = {format_number(h)}" if h else ""
    parts = [alpha] * (line.alpha_seconds > 0) + [f"{beta} · b"] * (line.beta_seconds > 0)
    return f"t(b) = {' + '.join(parts)}{known}; off by {off} in the median"


def draw_epoch_time(axes: Axes, drawn: Sequence[Series]) -> int:
    """How long the steps of an epoch take; below the batch sizes, how many batches they make."""
    everything: list[list[Point]] = []
    for series in drawn:
        dataset_size = series.result.workload.dataset_size or 0
        timed = [(row.batch_size, row.speed) for row in timed_rows(series.result) if row.speed]
        found = [(size, epoch_seconds(dataset_size, size, speed)) for size, speed in timed]
        everything.append(found)
        curve(axes, series, found)
        ring(axes, series, found)
    datasets = {series.result.workload.dataset_size or 0 for series in drawn}
    batches = (lambda size: format_count(batches_per_epoch(max(datasets), size))) if len(datasets) == 1 else None
    batch_axis(axes, _sizes(everything), below=batches)
    if batches:
        axes.set_xlabel("batch size\nbatches per epoch")
    seconds_axis(axes, [value for found in everything for _, value in found])
    result = drawn[0].result
    return mark_sizes(axes, _marks(_roles(result), dict(everything[0]), result)) if drawn[0].is_only else 0


def draw_latency(axes: Axes, drawn: Sequence[Series]) -> int:
    """How long a batch takes: median and two tails, or one tail of several results; and the limit."""
    shares = (0.50, 0.95, 0.99) if drawn[0].is_only else (0.95,)
    everything: list[list[Point]] = []
    for series in drawn:
        for order, share in enumerate(shares):
            found = latencies(series.result, share)
            shown = variant(series, order) if series.is_only else series
            curve(axes, shown, found, label=f"{share:.0%} of batches" if series.is_only else "")
            everything.append(found)
        ring(axes, series, latencies(series.result, 0.95))
    batch_axis(axes, _sizes(everything))
    limits = sorted({s.result.spec.latency_seconds for s in drawn if s.result.spec.latency_seconds is not None})
    seconds_axis(axes, [*(value for found in everything for _, value in found), *limits])
    for limit in limits:
        axes.axhline(limit, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.4, zorder=1.5)
        text = f"limit {format_seconds(limit)} for 95%"
        note(axes, (axes.get_xlim()[0], 0), text, ha="left", va="bottom", transformed=limit)
    if not drawn[0].is_only:
        return 0
    result = drawn[0].result
    sign_legend(axes)
    return mark_sizes(axes, _marks({"recommended": result.batch_size}, dict(everything[1]), result))


def draw_energy(axes: Axes, drawn: Sequence[Series]) -> int:
    """Joules per sample, as the device's own meter gave it."""
    everything: list[list[Point]] = []
    for series in drawn:
        found = list(energy_by_size(series.result).items())
        everything.append(found)
        curve(axes, series, found)
        ring(axes, series, found)
    batch_axis(axes, _sizes(everything))
    amount_axis(axes, max(value for found in everything for _, value in found))
    result = drawn[0].result
    return mark_sizes(axes, _marks(_roles(result), dict(everything[0]), result)) if drawn[0].is_only else 0


PANELS: dict[str, Panel] = {
    "throughput": Panel(
        title="Samples per second, with intervals",
        applies=lambda result: bool(timed_rows(result)),
        draw=draw_throughput,
    ),
    "time to quality": Panel(
        title="Progress towards a quality, in % of the best",
        applies=lambda result: bool(progress(result)),
        draw=draw_progress,
    ),
    "held-out loss": Panel(
        title="Loss on data held out",
        applies=lambda result: result.verification is not None,
        draw=draw_held_out,
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
    """A mark for each batch size that plays a role and has a point."""
    by_size = _grouped((size, role) for role, size in roles.items() if size is not None and size in heights)
    return [
        Mark(
            batch_size=size,
            text=f"{format_count(size)}: {', '.join(names)}",
            height=heights[size],
            strong=size == result.batch_size,
        )
        for size, names in by_size.items()
    ]


def _sizes(found: Iterable[Sequence[Point]]) -> list[int]:
    return sorted({size for points in found for size, _ in points})


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
