"""A workload set up on a device, ready to run steps at any batch size.

Needs a workload and a device. Promises that a step runs on a batch of the size asked for: the batch, and on
its first call what the model sees of it, are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from autotune.devices import Device, DeviceFacts, is_dead
from autotune.devices.signs import judge
from autotune.errors import WorkloadError
from autotune.executors.messages import Built
from autotune.spec import Mode, Objective, ProbeSpec
from autotune.trial import Outcome, WorkloadFacts
from autotune.workloads import BuildOptions, MicroBatches, Workload
from autotune.workloads.batches import describe, move
from autotune.workloads.checks import check_batch, watch_inputs
from autotune.workloads.opening import build_workload
from autotune.workloads.tracebacks import one_line, user_traceback

if TYPE_CHECKING:
    from autotune.workloads.live import LiveParts


@dataclass(frozen=True)
class Bench:
    """What is measured and where: a workload on a device, in one mode.

    `single_steps` asks for a reading of the clock per step, for quantiles of latency. The model is only ever given
    batches of a multiple of `multiple_of`.
    """

    workload: Workload
    device: Device
    mode: str
    smallest_batch_size: int = 1
    multiple_of: int = 1
    single_steps: bool = False

    @property
    def accumulation_steps(self) -> int:
        """Batches in a step of the optimizer: two where the caller accumulates more.

        Gradients lie beside the second batch as they do beside any later one, so the peak is the same.
        """
        return min(self.workload.accumulation_steps, 2) if self.mode == "train" else 1

    def warm_up(self) -> None:
        """Three steps at the smallest batch size: the first makes the optimizer's state, the others use it."""
        step = Step(self, self.smallest_batch_size)
        for _ in range(3):
            step.rehearse()
        self.device.synchronize()

    def batch(self, batch_size: int) -> Any:
        """A batch on the device, in which the number of samples shows."""
        made = self.workload.make_batch(batch_size)
        check_batch(made, batch_size)
        return move(made, self.device.torch_device)

    def run(self, batch: Any) -> Any:
        """One step on a batch on the device."""
        run = self.workload.training_step if self.mode == "train" else self.workload.inference_step
        if run is None:
            raise ValueError(f"this workload has no step for {self.mode}")
        return run(batch)


class Step:
    """One step of a bench at one batch size, run as often as it is called.

    Called, it runs on the batch at hand, which stands for each micro-batch that it accumulates: no time goes into
    making data. A rehearsal, which nobody times, makes each when the loop asks for it, while the one before is held,
    as a loop over a DataLoader does: what it needs does not grow with their number, unless the loop collects them.
    """

    def __init__(self, bench: Bench, batch_size: int, accumulation_steps: int | None = None) -> None:
        """Nothing is made yet. Without a number of micro-batches, a step accumulates as many as the caller's does."""
        self._bench, self._size = bench, batch_size
        self.accumulation_steps = accumulation_steps or bench.accumulation_steps
        self._run = self._runner()
        self._is_checked = False
        self.batch: Any = None

    def renew(self) -> None:
        """Make a new batch while the old one is held."""
        self.batch = self._bench.batch(self._size)

    def rehearse(self) -> Any:
        """Run one step on new batches; the first time, see to it that the model gets the whole batch."""
        self.renew()
        batches = _OneByOne(self)
        if self._is_checked:
            return self._run(batches)
        self._is_checked = True
        with watch_inputs(self._bench.workload.model, self._size):
            return self._run(batches)

    def __call__(self) -> Any:
        """Run one step on the batch at hand."""
        return self._run([self.batch] * self.accumulation_steps)

    def _runner(self) -> Callable[[MicroBatches], Any]:
        bench, accumulated_step = self._bench, self._bench.workload.accumulated_step
        if self.accumulation_steps == 1:
            return lambda _: bench.run(self.batch)
        if accumulated_step is None:
            raise ValueError("this workload's loop is the user's own and cannot accumulate")
        return accumulated_step


