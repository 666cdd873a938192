"""What kernels take inside themselves, and what stands in for operators that refuse to run without data."""

from __future__ import annotations

import ctypes
import resource
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forecast_child import in_child, needs_bf16
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.devices import linux_process
from autotune.forecast.cpu_kernels import CPU_TRANSIENTS, CPU_UNTOUCHED, RESERVE_UNTOUCHED
from autotune.forecast.recall import RecallingMode
from autotune.forecast.tracker import ByteTracker, Owner, Workspace

aten = torch.ops.aten
PAGE = resource.getpagesize()


def _convolved(channels: int, to_channels: int, kernel: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(16, channels, 128, 128), torch.randn(to_channels, channels, kernel, kernel)


def _gradients(grad: torch.Tensor, image: torch.Tensor, weight: torch.Tensor, mask: list[bool]) -> Any:
    groups, pad = image.shape[1] // weight.shape[1], weight.shape[-1] // 2
    return aten.convolution_backward(grad, image, weight, [0], [1, 1], [pad, pad], [1, 1], False, [0, 0], groups, mask)


def _depthwise(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    image = torch.randn(4, 768, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)
    return image, image.clone(), torch.randn(768, 1, 7, 7, dtype=dtype)


def _gates(width: int, hidden: int) -> tuple[torch.Tensor, ...]:
    """A sequence and the weights of a recurrent layer."""
    sizes = [(4 * hidden, width), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,), (64, hidden), (64, hidden)]
    return torch.randn(200, 64, width), *map(torch.randn, sizes)


@torch.no_grad()
def _recurrent(reverse: bool, *tensors: torch.Tensor) -> Any:
    hidden = tensors[-1].shape[-1]
    return aten.mkldnn_rnn_layer(*tensors, reverse, [], 2, hidden, 1, True, False, False, False)


def _layer(samples: int, length: int) -> tuple[torch.Tensor, ...]:
    """A sequence and the weights of an encoder's layer, 64 wide, in the operator's order."""
    sizes = [(192, 64), (192,), (64, 64), (64,), *[(64,)] * 4, (256, 64), (256,), (64, 256), (64,)]
    return torch.randn(samples, length, 64), *map(torch.randn, sizes)


@torch.no_grad()
def _encoded(norm_first: bool, data: torch.Tensor, *weights: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    options = (mask, None if mask is None else 1)
    return aten._transformer_encoder_layer_fwd(
        data, 64, 4, *weights[:4], False, norm_first, 1e-5, *weights[4:], *options
    )


ALL, WEIGHT = [True, True, False], [False, True, False]
KERNELS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "convolution": (lambda x, w: aten.convolution(x, w, None, *PLAIN), lambda: _convolved(16, 32, 1)),
    "of few channels": (lambda x, w: aten.convolution(x, w, None, *PLAIN), lambda: _convolved(3, 64, 1)),
    "of a slice": (
        lambda x, w: aten.convolution(x[..., :64], w, None, *PLAIN),
        lambda: _convolved(64, 32, 1),
    ),
    "of a large weight": (
        lambda x, w: aten.convolution(x, w, None, *PLAIN),
        lambda: (torch.randn(2, 1024, 4, 4), torch.randn(1024, 1024, 3, 3)),
    ),
    "its gradients": (
        lambda x, w: _gradients(x.new_ones(16, 32, 128, 128), x, w, ALL),
        lambda: _convolved(16, 32, 1),
    ),
    "the weight's alone": (
        lambda x, w: _gradients(x.new_ones(16, 32, 128, 128), x, w, WEIGHT),
        lambda: _convolved(16, 32, 1),
    ),
    "of a large weight's": (
        lambda x, w: _gradients(x.new_ones(2, 1024, 4, 4), x, w, ALL),
        lambda: (torch.randn(2, 1024, 4, 4), torch.randn(1024, 1024, 3, 3)),
    ),
    "depthwise, channels last": (lambda g, x, w: _gradients(g, x, w, ALL), lambda: _depthwise(torch.float32)),
    "depthwise, channels last, bf16": (lambda g, x, w: _gradients(g, x, w, ALL), lambda: _depthwise(torch.bfloat16)),
    "mean of a short type": (
        lambda x: aten.mean.dim(x, [-1]),
        lambda: (torch.ones(4096, 4096, dtype=torch.bfloat16),),
    ),
    "mixed types": (torch.add, lambda: (torch.ones(4096, 4096, dtype=torch.bfloat16), torch.ones(4096, 4096))),
    "roll": (lambda x: aten.roll(x, [1, 1], [0, 1]), lambda: (torch.ones(4096, 4096),)),
    "layer norm of a transposed": (
        lambda x: aten.native_layer_norm(x.t(), [4096], None, None, 1e-5),
        lambda: (torch.ones(4096, 4096),),
    ),
    "safe softmax": (lambda x: aten._safe_softmax(x, -1), lambda: (torch.ones(4096, 4096),)),
    "LSTM": (partial(_recurrent, False), lambda: _gates(128, 128)),
    "LSTM of a wide input": (partial(_recurrent, False), lambda: _gates(512, 128)),
    "LSTM in reverse": (partial(_recurrent, True), lambda: _gates(128, 128)),
    "LSTM in reverse of a wide input": (partial(_recurrent, True), lambda: _gates(512, 128)),
    "LSTM in reverse of a narrow input": (partial(_recurrent, True), lambda: _gates(32, 256)),
    "encoder layer": (partial(_encoded, False), lambda: _layer(64, 256)),
    "encoder layer, norm first": (partial(_encoded, True), lambda: _layer(64, 256)),
    "encoder layer of short sequences": (partial(_encoded, False), lambda: _layer(512, 32)),
    "encoder layer of short sequences, norm first": (partial(_encoded, True), lambda: _layer(512, 32)),
}
PLAIN = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
M_MMAP_THRESHOLD = -3


def _said_and_held(name: str) -> tuple[int, int]:
    """What an operator adds to the memory at most: as the tracker says, and as the process shows."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)  # each block on its own, so that no hole in the heap hides one
    torch.set_num_threads(1)
    operator, make = KERNELS[name]
    inputs = make()
    with ByteTracker(transients=CPU_TRANSIENTS) as tracker:
        tracker.give(inputs, Owner.PARAMETERS)
        before_bytes = tracker.live_bytes
        operator(*inputs)
    linux_process.reset_peak()
    resident_bytes = linux_process.resident().total_bytes
    operator(*inputs)
    peak_bytes = linux_process.peak_resident_bytes()
    assert peak_bytes is not None
    return tracker.peak.total_bytes - before_bytes, peak_bytes - resident_bytes


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_holds_what_is_said_of_it(name: str) -> None:
    said_bytes, held_bytes = in_child(_said_and_held, name)
    assert said_bytes == pytest.approx(held_bytes, rel=0.06, abs=1 << 20)


def test_a_sum_of_truth_values_is_counted_in_whole_numbers() -> None:
    rule = CPU_TRANSIENTS[aten.sum.default]
    assert rule((torch.ones(10, dtype=torch.bool),), None) == Workspace(before=[80])
    assert rule((torch.ones(10),), None) == Workspace(before=[])


def _present_share(tensor: torch.Tensor) -> float:
    """What share of a tensor's pages is in memory, by this process' page table."""
    storage = tensor.untyped_storage()
    first, last = storage.data_ptr() // PAGE, (storage.data_ptr() + storage.nbytes() - 1) // PAGE
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(8 * first)
        entries = struct.unpack(f"<{last - first + 1}Q", pagemap.read(8 * (last - first + 1)))
    return sum(entry >> 63 for entry in entries) / len(entries)


def _reserves_present(hidden: int, length: int, reverse: bool, precision: str) -> float:
    layer = torch.nn.LSTM(64, hidden, bidirectional=reverse)
    reserves: list[torch.Tensor] = []

    class Keep(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is aten.mkldnn_rnn_layer.default:
                reserves.append(out[3])
            return out

    with Keep(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):  # type: ignore[no-untyped-call]
        loss = layer(torch.randn(length, 128, 64))[0].float().sum()
    loss.backward()
    return _present_share(reserves[-1])  # the last is the one in reverse, where there is one


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs Linux's page tables")
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("hidden", "length"), [(256, 64), (512, 30)])
def test_what_is_called_untouched_of_an_lstm_s_reserve_is_not_in_memory(
    hidden: int, length: int, reverse: bool, precision: str
) -> None:
    present = in_child(_reserves_present, hidden, length, reverse, precision)
    assert 1 - present == pytest.approx(RESERVE_UNTOUCHED[reverse], abs=0.08)


def test_what_is_untouched_counts_as_live_and_not_as_resident() -> None:
    with ByteTracker(untouched=CPU_UNTOUCHED) as tracker:
        torch.nn.LSTM(8, 8)(torch.zeros(9, 4, 8))[0].sum()
    asked, touched = ([size for _, size in events if size > 0] for events in (tracker.events, tracker.touched_events()))
    reserve = max(asked)
    assert sum(asked) - sum(touched) == round(RESERVE_UNTOUCHED[False] * reserve)
    balance: dict[int, int] = {}
    for number, size in tracker.touched_events():
        balance[number] = balance.get(number, 0) + size
    assert all(left >= 0 for left in balance.values())


OFFSETS = torch.tensor([3, 5, 8], dtype=torch.int32)


@pytest.mark.parametrize(
    ("a", "b", "offsets"),
    [((8, 16), (3, 16, 24), OFFSETS), ((16, 8), (8, 24), OFFSETS), ((3, 16, 8), (3, 8, 24), None)],
    ids=["rows in groups", "sums over groups", "batches"],
)
def test_a_grouped_product_has_the_real_ones_shape_in_any_precision(
    a: tuple[int, ...], b: tuple[int, ...], offsets: torch.Tensor | None
) -> None:
    left, right = torch.randn(a), torch.randn(b)
    real = aten._grouped_mm.default(left, right, offsets)
    with RecallingMode() as mode:
        fakes = [mode.from_tensor(t) for t in (left, right)]
        fake = aten._grouped_mm.default(*fakes, None if offsets is None else mode.from_tensor(offsets))
    assert fake.shape == real.shape
    assert fake.dtype == real.dtype
    assert fake.untyped_storage().nbytes() == real.untyped_storage().nbytes()
