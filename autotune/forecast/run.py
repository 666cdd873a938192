"""The memory of a step at any batch size, from a run of the workload's own step without data.

Needs torch and a bench, which is used up: its model loses its data. So this is for a process that may be thrown away
afterwards. Promises footprints that don't depend on what was forecast before, and one error for every step that
can't be followed, with the reason.

A footprint takes two steps: the first makes the optimizer's state, the second is like all that come. What runs
without data imports sympy (70 MiB), which training would not; so it is imported after the base was read.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from autotune.bench import Bench, Step
from autotune.devices import linux_process as linux
from autotune.errors import NoForecastError
from autotune.forecast import first_code, inference, users_line
from autotune.forecast.allocator import reserved_peak_bytes
from autotune.forecast.heap import heap_peak_bytes, is_in_use, most_live_bytes
from autotune.forecast.records import Footprint, Rules
from autotune.forecast.tracker import ByteTracker, Owner
from autotune.workloads.batches import move
from autotune.workloads.tracebacks import one_line

if TYPE_CHECKING:
    from autotune.forecast.opaque import Lesson
    from autotune.forecast.tracker import KnownSizes, Transients, Untouched
    from autotune.forecast.world import World

STEPS = 2

MEASURE_REMEDY = (
    "If the error is the workload's own, a step with data raises it, too; if not, its memory can only be measured."
)


class _Ran(NamedTuple):
    """Steps that were followed: the tracker, the last step's operators, and what oneDNN holds."""

    tracker: ByteTracker
    operators: int
    compiled_bytes: int = 0


class Forecaster:
    """Forecasts one workload's steps.

    Attributes:
        base_bytes: on CPU, what this process held before the first step besides the model's tensors, the code that a
            step runs included.
        guesses: what could not be known without data, in words; grows with the footprints.
    """

    def __init__(self, bench: Bench, rules: Rules, *, accumulation_steps: int = 1) -> None:
        """Take the data out of the bench's model.

        Args:
            bench: the workload; used up.
            rules: whose memory is forecast.
            accumulation_steps: micro-batches in a step.

        Raises:
            NoForecastError: the model was compiled or scripted, or holds tensors that can't be without data.
        """
        _refuse_translated(bench.workload.model)
        self.base_bytes = _base_bytes(bench) if rules is Rules.CPU else 0
        self.guesses: list[str] = []
        from autotune.forecast import recall, shapes, twin

        self._bench, self._rules, self._accumulation_steps = bench, rules, accumulation_steps
        self._mode = recall.RecallingMode()
        self._states = twin.OptimizerStates()
        self._lesson: Lesson | None = None
        self._is_watching = True  # for opaque operators, until a step showed that there is none
        with _explained():
            self._shape = shapes.learn(bench.workload.make_batch)
            with self._world() as entered:
                self._twin = twin.Twin(_tensors_of(bench.workload.model), entered.device)
            self._twin.take_place()

    def footprint(self, batch_size: int) -> Footprint:
        """The memory of a step at a batch size, from the same state each time.

        Raises:
            NoForecastError: the step can't be followed without data; the message says why.
        """
        started = time.process_time()
        with _older_objects_left_alone():
            with _explained():
                ran = self._followed(batch_size)
            return _footprint(batch_size, self._rules, ran, started)

    def _followed(self, batch_size: int) -> _Ran:
        """A run without data; the first time, one that stops where something must be learnt by running it."""
        if self._is_watching:
            found = self._watched(batch_size)
            self._lesson = self._learnt() if found is None else None
            self._is_watching = False  # only now: a size that raised on the way has shown nothing
            if found is not None:
                return found
        return self._fake_run(batch_size, *([self._lesson.corrector(batch_size)] if self._lesson else []))

    def _watched(self, batch_size: int) -> _Ran | None:
        """A run without data; None where it met an opaque operator. By then its traceback is gone, with its tensors."""
        from autotune.forecast.opaque import OpaqueOperatorError, stop_at_opaque

        try:
            return self._fake_run(batch_size, stop_at_opaque)
        except OpaqueOperatorError:
            return None

    def _learnt(self) -> Lesson:
        """What two small steps show of the opaque operators, which alone run with data."""
        from autotune.forecast.opaque import SMALL, Rehearsal, lesson

        small, large = Rehearsal(), Rehearsal()
        self._fake_run(SMALL[0], small)
        self._fake_run(SMALL[1], large)
        return lesson(small, large)

    # ------------------------------------------------------------------ running

    def _fake_run(self, batch_size: int, *known_sizes: KnownSizes) -> _Ran:
        from autotune.forecast.compiled import Compiled
        from autotune.forecast.opaque import reduced_losses

        compiled = Compiled()
        real = None if self._shape else self._bench.workload.make_batch(batch_size)
        with self._world() as world:
            tracker = ByteTracker(
                self._rules,
                device_type=torch.device(world.device).type,
                transients=_transients(self._rules),
                untouched=_untouched(self._rules),
                known_sizes=(*known_sizes, reduced_losses, compiled),
                seen_as=world.stand_in,
            )
            make = _fake_batches(self._shape, real, world.device)
            operators = self._run(tracker, batch_size, make, world.device)
        return _Ran(tracker, operators, compiled.held_bytes if self._rules is Rules.CPU else 0)

    def _run(self, tracker: ByteTracker, batch_size: int, make: Callable[[int], Any], device: str) -> int:
        tracker.give(self._twin.tensors, Owner.PARAMETERS)
        try:
            with self._states.kept(tracker, device):
                tracked = _tracked(self._bench, tracker, make)
                return _run_steps(tracked, batch_size, tracker, STEPS, self._accumulation_steps)
        finally:
            for tensor in self._twin.tensors:
                tensor.grad = None

    @contextmanager
    def _world(self) -> Iterator[World]:
        from autotune.forecast.world import fake_world

        with fake_world(self._rules, self._bench.device.torch_device, self._mode) as world:
            try:
                yield world
            finally:
                self.guesses += [guess for guess in world.guesses if guess not in self.guesses]


