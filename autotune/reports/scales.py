"""Axes that read as people write: batch sizes in powers of two, durations, bytes, rates.

Needs matplotlib. Promises ticks in whole, familiar units, few enough not to touch each other, and no tick outside the
data's range. Limits are set here too, so that one point and two hundred both fill the picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from autotune.units import format_bytes, format_count, format_seconds

_FAR = 3.0  # from this ratio on, the end of a curve would be flat on a linear axis
_MOST_LOG_TICKS = 9  # of a vertical axis
_AXIS_CHARACTERS = 58  # so many digits fit side by side below the axes of one picture
_ROOM = 0.06  # share of a logarithmic axis left free at either end
_HEADROOM = 1.1  # a linear axis goes so far above the highest value

_BYTE_UNIT = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_LAST_SECONDS = 20  # 50 s would touch the minute
_LONG_TICKS = [
    *(_MINUTE * count for count in (1, 2, 5, 10, 20)),
    *(_HOUR * count for count in (0.5, 1, 2, 5, 12)),
    *(_DAY * 10**power * count for power in range(4) for count in (1, 2, 5)),
]
_SHORT_TICKS = [
    count * 10.0**power for power in range(-9, 2) for count in (1, 2, 5) if count * 10.0**power <= _LAST_SECONDS
]


def batch_axis(axes: Axes, sizes: Sequence[int], below: Callable[[int], str] | None = None) -> None:
    """A logarithmic axis of batch sizes at powers of two; `below` gives a second line to each tick."""
    low, high = min(sizes), max(sizes)
    axes.set_xscale("log", base=2)
    axes.set_xlim(*_log_limits(low, high))
    written = {
        tick: format_count(tick) + (f"\n{below(tick)}" if below else "")
        for tick in _powers_of_two(low, high) or sorted(set(sizes))
    }
    ticks = _thinned(written, math.log(axes.get_xlim()[1] / axes.get_xlim()[0]))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([written[tick] for tick in ticks])
    axes.set_xlabel("batch size")


def _powers_of_two(low: int, high: int) -> list[int]:
    """Those between the ends; none where there are too few for a reader to see the scale."""
    found = [2**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    return found if len(found) >= 3 else []


def _thinned(written: dict[int, str], log_width: float) -> list[int]:
    """Every second, third or so of the ticks, until no two texts touch on a logarithmic axis of this width."""
    widths = {tick: max(map(len, text.split("\n"))) for tick, text in written.items()}

    def touch(left: int, right: int) -> bool:
        apart = math.log(right / left) / log_width * _AXIS_CHARACTERS
        return apart < (widths[left] + widths[right]) / 2 + 1

    ticks, step = list(written), 1
    while any(itertools.starmap(touch, itertools.pairwise(ticks[::step]))):
        step += 1
    return ticks[::step]


def _log_limits(low: float, high: float) -> tuple[float, float]:
    """Limits with some room at either end; a factor of two either way around a single value."""
    room = (high / low) ** _ROOM if high > low else 1.0
    room = max(room, 2 / (high / low), 1.12)
    return low / room, high * room


def seconds_axis(axes: Axes, seconds: Sequence[float]) -> None:
    """A logarithmic axis of durations, at 1, 2 and 5 of each power of ten, and at familiar parts of hours and days."""
    low, high = _log_limits(min(seconds), max(seconds))
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    inside = [tick for tick in [*_SHORT_TICKS, *_LONG_TICKS] if low <= tick <= high]
    if len(inside) > _MOST_LOG_TICKS:
        inside = [tick for tick in inside if tick >= _MINUTE or math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    if len(inside) < 2:
        inside = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    _fix_y(axes, inside, _tick_seconds)


def _tick_seconds(seconds: float) -> str:
    """A duration without digits that say nothing: "5 ms", "2 min"."""
    number, *unit = format_seconds(seconds).split(" ")
    short = f"{float(number):g}" if len(unit) == 1 else number
    return " ".join([short, *unit])


def bytes_axis(axes: Axes, highest_bytes: float) -> None:
    """A linear axis of memory from 0, in steps of one binary unit."""
    unit = _BYTE_UNIT ** max(0, int(math.log(max(highest_bytes, 1), _BYTE_UNIT)))
    if highest_bytes / unit < 2 and unit > 1:
        unit //= _BYTE_UNIT  # steps of half a unit would read worse than 500 of the smaller
    name = format_bytes(unit).split(" ")[1]
    axes.set_ylim(0, highest_bytes)
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest_bytes / unit)
    _fix_y(axes, [tick * unit for tick in ticks if tick * unit <= highest_bytes], lambda b: f"{b / unit:,g} {name}")


def amount_axis(axes: Axes, highest: float) -> None:
    """A linear axis from 0 of plain numbers with their thousands set apart."""
    top = highest * _HEADROOM
    axes.set_ylim(0, top)
    ticks = [tick for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top) if tick <= top]
    _fix_y(axes, ticks, _plain)


def wide_amount_axis(axes: Axes, lowest: float, highest: float) -> None:
    """A logarithmic axis of plain numbers above 0, for curves that a linear one would flatten."""
    axes.set_yscale("log")
    axes.set_ylim(*_log_limits(lowest, highest))
    low, high = axes.get_ylim()
    _fix_y(axes, [tick for tick in _decade_ticks(low, high) if low <= tick <= high], _plain)


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    """A logarithmic axis where the losses fall far and stay above 0, else a linear one."""
    low, high = min(losses), max(losses)
    if low > 0 and high / low > _FAR:
        axes.set_yscale("log")
        axes.set_ylim(*_log_limits(low, high))
        ticks = _decade_ticks(*axes.get_ylim())
    else:
        margin = 0.08 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        ticks = list(MaxNLocator(6).tick_values(low, high))
    _fix_y(axes, [tick for tick in ticks if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]], "{:.4g}".format)


def _decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between the ends; where those are many, powers alone, or every second or so."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    fine = [tick for power in powers for count in (1, 2, 5) if low <= (tick := count * 10.0**power) <= high]
    whole = [10.0**power for power in powers if low <= 10.0**power]
    return fine if len(fine) <= _MOST_LOG_TICKS else whole[:: math.ceil(len(whole) / _MOST_LOG_TICKS)]


def training_axis(axes: Axes, seconds: float) -> None:
    """A linear axis of the time spent on training, in seconds or minutes."""
    unit, length = ("min", _MINUTE) if seconds > 2 * _MINUTE else ("s", 1.0)
    ticks = [tick * length for tick in MaxNLocator(6).tick_values(0, seconds / length) if tick * length <= seconds]
    axes.set_xlim(-0.02 * seconds, 1.02 * seconds)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick / length:g}" for tick in ticks])
    axes.set_xlabel(f"{unit} of training")


def _fix_y(axes: Axes, ticks: Sequence[float], write: Callable[[float], str]) -> None:
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels(["0" if tick == 0 else write(tick) for tick in ticks])
