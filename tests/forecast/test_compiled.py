"""What oneDNN's compiled kernels are counted for."""

from __future__ import annotations

import pytest
import torch

from autotune.forecast.compiled import BYTES_EACH, Compiled
from autotune.forecast.tracker import ByteTracker

shorts = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no short products"
)


def _held_bytes(*sizes: tuple[int, int, int], dtype: torch.dtype) -> int:
    compiled = Compiled()
    with ByteTracker(known_sizes=(compiled,)):
        for rows, inner, columns in sizes:
            torch.mm(torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype))
    return compiled.held_bytes


@shorts
def test_each_shape_counts_once() -> None:
    assert _held_bytes((64, 64, 64), (64, 64, 64), (64, 128, 64), dtype=torch.bfloat16) == 2 * BYTES_EACH


@shorts
def test_tiny_products_are_not_compiled_for() -> None:
    assert _held_bytes((4, 4, 4), dtype=torch.bfloat16) == 0


def test_fp32_is_computed_by_other_kernels() -> None:
    assert _held_bytes((64, 64, 64), (64, 128, 64), dtype=torch.float32) == 0
