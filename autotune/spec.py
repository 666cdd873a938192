"""One immutable description of what a probe shall do, made by the command line or by `find_batch_size`.

Needs msgspec and the errors. Promises that a spec that was built is consistent: what contradicts itself is
refused here, before anything starts, with the option's name in the message. It travels to the worker and
into the result file, so it holds plain data only: a workload is a reference to one, never the object.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from autotune.errors import UsageError
from autotune.trial import Record


class Mode(StrEnum):
    """What one step does: forward, backward and optimizer, or forward alone."""

    TRAIN = "train"
    INFERENCE = "inference"


class Objective(StrEnum):
    """What the recommended batch size is best at."""

    THROUGHPUT = "throughput"
    MEMORY = "memory"
    LATENCY = "latency"
    TIME_TO_QUALITY = "time-to-quality"

    @property
    def seeks_edge(self) -> bool:
        """True where it takes the edge of what is allowed to answer, so that the largest size is confirmed."""
        return self in (Objective.MEMORY, Objective.LATENCY)


class Precision(StrEnum):
    """Number format of the forward pass: fp32 as it is, bf16 and fp16 by autocast (fp16 with GradScaler)."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class FileWorkload(Record, frozen=True, tag="file"):
    """A Python file, or the dotted name of a module, that holds a model by plain names."""

    target: str


class ClassWorkload(Record, frozen=True, tag="class"):
    """`package.module:Class` with the shapes of its inputs and target, and its constructor's arguments."""

    target: str
    inputs: tuple[str, ...]
    answer: str | None = None
    arguments: tuple[str, ...] = ()


class PickledWorkload(Record, frozen=True, tag="pickled"):
    """Live objects of a caller, written by cloudpickle to a file as one `LiveParts`.

    `environment` holds variables that whoever reads them must have set before.
    """

    path: str
    search_path: tuple[str, ...] = ()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    name: str = "live model"


class LiveWorkload(Record, frozen=True, tag="live"):
    """Live objects of a caller, tried in the caller's own process (a model that lives on a GPU)."""

    name: str = "live model"


WorkloadRef = FileWorkload | ClassWorkload | PickledWorkload | LiveWorkload


class MemoryBudget(Record, frozen=True):
    """The memory that the training process may use in all: bytes, or a share of what is free to it now."""

    bytes_: int | None = None
    fraction: float | None = None

    def resolve(self, free_bytes: int) -> int:
        """The budget in bytes, given what is free to the training process now."""
        return self.bytes_ if self.bytes_ is not None else int((self.fraction or 0.0) * free_bytes)


class ProbeSpec(Record, frozen=True):
    """What to probe, where, for what, and within which limits.

    `threads=None` leaves torch's own default. `latency_seconds` bounds the 95th percentile of the step time.
    `trial_timeout_seconds` bounds one trial, building the batch included. `forecast` lets a forecast of memory guide
    the search. `tune_workers` times the caller's DataLoader with several numbers of workers, not its own alone.

    The last few are about training to a quality: `dataset_size` in place of what the data tells; `epochs` planned;
    `noise`, the gradient noise scale in samples, or "auto" to measure it, or "off"; `base_batch_size` at which it is
    measured (None: the caller's own, or else 32), with `base_learning_rate` (None: the optimizer's own), in
    `warmup_steps` steps.
    """

    workload: WorkloadRef
    device: str = "auto"
    mode: Mode = Mode.TRAIN
    objective: Objective = Objective.THROUGHPUT
    latency_seconds: float | None = None
    budget: MemoryBudget = MemoryBudget(fraction=0.9)
    start: int | None = None
    max_batch_size: int | None = None
    multiple_of: int = 1
    target: int | None = None
    tolerance: float = 0.05
    precision: Precision = Precision.FP32
    compile: bool = False
    threads: int | None = None
    max_seconds: float | None = None
    max_trials: int | None = None
    trial_timeout_seconds: float = 300.0
    forecast: bool = True
    tune_workers: bool = False
    dataset_size: int | None = None
    epochs: int | None = None
    noise: float | Literal["auto", "off"] = "auto"
    base_batch_size: int | None = None
    base_learning_rate: float | None = None
    warmup_steps: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        for problem, remedy in _problems(self):
            raise UsageError(problem, remedy=remedy)


TOO_LARGE = 2**63  # for a message to a worker, as infinity is for a file
LARGEST_SEED = 2**32 - 1  # NumPy's
LEAST_WARMUP_STEPS = 40  # of which the second half is measured


def _problems(spec: ProbeSpec) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    counts: list[tuple[str, float | None]] = [
        ("--start", spec.start),
        ("--max-batch-size", spec.max_batch_size),
        ("--multiple-of", spec.multiple_of),
        ("--target", spec.target),
        ("--threads", spec.threads),
        ("--max-trials", spec.max_trials),
        ("--max-seconds", spec.max_seconds),
        ("--trial-timeout", spec.trial_timeout_seconds),
        ("--max-latency", spec.latency_seconds),
        ("--dataset-size", spec.dataset_size),
        ("--epochs", spec.epochs),
        ("--noise", spec.noise if isinstance(spec.noise, float) else None),
        ("--base-batch-size", spec.base_batch_size),
        ("--base-lr", spec.base_learning_rate),
        ("--memory-budget", spec.budget.bytes_),
        ("--memory-budget", spec.budget.fraction),
    ]
    found += [
        (
            f"{name} is {value}, which is {'too large' if value >= TOO_LARGE else 'not positive'}.",
            f"Give {name} {'less' if value >= TOO_LARGE else 'a value above 0'}, or leave it out.",
        )
        for name, value in counts
        if value is not None and not 0 < value < TOO_LARGE
    ]
    if not 0 <= spec.seed <= LARGEST_SEED:
        found.append((f"--seed is {spec.seed}, outside 0 to {LARGEST_SEED:,}.", "Give one of these."))
    if spec.budget.fraction is not None and spec.budget.fraction > 1:
        found.append(("--memory-budget is over 100%.", "Give at most 100% of the free memory, or a size like 8GiB."))
    if not 0 <= spec.tolerance < 1:
        found.append((f"--tolerance is {spec.tolerance:.0%}, outside 0% to 100%.", "Give a share such as 5%."))
    if (spec.objective is Objective.LATENCY) != (spec.latency_seconds is not None):
        found.append(("--objective latency and --max-latency belong together.", "Add --max-latency 50ms, say."))
    if spec.objective is Objective.TIME_TO_QUALITY and spec.mode is Mode.INFERENCE:
        found.append(("--objective time-to-quality is about training.", "Leave --mode inference out."))
    if spec.warmup_steps < LEAST_WARMUP_STEPS:
        found.append(
            (
                f"--warmup-steps is {spec.warmup_steps}, below the {LEAST_WARMUP_STEPS} that tell anything.",
                "Give more, or --noise off.",
            )
        )
    if spec.max_batch_size is not None and spec.max_batch_size < max(spec.start or 1, spec.multiple_of):
        found.append(
            (
                f"--max-batch-size {spec.max_batch_size} is below --start or --multiple-of.",
                "Raise --max-batch-size, or lower the other.",
            )
        )
    return found
