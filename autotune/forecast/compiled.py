"""What oneDNN holds for as long as the process lives: its code, and kernels that it compiles for shapes of products.

Needs torch. In bfloat16 and fp16 a processor's products go to oneDNN, which compiles for every new shape and holds on
to what it compiled for as long as the process lives. A step has few shapes, each many times; so the bytes follow from
how many differ, and not from their sizes.

Measured with torch 2.13 on a processor with avx512_bf16, by the growth of a process over 180 products that all
differ: 658 to 685 KiB for each in bfloat16, whether of 64 or 1024 rows, in steps of 1 or of 8 columns; 42 KiB in fp32.
Where a model has many shapes it shows: a SegFormer with 57 was forecast 50 MiB too low in bfloat16, 2 MiB in fp32.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

CODE_BYTES = 8 << 20
"""What calling it brings into a process, by what is resident of mapped files: after a first step in fp32 it was 21 MiB
in the median of eighteen models with convolutions or LSTMs (17 to 25), and 13 of thirteen without (torch 2.13)."""

CALLERS = (aten.convolution.default, aten.mkldnn_rnn_layer.default)
"""What it computes in any type."""

BYTES_EACH = 660 << 10
"""What one shape keeps: see above."""

LEAST_WORK = 16**3
"""Smaller products aren't given to oneDNN (`mkldnn_gemm_min_size` in aten/src/ATen/native/mkldnn/Matmul.cpp)."""

PRODUCTS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
"""Products of matrices, and the place of the first factor among their arguments."""


class Compiled:
    """Notes the calls of oneDNN whose shapes differ. To be asked by a tracker about each operator."""

    def __init__(self) -> None:
        """None was met, and only what oneDNN takes will be."""
        self._shapes: set[tuple[Any, ...]] = set()
        self._dtypes = _short_types()
        self._is_called = False

    def __call__(self, func: Any, args: tuple[Any, ...], _kwargs: Any, _out: Any) -> tuple[()]:
        """Note one operator; nothing is corrected."""
        self._is_called |= func in CALLERS and _is_there()
        place = PRODUCTS.get(func)
        if place is not None and args[place].dtype in self._dtypes:
            one, other = args[place : place + 2]
            if one.numel() * other.shape[-1] > LEAST_WORK:
                self._shapes.add((func, one.shape, one.stride(), other.shape, other.stride(), one.dtype))
        return ()

    @property
    def held_bytes(self) -> int:
        """What stays in the process: the code, and all that was compiled."""
        return len(self._shapes) * BYTES_EACH + (CODE_BYTES if self._is_called or self._shapes else 0)


def _is_there() -> bool:
    return bool(torch._C._has_mkldnn and torch.backends.mkldnn.enabled)


def _short_types() -> tuple[torch.dtype, ...]:
    """The types whose products oneDNN computes on this processor."""
    if not _is_there():
        return ()
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return tuple(dtype for dtype, is_supported in supported.items() if is_supported())
