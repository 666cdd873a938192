"""Operators whose stand-ins without data say nothing true of their memory, and what small real steps teach of them.

Needs torch. A recurrent layer of oneDNN or cuDNN returns a reserve for its backward pass, of a size that only the
library knows; without data, torch returns nothing in its place. An extension's operator may do as it likes. So where
a step meets one, two tiny steps are run with data, and the bytes of each of its results are carried along a straight
line to any batch size: the reserve holds the gates of each sample at each time step.

Some losses' memory torch misstates, too; that follows from their arguments.

Measured on an LSTM: 22.7% too low without, exact with (`benchmarks/workloads/lstm.py` at batch size 16); `SMALL`
tells what pages leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

SMALL = (8, 16)
"""The batch sizes of the real steps. oneDNN rounds the parts of a reserve up to pages, which at smaller sizes bends
the line: of three small LSTMs' reserves at size 100, sizes 2 and 4 were up to 2.3% off, 4 and 8 1.6%, these 0.25%;
of an LSTM's whole peak under bf16 autocast, 0.5%."""

RESERVES = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
"""Of torch's own operators, those that return a reserve."""

TRUSTED = ("aten", "prim", "prims", "profiler", "c10d")
"""Namespaces of torch's own; every other one is an extension's."""


aten = torch.ops.aten

REDUCED_LOSSES = {
    aten.mse_loss.default: 2,
    aten.smooth_l1_loss.default: 2,
    aten.soft_margin_loss.default: 2,
    aten.binary_cross_entropy.default: 3,
}
"""Losses whose kernels reduce in place, so that the one number they return holds the memory of the losses of all
elements (seen in torch 2.13), and the place of `reduction` among their arguments."""


class OpaqueOperatorError(BaseException):
    """Ends a step at its first opaque operator. No `Exception`: the user's own handlers must not catch it."""


class Result(NamedTuple):
    """One tensor that an operator returned: the operator's name, the how many-th call of it, and which output."""

    operator: str
    call: int
    output: int


@cache
def is_opaque(func: Any) -> bool:
    """True for an operator whose memory can't be known without data."""
    return func.namespace not in TRUSTED or func.overloadpacket.__name__.startswith(RESERVES)


def stop_at_opaque(func: Any, _args: Any, _out: Any) -> tuple[()]:
    """To be asked by a tracker about each operator.

    Raises:
        OpaqueOperatorError: it is an opaque one.
    """
    if is_opaque(func):
        raise OpaqueOperatorError
    return ()


def reduced_losses(func: Any, args: tuple[Any, ...], out: Any) -> Iterator[tuple[torch.Tensor, int]]:
    """The one number that a reduced loss is, and the bytes that it holds. To be asked about each operator."""
    place = REDUCED_LOSSES.get(func)
    if place is not None and (len(args) <= place or args[place] != 0):  # 0: reduction="none"
        elements = _broadcast(args[0].shape, args[1].shape).numel()
        yield out, elements * out.dtype.itemsize


def _broadcast(one: torch.Size, other: torch.Size) -> torch.Size:
    return torch.Size(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


@dataclass
class Recorder:
    """Notes the bytes of what opaque operators return. To be asked by a tracker about each operator."""

    sizes_bytes: dict[Result, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def __call__(self, func: Any, _args: Any, out: Any) -> tuple[()]:
        """Note one call; nothing is corrected."""
        if is_opaque(func):
            for result, tensor in _results(func, out, self.calls):
                self.sizes_bytes[result] = tensor.untyped_storage().nbytes()
        return ()


@dataclass
class Corrector:
    """Tells a tracker what opaque operators really return."""

    sizes_bytes: Mapping[Result, int]
    calls: dict[str, int] = field(default_factory=dict)

    def __call__(self, func: Any, _args: Any, out: Any) -> Iterator[tuple[torch.Tensor, int]]:
        """The tensors of one call that hold other bytes than they say."""
        if is_opaque(func):
            for result, tensor in _results(func, out, self.calls):
                if result in self.sizes_bytes:
                    yield tensor, self.sizes_bytes[result]


def _results(func: Any, out: Any, calls: dict[str, int]) -> list[tuple[Result, torch.Tensor]]:
    name = str(func)
    calls[name] = calls.get(name, -1) + 1
    outputs = out if isinstance(out, tuple | list) else (out,)
    return [
        (Result(name, calls[name], place), tensor)
        for place, tensor in enumerate(outputs)
        if isinstance(tensor, torch.Tensor)
    ]


@dataclass(frozen=True)
class Lesson:
    """Bytes of results over the batch size: at the first of `SMALL`, and more with each sample."""

    lines: Mapping[Result, tuple[int, float]]

    def corrector(self, batch_size: int) -> Corrector:
        """For a run at a batch size."""
        more = batch_size - SMALL[0]
        return Corrector({result: max(0, round(start + more * step)) for result, (start, step) in self.lines.items()})


def lesson(real: tuple[Recorder, Recorder], fake: tuple[Recorder, Recorder]) -> Lesson:
    """What steps with data at the sizes `SMALL` show that those without don't."""
    (first, second), (one, other) = (tuple(r.sizes_bytes for r in pair) for pair in (real, fake))
    distance = SMALL[1] - SMALL[0]
    return Lesson(
        {
            result: (size, (second[result] - size) / distance)
            for result, size in first.items()
            if result in second and (size, second[result]) != (one.get(result), other.get(result))
        }
    )
