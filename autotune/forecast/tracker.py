"""Live bytes of tensors, from the birth of each storage to its death.

Needs torch. Works the same over tensors with data and without, so one mechanism gives the forecast and the truth
that it is held against. Promises the bytes of every storage that an operator took or returned, or that was given;
memory that a kernel takes and frees inside itself is seen only where `transients` tells of it.

Each storage has one weak reference. The C++ storage keeps its Python object alive, so the reference's callback runs
when the memory is truly freed, not when Python forgets it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.forecast.records import Composition, Event, Rules, Surroundings

ROUNDING_BYTES = {Rules.CPU: 64, Rules.CUDA: 512}
"""What an allocator rounds each request up to: `gAlignment` in c10/core/alignment.h, `kMinBlockSize` in
c10/cuda/CUDACachingAllocator.cpp."""

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"

aten = torch.ops.aten

NODES = "autograd_nodes"

HELD_BY_ONE = {"tensor": 4, "storage": 2}
"""What a dispatch mode sees of an argument that only the engine of autograd holds, in references (torch 2.13): the
engine's own, and those of the call through Python. A torch that counts otherwise has sums take memory of their own."""

_LIFTS = (aten.lift_fresh.default, aten.lift_fresh_copy.default)
"""What `torch.tensor(...)` ends in. Its input is a constant whose value a run without data needs, so it is left be."""


class Workspace(NamedTuple):
    """What a kernel takes and frees inside itself: the bytes of each storage, by when it is there.

    Attributes:
        throughout: taken first, freed last.
        before: freed before there is memory for the result, or for the first of several.
        across: there with those, and until that result is.
        after: taken once it is there, when the two before are gone; freed before there is memory for other results.
        across_others: there with those, and until the other results are.
    """

    throughout: Sequence[int] = ()
    before: Sequence[int] = ()
    across: Sequence[int] = ()
    after: Sequence[int] = ()
    across_others: Sequence[int] = ()


Transients = Mapping[Any, Callable[[tuple[Any, ...], Any], Workspace]]
"""By operator, from its arguments and what it returned: what its kernel takes and frees inside itself."""

Untouched = Mapping[Any, Callable[[tuple[Any, ...], Any], Iterable[tuple[torch.Tensor, float]]]]
"""By operator, from its arguments and what it returned: tensors of which a share is never written to."""

KnownSizes = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Iterable[tuple[torch.Tensor, int]]]
"""From an operator, its arguments and what it returned: those of its tensors that hold other bytes than they say."""


class Owner(Enum):
    """What a storage belongs to, by the name of its field in `Composition`; what has none is temporary."""

    PARAMETERS = "parameters_bytes"
    GRADIENTS = "gradients_bytes"
    OPTIMIZER = "optimizer_bytes"
    ACTIVATIONS = "activations_bytes"
    BATCH = "batch_bytes"


