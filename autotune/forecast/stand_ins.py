"""Operators that run with data and whose rule of shapes in torch refuses to run without.

Needs torch. Each gives a tensor of the shape that the real operator returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Products of groups, as in a mixture of experts. torch's rule (2.13) is that of one GPU kernel: bfloat16 alone.

    Shapes: rows in groups by matrices, (m, k) x (g, k, n) -> (m, n); matrices by columns in groups, (g, m, k) x (k, n)
    -> (m, n); sums over groups, (m, k) x (k, n) -> (g, m, n); and batches, (g, m, k) x (g, k, n) -> (g, m, n).
    """
    shape = [a.shape[-2], b.shape[-1]]
    if a.dim() == b.dim():
        shape.insert(0, a.shape[0] if offs is None else offs.shape[0])
    return a.new_empty(shape, dtype=out_dtype or a.dtype)


STAND_INS: Mapping[Any, Callable[..., Tensor]] = {aten._grouped_mm.default: _grouped_mm}
