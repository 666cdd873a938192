"""Did a change make a workload slower, or hungrier for memory? Two results held against each other. Pure.

Needs the records, the statistics and `repeats`. Promises that comparing B with A gives the inverse of comparing A
with B, and that a change is called real only where it passes all that differs between two probes of the same thing,
as far as the results show it:

- what few steps leave open: the intervals of both medians, from the recorded step times;
- what equal processes differ by: an interval is at least as wide as runs of one batch size within one result differ,
  since two results never share a process;
- what waiting cost: the recorded share of the time in which some task waited for a processor. A machine that was
  busy during one of the probes widens the intervals, up to where nothing can be told;
- what moves a whole probe and leaves no trace in it, such as the clock: `SPEED_DRIFT` and `PEAK_DRIFT`.

So one batch size shows a large change only. All of them together show a small one: in their trials each ran in
processes of its own, so their ratios are independent tries, and the interval of their median assumes nothing on how
they are distributed. (On a GPU they share a process, which there makes no such difference.) Not covered is a machine
that was slower throughout by more than that drift, such as another one of the same name, or one with a neighbour behind
the hypervisor. Where that may be, probe both again in turns.

A batch size has one speed, the one that its result's report shows. Of two, one may come from a final round and the
other from a trial: what these come apart by within a result counts among equal processes above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from autotune.errors import RegressionError, UsageError
from autotune.recommend import shown_speeds
from autotune.repeats import Noise, Run, Series, kind_of, noises_of, series_of
from autotune.result import Result
from autotune.stats import CONFIDENCE, Ratio, median, median_interval
from autotune.units import format_bytes, format_count, format_share

EACH_CONFIDENCE = math.sqrt(CONFIDENCE)
"""Of two independent intervals that hold with this chance, both hold with `CONFIDENCE`."""
ENOUGH_SIZES = 6
"""Below six values the order statistics do not reach 95%."""


class Quantity(StrEnum):
    """What is compared."""

    SPEED = "speed"
    MEMORY = "memory"


class Verdict(StrEnum):
    """What two figures show."""

    SLOWER = "slower"
    FASTER = "faster"
    MORE_MEMORY = "more memory"
    LESS_MEMORY = "less memory"
    NOT_TOLD_APART = "not told apart"


_VERDICTS = {  # where the new result has less of it, and more
    Quantity.SPEED: (Verdict.SLOWER, Verdict.FASTER),
    Quantity.MEMORY: (Verdict.LESS_MEMORY, Verdict.MORE_MEMORY),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of both results, and the ratio of the new to the old with its interval.

    `old` and `new` are in samples/s or bytes, None where the figure is a ratio alone. `subject` says of what.
    """

    quantity: Quantity
    subject: str
    ratio: Ratio
    old: float | None = None
    new: float | None = None

    @property
    def verdict(self) -> Verdict:
        """A change is real where its interval does not enclose 1."""
        if self.ratio.is_tie:
            return Verdict.NOT_TOLD_APART
        less, more = _VERDICTS[self.quantity]
        return less if self.ratio.median < 1 else more

    @property
    def worsening(self) -> float:
        """How much slower, or how much more memory, as a share of the old figure; negative where it got better."""
        return 1 - self.ratio.median if self.quantity is Quantity.SPEED else self.ratio.median - 1

    def is_regression(self, allowed: float) -> bool:
        """True where it really got worse, and by more than the share that is allowed."""
        return self.verdict in (Verdict.SLOWER, Verdict.MORE_MEMORY) and self.worsening > allowed