def track_real(
    bench: Bench, batch_size: int, steps: int = 3, rules: Rules = Rules.CPU, *, accumulation_steps: int = 1
) -> Footprint:
    """The same counting over steps that really run: the truth that forecasts are held against.

    Args:
        bench: the workload; it trains.
        batch_size: samples in each batch.
        steps: how many.
        rules: whose rounding and whose allocator.
        accumulation_steps: micro-batches in a step.
    """
    started = time.process_time()
    device_type = torch.device(bench.device.torch_device).type
    tracker = ByteTracker(rules, device_type=device_type, transients=_transients(rules), untouched=_untouched(rules))
    tracker.give(_tensors_of(bench.workload.model), Owner.PARAMETERS)
    tracked = _tracked(bench, tracker, bench.workload.make_batch)
    from autotune.forecast import fast_path

    with inference.means_no_grad(), fast_path.cast_as_unwatched():
        operators = _run_steps(tracked, batch_size, tracker, steps, accumulation_steps)
    return _footprint(batch_size, rules, _Ran(tracker, operators), started)


def _tracked(bench: Bench, tracker: ByteTracker, make: Callable[[int], Any]) -> Bench:
    """The bench with other batches, of which a tracker is told once they are on the device."""
    from autotune.forecast.shapes import tensors_of

    def make_batch(size: int) -> Any:
        with tracker.paused():
            batch = move(make(size), bench.device.torch_device)
        tracker.give(tensors_of(batch), Owner.BATCH)
        return batch

    return replace(bench, workload=replace(bench.workload, make_batch=make_batch))


