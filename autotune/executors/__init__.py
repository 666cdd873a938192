"""Where a trial runs. An executor always returns an `Attempt`, never an exception for an expected failure.

`children` runs trials in child processes, `inprocess` in the caller's own, `fake` in none (for tests of what
stands above). One conformance suite runs on all of them.
"""

from __future__ import annotations

from typing import Protocol

from autotune.forecast.records import Forecast, Rules
from autotune.spec import Precision
from autotune.trial import (
    Contest,
    Curve,
    Environment,
    Evidence,
    Feeding,
    Gradients,
    Measurement,
    Outcome,
    Record,
    WorkloadFacts,
)

OVERRUN_FACTOR = 1.05
"""A trial is ended so far over its budget, not at once: a peak tells how far over it is, a killed trial doesn't."""


class Effort(Record, frozen=True):
    """How much a trial measures: steps before the clock starts, and how long it then runs.

    At least `min_steps` are timed, then more until `seconds` have passed or `max_steps` are done.
    """

    warmup_steps: int = 2
    min_steps: int = 3
    max_steps: int = 200
    seconds: float = 0.5


class TrialRequest(Record, frozen=True, tag="trial"):
    """Run this batch size. `fresh_process` asks for a new interpreter, not a forked child.

    `enforce=False` lifts the limits that make the budget real, to see how much a size would need. A step accumulates as
    many batches as the caller's does where `accumulation_steps` is None.
    """

    batch_size: int
    effort: Effort
    accumulation_steps: int | None = None
    fresh_process: bool = False
    enforce: bool = True
    timeout_seconds: float = 300.0


class ContestRequest(Record, frozen=True, tag="contest"):
    """Time these batch sizes against each other, interleaved, for so many seconds in all.

    `fresh_process` asks for a new interpreter, not a forked child.
    """

    batch_sizes: tuple[int, ...]
    seconds: float
    min_rounds: int = 5
    fresh_process: bool = False
    timeout_seconds: float = 300.0


class FeedRequest(Record, frozen=True, tag="feed"):
    """Time steps of this batch size, fed by the workload's own loader with each of these numbers of workers."""

    batch_size: int
    num_workers: tuple[int, ...]
    timeout_seconds: float = 300.0


class GradientsRequest(Record, frozen=True, tag="gradients"):
    """Train a copy for so many steps of this batch size, and measure its gradients; for so many seconds at most.

    `learning_rate` is set where it is not None.
    """

    batch_size: int
    steps: int
    learning_rate: float | None = None
    seconds: float = 120.0
    timeout_seconds: float = 300.0


class TrainRequest(Record, frozen=True, tag="train"):
    """Train for so many seconds with this batch size, in a fresh process, and look at the loss on data held out.

    Of the data, `held_out_samples` are held out, chosen by the seed, and their loss is told for parts of `part_size`,
    before training and at `looks` equal intervals. `learning_rate` is set where it is not None.
    """

    batch_size: int
    seconds: float
    held_out_samples: int
    part_size: int
    learning_rate: float | None = None
    looks: int = 20
    seed: int = 0
    timeout_seconds: float = 300.0


class ForecastRequest(Record, frozen=True, tag="forecast"):
    """Forecast the memory of steps without running them.

    Attributes:
        batch_sizes: what to forecast.
        budgets_bytes: for each of these, also the largest batch size whose peak is forecast to stay within it.
        largest: no batch size above it is looked at; None for no bound.
        measured: a batch size and the peak in bytes that a trial showed there: what the forecast misses there is
            added everywhere. Without it, a peak is what the allocator holds and the process' base.
        rules: whose memory.
        precision: in place of the spec's; None leaves that.
        checkpointing: with the model's activation checkpointing switched on.
        accumulation_steps: micro-batches in a step; as many as the caller's has where it is None.
        timeout_seconds: bound on all of it.
    """

    batch_sizes: tuple[int, ...]
    budgets_bytes: tuple[int, ...] = ()
    largest: int | None = None
    measured: tuple[int, int] | None = None
    rules: Rules = Rules.CPU
    precision: Precision | None = None
    checkpointing: bool = False
    accumulation_steps: int | None = None
    timeout_seconds: float = 60.0


Request = TrialRequest | ContestRequest | FeedRequest | GradientsRequest | TrainRequest | ForecastRequest


class Attempt(Record, frozen=True, tag="attempt"):
    """What came of a request: an outcome, and a measurement or the evidence of why there is none."""

    outcome: Outcome
    measurement: Measurement | None = None
    contest: Contest | None = None
    feeding: Feeding | None = None
    gradients: Gradients | None = None
    curve: Curve | None = None
    forecast: Forecast | None = None
    evidence: Evidence | None = None

    @property
    def reason(self) -> str:
        """Why there is no measurement, in words."""
        return self.evidence.text if self.evidence else self.outcome.value


class Opened(Record, frozen=True):
    """What an executor knows once its workload is built: the facts, and the budget in bytes.

    `isolated`: requests run in other processes. `forks`: each in one of its own, which is there in milliseconds.
    """

    workload: WorkloadFacts
    environment: Environment
    budget_bytes: int
    free_bytes: int
    isolated: bool
    forks: bool = False
    warnings: tuple[str, ...] = ()


class Executor(Protocol):
    """Runs trials somewhere safe."""

    def open(self) -> Opened:
        """Build the workload and learn about it.

        Raises:
            WorkloadError: the user's code raised.
            UsageError: the workload's description is incomplete or contradicts itself.
            DeviceError: the device is not there.
            NothingFitsError: not even the workload itself fits.
        """
        ...

    def prepare(self, fresh_processes: int, needed_bytes: int) -> None:
        """Start fresh processes for the next requests that want one, where that saves time.

        It does not wait for them. Started side by side, or beside a forecast, they cost little; nothing is timed
        before they are there. The memory that the requests will need is left to them.
        """
        ...

    def run(self, request: Request) -> Attempt:
        """Run a request to its end, whatever that is."""
        ...

    def close(self) -> None:
        """End every process that was started. May be called twice."""
        ...
