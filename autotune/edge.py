"""Where the search looks for the edge of memory, and what is known of it in the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.executors import Opened
from autotune.recommend import telling
from autotune.result import Edge, StopReason
from autotune.search import Limits, bounds
from autotune.spec import Objective, ProbeSpec
from autotune.trial import Trial

EDGE_CONFIRMATIONS = {True: 3, False: 2}  # processes, by whether one costs no more than a fork; the last is always new
EDGE_RESOLUTION = 0.1
"""Where the largest batch size is not the answer, its neighbourhood is enough: peaks differ by several per cent, and
to come twice as near costs 9 to 30% more in samples run (simulated: peaks that deviate by 0 and 2%, forecasts off by up
to 2, 6 and 15%, or none)."""


def _resolution(spec: ProbeSpec) -> float:
    """How near to the edge is near enough.

    Times near a limit on latency differ from run to run, so that a search for the very edge of it would wander among
    sizes that are all one; the tolerance says how much of a batch size is not worth that.
    """
    return {Objective.MEMORY: 0.0, Objective.LATENCY: spec.tolerance}.get(spec.objective, EDGE_RESOLUTION)


def search_limits(spec: ProbeSpec, opened: Opened) -> Limits:
    """Where to search, from what was asked for and what the workload is."""
    size, asked = opened.workload.dataset_size, spec.max_batch_size
    seeks_edge = spec.objective.seeks_edge
    capped_by_data = size is not None and (asked is None or size < asked)
    return Limits(
        start=spec.start or 1,
        smallest=opened.workload.smallest_batch_size,
        largest=size if capped_by_data else asked,
        cap_reason=StopReason.DATASET if capped_by_data else StopReason.CAP,
        multiple_of=spec.multiple_of,
        plateau_tolerance=None if seeks_edge else spec.tolerance,
        confirmations=EDGE_CONFIRMATIONS[opened.forks] if seeks_edge else 0,
        resolution=_resolution(spec),
    )


def edge_of(trials: Sequence[Trial], multiple_of: int) -> Edge:
    """The border between what fits and what does not, as far as the trials show it."""
    searched = [trial for trial in trials if trial.is_searched]
    low, high = bounds([telling(trial) for trial in searched], multiple_of)
    accepted, refused = ({t.batch_size for t in searched if t.accepted is flag} for flag in (True, False))
    ran = min((size for size in refused if high is not None and size >= high), default=None)
    return Edge(
        largest_fits=low or 0,
        smallest_refused=ran,
        refused_by=next((refusal(t) for t in searched if t.batch_size == ran and not t.accepted), ""),
        no_room_from=None if high == ran else high,
        confirmations=sum(t.batch_size == low and t.accepted and t.purpose == "confirm" for t in searched),
        band=tuple(sorted(accepted & refused)),
        multiple_of=multiple_of,
    )


def refusal(trial: Trial) -> str:
    """What kind of refusal it was, in a word or two."""
    return "latency" if trial.fits else trial.outcome.value