def _run_steps(tracked: Bench, batch_size: int, tracker: ByteTracker, steps: int, accumulation_steps: int) -> int:
    """Steps as a trial runs them, each result held until the next is there; returns the last one's operators."""
    before = 0
    with tracker:
        step = Step(tracked, batch_size, accumulation_steps)
        for _ in range(steps):
            before = tracker.operators
            _result = step.rehearse()
            tracker.end_step()
        return tracker.operators - before


def _fake_batches(shape: Any, real: Any, device: str) -> Callable[[int], Any]:
    """Makes batches without data: of a shape that was learnt, or else in the image of a real one."""
    from autotune.forecast.shapes import emptied

    if shape is not None:
        return lambda batch_size: shape.fake_batch(batch_size, device)
    return lambda _: emptied(real, device)


def _footprint(batch_size: int, rules: Rules, ran: _Ran, started: float) -> Footprint:
    tracker, peak = ran.tracker, ran.tracker.peak
    return Footprint(
        batch_size=batch_size,
        peak_bytes=peak.total_bytes,
        held_bytes=_held_bytes(rules, tracker) + ran.compiled_bytes,
        composition=tracker.composition(),
        phase_peak_bytes=tracker.phase_peak_bytes,
        phase=peak.phase,
        operator=peak.operator,
        operators=ran.operators,
        seconds=time.process_time() - started,
    )


def _transients(rules: Rules) -> Transients:
    """What kernels take inside themselves; imported late, as all that imports much of torch."""
    if rules is Rules.CPU:
        from autotune.forecast.cpu_kernels import CPU_TRANSIENTS

        return CPU_TRANSIENTS
    from autotune.forecast.cuda_kernels import CUDA_TRANSIENTS

    return CUDA_TRANSIENTS


def _untouched(rules: Rules) -> Untouched:
    """What tensors ask for and never use: a page counts in a process once it was written to, on a GPU at once."""
    if rules is Rules.CUDA:
        return {}
    from autotune.forecast.cpu_kernels import CPU_UNTOUCHED

    return CPU_UNTOUCHED


def _held_bytes(rules: Rules, tracker: ByteTracker) -> int:
    """What the allocator holds: by replay where it is one that is known, else the live bytes."""
    if rules is Rules.CUDA:
        return reserved_peak_bytes(tracker.events)
    if not is_in_use():
        return most_live_bytes(tracker.touched_events())
    return max(heap_peak_bytes(tracker.touched_events(), tracker.surroundings()), 0)


def _tensors_of(model: nn.Module | None) -> list[torch.Tensor]:
    """A model's parameters and buffers, tied ones once."""
    return [] if model is None else [*model.parameters(), *model.buffers()]


def _base_bytes(bench: Bench) -> int:
    """What this process holds besides the model's tensors, once it has run the code of a step."""
    first_code.run_some(training=bench.mode == "train")
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in _tensors_of(bench.workload.model)}
    besides_bytes = linux.resident().total_bytes - sum(storage.nbytes() for storage in storages.values())
    return max(0, besides_bytes)


def _refuse_translated(model: nn.Module | None) -> None:
    """Refuse a model whose Python code isn't what runs.

    Raises:
        NoForecastError: it was compiled or scripted.
    """
    for module in () if model is None else model.modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise NoForecastError(
                f"The model is {'compiled' if compiled else 'scripted'}, and what that runs is not known beforehand.",
                remedy="Forecast the model as it was before, or measure: autotune does that.",
            )


@contextmanager
def _older_objects_left_alone() -> Iterator[None]:
    """The collector looks for garbage in what is made from here on: torch's own objects cost a tenth of a forecast."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever a step without data raises is a reason why there is no forecast."""
    try:
        yield
    except NoForecastError:
        raise
    except Exception as error:
        raise NoForecastError(
            f"The step cannot be followed without data: {one_line(error).rstrip('.')} "
            f"({users_line.that_raised(error)}).",
            remedy=MEASURE_REMEDY,
        ) from error
