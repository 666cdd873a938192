"""What a forecast says, as records that travel and are saved.

Needs the records of a trial; no torch. Promises that what is predicted is never mixed with what was measured:
nothing here comes from a step that really ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from autotune.trial import Record

LARGEST = 1 << 20
"""No batch size above it is looked at where nothing else bounds it: whatever fits as many is not bound by memory."""


class Rules(StrEnum):
    """Whose memory a step is forecast for: `CPU` is this machine's processor, `CUDA` an NVIDIA GPU, here or not."""

    CPU = "cpu"
    CUDA = "cuda"


class Event(NamedTuple):
    """A storage was born, or died (then `size_bytes` is negative). Storages are numbered in the order of their birth.

    `size_bytes` is what the tensor asks for, before its allocator rounds it up.
    """

    storage: int
    size_bytes: int


class Surroundings(NamedTuple):
    """What small objects lie beside the storages of a log, and until when.

    Attributes:
        activations: the storages that a forward pass left for its backward pass, with how many nodes of autograd lie
            beside each.
        step_ends: how many events lie before the end of each step, where its last result is let go, and with it the
            nodes; until then they live, although what they saved is gone.
        bare: the storages that kernels take and free inside themselves, which belong to no tensor.
    """

    activations: Mapping[int, int] = MappingProxyType({})
    step_ends: tuple[int, ...] = ()
    bare: frozenset[int] = frozenset()


class Composition(Record, frozen=True):
    """What the live bytes at the worst moment belong to. They add up to the peak.

    Activations are what the forward pass leaves for the backward pass, outputs and loss included; temporary is what
    an operator or a phase frees again by itself; the batch is what the step was given.
    """

    parameters_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int = 0
    batch_bytes: int = 0
    temporary_bytes: int = 0


class Footprint(Record, frozen=True):
    """The memory of one step at one batch size, as a run without data showed it.

    Attributes:
        batch_size: samples in the batch (in each micro-batch, where gradients are accumulated).
        peak_bytes: all live tensors at the worst moment, each rounded up as its allocator does.
        held_bytes: what the allocator holds of the system at most to serve that: fragments and caches included;
            on a processor also what oneDNN compiles for the step's shapes and keeps.
        composition: what the live bytes at the peak belong to.
        phase_peak_bytes: the worst moment of each phase: "forward", "backward", "optimizer".
        phase: the phase of the worst moment of all.
        operator: the operator that was running then, as torch names it.
        operators: how many operators a step ran.
        seconds: processor seconds that the forecast took.
    """

    batch_size: int
    peak_bytes: int
    held_bytes: int
    composition: Composition
    phase_peak_bytes: dict[str, int]
    phase: str
    operator: str
    operators: int
    seconds: float


class Forecast(Record, frozen=True):
    """Footprints of one workload at several batch sizes, in their order.

    Attributes:
        rules: whose memory was forecast.
        footprints: one for each batch size, the smallest first.
        base_bytes: what a process holds besides its tensors before the first step: interpreter and libraries on
            CPU, measured here; 0 for a GPU, whose context depends on the card.
        largest_batch_sizes: for each budget that was asked about, the largest batch size forecast to fit; 0 for none.
        guesses: what could not be known without data, or is different on other hardware, in words.
    """

    rules: Rules
    footprints: tuple[Footprint, ...]
    base_bytes: int = 0
    largest_batch_sizes: tuple[int, ...] = ()
    guesses: tuple[str, ...] = ()
