"""Where a trial runs. An executor always returns an `Attempt`, never an exception for an expected failure.

`children` runs trials in child processes, `inprocess` in the caller's own, `fake` in none (for tests of what
stands above). One conformance suite runs on all of them.
"""

from __future__ import annotations

from typing import Protocol

from autotune.trial import Contest, Environment, Evidence, Measurement, Outcome, Record, WorkloadFacts


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

    `enforce=False` lifts the limits that make the budget real, to see how much a size would need.
    """

    batch_size: int
    effort: Effort
    accumulation_steps: int = 1
    fresh_process: bool = False
    enforce: bool = True
    timeout_seconds: float = 300.0


class ContestRequest(Record, frozen=True, tag="contest"):
    """Time these batch sizes against each other, interleaved, for so many seconds in all."""

    batch_sizes: tuple[int, ...]
    seconds: float
    min_rounds: int = 5
    timeout_seconds: float = 300.0


class Attempt(Record, frozen=True, tag="attempt"):
    """What came of a request: an outcome, and a measurement or the evidence of why there is none."""

    outcome: Outcome
    measurement: Measurement | None = None
    contest: Contest | None = None
    evidence: Evidence | None = None


class Opened(Record, frozen=True):
    """What an executor knows once its workload is built: the facts, and the budget in bytes."""

    workload: WorkloadFacts
    environment: Environment
    budget_bytes: int
    free_bytes: int
    isolated: bool
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

    def run(self, request: TrialRequest | ContestRequest) -> Attempt:
        """Run a request to its end, whatever that is."""
        ...

    def close(self) -> None:
        """End every process that was started. May be called twice."""
        ...
