"""What oneDNN's compiled kernels are counted for."""

from __future__ import annotations

import pytest
import torch
from forecast_child import needs_bf16

from autotune.forecast.compiled import BYTES_EACH, CODE_BYTES, Compiled
from autotune.forecast.tracker import ByteTracker


def _held_bytes(*sizes: tuple[int, int, int], dtype: torch.dtype) -> int:
    compiled = Compiled()
    with ByteTracker(known_sizes=(compiled,)):
        for rows, inner, columns in sizes:
            torch.mm(torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype))
    return compiled.held_bytes


@needs_bf16
def test_each_shape_counts_once() -> None:
    assert _held_bytes((64, 64, 64), (64, 64, 64), (64, 128, 64), dtype=torch.bfloat16) == CODE_BYTES + 2 * BYTES_EACH


@needs_bf16
def test_tiny_products_are_not_compiled_for() -> None:
    assert _held_bytes((4, 4, 4), dtype=torch.bfloat16) == 0


def test_fp32_is_computed_by_other_kernels() -> None:
    assert _held_bytes((64, 64, 64), (64, 128, 64), dtype=torch.float32) == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_its_code_counts_once_where_a_convolution_calls_it() -> None:
    compiled = Compiled()
    with ByteTracker(known_sizes=(compiled,)):
        for channels in (8, 16):
            torch.conv2d(torch.ones(1, channels, 8, 8), torch.ones(8, channels, 3, 3))
    assert compiled.held_bytes == CODE_BYTES
