"""What a probe found: the record that is returned, saved, read again and reported.

Needs the records below it. Promises that every batch size it names was really run and fitted, and that what
it says of an edge or a target is marked as measured, estimated or a lower bound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from autotune.errors import AutotuneError, ResultFileError
from autotune.forecast.records import Forecast
from autotune.spec import ProbeSpec
from autotune.trial import (
    SCHEMA_VERSION,
    Contest,
    Count,
    Curve,
    Environment,
    Feeding,
    Gradients,
    Record,
    Trial,
    WorkloadFacts,
    decoded,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult


class StopReason(StrEnum):
    """Why the search ended."""

    EDGE = "the border of what fits was found"
    PLATEAU = "throughput stopped rising"
    DATASET = "the whole dataset fits in one batch"
    CAP = "the maximum batch size asked for was reached"
    SECONDS = "the time allowed was used up"
    TRIALS = "the number of trials allowed was used up"
    INTERRUPTED = "it was interrupted"


class Edge(Record, frozen=True):
    """The border between what fits and what does not.

    `largest_fits` ran within every limit in each of `confirmations` runs; `smallest_refused` ran and did not (None:
    nothing was refused). `refused_by` is the outcome there. From `no_room_from` on, a smaller size that was not run,
    peaks as they differ from run to run may pass the budget (None: all below `smallest_refused` leave room, as far as
    is known). Sizes in `band` passed once and failed another time: memory near the edge is not the same in every
    process.
    """

    largest_fits: int
    smallest_refused: int | None = None
    refused_by: str = ""
    no_room_from: int | None = None
    confirmations: int = 0
    band: tuple[int, ...] = ()
    multiple_of: int = 1

    @property
    def is_exact(self) -> bool:
        """True where the very next batch size was run and refused."""
        return self.smallest_refused == self.largest_fits + self.multiple_of

    @property
    def is_unconfirmed(self) -> bool:
        """True where the edge was met and the largest below it ran only on the way there: it may not fit again."""
        return self.smallest_refused is not None and not self.confirmations


class AccumulationPlan(Record, frozen=True):
    """How to reach an effective batch size that does not fit at once, as it was measured.

    `micro_batch_size * accumulation_steps` is the effective batch size. `includes_accumulation` is False
    where the loop is the user's own, so that only a plain step of the micro-batch could be timed.
    """

    micro_batch_size: int
    accumulation_steps: int
    samples_per_second: float
    includes_accumulation: bool = True


class TargetAnswer(Record, frozen=True):
    """Can this machine process the target batch size at once? If not, by how much it falls short, and what to do.

    Where there is no `plan` for what does not fit, `no_plan` says why.
    """

    batch_size: int
    fits: bool
    peak_bytes: int | None = None
    shortfall_bytes: int | None = None
    shortfall_is: Literal["measured", "estimated"] | None = None
    refused_by: str = ""
    plan: AccumulationPlan | None = None
    no_plan: str = ""


class Recommendation(Record, frozen=True):
    """The answer: the batch size to use, and the two it was weighed against.

    `samples_per_second` of the three come from their medians; `why` says in words how it was chosen.
    """

    batch_size: int
    samples_per_second: float
    fastest_batch_size: int
    fastest_samples_per_second: float
    why: str


class Spent(Record, frozen=True):
    """Wall time of a probe outside its trials: what each of its other parts took, in seconds."""

    opening_seconds: float = 0.0
    forecast_seconds: float = 0.0
    contest_seconds: float = 0.0
    feeding_seconds: float = 0.0
    gradients_seconds: float = 0.0


class Verification(Record, frozen=True):
    """Some batch sizes really trained, for equal wall time, the one predicted to be best first among the `curves`.

    `seconds_each` is how long each was trained, `planned_seconds` how long the whole training that is planned takes at
    the predicted size (None: not known). `failures` says of sizes that could not be trained why.
    """

    curves: Annotated[tuple[Curve, ...], msgspec.Meta(min_length=1)]
    seconds_each: float
    held_out_samples: int
    planned_seconds: float | None = None
    failures: tuple[str, ...] = ()
    is_interrupted: bool = False


class Result(Record, frozen=True, dict=True):
    """All that a probe found. `budget_bytes` is what the training process may use in all.

    `feeding` tells how fast the caller's DataLoader feeds the batch size recommended; None where the data is not read
    by one. `gradients` are those of the short training that tells the noise scale, `no_gradients` why there was none;
    both are empty where it was not asked for. `verification` is there once `verify` was called. Where `forecast` is
    None, `no_forecast` says why, likewise. `warnings` are about the figures, `advice` about training with the batch
    size recommended; nothing of it is applied.

    Where the search had come to its own end, for the reason `stop`, but an allowance or an interruption ended the probe
    before the answer was confirmed, or all was answered, `cut_short` names that.
    """

    spec: ProbeSpec
    environment: Environment
    workload: WorkloadFacts
    budget_bytes: Count
    free_bytes: int
    trials: tuple[Trial, ...]
    recommendation: Recommendation
    edge: Edge
    stop: StopReason
    seconds: float
    created_at: str
    cut_short: StopReason | None = None
    contest: Contest | None = None
    target: TargetAnswer | None = None
    feeding: Feeding | None = None
    gradients: Gradients | None = None
    no_gradients: str = ""
    verification: Verification | None = None
    forecast: Forecast | None = None
    no_forecast: str = ""
    isolated: bool = True
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    spent: Spent = Spent()
    schema_version: int = SCHEMA_VERSION

    @property
    def batch_size(self) -> int:
        """The recommended batch size, ready for a DataLoader."""
        return self.recommendation.batch_size

    @property
    def max_batch_size(self) -> int:
        """The largest batch size that was run and fitted; the true maximum where `edge.is_exact`."""
        return self.edge.largest_fits

    @property
    def num_workers(self) -> int | None:
        """The fewest workers of a DataLoader whose throughput is within the tolerance of the best that was timed.

        None where none was timed; only the caller's own number, unless `tune_workers` asked for more.
        """
        return None if self.feeding is None else self.feeding.best(self.spec.tolerance).num_workers

    @property
    def stop_reason(self) -> str:
        """Why the search ended, in words, and what then cut the probe short, if anything did."""
        return self.stop.value if self.cut_short is None else f"{self.stop.value}, then {self.cut_short.value}"

    @property
    def is_complete(self) -> bool:
        """True where the probe came to its own end, so that there is nothing to resume."""
        ended_from_outside = (StopReason.SECONDS, StopReason.TRIALS, StopReason.INTERRUPTED)
        return self.cut_short is None and self.stop not in ended_from_outside

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, whole or not at all.

        Raises:
            ResultFileError: the file cannot be written.
        """
        target = Path(path)
        write_whole(target, msgspec.json.format(msgspec.json.encode(self), indent=1))
        return target

    def verify(
        self, candidates: int = 3, budget: str | float = "20m", *, epochs: int | None = None, quiet: bool = False
    ) -> Result:
        """Train the recommended batch size and others for equal wall time, to see whether the prediction holds.

        Each is trained on a copy from the same start, with the learning rate advised for it, on a part of the data, and
        judged by the loss on the rest. Objects that were given to `find_batch_size` are copied as they are now.

        Args:
            candidates: how many batch sizes.
            budget: for their training in all: seconds, or text like "20m". Starting up and looking at the loss add
                to it.
            epochs: how many are planned, where the probe was not told. A run of less than half of that training never
                overrules the prediction.
            quiet: print no live lines to the standard error stream.

        Returns:
            This result with its `verification`; `batch_size` is another where that overruled the prediction.

        Raises:
            UsageError: there is nothing to compare, the data cannot be divided, or the loss of the steps is not seen.
            WorkloadError: the model failed; carries the traceback.
        """
        from autotune.api import verify_result  # the ways in stand above the records

        return verify_result(self, candidates, budget, epochs=epochs, quiet=quiet)

    def summary(self) -> str:
        """The recommendation in one plain paragraph."""
        from autotune.reports.words import paragraph  # reports stand above the records

        return paragraph(self)

    def plot(self) -> Figure:
        """All pictures of the result in one matplotlib figure, which shows itself in a notebook.

        Save it with `result.plot().savefig("result.png")`, as any other. No window opens, and nothing that was set
        of matplotlib changes.

        Raises:
            AutotuneError: matplotlib cannot be imported.
        """
        try:
            from autotune.reports.figures import overview
        except ImportError as error:
            raise AutotuneError(
                f"A picture needs matplotlib, which cannot be imported: {error}.", remedy="Run: pip install matplotlib"
            ) from error

        return overview([self])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show the result as `autotune show` does, where rich prints it."""
        from autotune.reports.terminal import report

        yield report(self, options.max_width)

    def _repr_html_(self) -> str:
        """The answer, the table and the throughput, where a notebook shows it."""
        from autotune.reports.html import fragment

        return fragment(self)


def load_result(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote.

    Raises:
        ResultFileError: the file is missing, damaged, foreign, or of another schema version.
    """
    source = Path(path)
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise ResultFileError(f"{source} cannot be read: {error.strerror}.", remedy="Check the path.") from error
    try:
        version = decoded(raw, _versioned).schema_version
        if version != SCHEMA_VERSION:
            raise ResultFileError(
                f"{source} has schema version {version}; this autotune reads version {SCHEMA_VERSION}.",
                remedy="Use the autotune that wrote it, or probe again.",
            )
        result = decoded(raw, _decoder)
        for flaw in _flaws(result):
            raise msgspec.ValidationError(flaw)
        return result
    except msgspec.DecodeError as error:  # of which ValidationError is one
        raise ResultFileError(
            f"{source} is not a whole autotune result: {error}.", remedy="Probe again, or give another file."
        ) from error


