"""An executor whose forecasts are reckoned, for tests of what is made of forecasts."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotune.executors import Attempt, ForecastRequest, Opened, Request
from autotune.executors.fake import FAKE_ENVIRONMENT
from autotune.forecast.records import Composition, Footprint, Forecast
from autotune.spec import Precision
from autotune.trial import Evidence, Outcome, WorkloadFacts

MIB = 1 << 20
RESIDENT_BYTES = 300 * MIB  # parameters, gradients and optimizer state, a third each
OPTIMIZER_BYTES = 100 * MIB  # which the optimizer's step takes and frees again
SAMPLE_BYTES = {Precision.FP32: 20 * MIB, Precision.BF16: 11 * MIB, Precision.FP16: 11 * MIB}
ALLOCATOR_BYTES = 2 * MIB


def modelled(batch_size: int, sample_bytes: int, allocator_bytes: int = ALLOCATOR_BYTES) -> Footprint:
    """A step that peaks in the optimizer at small sizes, and in the backward pass from then on."""
    activations_bytes = batch_size * sample_bytes
    phases = {"backward": RESIDENT_BYTES + activations_bytes, "optimizer": RESIDENT_BYTES + OPTIMIZER_BYTES}
    phase = max(phases, key=lambda name: phases[name])
    in_optimizer = phase == "optimizer"
    return Footprint(
        batch_size=batch_size,
        peak_bytes=phases[phase],
        held_bytes=phases[phase] + allocator_bytes,
        composition=Composition(
            parameters_bytes=RESIDENT_BYTES // 3,
            gradients_bytes=RESIDENT_BYTES // 3,
            optimizer_bytes=RESIDENT_BYTES // 3,
            activations_bytes=0 if in_optimizer else activations_bytes,
            temporary_bytes=OPTIMIZER_BYTES if in_optimizer else 0,
        ),
        phase_peak_bytes=phases,
        phase=phase,
        operator="aten._foreach_sqrt.default" if in_optimizer else "aten.convolution_backward.default",
        operators=10,
        seconds=0.1,
    )


@dataclass
class ModelledExecutor:
    """Answers forecasts as a child does: the sizes asked for, and those around the largest that fit.

    Attributes:
        name: of the workload.
        smallest: the first size that runs.
        base_bytes: of the process.
        allocator_bytes: what the allocator holds beyond the tensors.
        refused: what cannot be forecast, with what the child would say.
        has_switch: for activation checkpointing, which divides the activations by 4.
        requests: every forecast asked for.
    """

    name: str = "net"
    smallest: int = 1
    base_bytes: int = 0
    allocator_bytes: int = ALLOCATOR_BYTES
    refused: dict[Precision, str] = field(default_factory=dict)
    has_switch: bool = True
    requests: list[ForecastRequest] = field(default_factory=list)

    def open(self, *, dry: bool) -> Opened:
        """Facts of nothing in particular."""
        assert dry
        facts = WorkloadFacts(
            name=self.name,
            parameters=26_214_400,
            dataset_size=None,
            smallest_batch_size=1,
            batch_description="float32[1]",
            assumptions=("the optimizer is AdamW(lr=0.001)",),
        )
        return Opened(workload=facts, environment=FAKE_ENVIRONMENT, budget_bytes=1, free_bytes=1, isolated=True)

    def run(self, request: Request) -> Attempt:
        """Answer from the model."""
        assert isinstance(request, ForecastRequest)
        assert request.precision is not None
        self.requests.append(request)
        reason = self.refused.get(request.precision) or (
            "The model has no switch." if request.checkpointing and not self.has_switch else ""
        )
        if reason:
            evidence = Evidence(source="exception", text=f"NoForecastError: {reason}")
            return Attempt(outcome=Outcome.FAILED, evidence=evidence)
        return Attempt(outcome=Outcome.FITS, forecast=self._forecast(request, SAMPLE_BYTES[request.precision]))

    def _forecast(self, request: ForecastRequest, sample_bytes: int) -> Forecast:
        sample_bytes //= 4 if request.checkpointing else 1
        largest = [self._largest(budget - self.base_bytes, sample_bytes) for budget in request.budgets_bytes]
        edges = {size for edge in largest for size in (edge, edge + 1) if size >= self.smallest}
        sizes = {*request.batch_sizes, *edges, *([self.smallest] if largest else [])}
        return Forecast(
            rules=request.rules,
            footprints=tuple(modelled(size, sample_bytes, self.allocator_bytes) for size in sorted(sizes)),
            base_bytes=self.base_bytes,
            largest_batch_sizes=tuple(largest),
            guesses=(f"a guess in {request.precision}", "a guess in all"),
        )

    def _largest(self, room_bytes: int, sample_bytes: int) -> int:
        if modelled(self.smallest, sample_bytes, self.allocator_bytes).held_bytes > room_bytes:
            return 0
        return max(self.smallest, (room_bytes - RESIDENT_BYTES - self.allocator_bytes) // sample_bytes)
