"""From trials to an answer: who competes in the final round, and who wins it. Pure.

The rule for throughput: the smallest batch size whose throughput is within the tolerance of the best, in the median of
the rounds in which all took turns, less what these leave open. Figures of the final round go before figures of single
trials: two trials one after the other differ by up to 30% where nothing differs (measured on a busy two-core machine).
What the noise hides counts against the smaller size: as a tie, which the smaller wins, it gives speed away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import geometric_mean

import msgspec

from autotune.result import Recommendation
from autotune.search import Phase, Told, bounds
from autotune.spec import Objective
from autotune.stats import Ratio, median, median_interval, paired_ratio
from autotune.trial import Contest, Trial

DRIFT_BETWEEN_TRIALS = 0.30  # how far two equal trials came apart, see above
MOST_CONTENDERS = 5
APART = 1.1  # of sizes nearer to each other than this the smaller one competes: it holds more surely, and runs alike
BEHIND = 4  # tolerances: a size that is slower by so much has lost after one round, by half of that after two
COMMON = 0.05  # a smaller tolerance does not make equal processes differ less


def throughput(trial: Trial) -> float:
    """Samples per second: the batch over the median time of one.

    Raises:
        ValueError: the trial measured nothing.
    """
    return trial.batch_size / median(_times(trial))


def throughput_interval(trial: Trial) -> tuple[float, float]:
    """The 95% interval of `throughput`, in samples/s.

    Raises:
        ValueError: the trial measured nothing.
    """
    low, high = median_interval(_times(trial))
    return trial.batch_size / high, trial.batch_size / low


def _times(trial: Trial) -> tuple[float, ...]:
    return trial.measurement.batch_seconds if trial.measurement else ()


def telling(trial: Trial) -> Told:
    """What the search needs to know of a trial that it asked for."""
    measured = trial.measurement is not None
    return Told(
        trial.batch_size,
        trial.accepted,
        throughput(trial) if measured else 0.0,
        throughput_interval(trial)[1] if measured else 0.0,
        Phase(trial.purpose),
        trial.largest_safe,
    )


def speeds(trials: Iterable[Trial]) -> dict[int, float]:
    """Samples/s of each batch size that was accepted, and lies below all that were refused, from its longest series."""
    return {size: throughput(trial) for size, trial in _longest(trials).items()}


def _longest(trials: Iterable[Trial]) -> dict[int, Trial]:
    """The trial with the most timed steps of each batch size that lies below all that were refused, ascending.

    What fitted once above a refused size is no answer any more. Nor is a target: whether it may be one was not asked.
    """
    tried = [trial for trial in trials if trial.is_searched]
    fallen = {trial.batch_size for trial in tried if not trial.accepted}
    _, high = bounds([telling(trial) for trial in tried])
    end = math.inf if high is None else high
    longest: dict[int, Trial] = {}
    for trial in sorted(tried, key=lambda trial: len(_times(trial))):
        if trial.batch_size < end and trial.batch_size not in fallen and _times(trial):
            longest[trial.batch_size] = trial
    return {size: longest[size] for size in sorted(longest)}


def contenders(trials: Iterable[Trial], tolerance: float, free_bytes: float = math.inf) -> tuple[int, ...]:
    """The batch sizes that may yet win once noise and drift are taken out, ascending, none just above another.

    Where there are too many, the fastest is kept, which sets the mark, the smallest above it, which wins if nothing
    changes, and those of which it is least clear on which side of the mark they are.
    """
    fitting = _longest(trials)
    speed = {size: throughput(trial) for size, trial in fitting.items()}
    mark = max(speed.values()) * (1 - tolerance) * (1 - DRIFT_BETWEEN_TRIALS)
    speed = _apart({size: speed[size] for size, trial in fitting.items() if throughput_interval(trial)[1] >= mark})
    near = list(speed)
    while len(near) > 2 and sum(map(_peak_bytes, (fitting[size] for size in near))) > free_bytes:
        near.remove(min(near, key=lambda size: speed[size]))  # all are in memory at the same time
    fastest = max(near, key=lambda size: speed[size])
    border = speed[fastest] * (1 - tolerance)
    kept = {fastest, min(size for size in near if speed[size] >= border)}
    others = sorted((size for size in near if size not in kept), key=lambda size: abs(math.log(speed[size] / border)))
    return tuple(sorted([*kept, *others[: MOST_CONTENDERS - len(kept)]]))


def _apart(speed: dict[int, float]) -> dict[int, float]:
    """Of ascending sizes those that are not just above one before, each as fast as the fastest that it stands for."""
    apart: dict[int, float] = {}
    last = 0
    for size, value in speed.items():
        last = last if size < APART * last else size
        apart[last] = max(apart.get(last, 0.0), value)
    return apart


def _peak_bytes(trial: Trial) -> int:
    return trial.measurement.memory.peak_bytes if trial.measurement else 0


def contest_speeds(contest: Contest) -> dict[int, float]:
    """Samples/s of each contender in a final round of which a round counts, as it decides and is shown.

    That is the median of its speed as a share of its round's mean, times the median mean: what moves the machine from
    one round to the next cancels, and the figures agree with who has won. Medians of each size's own times do not.
    """
    columns = _columns(contest)
    means = [geometric_mean(speeds) for speeds in zip(*(columns[size] for size in contest.remaining), strict=True)]
    middle = median(means)
    return {  # a size that has left was in the first rounds alone
        size: middle * median([speed / mean for speed, mean in zip(column, means, strict=False)])
        for size, column in columns.items()
    }


def shown_speeds(speed: dict[int, float], contest: Contest | None) -> dict[int, float]:
    """Samples/s of each batch size as it is shown: of the final round where it was there, or else of its trial."""
    return speed if contest is None else speed | contest_speeds(contest)


def _columns(contest: Contest) -> dict[int, list[float]]:
    """Samples/s of each contender in the rounds from the first to its last."""
    return {size: [size / seconds for seconds in contest.step_seconds(size)] for size in contest.batch_sizes}


def contest_ratios(contest: Contest) -> dict[int, Ratio]:
    """Throughput of each contender that stayed to the end relative to the best of them, with the interval of pairs."""
    columns, speed = _columns(contest), contest_speeds(contest)
    best = max(contest.remaining, key=lambda size: speed[size])
    pairs = {size: paired_ratio(columns[size], columns[best]) for size in contest.remaining}
    return {size: _around(speed[size] / speed[best], paired) for size, paired in pairs.items()}


def _around(middle: float, paired: Ratio) -> Ratio:
    """The interval of pairs around a middle that came from elsewhere."""
    return Ratio(middle, min(paired.low, middle), max(paired.high, middle))


def begun(trials: Iterable[Trial], batch_sizes: tuple[int, ...], *, follows_trials: bool) -> Contest:
    """A final round of which no round was held, or only the trials, where these count."""
    longest = _longest(trials)
    times = tuple(median(_times(longest[size])) for size in batch_sizes) if follows_trials else ()
    return Contest(batch_sizes=batch_sizes, rounds=(), trials=times)


def merged(earlier: Contest, later: Contest) -> Contest:
    """A final round continued by one between the same batch sizes, or some of them."""
    rows = (dict(zip(later.batch_sizes, times, strict=True)) for times in later.rounds)
    more = tuple(tuple(map(row.get, earlier.batch_sizes)) for row in rows)
    return msgspec.structs.replace(earlier, rounds=earlier.rounds + more)


def may_yet_win(contest: Contest, tolerance: float, held: int) -> tuple[int, ...]:
    """The contenders that are worth another round, ascending: those not far behind the best in each so far.

    Equal processes differ in speed, so the fewer rounds were held, the further behind a size must be to leave.
    """
    mark = 1 - max(tolerance, COMMON) * max(BEHIND / held, 1)
    return tuple(size for size, ratio in contest_ratios(contest).items() if ratio.high >= mark)


def is_decided(contest: Contest, tolerance: float) -> bool:
    """True where more rounds would hardly change who wins: each interval lies on one side of the mark."""
    ratios = contest_ratios(contest)
    winner = _smallest_within(ratios, tolerance)
    beaten = all(ratio.high < 1 - tolerance for size, ratio in ratios.items() if size < winner)
    return beaten and (ratios[winner].low >= 1 - tolerance or ratios[winner].median == 1)


def recommend(
    objective: Objective, speed: dict[int, float], largest_fits: int, contest: Contest | None, tolerance: float
) -> Recommendation:
    """The batch size to use, out of those that were run and accepted.

    Args:
        objective: what the answer shall be best at.
        speed: samples/s by accepted batch size, as `speeds` gives it; not empty.
        largest_fits: the largest batch size that was accepted, which `memory` recommends.
        contest: the final round, where there was one.
        tolerance: the share of the best throughput that may be given up for a smaller batch.
    """
    ratios = _ratios(speed, contest)
    figures = shown_speeds(speed, contest)
    fastest = max(sorted(ratios), key=lambda size: figures[size])
    chosen = largest_fits if objective is Objective.MEMORY else _smallest_within(ratios, tolerance)
    is_open = any(size < chosen and ratio.median >= 1 - tolerance for size, ratio in ratios.items())
    return Recommendation(
        batch_size=chosen,
        samples_per_second=figures[chosen],
        fastest_batch_size=fastest,
        fastest_samples_per_second=figures[fastest],
        why=_why(objective, chosen, fastest, tolerance, has_smaller=min(figures) < chosen, is_open=is_open),
    )


def _ratios(speed: dict[int, float], contest: Contest | None) -> dict[int, Ratio]:
    if contest is not None:
        return contest_ratios(contest)
    best = max(speed.values())
    return {size: Ratio(value / best, value / best, value / best) for size, value in speed.items()}


def _smallest_within(ratios: dict[int, Ratio], tolerance: float) -> int:
    return min(size for size, ratio in ratios.items() if ratio.cautious >= 1 - tolerance)


def _why(objective: Objective, chosen: int, fastest: int, tolerance: float, *, has_smaller: bool, is_open: bool) -> str:
    """In words. It is open where a smaller size may be within the tolerance, too."""
    if objective is Objective.MEMORY:
        return "the largest that fits"
    bound = "within the latency limit " if objective is Objective.LATENCY else ""
    if chosen != fastest:
        surely = "surely " if is_open else ""
        return f"the smallest {bound}{surely}within {tolerance:.0%} of the fastest, {fastest}"
    why = f"the fastest {bound}".strip()
    if is_open:
        return f"{why}, no smaller one surely within {tolerance:.0%} of it"
    return f"{why}, every smaller one more than {tolerance:.0%} slower" if has_smaller else why
