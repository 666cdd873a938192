"""Memory that the processor's kernels take and free inside themselves, which no tensor shows.

Needs torch. The rules were found by tracing every allocation of real training processes (torch 2.13, oneDNN). They are
rough: how oneDNN lays a tensor out is its own choice, by processor and by shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autotune.forecast.tracker import Transients, Untouched

aten = torch.ops.aten

LEAST_CHANNELS = 8
"""Tensors of fewer channels keep their layout: oneDNN's blocks hold 8 or 16 of them."""

INT64_BYTES = 8


RESERVE_UNTOUCHED = {False: 0.40, True: 0.27}
"""What oneDNN never writes to in the reserve of an LSTM's layer, by whether it reads the sequence in reverse: room for
copies of states that it then has no need to copy. By the pages present after a backward pass (torch 2.13): 39% to 44%
of the reserve for six layers of different widths, lengths and batch sizes, in fp32 and bf16, and 27% in reverse."""


def _convolution(args: tuple[Any, ...], out: Any) -> list[list[int]]:
    """OneDNN copies input and output to blocked layouts."""
    return [_copies(args[0], out)]


def _convolution_backward(args: tuple[Any, ...], _out: Any) -> list[list[int]]:
    """The same, for the weight's gradient and, where it is wanted, the input's, one after the other."""
    grad_output, image, output_mask = args[0], args[1], args[-1]
    return [_copies(grad_output, image)] * (2 if output_mask[0] else 1)


def _copies(*tensors: Tensor) -> list[int]:
    return [t.numel() * t.element_size() for t in tensors if t.dim() > 2 and t.shape[1] >= LEAST_CHANNELS]


def _sum(args: tuple[Any, ...], _out: Any) -> list[list[int]]:
    """The sum of truth values is counted in whole numbers, to which all are converted first."""
    return [[args[0].numel() * INT64_BYTES]] if args[0].dtype == torch.bool else []


def _ctc_backward(args: tuple[Any, ...], _out: Any) -> list[list[int]]:
    """The sums from the end, beside those from the beginning (`log_beta` in aten/src/ATen/native/LossCTC.cpp)."""
    return [[args[6].numel() * args[6].element_size()]]


CPU_TRANSIENTS: Transients = {
    aten.convolution.default: _convolution,
    aten.conv1d.default: _convolution,  # seen whole where autograd is off
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten._ctc_loss_backward.default: _ctc_backward,
    aten._ctc_loss_backward.Tensor: _ctc_backward,
}


def _lstm(args: tuple[Any, ...], out: Any) -> list[tuple[Tensor, float]]:
    """The reserve is the fourth of what it returns; `reverse` the eighth of its arguments."""
    return [(out[3], RESERVE_UNTOUCHED[args[7]])]


CPU_UNTOUCHED: Untouched = {aten.mkldnn_rnn_layer.default: _lstm}
