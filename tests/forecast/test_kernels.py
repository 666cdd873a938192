"""What kernels take inside themselves, and what stands in for operators that refuse to run without data."""

from __future__ import annotations

import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from forecast_child import in_child
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.forecast.cpu_kernels import CPU_TRANSIENTS, CPU_UNTOUCHED, RESERVE_UNTOUCHED
from autotune.forecast.guesses import Guesses
from autotune.forecast.records import Rules
from autotune.forecast.tracker import ByteTracker, Transients

aten = torch.ops.aten
PAGE = resource.getpagesize()


def test_a_convolution_is_counted_with_copies_of_what_has_channels_enough() -> None:
    image, out = torch.empty(2, 3, 32, 32), torch.empty(2, 16, 32, 32)
    assert list(CPU_TRANSIENTS[aten.convolution.default]((image,), out)) == [[out.nbytes]]
    assert list(CPU_TRANSIENTS[aten.convolution.default]((out,), out)) == [[out.nbytes, out.nbytes]]


@pytest.mark.parametrize("wants_input", [True, False])
def test_its_backward_pass_once_for_each_gradient(wants_input: bool) -> None:
    image, grad = torch.empty(2, 8, 32, 32), torch.empty(2, 16, 32, 32)
    bursts = CPU_TRANSIENTS[aten.convolution_backward.default]((grad, image, [wants_input, True, True]), None)
    assert list(bursts) == [[grad.nbytes, image.nbytes]] * (2 if wants_input else 1)


def test_kernels_count_for_the_peak_of_a_real_run() -> None:
    image, weight = torch.randn(4, 16, 32, 32), torch.randn(16, 16, 3, 3)

    def peak(**transients: Transients) -> int:
        with ByteTracker(Rules.CPU, **transients) as tracker:
            torch.nn.functional.conv2d(image, weight, padding=1)
        return tracker.peak.total_bytes

    assert peak(transients=CPU_TRANSIENTS) == peak() + 2 * image.nbytes


def test_a_sum_of_truth_values_is_counted_in_whole_numbers() -> None:
    rule = CPU_TRANSIENTS[aten.sum.default]
    assert list(rule((torch.ones(10, dtype=torch.bool),), None)) == [[80]]
    assert list(rule((torch.ones(10),), None)) == []


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
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
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
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, Guesses():
        fakes = [mode.from_tensor(t) for t in (left, right)]
        fake = aten._grouped_mm.default(*fakes, None if offsets is None else mode.from_tensor(offsets))
    assert fake.shape == real.shape
    assert fake.dtype == real.dtype
    assert fake.untyped_storage().nbytes() == real.untyped_storage().nbytes()
