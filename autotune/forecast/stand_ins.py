"""Operators whose rule of shapes in torch refuses what runs with data, or takes long, and rules in their place.

Needs torch. Each gives tensors of the shapes that the real operator returns, or `NotImplemented` where torch's own rule
is to have its say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
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


def _batch_norm(  # noqa: PLR0917 - the operator's own arguments
    image: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *_: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and mean and deviation of each channel. torch's rule computes them operator by operator.

    With it, half of a DenseNet's forecast went by in batch norms. They are of the weight's type where that is fp32 and
    the image is not (`batch_norm_cpu_update_stats` in aten/src/ATen/native/Normalization.cpp), and empty in evaluation.
    """
    channels = image.shape[1] if training else 0
    given = next(t for t in (weight, running_mean, image) if t is not None)
    return torch.empty_like(image), given.new_empty(channels), given.new_empty(channels)


def _batch_norm_backward(
    grad_output: Tensor,
    image: Tensor,
    weight: Tensor | None,
    *args: Any,
) -> tuple[Tensor | None, ...]:
    """The gradients that are wanted of image, weight and bias."""
    like_weight = image.new_empty(image.shape[1]) if weight is None else weight
    kinds = (image, like_weight, like_weight)
    return tuple(torch.empty_like(kind) if wanted else None for kind, wanted in zip(kinds, args[-1], strict=True))


def _group_norm_backward(
    grad_output: Tensor, image: Tensor, _mean: Tensor, _rstd: Tensor, weight: Tensor | None, *args: Any
) -> tuple[Tensor | None, ...]:
    """The gradients that are wanted of image, weight and bias.

    torch's rule (2.13) computes that of an image in bf16 in the type of an fp32 weight, which the kernel does not.
    """
    return _batch_norm_backward(grad_output, image, weight, *args)


def _view(tensor: Tensor, sizes: Sequence[int]) -> Any:
    """The same memory in other sizes. torch's rule tries which dimensions join, which contiguous ones need not."""
    if not tensor.is_contiguous():
        return NotImplemented
    rest = tensor.numel() // max(1, math.prod(size for size in sizes if size >= 0))
    whole = [rest if size < 0 else size for size in sizes]
    if math.prod(whole) != tensor.numel():
        return NotImplemented  # torch explains the error
    strides = [*accumulate(reversed(whole[1:]), lambda stride, size: stride * max(1, size), initial=1)]
    return tensor.as_strided(whole, strides[::-1][: len(whole)], tensor.storage_offset())


def _ctc_loss_backward(_gradient: Tensor, log_probabilities: Tensor, *_: Any) -> Tensor:
    """The gradient of the log probabilities. torch has no rule (2.13), and would run the operator on zeros.

    `ctc_loss_backward_cpu_template` in aten/src/ATen/native/LossCTC.cpp.
    """
    return torch.empty_like(log_probabilities, memory_format=torch.contiguous_format)


def _encoder_layer(source: Tensor, *_: Any) -> Tensor:
    """What `nn.TransformerEncoderLayer` returns in evaluation, for which not every torch has a rule."""
    return torch.empty_like(source, memory_format=torch.contiguous_format)


def _self_attention(
    query: Tensor,
    _key: Tensor,
    _value: Tensor,
    _width: int,
    heads: int,
    _in_weight: Tensor,
    _in_bias: Tensor,
    _out_weight: Tensor,
    _out_bias: Tensor,
    _mask: Tensor | None = None,
    needs_weights: bool = True,
    takes_mean: bool = True,
    *_: Any,
) -> tuple[Tensor, Tensor | None]:
    """What `nn.MultiheadAttention` returns likewise: the result, and the weights of all heads or their mean."""
    samples, length = query.shape[:2]
    each_head = () if takes_mean else (heads,)
    weights = query.new_empty((samples, *each_head, length, length)) if needs_weights else None
    return torch.empty_like(query, memory_format=torch.contiguous_format), weights


STAND_INS: dict[Any, Callable[..., Any]] = {
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten._ctc_loss_backward.default: _ctc_loss_backward,
    aten._ctc_loss_backward.Tensor: _ctc_loss_backward,
    aten._transformer_encoder_layer_fwd.default: _encoder_layer,
    aten._native_multi_head_attention.default: _self_attention,
    aten._nested_tensor_from_mask_left_aligned.default: lambda *_: True,  # padding lies at the end, as it mostly does
}
if hasattr(aten, "_grouped_mm"):  # not in torch 2.6
    STAND_INS[aten._grouped_mm.default] = _grouped_mm