@dataclass(frozen=True)
class Peak:
    """The worst moment: live bytes, where they were reached, and how many events lie before it."""

    live_bytes: int
    transient_bytes: int
    phase: str
    operator: str
    events: int

    @property
    def total_bytes(self) -> int:
        """Live tensors, and what the running kernel held besides."""
        return self.live_bytes + self.transient_bytes


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A storage as the tracker knows it: its number, the bytes it says that it has, and those it is counted for."""

    __slots__ = ("counted_bytes", "key", "number", "said_bytes")
    key: int
    number: int
    said_bytes: int
    counted_bytes: int


class ByteTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages while it is entered.

    Attributes:
        events: births and deaths in their order, sizes not rounded.
        live_bytes: of all live storages, each rounded up.
        peak: the worst moment so far.
        phase_peak_bytes: the worst moment of each phase so far.
        operators: how many operators ran so far.
    """

    def __init__(
        self,
        rules: Rules = Rules.CPU,
        *,
        device_type: str = "cpu",
        transients: Transients | None = None,
        untouched: Untouched | None = None,
        known_sizes: Sequence[KnownSizes] = (),
        seen_as: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Track nothing yet.

        Args:
            rules: whose allocator rounds the sizes.
            device_type: storages on other devices are not counted.
            transients: memory inside kernels; None for none.
            untouched: memory that tensors ask for and don't use; None for none.
            known_sizes: correct what operators return.
            seen_as: the tensor that stands for an operator's argument: in a run without data, the user's own
                tensors are replaced inside the operators, and what replaces them is what lives and dies.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.live_bytes = 0
        self.peak = Peak(0, 0, FORWARD, "", 0)
        self.phase_peak_bytes: dict[str, int] = {}
        self.operators = 0
        self._rounding_bytes = ROUNDING_BYTES[rules]
        self._device_type = device_type
        self._transients = transients or {}
        self._untouched = untouched or {}
        self._untouched_bytes: dict[int, int] = {}
        self._known_sizes = known_sizes
        self._seen_as = seen_as
        self._storages: dict[int, _Storage] = {}
        self._owners: dict[int, Owner] = {}
        self._births: list[str] = []  # the phase in which each storage was born
        self._step_ends: list[int] = []
        self._bare: set[int] = set()
        self._moved_bytes = 0  # that storages had until the operator at hand gave them others
        self._nodes: dict[int, int] = {}  # beside each storage: one with the first that an operator returns
        self._last_returned = -1  # by which operator a storage was returned last
        self._phase = FORWARD
        self._in_optimizer = False
        self._paused = False
        self._hooks: list[Any] = []

    # ------------------------------------------------------------------ what the caller tells

    def give(self, tensors: Iterable[torch.Tensor], owner: Owner) -> None:
        """Count tensors that no operator made under this tracker, or say whose those are that are counted already."""
        for tensor in tensors:
            storage = self._see(tensor)
            if storage is not None:
                self._owners[storage.number] = owner

    def end_step(self) -> None:
        """Say whose the storages are that outlive a step: results that are still held, and the optimizer's state."""
        self._own_survivors(OPTIMIZER, Owner.OPTIMIZER)
        if self._phase == FORWARD:
            self._own_survivors(FORWARD, Owner.ACTIVATIONS)
        self._phase = FORWARD
        self._step_ends.append(len(self.events))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing that runs inside is counted, as for making a batch."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    # ------------------------------------------------------------------ births and deaths

    def _see_all(self, value: Any) -> int:
        """Count what is new in a result, which takes nothing besides."""
        if isinstance(value, torch.Tensor):
            self._see(value)
        elif isinstance(value, list | tuple):
            for item in value:
                self._see_all(item)
        return 0

    def _see_inputs(self, value: Any) -> None:
        """Arguments that are new were there before: a constant of the user's, a model that nobody gave."""
        if isinstance(value, torch.Tensor):
            seen = value if self._seen_as is None else self._seen_as(value)
            self._see(seen, born_to=Owner.PARAMETERS)
        elif isinstance(value, list | tuple):
            for item in value:
                self._see_inputs(item)

    def _see(
        self, tensor: torch.Tensor, counted_bytes: int | None = None, born_to: Owner | None = None
    ) -> _Storage | None:
        try:
            untyped = tensor.untyped_storage()
        except NotImplementedError:  # sparse and opaque tensors have none
            return None
        known, said_bytes = self._storages.get(untyped._cdata), untyped.nbytes()
        if known is None:
            count = said_bytes if counted_bytes is None else counted_bytes
            return self._be_born(untyped, said_bytes, count, born_to) if count and self._is_ours(tensor) else None
        if known.said_bytes != said_bytes:
            self._resize(known, said_bytes)
        return known

    def _is_ours(self, tensor: torch.Tensor) -> bool:
        return _device_of(tensor).type == self._device_type

    def _be_born(
        self, untyped: torch.UntypedStorage, said_bytes: int, counted_bytes: int, owner: Owner | None
    ) -> _Storage:
        storage = _Storage(untyped, self._die)
        storage.key, storage.number = untyped._cdata, len(self._births)
        storage.said_bytes, storage.counted_bytes = said_bytes, counted_bytes
        self._storages[storage.key] = storage
        self._births.append(self._phase)
        self._nodes[storage.number] = int(self._last_returned != self.operators)
        self._last_returned = self.operators
        if owner is not None:
            self._owners[storage.number] = owner
        self._count(storage.number, counted_bytes)
        return storage

    def _die(self, storage: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(storage, _Storage)
        if self._storages.pop(storage.key, None) is not None:
            self._count(storage.number, -storage.counted_bytes)

    def _resize(self, storage: _Storage, said_bytes: int) -> None:
        """The memory moves: what it had is freed once the new is there, as `resize_` copies between them."""
        before, before_bytes = storage.number, storage.counted_bytes
        storage.number, storage.said_bytes, storage.counted_bytes = len(self._births), said_bytes, said_bytes
        self._births.append(self._births[before])
        self._nodes[storage.number] = self._nodes[before]
        if before in self._owners:
            self._owners[storage.number] = self._owners[before]
        self._count(storage.number, said_bytes)
        self._count(before, -before_bytes)
        self._moved_bytes += self._rounded(before_bytes if said_bytes else 0)

    def _count(self, number: int, size_bytes: int) -> None:
        if size_bytes:
            self.events.append(Event(number, size_bytes))
            self.live_bytes += self._rounded(size_bytes)

    def _rounded(self, size_bytes: int) -> int:
        """A size as the allocator sees it; of a death, less than zero."""
        unit = self._rounding_bytes
        return -(-size_bytes // unit) * unit if size_bytes > 0 else size_bytes // unit * unit

    # ------------------------------------------------------------------ operators

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper that keeps torch.compile out of each call: compiled models are refused, and it costs time."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what it takes and returns."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # asked of tensors without data, more often than anything else
            return _device_of(args[0])
        if self._paused or func.namespace == "prim":  # what else such a tensor is asked about itself
            return func(*args, **kwargs)
        self._notice_phase()
        if func is aten.add.Tensor and self._phase == BACKWARD and _goes_into_its_first(*args, **kwargs):
            func = aten.add_.Tensor
        if func not in _LIFTS:
            self._see_inputs(args)
        out = func(*args, **kwargs)
        for known_sizes in self._known_sizes:
            for tensor, size_bytes in known_sizes(func, args, kwargs, out):
                self._see(tensor, size_bytes)
        workspace = self._transients.get(func)
        transient_bytes = self._see_with(workspace(args, out), out) if workspace else self._see_all(out)
        if func in self._untouched:
            self._note_untouched(self._untouched[func](args, out))
        self._notice_peak(func, transient_bytes + self._moved_bytes)
        self._moved_bytes = 0
        return out

    def _note_untouched(self, shares: Iterable[tuple[torch.Tensor, float]]) -> None:
        for tensor, share in shares:
            storage = self._see(tensor)
            if storage is not None:
                self._untouched_bytes[storage.number] = round(share * storage.counted_bytes)

    def _see_with(self, workspace: Workspace, out: Any) -> int:
        """A result among what its kernel takes inside itself; returns what that adds to the live bytes at most."""
        first, *others = out if isinstance(out, list | tuple) else (out,)
        throughout, before, across = map(self._take, workspace[:3])
        at_first = self.live_bytes + self._sum(workspace.before)
        self._free(before)
        self._see_all(first)
        at_first = max(at_first, self.live_bytes) + self._sum(workspace.across)
        self._free(across)
        after, across_others = map(self._take, workspace[3:])
        at_others = self.live_bytes + self._sum(workspace.after)
        self._free(after)
        self._see_all(others)
        at_others = max(at_others, self.live_bytes) + self._sum(workspace.across_others)
        self._free(across_others)
        self._free(throughout)
        return self._sum(workspace.throughout) + max(at_first, at_others) - self.live_bytes

    def _sum(self, sizes_bytes: Sequence[int]) -> int:
        return sum(map(self._rounded, sizes_bytes))

    def _take(self, sizes_bytes: Sequence[int]) -> list[Event]:
        """Storages that are born inside an operator, and are not counted as live."""
        first = len(self._births)
        self._births += [self._phase] * len(sizes_bytes)
        self._bare.update(range(first, len(self._births)))
        born = [Event(first + place, size_bytes) for place, size_bytes in enumerate(sizes_bytes)]
        self.events += born
        return born

    def _free(self, born: Iterable[Event]) -> None:
        self.events += [Event(event.storage, -event.size_bytes) for event in born]

    def _notice_peak(self, func: Any, transient_bytes: int) -> None:
        self.operators += 1
        total_bytes, phase = self.live_bytes + transient_bytes, self._phase
        if total_bytes > self.phase_peak_bytes.get(phase, 0):
            self.phase_peak_bytes[phase] = total_bytes
            if total_bytes > self.peak.total_bytes:
                self.peak = Peak(self.live_bytes, transient_bytes, phase, str(func), len(self.events))

    # ------------------------------------------------------------------ phases

    def _notice_phase(self) -> None:
        """Backward is where the autograd engine runs a graph: there a checkpointed forward runs again, too."""
        phase = FORWARD
        if self._in_optimizer:
            phase = OPTIMIZER
        elif torch._C._current_graph_task_id() != -1:
            phase = BACKWARD
        if phase != self._phase:
            if self._phase == FORWARD:
                self._own_survivors(FORWARD, Owner.ACTIVATIONS)
            self._phase = phase

    def _own_survivors(self, born_in: str, owner: Owner) -> None:
        for storage in self._storages.values():
            if self._births[storage.number] == born_in:
                self._owners.setdefault(storage.number, owner)
                self._nodes[storage.number] = getattr(storage(), NODES, self._nodes[storage.number])

    def _start_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self.give((p.grad for p in parameters if p.grad is not None), Owner.GRADIENTS)
        self._in_optimizer = True

    def _end_optimizer(self, *_: Any) -> None:
        self._in_optimizer = False

    def __enter__(self) -> ByteTracker:
        """Start counting."""
        self._hooks = [
            register_optimizer_step_pre_hook(self._start_optimizer),
            register_optimizer_step_post_hook(self._end_optimizer),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting; what dies later is not noticed."""
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._storages.clear()

    # ------------------------------------------------------------------ the answer

    def touched_events(self) -> Iterator[Event]:
        """The events with only the bytes that are written to, which are all that becomes resident in a process."""
        for number, size_bytes in self.events:
            untouched_bytes = self._untouched_bytes.get(number, 0)
            yield Event(number, size_bytes - untouched_bytes if size_bytes > 0 else size_bytes + untouched_bytes)

    def surroundings(self) -> Surroundings:
        """What small objects lay beside the storages."""
        activations = (number for number, owner in self._owners.items() if owner is Owner.ACTIVATIONS)
        nodes = {number: self._nodes[number] for number in activations}
        return Surroundings(nodes, tuple(self._step_ends), frozenset(self._bare))

    def composition(self) -> Composition:
        """What the live bytes at the peak belong to."""
        live_bytes: dict[int, int] = {}
        for number, size_bytes in self.events[: self.peak.events]:
            live_bytes[number] = live_bytes.get(number, 0) + self._rounded(size_bytes)
        sums = dict.fromkeys((*(owner.value for owner in Owner), "temporary_bytes"), 0)
        for number, size_bytes in live_bytes.items():
            owner = self._owners.get(number)
            sums[owner.value if owner else "temporary_bytes"] += size_bytes
        sums["temporary_bytes"] += self.peak.transient_bytes
        return Composition(**sums)


def tell_nodes(tensor: torch.Tensor, nodes: int) -> None:
    """Say how many nodes of autograd lie beside an activation that stands for several operators; else it is one."""
    setattr(tensor.untyped_storage(), NODES, nodes)


def _device_of(tensor: torch.Tensor) -> torch.device:
    """A tensor's device; of one without data, without asking all modes for it, which takes 20 microseconds."""
    device: torch.device = getattr(tensor, "fake_device", None) or tensor.device
    return device


def _goes_into_its_first(into: Any, other: Any, **kwargs: Any) -> bool:
    """True for a sum of gradients that autograd takes in place, were nobody watching.

    The engine adds a gradient into the one that is there already, if it alone holds that (`InputBuffer::accumulate` in
    torch/csrc/autograd/input_buffer.cpp); under a dispatch mode it never does.
    """
    if kwargs or not isinstance(other, torch.Tensor) or torch.is_grad_enabled():
        return False
    counted = getattr(into, "_use_count", int)()  # not every torch tells
    if counted != HELD_BY_ONE["tensor"] or into.layout is not torch.strided:
        return False
    shared: int = torch._C._storage_Use_Count(into.untyped_storage()._cdata)
    return shared == HELD_BY_ONE["storage"] and bool(aten.is_non_overlapping_and_dense.default(into))
