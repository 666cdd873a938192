"""What a probe is doing, line by line, while it does it.

Needs rich and the records. Promises, on a terminal, one line that says what is tried and why, what remains and
how long it has taken, and below each other one line a trial that ended; elsewhere only those lines, whole, at
once, and without a control character. All of it goes to the error stream: the standard output is the answer's.
"""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from autotune.executors import Opened
from autotune.forecast.records import Forecast
from autotune.progress import Ahead
from autotune.reports.plain_text import printable
from autotune.reports.rows import trial_speed
from autotune.reports.words import evidence_line, outcome
from autotune.result import Result
from autotune.spec import LiveWorkload, PickledWorkload, ProbeSpec
from autotune.trial import Curve, Trial
from autotune.units import format_bytes, format_count, format_number, format_seconds, format_share

REFRESHES_PER_SECOND = 4  # the spinner shares the processor with the trial that is being timed


class Live:
    """A listener that writes to a console."""

    def __init__(self, console: Console, *, spinner: bool = True) -> None:
        """Write to this console, with a spinner if it is wanted and the console is a real terminal."""
        self._console = console
        self._spinner = console.file.isatty() and console.is_interactive and spinner
        self._progress: Progress | None = None
        self._budget_bytes: int | None = None
        self._began = time.monotonic()

    def opening(self, spec: ProbeSpec) -> None:
        """Say that the workload is being built."""
        workload = spec.workload
        name = workload.name if isinstance(workload, PickledWorkload | LiveWorkload) else workload.target
        self._begin(f"building {printable(name)}")

    def opened(self, opened: Opened) -> None:
        """Say what runs where, and within which budget."""
        self._stop()
        self._budget_bytes = opened.budget_bytes
        environment, workload = opened.environment, opened.workload
        size = f" ({format_count(workload.parameters)} parameters)" if workload.parameters is not None else ""
        self._line(
            f"probing {workload.name}{size} on {environment.device}, {environment.device_name}, "
            f"within {format_bytes(opened.budget_bytes)}"
        )

    def trial_started(self, number: int, batch_size: int, purpose: str, why: str, ahead: Ahead) -> None:
        """Say what is tried and why, and what remains."""
        self._begin(f"trying {format_count(batch_size)}: {printable(why)}", remaining(ahead))

    def trial_ended(self, trial: Trial) -> None:
        """Write the trial's line."""
        self._stop()
        line = printable(trial_line(trial, self._budget_bytes))
        if trial.accepted:  # what was refused says why by itself
            self._print(Text.assemble(line, (f"  {printable(trial.why)}", "dim")))
        else:
            self._print(Text(line, style="red"))

    def forecast_started(self) -> None:
        """Say that memory is being forecast."""
        self._begin("forecasting peak memory, without running")

    def forecast_ended(self, forecast: Forecast | None, edge: int | None, why_not: str) -> None:
        """Write what is predicted, or why nothing is."""
        self._stop()
        if forecast is None:
            self._line(f"no forecast: {why_not}", style="dim")
        else:
            text = f"forecast: up to about {format_count(edge or 0)} will fit (predicted, not yet run)"
            self._line(text, style="dim")

    def contest_started(self, batch_sizes: tuple[int, ...]) -> None:
        """Say which sizes are timed against each other."""
        self._begin(f"timing {', '.join(map(format_count, batch_sizes))} against each other")

    def warm_up_started(self, batch_size: int, steps: int) -> None:
        """Say for how long."""
        self._begin(f"training a copy for {steps} steps of {batch_size}, to measure the noise of its gradients")

    def feeding_started(self, num_workers: tuple[int, ...]) -> None:
        """Say with how many workers."""
        self._begin(f"timing the DataLoader with {', '.join(map(str, num_workers))} workers")

    def trainings_planned(self, batch_sizes: tuple[int, ...], seconds_each: float, held_out_samples: int) -> None:
        """Say what it will cost."""
        self._stop()
        sizes, all_seconds = ", ".join(map(format_count, batch_sizes)), len(batch_sizes) * seconds_each
        self._line(
            f"training {sizes} for {format_seconds(seconds_each)} each, {format_seconds(all_seconds)} in all and a "
            f"little more to look at {format_count(held_out_samples)} samples held out"
        )

    def training_started(self, batch_size: int, learning_rate: float | None, seconds_left: float) -> None:
        """Say with which learning rate, and how long all will take."""
        rate = "" if learning_rate is None else f" at a learning rate of {learning_rate:.3g}"
        self._begin(f"training {format_count(batch_size)}{rate}", f"· about {_whole_seconds(seconds_left)} to go")

    def training_ended(self, curve: Curve) -> None:
        """Write what it reached."""
        self._stop()
        rate = "" if curve.learning_rate is None else f", learning rate {curve.learning_rate:.3g}"
        end = ", then diverged" if curve.has_diverged else ""
        self._line(
            f"{format_count(curve.batch_size):>9}  held-out loss {curve.losses[0]:.4g} to {curve.reached_loss:.4g} in "
            f"{format_count(curve.steps)} steps{rate}{end}"
        )

    def warned(self, text: str) -> None:
        """Write the warning."""
        self._line(f"warning: {text}", style="yellow")

    def ended(self, result: Result | None) -> None:
        """Take the spinner away. May be called twice."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _begin(self, text: str, remains: str = "") -> None:
        self._stop()
        if not self._spinner:
            return
        description = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
        self._progress = Progress(
            SpinnerColumn(),
            description,
            TextColumn(remains, markup=False, style="dim", table_column=Column(no_wrap=True)),
            _Elapsed(self._began),
            console=self._console,
            transient=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._progress.add_task(text, total=None)
        self._progress.start()

    def _line(self, text: str, style: str = "") -> None:
        self._print(Text(printable(text), style=style))

    def _print(self, text: Text) -> None:
        """Write a line: cut to the width of a terminal, whole anywhere else."""
        if self._spinner:
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(text, soft_wrap=True)
        self._console.file.flush()


class _Elapsed(ProgressColumn):
    """The time since the probe began, not since the line did."""

    def __init__(self, began: float) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._began = began

    def render(self, task: Task) -> Text:
        return Text(f"· {_whole_seconds(time.monotonic() - self._began)} so far", style="dim")


def remaining(ahead: Ahead) -> str:
    """What remains, to plan by: "· at most 7 trials to go, about 12 s"; empty where nothing is known."""
    if ahead.trials is None:
        return ""
    bound = "at most" if ahead.is_bound else "about"
    trials = f"· {bound} {format_count(ahead.trials)} trial{'' if ahead.trials == 1 else 's'} to go"
    if ahead.seconds is None:
        return trials
    return f"{trials}, {'about ' if ahead.is_bound else ''}{_whole_seconds(math.ceil(ahead.seconds))}"


def _whole_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else format_seconds(seconds, compact=True)


def trial_line(trial: Trial, budget_bytes: int | None) -> str:
    """One line: batch size and, where it fits, samples/s and peak memory, or else who refused it and why."""
    measurement = trial.measurement
    steps = measurement.accumulation_steps if measurement else 1
    parts = [f"{format_count(trial.batch_size) + (f' x {steps}' if steps > 1 else ''):>9}", outcome(trial)]
    if trial.evidence is not None:
        parts.append(evidence_line(trial.evidence))
    elif measurement is not None:
        peak_bytes = measurement.memory.peak_bytes
        share = f", {format_share(peak_bytes / budget_bytes)} of budget" if budget_bytes else ""
        parts += [_rate(trial), f"{format_bytes(peak_bytes):>8}{share}", _forecast_error(trial, peak_bytes)]
    return "  ".join(part for part in parts if part.strip()).rstrip()


def _forecast_error(trial: Trial, peak_bytes: int) -> str:
    """By how much the forecast was off, over (+) or under (-) what was measured."""
    if trial.forecast_bytes is None:
        return ""
    return f"forecast {(trial.forecast_bytes - peak_bytes) / peak_bytes:+.1%}"


def _rate(trial: Trial) -> str:
    """Samples/s and their margin, as wide for every trial."""
    speed = trial_speed(trial)
    if speed is None:
        return " " * 26
    margin = f"±{format_share(speed.margin)}" if speed.margin is not None else ""
    return f"{format_number(speed.samples_per_second):>9} samples/s {margin:<6}"