@dataclass(frozen=True, kw_only=True)
class SizeChange:
    """One batch size that fitted in both results."""

    batch_size: int
    speed: Figure
    memory: Figure


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something about the two probes that is not the same.

    `matters` is True where a change in the figures then says little of a change in the code.
    """

    name: str
    old: str
    new: str
    matters: bool = True


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results held against each other.

    `speed` and `memory` are over all sizes, `recommended` is the speed at the size that each recommends, None
    where that is not among its runs.
    """

    old: Result
    new: Result
    sizes: tuple[SizeChange, ...]
    speed: Figure
    memory: Figure
    recommended: Figure | None
    differences: tuple[Difference, ...]

    @property
    def pools_trials(self) -> bool:
        """True where `speed` comes from trials alone, though some size shows the speed of a final round."""
        return len(self.sizes) >= ENOUGH_SIZES and any((self.old.contest, self.new.contest))

    def figures(self) -> Iterator[Figure]:
        """All figures, those over all sizes first."""
        by_size = chain.from_iterable((size.speed, size.memory) for size in self.sizes)
        overall = (self.speed, self.memory, self.recommended)
        return (figure for figure in chain(overall, by_size) if figure is not None)

    def regressions(self, allowed: Mapping[Quantity, float]) -> list[Figure]:
        """What really got worse, by more than the share that is allowed; a quantity without a share is not judged."""
        return [f for f in self.figures() if f.quantity in allowed and f.is_regression(allowed[f.quantity])]

    def check(self, allowed: Mapping[Quantity, float]) -> None:
        """See that nothing got worse by more than the shares that are allowed.

        Raises:
            RegressionError: something did; the message names the first of it.
        """
        found = self.regressions(allowed)
        if found:
            raise RegressionError(_complaint(found, allowed), remedy="Probe again to see whether it stays.")


def compare(old: Result, new: Result) -> Comparison:
    """Hold a new result against an old one.

    Raises:
        UsageError: no batch size fitted in both.
    """
    before, after = series_of(old), series_of(new)
    common = sorted(before.runs.keys() & after.runs.keys())
    if not common:
        raise UsageError(
            "No batch size fitted in both results, so there is nothing to compare.",
            remedy="Probe both with the same --start, --multiple-of and limits.",
        )
    speed_noise, memory_noise = noises_of(before, after, len(common))
    times = _sample_seconds(old, before), _sample_seconds(new, after)
    speeds = {size: _speed(_at(size), times[0][size], times[1][size], speed_noise) for size in common}
    peaks = {size: _memory(_at(size), before, after, size, memory_noise) for size in common}
    alone = [median(before.alone(size)) / median(after.alone(size)) for size in common]
    return Comparison(
        old=old,
        new=new,
        sizes=tuple(SizeChange(batch_size=size, speed=speeds[size], memory=peaks[size]) for size in common),
        speed=_overall(list(speeds.values()), alone, speed_noise),
        memory=_overall(list(peaks.values()), [figure.ratio.median for figure in peaks.values()], memory_noise),
        recommended=_recommended(times[0].get(old.batch_size), times[1].get(new.batch_size), speed_noise),
        differences=tuple(_differences(old, new)),
    )


def _at(batch_size: int) -> str:
    return f"at batch size {format_count(batch_size)}"


