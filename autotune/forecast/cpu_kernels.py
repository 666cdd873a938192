"""Memory that the processor's kernels take and free inside themselves, which no tensor shows.

Needs torch. The rules were found by tracing every allocation of real training processes (torch 2.13, oneDNN). They are
rough: how oneDNN lays a tensor out is its own choice, by processor and by shape.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from autotune.forecast.tracker import Transients, Untouched, Workspace

aten = torch.ops.aten

LEAST_CHANNELS = 8
"""Tensors of fewer channels keep their layout: oneDNN's blocks hold 8 or 16 of them."""

CHANNEL_BLOCK = 16
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
INT64_BYTES, FP32_BYTES = 8, 4

CONVOLUTIONS = (
    aten.convolution.default,
    aten.conv1d.default,  # seen whole where autograd is off
    aten.conv2d.default,
    aten.conv3d.default,
)

POINTWISE = (
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.sub.Tensor,
    aten.sub_.Tensor,
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.div.Tensor,
    aten.div_.Tensor,
)

RESERVE_UNTOUCHED = {False: 0.40, True: 0.27}
"""What oneDNN never writes to in the reserve of an LSTM's layer, by whether it reads the sequence in reverse: room for
copies of states that it then has no need to copy. By the pages present after a backward pass (torch 2.13): 39% to 44%
of the reserve for six layers of different widths, lengths and batch sizes, in fp32 and bf16, and 27% in reverse."""


def _convolution(args: tuple[Any, ...], out: Any) -> Workspace:
    """OneDNN copies the input and the weight to blocked layouts, and from one into the result, which is made last."""
    image, weight = args[:2]
    if _is_channels_last(image):
        return Workspace()
    blocked = [*_blocked(image), *_blocked_weight(weight, weight.element_size())]
    return Workspace(throughout=_made_contiguous(image), before=blocked, across=_blocked(out))


def _convolution_backward(args: tuple[Any, ...], _out: Any) -> Workspace:
    """The same for the input's gradient, where it is wanted; then for the weight's, which is summed in fp32.

    Each result is made last, from one in a blocked layout.
    """
    grad, image, weight, output_mask = *args[:3], args[-1]
    if _is_channels_last(image):
        return Workspace(throughout=_not_channels_last(grad), across_others=_padded_groups(weight))
    contiguous = _made_contiguous(grad, image)
    workspace = Workspace(
        throughout=contiguous, after=_blocked(grad, image), across_others=_blocked_weight(weight, FP32_BYTES)
    )
    if not output_mask[0]:
        return workspace
    for_input = [*_blocked(grad), *_blocked_weight(weight, weight.element_size())]
    return workspace._replace(before=for_input, across=_blocked(image))


def _blocked(*tensors: Tensor) -> list[int]:
    return [_bytes(tensor) for tensor in tensors if tensor.dim() > 2 and tensor.shape[1] >= LEAST_CHANNELS]


def _blocked_weight(weight: Tensor, element_bytes: int) -> list[int]:
    """One of a single element for each pair of channels is used as it is: in fp32, and without AVX-512."""
    is_copied = prod(weight.shape[2:]) > 1 or weight.element_size() < FP32_BYTES or _has_avx512()
    return [weight.numel() * element_bytes] if is_copied else []


def _padded_groups(weight: Tensor) -> list[int]:
    """The gradient of a depthwise convolution over channels that lie last: each is padded to a whole block.

    With AVX-512, that is: where a processor has AVX2 only, the kernels that it gets take nothing.
    """
    if weight.shape[1] > 1 or not _has_avx512():
        return []
    padded = weight.numel() * CHANNEL_BLOCK**2
    return [padded * FP32_BYTES, *([padded * weight.element_size()] if weight.element_size() < FP32_BYTES else [])]


def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _is_channels_last(tensor: Tensor) -> bool:
    last = CHANNELS_LAST.get(tensor.dim())
    return last is not None and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last)


def _not_channels_last(tensor: Tensor) -> list[int]:
    return [] if tensor.is_contiguous(memory_format=CHANNELS_LAST[tensor.dim()]) else [_bytes(tensor)]


def _made_contiguous(*tensors: Tensor) -> list[int]:
    return [_bytes(tensor) for tensor in tensors if not tensor.is_contiguous()]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _wants_contiguous(count: int) -> Callable[[tuple[Any, ...], Any], Workspace]:
    """A kernel that copies its first arguments where they are not contiguous."""
    return lambda args, _out: Workspace(throughout=_made_contiguous(*args[:count]))


def _mixed_types(args: tuple[Any, ...], _out: Any) -> Workspace:
    """What is not of the common type is converted first, all of it (`TensorIteratorBase::compute_types`)."""
    tensors = [arg for arg in args[:2] if isinstance(arg, Tensor) and arg.dim()]
    if len(tensors) < 2 or tensors[0].dtype == tensors[1].dtype:
        return Workspace()
    common = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
    return Workspace(throughout=[t.numel() * common.itemsize for t in tensors if t.dtype != common])


def _roll(args: tuple[Any, ...], out: Any) -> Workspace:
    """One dimension after the other, each into a tensor of its own (`roll_common`)."""
    return Workspace(throughout=[_bytes(out)] if len(args[1]) > 1 else [])


def _safe_softmax(_args: tuple[Any, ...], out: Any) -> Workspace:
    """A truth value for each element: is it minus infinity?"""
    return Workspace(after=[out.numel()])


def _sum(args: tuple[Any, ...], _out: Any) -> Workspace:
    """The sum of truth values is counted in whole numbers, to which all are converted first."""
    return Workspace(before=[args[0].numel() * INT64_BYTES] if args[0].dtype == torch.bool else [])


def _mean(args: tuple[Any, ...], _out: Any) -> Workspace:
    """The mean of a short type is taken in fp32 (`mean_kernel_impl` in aten/src/ATen/native/ReduceOps.cpp)."""
    return Workspace(before=[args[0].numel() * FP32_BYTES] if args[0].element_size() < FP32_BYTES else [])


def _ctc_backward(args: tuple[Any, ...], _out: Any) -> Workspace:
    """The sums from the end, beside those from the beginning (`log_beta` in aten/src/ATen/native/LossCTC.cpp)."""
    return Workspace(after=[_bytes(args[6])])


CPU_TRANSIENTS: Transients = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    aten.convolution_backward.default: _convolution_backward,
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.native_layer_norm.default: _wants_contiguous(1),
    aten.native_layer_norm_backward.default: _wants_contiguous(2),
    aten.gelu_backward.default: _wants_contiguous(2),
    aten.roll.default: _roll,
    aten._safe_softmax.default: _safe_softmax,
    **dict.fromkeys(POINTWISE, _mixed_types),
    aten._ctc_loss_backward.default: _ctc_backward,
    aten._ctc_loss_backward.Tensor: _ctc_backward,
}


def _lstm(args: tuple[Any, ...], out: Any) -> list[tuple[Tensor, float]]:
    """The reserve is the fourth of what it returns; `reverse` the eighth of its arguments."""
    return [(out[3], RESERVE_UNTOUCHED[args[7]])]


CPU_UNTOUCHED: Untouched = {aten.mkldnn_rnn_layer.default: _lstm}