class _Versioned(msgspec.Struct):
    schema_version: int


_versioned = msgspec.json.Decoder(_Versioned)
_decoder = msgspec.json.Decoder(Result)


def _flaws(result: Result) -> Iterator[str]:
    """What no probe writes, though each field by itself may be so; reports rely on that."""
    ran = {trial.batch_size for trial in result.trials if trial.fits and trial.measurement}
    if result.batch_size not in ran:
        yield f"batch size {result.batch_size}, which it recommends, did not run"
    if result.contest is not None and not _is_whole(result.contest, ran):
        yield "times are missing in its final round"
    steps = result.gradients
    if steps is not None and not len(steps.losses) == len(steps.square_norms) == len(steps.mean_square_norms):
        yield "figures are missing in its gradients"
    if result.forecast is not None and not _is_ascending([it.batch_size for it in result.forecast.footprints]):
        yield "its forecast is not in order"
    if result.verification is not None and not _are_whole(result.verification.curves):
        yield "figures are missing in its verification"


def _is_whole(contest: Contest, ran: set[int]) -> bool:
    """Whether each size took part in the first round at least, and is one of those that ran."""
    first = contest.counted[0] if contest.counted else (None,)
    lengths = {len(times) for times in contest.counted}
    return None not in first and lengths == {len(contest.batch_sizes)} and ran.issuperset(contest.batch_sizes)


def _is_ascending(sizes: Sequence[int]) -> bool:
    return len(sizes) > 0 and list(sizes) == sorted(set(sizes))


def _are_whole(curves: Sequence[Curve]) -> bool:
    """Whether each loss has its time, one after the other, and all were judged by the same parts."""
    return len({len(curve.reached_losses) for curve in curves}) == 1 and all(
        0 < len(curve.losses) == len(curve.seconds) and list(curve.seconds) == sorted(curve.seconds) for curve in curves
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a full disk, never leaves half of it.

    A link stays one, and what is no file, such as /dev/stdout, is written to, not replaced.

    Raises:
        ResultFileError: the folder is missing or read-only, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # which raises nothing, whatever is there
    partial = target.parent / f"{target.name}.partial"
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ResultFileError(
            f"{path} cannot be written: {error.strerror}.", remedy="Give another path, or free some space."
        ) from error
