"""Whom a probe tells what it is doing. The terminal's live lines are one listener, silence is another."""

from __future__ import annotations

from typing import Protocol

from autotune.executors import Opened
from autotune.forecast.records import Forecast
from autotune.progress import Ahead
from autotune.result import Result
from autotune.spec import ProbeSpec
from autotune.trial import Curve, Trial


class Listener(Protocol):
    """Told of each event as it happens, in this order."""

    def opening(self, spec: ProbeSpec) -> None:
        """The workload is about to be built, which takes seconds."""
        ...

    def opened(self, opened: Opened) -> None:
        """The workload is built: what it is, where it runs, and the budget."""
        ...

    def trial_started(self, number: int, batch_size: int, purpose: str, why: str, ahead: Ahead) -> None:
        """A trial is about to run: what is tried, why, and what remains, this trial included."""
        ...

    def trial_ended(self, trial: Trial) -> None:
        """The trial has ended and is in the journal."""
        ...

    def forecast_started(self) -> None:
        """Peak memory is about to be forecast, which takes a second or a few."""
        ...

    def forecast_ended(self, forecast: Forecast | None, edge: int | None, why_not: str) -> None:
        """The forecast is there, with the largest batch size that it lets fit; or else why there is none."""
        ...

    def contest_started(self, batch_sizes: tuple[int, ...]) -> None:
        """The final round is about to run: these sizes are timed against each other."""
        ...

    def warm_up_started(self, batch_size: int, steps: int) -> None:
        """A copy is about to be trained for some steps, to measure its gradients."""
        ...

    def feeding_started(self, num_workers: tuple[int, ...]) -> None:
        """Steps are about to be fed by the caller's DataLoader, with each of these numbers of workers."""
        ...

    def trainings_planned(self, batch_sizes: tuple[int, ...], seconds_each: float, held_out_samples: int) -> None:
        """These batch sizes are about to be trained for so long each, and judged by what is held out."""
        ...

    def training_started(self, batch_size: int, learning_rate: float | None, seconds_left: float) -> None:
        """One of them is about to be trained, with this learning rate or its own; so long remains for all."""
        ...

    def training_ended(self, curve: Curve) -> None:
        """It has been trained."""
        ...

    def warned(self, text: str) -> None:
        """Something the user should know."""
        ...

    def ended(self, result: Result | None) -> None:
        """The probe is over, with a result, or None where there is none."""
        ...


class Silence:
    """The listener that does nothing."""

    def opening(self, spec: ProbeSpec) -> None:
        """Say nothing."""

    def opened(self, opened: Opened) -> None:
        """Say nothing."""

    def trial_started(self, number: int, batch_size: int, purpose: str, why: str, ahead: Ahead) -> None:
        """Say nothing."""

    def trial_ended(self, trial: Trial) -> None:
        """Say nothing."""

    def forecast_started(self) -> None:
        """Say nothing."""

    def forecast_ended(self, forecast: Forecast | None, edge: int | None, why_not: str) -> None:
        """Say nothing."""

    def contest_started(self, batch_sizes: tuple[int, ...]) -> None:
        """Say nothing."""

    def warm_up_started(self, batch_size: int, steps: int) -> None:
        """Say nothing."""

    def feeding_started(self, num_workers: tuple[int, ...]) -> None:
        """Say nothing."""

    def trainings_planned(self, batch_sizes: tuple[int, ...], seconds_each: float, held_out_samples: int) -> None:
        """Say nothing."""

    def training_started(self, batch_size: int, learning_rate: float | None, seconds_left: float) -> None:
        """Say nothing."""

    def training_ended(self, curve: Curve) -> None:
        """Say nothing."""

    def warned(self, text: str) -> None:
        """Say nothing."""

    def ended(self, result: Result | None) -> None:
        """Say nothing."""
