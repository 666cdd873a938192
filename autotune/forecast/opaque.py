"""Operators whose stand-ins without data say nothing true of their memory, and what running them alone teaches of it.

Needs torch. A recurrent layer of oneDNN or cuDNN returns a reserve for its backward pass, of a size that only the
library knows; without data, torch returns nothing in its place. An extension's operator may do as it likes. So where
a step meets one, two tiny steps are followed in which these operators alone are run with data, made of zeros, and the
bytes of each of their results are carried along a straight line to any batch size: the reserve holds the gates of
each sample at each time step. What such an operator returned is handed to the next that takes it.

Some losses' memory torch misstates, too; that follows from their arguments.

Measured on an LSTM: 22.7% too low without, exact with (`benchmarks/workloads/lstm.py` at batch size 16); `SMALL`
tells what pages leave. Each runs once for each shape and on one thread: the forecast of an LSTM of width 512
takes 0.6 s of processor time; with two whole steps it took 2.2 s, and 6 to 14 s beside busy processes, whose turns
the threads of such small operators spend waiting for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from autotune.errors import NoForecastError
from autotune.workloads.tracebacks import one_line

SMALL = (8, 16)
"""The batch sizes of the tiny steps. oneDNN rounds the parts of a reserve up to pages, which at smaller sizes bends
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


def stop_at_opaque(func: Any, _args: Any, _kwargs: Any, _out: Any) -> tuple[()]:
    """To be asked by a tracker about each operator.

    Raises:
        OpaqueOperatorError: it is an opaque one.
    """
    if is_opaque(func):
        raise OpaqueOperatorError
    return ()


def reduced_losses(func: Any, args: tuple[Any, ...], _kwargs: Any, out: Any) -> Iterator[tuple[torch.Tensor, int]]:
    """The one number that a reduced loss is, and the bytes that it holds. To be asked about each operator."""
    place = REDUCED_LOSSES.get(func)
    if place is not None and (len(args) <= place or args[place] != 0):  # 0: reduction="none"
        elements = _broadcast(args[0].shape, args[1].shape).numel()
        yield out, elements * out.dtype.itemsize


def _broadcast(one: torch.Size, other: torch.Size) -> torch.Size:
    return torch.Size(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


@dataclass
class Rehearsal:
    """Runs each opaque operator of a step without data once with data, and notes the bytes of what it returns.

    To be asked by a tracker about each operator; nothing is corrected.

    Attributes:
        said_bytes: of each result without data.
        real_bytes: of each result with data.
    """

    said_bytes: dict[Result, int] = field(default_factory=dict)
    real_bytes: dict[Result, int] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _real: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    _ran: dict[str, Any] = field(default_factory=dict)

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[()]:
        """Note one call.

        Raises:
            NoForecastError: the operator doesn't run on zeros.
        """
        if is_opaque(func):
            ran = _outputs(self._run(func, args, kwargs))
            for result, said in _results(func, out, self._calls):
                real = ran[result.output]
                if isinstance(real, torch.Tensor):
                    self.said_bytes[result] = said.untyped_storage().nbytes()
                    self.real_bytes[result] = real.untyped_storage().nbytes()
                    self._real[said.untyped_storage()._cdata] = (said, real)
        return ()

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the operator returns for such arguments; of equal layers, and in later steps, it need not run again."""
        alike = repr((func, *map(self._told, (*args, *kwargs.items()))))
        if alike not in self._ran:
            self._ran[alike] = self._run_with_data(func, args, kwargs)
        return self._ran[alike]

    def _run_with_data(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gradients stay on where the step has them on, since else there is no reserve."""
        with _disable_current_modes(), _one_thread():
            try:
                return func(*map(self._with_data, args), **{name: self._with_data(it) for name, it in kwargs.items()})
            except Exception as error:
                raise NoForecastError(
                    f"{func} tells its memory only when it runs, and it failed on zeros: {one_line(error)}",
                ) from error

    def _told(self, value: Any) -> Any:
        """An argument, of which only layout and type matter, and whether an earlier operator returned it."""
        if isinstance(value, list | tuple):
            return [*map(self._told, value)]
        if not isinstance(value, FakeTensor):
            return id(value) if isinstance(value, torch.Tensor) else value
        _, real = self._real.get(value.untyped_storage()._cdata, (None, None))
        return value.shape, value.stride(), value.dtype, id(real)

    def _with_data(self, value: Any) -> Any:
        """An argument with data: what an earlier operator returned, or else zeros."""
        if isinstance(value, list | tuple):
            return type(value)(map(self._with_data, value))
        if not isinstance(value, FakeTensor):
            return value
        _, real = self._real.get(value.untyped_storage()._cdata, (None, None))
        if real is not None:
            return real
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.fake_device).zero_()


@dataclass
class Corrector:
    """Tells a tracker what opaque operators really return."""

    sizes_bytes: Mapping[Result, int]
    calls: dict[str, int] = field(default_factory=dict)

    def __call__(self, func: Any, _args: Any, _kwargs: Any, out: Any) -> Iterator[tuple[torch.Tensor, int]]:
        """The tensors of one call that hold other bytes than they say."""
        if is_opaque(func):
            for result, tensor in _results(func, out, self.calls):
                if result in self.sizes_bytes:
                    yield tensor, self.sizes_bytes[result]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small operators on threads that wait for each other cost several times the processor time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _results(func: Any, out: Any, calls: dict[str, int]) -> list[tuple[Result, torch.Tensor]]:
    name = str(func)
    calls[name] = calls.get(name, -1) + 1
    return [
        (Result(name, calls[name], place), tensor)
        for place, tensor in enumerate(_outputs(out))
        if isinstance(tensor, torch.Tensor)
    ]


def _outputs(out: Any) -> Sequence[Any]:
    """What an operator returned; in places there may be no tensor."""
    return out if isinstance(out, tuple | list) else (out,)


@dataclass(frozen=True)
class Lesson:
    """Bytes of results over the batch size: at the first of `SMALL`, and more with each sample."""

    lines: Mapping[Result, tuple[int, float]]

    def corrector(self, batch_size: int) -> Corrector:
        """For a run at a batch size."""
        more = batch_size - SMALL[0]
        return Corrector({result: max(0, round(start + more * step)) for result, (start, step) in self.lines.items()})


def lesson(small: Rehearsal, large: Rehearsal) -> Lesson:
    """What rehearsals at the sizes `SMALL` show that steps without data don't."""
    distance = SMALL[1] - SMALL[0]
    return Lesson(
        {
            result: (size, (large.real_bytes[result] - size) / distance)
            for result, size in small.real_bytes.items()
            if result in large.real_bytes
            and (size, large.real_bytes[result]) != (small.said_bytes[result], large.said_bytes[result])
        }
    )
