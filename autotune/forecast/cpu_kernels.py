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


def _lstm_without_gradients(args: tuple[Any, ...], _out: Any) -> Workspace:
    """The states of all steps, where no reserve holds them, and a copy of the weights.

    In reverse also what goes in and comes out, which else is read and written where it lies. More is asked for, and
    never touched. Measured with torch 2.13, with and without AVX-512.
    """
    if torch.is_grad_enabled():
        return Workspace()
    data, in_weight, out_weight, hidden, is_reverse = *args[:3], args[5].shape[-1], args[7]
    widths = hidden + (2 * max(data.shape[-1], hidden) if is_reverse else 0)
    states = data.shape[0] * data.shape[1] * widths * data.element_size()
    return Workspace(across_others=[states, _bytes(in_weight), _bytes(out_weight)])


# Layers of a Transformer that are one operator (see `fast_path`)

IsFused = Callable[[Tensor, int, Tensor | None, bool], bool]
"""From the input, the number of heads, a mask and whether weights are returned: does a fused kernel attend to it?"""


def layer_rules(is_fused: IsFused) -> Transients:
    """What self-attention, and a whole layer of an encoder, hold besides their input.

    `native_multi_head_attention_cpu` and the like in aten/src/ATen/native/transformers/attention.cpp;
    `transformer_encoder_layer_forward` in transformer.cpp beside it, where a wide layer follows that works in place.
    """

    def attend(args: tuple[Any, ...], _out: Any) -> Workspace:
        mask, returns_weights, takes_mean = _given(args, 9, None), _given(args, 10, True), _given(args, 11, True)
        query, heads = args[0], args[4]
        attention = _attention(query, heads, mask, fused=is_fused(query, heads, mask, returns_weights))
        averaged = [attention[0], _scores(query, heads)] if returns_weights and takes_mean else []
        return Workspace(before=attention, across_others=averaged)

    def encode(args: tuple[Any, ...], _out: Any) -> Workspace:
        source, heads, norm_first, wide_weight, mask = args[0], args[2], args[8], args[14], _given(args, 18, None)
        attention = _attention(source, heads, mask, fused=is_fused(source, heads, mask, False))
        narrow = _bytes(source)
        wide = narrow * wide_weight.shape[0] // wide_weight.shape[1]
        normed = [narrow] if norm_first else []
        return Workspace(before=[*normed, *max(attention, [narrow, wide, narrow], key=sum)])

    return {
        aten._native_multi_head_attention.default: attend,
        aten._transformer_encoder_layer_fwd.default: encode,
    }


def _given(args: tuple[Any, ...], place: int, default: Any) -> Any:
    return args[place] if len(args) > place else default


def _attention(query: Tensor, heads: int, mask: Tensor | None, *, fused: bool) -> list[int]:
    """Query, key and value; and either what they are made of, or the scores, or what a fused kernel returns.

    With a mask, which is made one of truth values, the scores are there twice.
    """
    projected = 3 * _bytes(query)
    if fused:
        return [projected, _bytes(query)]
    masked = 0 if mask is None else _scores(query, heads) + mask.numel()
    return [projected, max(projected, _scores(query, heads) + masked)]


def _scores(query: Tensor, heads: int) -> int:
    samples, length = query.shape[:2]
    return samples * heads * length**2 * query.element_size()


CPU_TRANSIENTS: Transients = {
    aten.convolution.default: _convolution,
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
    aten.mkldnn_rnn_layer.default: _lstm_without_gradients,
    **layer_rules(lambda *_: False),
}


def _lstm(args: tuple[Any, ...], out: Any) -> list[tuple[Tensor, float]]:
    """The reserve is the fourth of what it returns, where gradients are on; `reverse` the eighth of its arguments."""
    return [] if out[3] is None else [(out[3], RESERVE_UNTOUCHED[args[7]])]


CPU_UNTOUCHED: Untouched = {aten.mkldnn_rnn_layer.default: _lstm}
