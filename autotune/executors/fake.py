"""A machine that isn't there: trials of a modelled workload, for tests of what stands above the executors.

Step time is `alpha + beta * b` with seeded noise, peak memory `base + slope * b`, each trial a new draw.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autotune.executors import (
    Attempt,
    ContestRequest,
    FeedRequest,
    ForecastRequest,
    GradientsRequest,
    Opened,
    Request,
    TrainRequest,
    TrialRequest,
)
from autotune.forecast.records import Composition, Footprint, Forecast
from autotune.trial import (
    Conditions,
    Contest,
    Curve,
    Environment,
    Evidence,
    Feed,
    Feeding,
    Gradients,
    Measurement,
    Memory,
    Outcome,
    WorkloadFacts,
)


@dataclass
class FakeExecutor:
    """An executor without processes.

    Attributes:
        budget_bytes: what a trial may use.
        base_bytes: memory before the batch.
        bytes_per_sample: memory that each sample adds.
        alpha_seconds: the part of a step that does not depend on the batch.
        beta_seconds: the part of a step that each sample adds.
        noise: standard deviation of a step time, as a share of it.
        forecast_error: a forecast is so much too high, as a share of what a sample adds; None: there is no forecast.
        spread: the peak varies evenly between itself and this share more.
        num_workers: what the modelled DataLoader has; None: there is none.
        loading_seconds: what it takes to load a sample, divided among the workers.
        noise_scale: tr(Σ)/|G|² in samples; None: gradients cannot be measured.
        events: called before each request; may raise or return an attempt in place of the modelled one.
        requests: every request so far.
    """

    budget_bytes: int = 1000
    base_bytes: int = 100
    bytes_per_sample: int = 9
    alpha_seconds: float = 0.01
    beta_seconds: float = 0.001
    noise: float = 0.0
    spread: float = 0.0
    dataset_size: int | None = None
    smallest_batch_size: int = 1
    forecast_error: float | None = None
    num_workers: int | None = None
    loading_seconds: float = 0.0
    noise_scale: float | None = None
    seed: int = 0
    events: Callable[[Request], Attempt | None] = lambda _: None
    forks: bool = False
    requests: list[Request] = field(default_factory=list)
    is_closed: bool = False

    def __post_init__(self) -> None:
        """Seed the noise."""
        self._chance = random.Random(self.seed)

    def open(self) -> Opened:
        """Facts of nothing in particular."""
        return Opened(
            workload=WorkloadFacts(
                name="modelled",
                parameters=10,
                dataset_size=self.dataset_size,
                smallest_batch_size=self.smallest_batch_size,
                batch_description="float32[1]",
                can_accumulate=True,
                num_workers=self.num_workers,
            ),
            environment=FAKE_ENVIRONMENT,
            budget_bytes=self.budget_bytes,
            free_bytes=2 * self.budget_bytes,
            isolated=True,
            forks=self.forks,
        )

    def prepare(self, fresh_processes: int, needed_bytes: int) -> None:
        """There is no process."""

    def run(self, request: Request) -> Attempt:
        """Draw what the request would have measured."""
        self.requests.append(request)
        if (instead := self.events(request)) is not None:
            return instead
        match request:
            case ForecastRequest():
                return self._forecast(request)
            case GradientsRequest():
                return self._gradients(request)
            case TrialRequest():
                return self._trial(request)
            case ContestRequest():
                found: dict[str, Any] = {"contest": self._contest(request)}
            case FeedRequest():
                found = {"feeding": self._feeding(request)}
            case TrainRequest():
                found = {"curve": self._curve(request)}
        return Attempt(outcome=Outcome.FITS, **found)

    def close(self) -> None:
        """Remember that it was called."""
        self.is_closed = True

    def _trial(self, request: TrialRequest) -> Attempt:
        peak = self._peak(request.batch_size)
        if request.enforce and peak > 1.2 * self.budget_bytes:
            return Attempt(
                outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="watchdog", text="it passed the budget")
            )
        return Attempt(outcome=Outcome.FITS, measurement=self._measured(request, peak))

    def _contest(self, request: ContestRequest) -> Contest:
        rounds = [tuple(self._step(size) for size in request.batch_sizes) for _ in range(9)]
        return Contest(batch_sizes=request.batch_sizes, rounds=tuple(rounds))

    def _forecast(self, request: ForecastRequest) -> Attempt:
        if self.forecast_error is None:
            evidence = Evidence(source="exception", text="the model is only modelled")
            return Attempt(outcome=Outcome.FAILED, evidence=evidence)
        sizes = sorted({*request.batch_sizes, *(2**power for power in range(21))})
        slope = self.bytes_per_sample * (1 + self.forecast_error)
        footprints = tuple(_footprint(size, round(slope * size)) for size in sizes)
        return Attempt(outcome=Outcome.FITS, forecast=Forecast(rules=request.rules, footprints=footprints))

    def _feeding(self, request: FeedRequest) -> Feeding:
        """Without workers a step and its loading follow each other; with them, the slower one decides."""
        step = self._step(request.batch_size)
        load = self.loading_seconds * request.batch_size
        feeds = [(n, max(step, load / n) if n else step + load) for n in request.num_workers]
        return Feeding(
            batch_size=request.batch_size,
            from_memory_seconds=(step,),
            feeds=tuple(Feed(num_workers=n, step_seconds=(seconds,)) for n, seconds in feeds),
        )

    def _gradients(self, request: GradientsRequest) -> Attempt:
        """Norms whose ratio of sums is the modelled noise scale: |G|² = 1, tr(Σ) = the noise scale."""
        if self.noise_scale is None:
            evidence = Evidence(source="exception", text="the model is only modelled")
            return Attempt(outcome=Outcome.FAILED, evidence=evidence)
        size, count = max(1, request.batch_size // 4), 4
        wobble = [1 + 0.1 * self._chance.random() for _ in range(request.steps)]
        gradients = Gradients(
            micro_batch_size=size,
            micro_batches=count,
            square_norms=tuple(1 + factor * self.noise_scale / size for factor in wobble),
            mean_square_norms=tuple(1 + factor * self.noise_scale / (size * count) for factor in wobble),
            losses=(1.0,) * request.steps,
            optimizer="SGD",
            learning_rate=request.learning_rate or 0.1,
        )
        return Attempt(outcome=Outcome.FITS, gradients=gradients)

    def _curve(self, request: TrainRequest) -> Curve:
        """A loss that falls by half in as many steps as the modelled noise scale asks for; a part's is its own."""
        half = 100 * (1 + (self.noise_scale or 0.0) / request.batch_size) * self._step(request.batch_size)
        seconds = tuple(request.seconds * look / request.looks for look in range(request.looks + 1))
        losses = tuple(0.5 ** (second / half) for second in seconds)
        parts = request.held_out_samples // request.part_size
        return Curve(
            batch_size=request.batch_size,
            learning_rate=request.learning_rate,
            steps=round(request.seconds / self._step(request.batch_size)),
            seconds=seconds,
            losses=losses,
            reached_losses=tuple(losses[-1] * (1 + 0.01 * self._chance.random()) for _ in range(parts)),
        )

    def _peak(self, batch_size: int) -> int:
        modelled = self.base_bytes + self.bytes_per_sample * batch_size
        return round(modelled * (1 + self.spread * self._chance.random()))

    def _step(self, samples: int) -> float:
        return (self.alpha_seconds + self.beta_seconds * samples) * max(0.1, self._chance.gauss(1.0, self.noise))

    def _measured(self, request: TrialRequest, peak: int) -> Measurement:
        samples = request.batch_size * (request.accumulation_steps or 1)
        steps = tuple(self._step(samples) for _ in range(request.effort.min_steps))
        return Measurement(
            batch_size=request.batch_size,
            accumulation_steps=request.accumulation_steps or 1,
            step_seconds=steps,
            cpu_seconds=steps,
            warmup_steps=request.effort.warmup_steps,
            memory=Memory(peak_bytes=peak, base_bytes=self.base_bytes, method="modelled"),
            conditions=Conditions(),
            last_loss=1.0,
        )


def _footprint(batch_size: int, held_bytes: int) -> Footprint:
    return Footprint(
        batch_size=batch_size,
        peak_bytes=held_bytes,
        held_bytes=held_bytes,
        composition=Composition(activations_bytes=held_bytes),
        phase_peak_bytes={"forward": held_bytes},
        phase="forward",
        operator="modelled",
        operators=1,
        seconds=0.0,
    )


FAKE_ENVIRONMENT = Environment(
    autotune_version="0",
    python_version="3",
    torch_version="2",
    platform="modelled",
    processor="modelled",
    physical_cores=1,
    logical_cores=1,
    threads=1,
    host_memory_bytes=1 << 30,
    container_limit_bytes=None,
    device="cpu",
    device_name="modelled",
)
