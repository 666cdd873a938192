"""What kernels take inside themselves, and what stands in for operators that refuse to run without data."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.forecast.cpu_kernels import CPU_TRANSIENTS
from autotune.forecast.guesses import Guesses
from autotune.forecast.records import Rules
from autotune.forecast.tracker import ByteTracker, Transients

aten = torch.ops.aten


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