def _quotient(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two medians, with an interval that holds where the intervals of both do."""
    low, high = median_interval(numerators, EACH_CONFIDENCE)
    least, most = median_interval(denominators, EACH_CONFIDENCE)
    return Ratio(median(numerators) / median(denominators), low / most, high / least)


def _sample_seconds(result: Result, series: Series) -> dict[int, list[float]]:
    """The times of each batch size, per sample, around the speed that reports show of it.

    They are those of the final round where the size was there, else of its longest trial, and scaled where the speed
    shown is not their own median, as in a final round.
    """
    times = {size: _longest(runs).step_seconds for size, runs in series.runs.items()}
    speed = shown_speeds({size: size / median(seconds) for size, seconds in times.items()}, result.contest)
    held = result.contest
    in_turns = {size: held.step_seconds(size) for size in held.batch_sizes} if held else {}
    return {size: _around(speed[size], in_turns.get(size, seconds)) for size, seconds in times.items()}


def _longest(runs: Sequence[Run]) -> Run:
    """The run with the most timed steps; of several the last, as in reports."""
    return max(reversed(runs), key=lambda run: len(run.step_seconds))


def _around(speed: float, seconds: Sequence[float]) -> list[float]:
    """The times, scaled so that their median is that of one sample at this speed."""
    middle = speed * median(seconds)
    return [value / middle for value in seconds]


def _speed(subject: str, old: Sequence[float], new: Sequence[float], noise: Noise) -> Figure:
    """Samples/s, from the seconds that a sample takes."""
    return Figure(
        quantity=Quantity.SPEED,
        subject=subject,
        ratio=noise.between_processes(_quotient(old, new)),
        old=1 / median(old),
        new=1 / median(new),
    )


def _recommended(old: Sequence[float] | None, new: Sequence[float] | None, noise: Noise) -> Figure | None:
    return None if old is None or new is None else _speed("at the recommended batch size", old, new, noise)


def _memory(subject: str, before: Series, after: Series, size: int, noise: Noise) -> Figure:
    """The median peak of a batch size's runs."""
    old, new = before.peaks(size), after.peaks(size)
    ratio = noise.between_processes(_quotient(new, old))
    return Figure(quantity=Quantity.MEMORY, subject=subject, ratio=ratio, old=median(old), new=median(new))


def _overall(figures: Sequence[Figure], independent: Sequence[float], noise: Noise) -> Figure:
    """The median ratio over all sizes.

    Args:
        figures: of each size. Few sizes say no more together than each of them does, so then their intervals count.
        independent: the ratio of each size from processes that no other size shared.
        noise: what else moves a whole probe.
    """
    everywhere = "over 1 batch size" if len(figures) == 1 else f"over {format_count(len(figures))} batch sizes"
    if len(figures) < ENOUGH_SIZES:
        ratio = Ratio(
            _middle([figure.ratio.median for figure in figures]),
            _middle([figure.ratio.low for figure in figures]),
            _middle([figure.ratio.high for figure in figures]),
        )
    else:
        ratio = noise.between_probes(Ratio(_middle(independent), *median_interval(independent)))
    return Figure(quantity=figures[0].quantity, subject=everywhere, ratio=ratio)


def _middle(ratios: Sequence[float]) -> float:
    """The median, or the geometric mean of the two middle ones, so that inverse ratios give the inverse."""
    ordered = sorted(ratios)
    return math.sqrt(ordered[(len(ordered) - 1) // 2] * ordered[len(ordered) // 2])


def _complaint(found: Sequence[Figure], allowed: Mapping[Quantity, float]) -> str:
    """The first regression, what is allowed, and how many more there are."""
    first, rest = found[0], len(found) - 1
    more = f" {format_count(rest)} more figure{'' if rest == 1 else 's'} got worse, too." if rest else ""
    share, limit = format_share(first.worsening), allowed[first.quantity]
    return f"{share} {first.verdict.value} {first.subject}, where {limit * 100:.3g}% is allowed.{more}"


# ---------------------------------------------------------------------- what else is not the same


def _differences(old: Result, new: Result) -> Iterator[Difference]:
    for (name, before, matters), (_, after, _) in zip(_traits(old), _traits(new), strict=True):
        if before != after:
            yield Difference(name=name, old=before, new=after, matters=matters)


def _traits(result: Result) -> Iterator[tuple[str, str, bool]]:
    """What may differ: its name, what it is, and whether figures depend on it beyond the code that is compared."""
    spec, environment, workload = result.spec, result.environment, result.workload
    parameters = "unknown" if workload.parameters is None else format_count(workload.parameters)
    accumulated = workload.training.accumulation_steps if workload.training else 1
    yield "model", workload.name, True
    yield "number of parameters", parameters, True
    yield "mode", spec.mode.value, True
    yield "precision", spec.precision.value, True
    yield "batch", workload.batch_description, True
    yield "number of accumulated batches", format_count(accumulated), True
    yield "torch.compile", "on" if spec.compile else "off", True
    yield "device", f"{kind_of(environment.device)} ({environment.device_name})", True
    yield "processor", f"{environment.processor}, {environment.logical_cores} logical cores", True
    yield "number of threads", format_count(environment.threads), True
    yield "container's limit of processor time", _processor_time(environment.container_processors), True
    yield "setting of the allocator", environment.allocator_settings or "none", True
    yield "objective", spec.objective.value, True
    yield "isolation", "in child processes" if result.isolated else "in the caller's process", True
    yield "memory budget", format_bytes(result.budget_bytes), False
    yield "torch", environment.torch_version, False
    yield "Python", environment.python_version, False
    yield "driver", environment.driver_version or "unknown", False
    yield "autotune", environment.autotune_version, False
    yield "system", environment.platform, False


def _processor_time(processors: float | None) -> str:
    return "none" if processors is None else f"{processors:g} processor{'' if processors == 1 else 's'}"
