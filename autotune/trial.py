"""The frozen records of a probe, and their codec.

Needs msgspec and the errors. Promises that whatever is written is read back equal, and that a
foreign, damaged or future file is refused with one line. Raw samples are stored here; what can be
derived from them is computed where it is needed (`stats`, `recommend`), so that a better statistic
also improves old results.

Every number carries its unit in its name: `_bytes`, `_seconds`, `_joules`; throughput is in samples/s.
"""

from __future__ import annotations

import math
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Literal, TypeVar

import msgspec

from autotune.errors import UsageError

SCHEMA_VERSION = 1

Count = Annotated[int, msgspec.Meta(ge=1)]
"""Something divides by it, as by `Seconds`: what is read from a file is held to that."""
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Times = Annotated[tuple[Seconds, ...], msgspec.Meta(min_length=1)]

Decoded = TypeVar("Decoded")


def decoded(raw: bytes, decoder: msgspec.json.Decoder[Decoded]) -> Decoded:
    """What a file holds.

    Raises:
        msgspec.DecodeError: it is damaged or foreign; says what is wrong in one line.
    """
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    except UsageError as error:  # a spec that nobody could have asked for
        raise msgspec.ValidationError(error.message.rstrip(".")) from error


class Outcome(StrEnum):
    """What became of a trial. An expected failure is data with a name, never an exception."""

    FITS = "fits"
    OUT_OF_MEMORY = "out of memory"
    KERNEL_LIMIT = "kernel limit"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    FAILED = "failed"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records: immutable, by keyword, and strict about what a file may hold."""


class Evidence(Record, frozen=True):
    """Why a trial did not fit.

    `source` names who noticed: the exception raised, the watchdog outside, the kernel, the comparison of
    the peak with the budget, the spread of repeated peaks, the latency limit, the exit status or the clock.
    """

    source: Literal["exception", "watchdog", "kernel", "budget", "spread", "latency", "exit", "clock"]
    text: str
    user_traceback: str = ""


class Memory(Record, frozen=True):
    """Memory during one trial, in bytes.

    `peak_bytes` is what the whole training process would hold at its worst moment: resident memory on CPU,
    device memory (reserved by the allocator, plus context and libraries) on a GPU. `base_bytes` is the part
    that is there before the trial's batch: interpreter, libraries, model. `method` says how it was read.
    """

    peak_bytes: Count
    base_bytes: int
    method: str
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    allocator_retries: int | None = None


class Conditions(Record, frozen=True):
    """The machine's state while a trial ran; `None` is what this machine cannot tell.

    `cpu_stall_fraction` is the share of the time in which some task waited for a processor (Linux pressure
    stall information). `throttle_reasons` and `other_device_processes` come from NVML.
    """

    cpu_stall_fraction: float | None = None
    page_faults_per_step: float | None = None
    energy_joules_per_sample: float | None = None
    power_watts: float | None = None
    clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] = ()
    other_device_processes: int | None = None


class Measurement(Record, frozen=True):
    """What one trial measured: raw wall and CPU seconds of each timed step, and memory.

    A step processes `batch_size * accumulation_steps` samples. A loss that is no finite number, which JSON cannot hold,
    leaves `last_loss` None and sets `has_diverged`. `warmup_seconds` is the wall time of making the batch
    and of the `warmup_steps` before the clock started, `measuring_seconds` that of all that followed.
    """

    batch_size: Count
    step_seconds: Times
    cpu_seconds: tuple[float, ...]
    warmup_steps: int
    memory: Memory
    conditions: Conditions
    accumulation_steps: Count = 1
    last_loss: float | None = None
    has_diverged: bool = False
    notes: tuple[str, ...] = ()
    warmup_seconds: float | None = None
    measuring_seconds: float | None = None

    def __post_init__(self) -> None:
        """Tell of a loss that is no finite number by the flag alone."""
        if self.last_loss is not None and not math.isfinite(self.last_loss):
            msgspec.structs.force_setattr(self, "last_loss", None)
            msgspec.structs.force_setattr(self, "has_diverged", True)

    @property
    def batch_seconds(self) -> tuple[float, ...]:
        """Wall seconds of one batch, step by step."""
        return tuple(seconds / self.accumulation_steps for seconds in self.step_seconds)


class Contest(Record, frozen=True):
    """Interleaved timings of several batch sizes, the cure for drift between trials.

    `rounds[i][j]` is the mean step time in seconds of `batch_sizes[j]` in round i; None where that size was so far
    behind in the rounds before that it had left. Only numbers of the same round are compared. `trials` are the median
    step times of the trials before it, where these were held as a round is: then they count as the first.
    """

    batch_sizes: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    rounds: tuple[tuple[Seconds | None, ...], ...]
    trials: tuple[Seconds, ...] = ()

    @property
    def counted(self) -> tuple[tuple[float | None, ...], ...]:
        """All rounds that count."""
        return (self.trials, *self.rounds) if self.trials else self.rounds

    def step_seconds(self, batch_size: int) -> tuple[float, ...]:
        """The step times of one of the batch sizes, in the rounds that count from the first to its last."""
        column = self.batch_sizes.index(batch_size)
        return tuple(seconds for times in self.counted if (seconds := times[column]) is not None)

    @property
    def remaining(self) -> tuple[int, ...]:
        """The batch sizes that stayed to the end."""
        return tuple(size for size in self.batch_sizes if len(self.step_seconds(size)) == len(self.counted))


class Feed(Record, frozen=True):
    """Steps fed by a DataLoader with so many workers: the mean seconds per step of each time it was tried."""

    num_workers: int
    step_seconds: Times

    @property
    def mean_seconds(self) -> float:
        """Of a step."""
        return fmean(self.step_seconds)


class Feeding(Record, frozen=True):
    """How fast the caller's DataLoader feeds steps of one batch size, beside the same steps on batches in memory.

    All were timed in turns in one process, loading and moving to the device included; so only they compare.
    `from_memory_seconds` is the mean seconds per step of each time, on some of the loader's own batches.
    """

    batch_size: int
    from_memory_seconds: Times
    feeds: Annotated[tuple[Feed, ...], msgspec.Meta(min_length=1)]

    def waiting_fraction(self, feed: Feed) -> float:
        """The share of a step that it takes longer than from memory: waiting for data, or sharing its processors."""
        return max(0.0, 1.0 - fmean(self.from_memory_seconds) / feed.mean_seconds)

    def best(self, tolerance: float) -> Feed:
        """The fewest workers whose throughput is within this share of the best."""
        fastest = min(feed.mean_seconds for feed in self.feeds)
        near = [feed for feed in self.feeds if feed.mean_seconds * (1 - tolerance) <= fastest]
        return min(near, key=lambda feed: feed.num_workers)


class Gradients(Record, frozen=True):
    """The size of gradients in a short training of a copy, step by step; from it comes the gradient noise scale.

    Each step of the optimizer took `micro_batches` batches of `micro_batch_size` samples drawn at random.
    `square_norms` is the mean over them of the squared norm of one batch's gradient, `mean_square_norms` the squared
    norm of their mean. `losses` ends early where training diverged. `notes` are choices made for the user, in words.
    """

    micro_batch_size: Count
    micro_batches: Annotated[int, msgspec.Meta(ge=2)]
    square_norms: tuple[float, ...]
    mean_square_norms: tuple[float, ...]
    losses: tuple[float, ...]
    optimizer: str
    learning_rate: float | None = None
    has_diverged: bool = False
    notes: tuple[str, ...] = ()


class Curve(Record, frozen=True):
    """How the loss on data held out fell in a training with one batch size, each time it was looked at.

    `seconds` are those spent on training by then, the first look being before it; `losses` the means over the parts
    held out. `reached_losses` is the loss of each part, the mean of those few looks in a row where it was least: the
    parts are the same for every batch size, so they can be compared one by one. Where training diverged, the curve ends
    with the last number. A `learning_rate` of None is the optimizer's own.
    """

    batch_size: int
    steps: int
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    reached_losses: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    learning_rate: float | None = None
    has_diverged: bool = False

    @property
    def reached_loss(self) -> float:
        """The mean over the parts."""
        return fmean(self.reached_losses)


Purpose = Literal["grow", "refine", "shrink", "bisect", "confirm", "successor", "target", "plan"]


class Trial(Record, frozen=True):
    """One measurement of one batch size: what was tried, why, and what became of it.

    `forecast_bytes` is the peak that was predicted before it ran; None where there was no forecast. `largest_safe` is
    the largest batch size whose peaks stay within the budget as far as they differ, by this trial and those before it;
    None where nothing is known of that.
    """

    number: int
    batch_size: Count
    purpose: Purpose
    why: str
    outcome: Outcome
    seconds: float
    measurement: Measurement | None = None
    evidence: Evidence | None = None
    fresh_process: bool = False
    forecast_bytes: int | None = None
    largest_safe: int | None = None

    @property
    def fits(self) -> bool:
        """True where the batch size ran within the memory budget."""
        return self.outcome is Outcome.FITS

    @property
    def accepted(self) -> bool:
        """True where it fits and nothing else speaks against it, such as a limit on latency."""
        return self.fits and self.evidence is None

    @property
    def reason(self) -> str:
        """Why it was refused, in words."""
        return self.evidence.text if self.evidence else self.outcome.value

    @property
    def is_plain(self) -> bool:
        """True where a step was one batch of this size, not a part of a plan with accumulation."""
        return self.purpose != "plan"

    @property
    def is_searched(self) -> bool:
        """True where the search asked for it. A target and its plan are tried beside that, and may break its limits."""
        return self.purpose not in ("plan", "target")


class Environment(Record, frozen=True):
    """Where a probe ran, complete enough to explain why another machine's figures differ.

    `container_processors` is how many processors' time the container may use, where it limits that;
    `allocator_settings` are the environment's variables that say how memory is allocated, as in a shell.
    """

    autotune_version: str
    python_version: str
    torch_version: str
    platform: str
    processor: str
    physical_cores: int | None
    logical_cores: int
    threads: int
    host_memory_bytes: int
    container_limit_bytes: int | None
    device: str
    device_name: str
    device_memory_bytes: int | None = None
    driver_version: str | None = None
    runtime_version: str | None = None
    command_line: str = ""
    allocator_settings: str = ""
    container_processors: float | None = None


class Training(Record, frozen=True):
    """How the caller trains now.

    `batch_size` counts the samples of one step of the optimizer, all that it accumulates; None where unknown.
    """

    optimizer: str
    learning_rate: float | None = None
    batch_size: int | None = None
    accumulation_steps: int = 1


class WorkloadFacts(Record, frozen=True):
    """What the worker learned about the workload when it built it.

    `smallest_batch_size` is over 1 where the model refuses a single sample (BatchNorm in training), or multiples are
    asked for.
    `assumptions` are the choices made for the user, in words (the default optimizer, the largest shape).
    `num_workers` is what the caller's DataLoader has now; None where the data is not read by one.
    """

    name: str
    parameters: int | None
    dataset_size: int | None
    smallest_batch_size: int
    batch_description: str
    assumptions: tuple[str, ...] = ()
    can_accumulate: bool = False
    training: Training | None = None
    num_workers: int | None = None