@dataclass(frozen=True)
class _OneByOne:
    """The micro-batches of one step: the batch at hand, then new ones in its place."""

    step: Step

    def __len__(self) -> int:
        return self.step.accumulation_steps

    def __iter__(self) -> Iterator[Any]:
        yield self.step.batch
        for _ in range(len(self) - 1):
            self.step.renew()
            yield self.step.batch


def build_bench(spec: ProbeSpec, device: Device, live: LiveParts | None = None) -> Bench:
    """Build the spec's workload on a device.

    Raises:
        UsageError: the workload's description is incomplete or contradicts itself.
        Exception: whatever the user's code raises.
    """
    options = BuildOptions(
        device=device.torch_device,
        mode=spec.mode.value,
        precision=spec.precision.value,
        compile=spec.compile,
        seed=spec.seed,
    )
    return Bench(
        workload=build_workload(spec.workload, options, live),
        device=device,
        mode=spec.mode.value,
        smallest_batch_size=spec.multiple_of,
        multiple_of=spec.multiple_of,
        single_steps=spec.mode is Mode.INFERENCE or spec.objective is Objective.LATENCY,
    )


def with_smallest(bench: Bench) -> Bench:
    """The bench with the smallest batch size that runs: BatchNorm in training refuses one value per channel, not two.

    Raises:
        WorkloadError: none does. The error of the last is told, since that of a single sample may be
            BatchNorm's; or else the one that the device did not survive.
        Exception: memory ran out, which says nothing of the workload.
    """
    failed: Exception | None = None
    for size in (bench.multiple_of, 2 * bench.multiple_of):
        tried = replace(bench, smallest_batch_size=size)
        try:
            tried.warm_up()
            return tried
        except WorkloadError:
            raise
        except Exception as error:
            if judge(error) is not Outcome.FAILED:
                raise
            failed = error
            if is_dead(bench.device):  # another size would only show that
                break
    assert failed is not None  # the loop ended without a return
    raise first_step_failed(failed, tried) from failed


def first_step_failed(error: Exception, bench: Bench) -> WorkloadError:
    """The user's error, in one line that shows what the model was given."""
    size = bench.smallest_batch_size
    try:
        given = describe(bench.workload.make_batch(size))
        remedy = f"The batch was {given}; check that the model and the loss take it."
    except Exception:  # then it is making the batch that failed
        remedy = f"No batch could be made; see what make_batch({size}) does by hand."
    return WorkloadError(
        f"The first step failed, at batch size {size}: {one_line(error)}",
        remedy=remedy,
        user_traceback=user_traceback(error),
    )


def workload_facts(bench: Bench) -> WorkloadFacts:
    """What is known of the workload once it has run."""
    workload = bench.workload
    smallest = bench.smallest_batch_size
    grown = () if smallest == bench.multiple_of else (f"the model refuses a batch size below {smallest}",)
    return WorkloadFacts(
        name=workload.name,
        parameters=None if workload.model is None else sum(p.numel() for p in workload.model.parameters()),
        dataset_size=workload.dataset_size,
        smallest_batch_size=smallest,
        batch_description=describe(workload.make_batch(smallest)),
        assumptions=workload.assumptions + grown,
        can_accumulate=workload.accumulated_step is not None,
        training=workload.training() if callable(workload.training) else workload.training,
        num_workers=None if workload.make_loader is None else workload.num_workers,
    )


def built_of(bench: Bench, facts: DeviceFacts, workload: WorkloadFacts, *, threads: int, forks: bool = False) -> Built:
    """What whoever asked for the workload is told of it, and of where it runs."""
    return Built(
        workload=workload,
        device=bench.device.torch_device,
        device_name=facts.name,
        free_bytes=facts.free_bytes,
        total_bytes=facts.total_bytes,
        threads=threads,
        forks=forks,
        torch_version=str(torch.__version__),
        driver_version=facts.driver_version,
        runtime_version=facts.runtime_version,
        warnings=facts.warnings,
    )
