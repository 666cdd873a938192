"""Results as probes of one thing might give them: equal but for noise of known size, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from example_results import example_result, fitting

from autotune.result import Edge, Recommendation, Result
from autotune.trial import Conditions, Contest, Trial

SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512)
BEST = 64


def drawn_result(
    seed: int,
    *,
    sizes: Sequence[int] = SIZES,
    between_processes: float = 0.03,
    within: float = 0.05,
    slower: float = 1.0,
    more_memory: float = 1.0,
    in_turns: int = 5,
    waited: float = 0.0,
    **changes: Any,
) -> Result:
    """A probe that is `slower` times as slow and takes `more_memory` times as much as the plain one.

    Args:
        seed: of all noise.
        sizes: the batch sizes tried, ascending.
        between_processes: standard deviation of the logarithm of what a process is slower by, and a tenth of it
            what its peak is higher by.
        within: the same of a step; steps are skewed, as an interruption only ever makes one slower.
        slower: factor on all step times.
        more_memory: factor on all peaks.
        in_turns: how many of the largest sizes are in the final round.
        waited: the share of the time in which a task waited for a processor.
        changes: other fields of the result.
    """
    random = Random(seed)

    def steps(size: int, count: int) -> tuple[float, ...]:
        process = slower * math.exp(random.gauss(0, between_processes))
        seconds = (1e-3 + 2e-5 * size) * process
        return tuple(seconds * math.exp(abs(random.gauss(0, within))) for _ in range(count))

    def trial(number: int, size: int, count: int, **settings: Any) -> Trial:
        peak_mib = (300 + size) * more_memory * math.exp(random.gauss(0, between_processes / 10))
        made = fitting(number, size, steps(size, count), round(peak_mib), **settings)
        assert made.measurement is not None
        measured = msgspec.structs.replace(made.measurement, conditions=Conditions(cpu_stall_fraction=waited))
        return msgspec.structs.replace(made, measurement=measured)

    best = BEST if BEST in sizes else sizes[-1]
    trials = [trial(number, size, 20) for number, size in enumerate(sizes, start=1)]
    trials.append(trial(len(sizes) + 1, best, 8, purpose="confirm", fresh_process=True))
    final = tuple(sizes[len(sizes) - in_turns :]) if in_turns else ()
    rounds = tuple(zip(*(steps(size, 20) for size in final), strict=True))
    settings: dict[str, Any] = {
        "trials": tuple(trials),
        "contest": Contest(batch_sizes=final, rounds=rounds) if final else None,
        "edge": Edge(largest_fits=sizes[-1]),
        "recommendation": Recommendation(
            batch_size=best,
            samples_per_second=1.0,
            fastest_batch_size=best,
            fastest_samples_per_second=1.0,
            why="the fastest",
        ),
    } | changes
    return example_result(**settings)
