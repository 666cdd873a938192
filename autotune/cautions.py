"""What a reader of the figures should know: warnings as data, from the trials and the machine. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from autotune.devices import host
from autotune.executors import Opened
from autotune.recommend import throughput
from autotune.stats import median
from autotune.trial import Conditions, Trial
from autotune.verdict import has_diverged

STALLED = 0.10  # a tenth of the time waiting for a processor moves medians by more than the usual tolerance
CLIFF = 0.75  # throughput falls to this share of the step before, or less: more than noise between trials
FAULTS_GREW = 4.0  # ... while page faults per step grew this many times more than the batch
FAULT_SECONDS = 1e-6  # the least that a page fault costs, its page's zeroing included; 2.5e-6 in virtual machines
FAULTS_COST = 0.03  # from this share of a step on, page faults are worth a word
MAPPED = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=131072"
"""Each block from 128 KiB on is a mapping of its own, of huge pages where it can be (the GNU C library's manual, Memory
Allocation Tunables): what is freed goes back whole, so that no hole is left whose size hangs on chance."""
KEEPING = "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184"  # mallopt(3): no mappings, no trimming below 16 GiB


def cautions(trials: Sequence[Trial], opened: Opened, batch_size: int, *, confirmed: bool) -> tuple[str, ...]:
    """All that applies to trials and to the batch size recommended, in the order in which it matters."""
    found = [*opened.warnings]
    if not opened.isolated:
        found.append("Trials ran in this process, so memory that it held before counts in their peaks.")
    if not confirmed:
        found.append("The recommended batch size was not confirmed in a fresh process: the probe ended before that.")
    found += _about_quota(opened)
    found += _about_spread(trials, opened)
    found += _about_conditions([t.measurement.conditions for t in trials if t.measurement])
    found += _about_retries(trials)
    plain = [t for t in trials if t.accepted and t.is_plain]
    found += list(_about_cliffs(plain)) or _about_faults([t for t in plain if t.batch_size == batch_size], opened)
    if any(has_diverged(trial) for trial in trials):
        found.append("The loss became NaN or infinite: speed and memory hold all the same, but check the model.")
    return tuple(found)


def _about_quota(opened: Opened) -> Iterable[str]:
    """More threads than processors' time: the kernel stops them all for the rest of each period once that is spent."""
    environment = opened.environment
    processors, threads = environment.container_processors, environment.threads
    if environment.device == "cpu" and processors is not None and threads > math.ceil(processors):
        fewer = max(1, math.floor(processors))
        yield (
            f"{threads} threads share the time of {processors:g} processor{'' if processors == 1 else 's'}, which is "
            f"all that this container may use. Try --threads {fewer}, and torch.set_num_threads({fewer}) in the "
            "training: that is often faster."
        )


def _about_spread(trials: Sequence[Trial], opened: Opened) -> Iterable[str]:
    """Where the edge of memory is blurred by how far peaks differ, name a setting with which they hardly do."""
    blurred = any(trial.evidence and trial.evidence.source == "spread" for trial in trials)
    if blurred and _allocates_by_glibc(opened):
        yield (
            "Equal processes differ in their peak memory here, and the largest batch size leaves room for it. With "
            f"{MAPPED} in the environment of probe and training alike their peaks are nearly equal, and lower, "
            "so that a larger batch fits; steps may be faster or slower, as the probe then shows."
        )


def _allocates_by_glibc(opened: Opened) -> bool:
    """Whether memory comes from glibc's malloc as it is by default."""
    environment = opened.environment
    settings = host.variables(environment.allocator_settings)
    return environment.device == "cpu" and "glibc" in environment.platform and not host.tunes_malloc(settings)


def _about_conditions(conditions: Sequence[Conditions]) -> Iterable[str]:
    stalls = [c.cpu_stall_fraction for c in conditions if c.cpu_stall_fraction is not None]
    if stalls and median(stalls) > STALLED:
        yield (
            f"The machine was busy: tasks waited for a processor {median(stalls):.0%} of the time. "
            "Throughput alone on this machine is higher."
        )
    throttled = sorted({reason for c in conditions for reason in c.throttle_reasons})
    if throttled:
        yield f"The device lowered its clock: {', '.join(throttled)}."
    others = max((c.other_device_processes or 0 for c in conditions), default=0)
    if others:
        yield f"{others} other process{'es' if others > 1 else ''} used the device during the probe."


def _about_retries(trials: Sequence[Trial]) -> Iterable[str]:
    retried = [t.batch_size for t in trials if t.measurement and t.measurement.memory.allocator_retries]
    if retried:
        yield (
            f"From batch size {min(retried)} on the allocator had to free its cache and try again, "
            "which costs time: the memory is nearly full."
        )


def _about_cliffs(trials: Sequence[Trial]) -> Iterable[str]:
    """Name the cause where throughput breaks in and page faults explain it."""
    measured = sorted((t for t in trials if t.measurement and t.purpose == "grow"), key=lambda t: t.batch_size)
    for before, after in pairwise(measured):
        growth = after.batch_size / before.batch_size
        if throughput(after) < CLIFF * throughput(before) and _faults(after) > FAULTS_GREW * growth * _faults(before):
            yield (
                f"Throughput falls at batch size {after.batch_size}, where the allocator takes fresh pages in every "
                "step. Another allocator (jemalloc or tcmalloc by LD_PRELOAD) often cures this."
            )
            return


def _about_faults(trials: Sequence[Trial], opened: Opened) -> Iterable[str]:
    """Say where steps spend time on memory that they give back and take again, and how to keep it."""
    measured = [t.measurement for t in trials if t.measurement and t.measurement.step_seconds]
    if not measured or not _allocates_by_glibc(opened):
        return
    faults = median([it.conditions.page_faults_per_step or 0.0 for it in measured])
    step_seconds = median([median(it.step_seconds) for it in measured])
    if faults * FAULT_SECONDS > FAULTS_COST * step_seconds:
        yield (
            f"Each step at batch size {measured[0].batch_size} takes some {faults:,.0f} pages of memory anew that the "
            f"step before gave back, which costs time. With {KEEPING} in the environment of the training it keeps "
            "them, and is often faster; speed and peak memory are then others, so probe with the same."
        )


def _faults(trial: Trial) -> float:
    faults = trial.measurement.conditions.page_faults_per_step if trial.measurement else None
    return max(faults or 0.0, 1.0)
