"""The kernels that CUDA would choose where a processor has others, for tensors without data.

Needs torch, with or without CUDA. Promises, for dropout, softmax, RMS norm and attention, the tensors that CUDA's
kernels return and keep for the backward pass; and, for attention, the bytes that they take meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library
from torch.nn import functional

from autotune.forecast.cpu_kernels import layer_rules
from autotune.forecast.tracker import Transients, Workspace

aten = torch.ops.aten

Note = Callable[[str], None]

LOW_PRECISION = (torch.float16, torch.bfloat16)

FLASH_NOTE = "attention was taken to run the flash kernel, as on Ampere GPUs and newer; older ones need more memory"
EFFICIENT_NOTE = "attention was taken to run the memory-efficient kernel"
MATH_NOTE = "attention was taken to run without a fused kernel"


def register_cuda_kernels(library: Library, note: Note) -> None:
    """Register CUDA's choices for every device, until the library is destroyed.

    Args:
        library: of kernels for the namespace "aten".
        note: told of each choice that another GPU might make otherwise.
    """

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        return _attention(note, *args, **kwargs)

    kernels: dict[str, Callable[..., Tensor]] = {
        "dropout": _dropout,
        "softmax.int": _softmax,
        "log_softmax.int": _log_softmax,
        "scaled_dot_product_attention": attend,
    }
    if hasattr(aten, "_fused_rms_norm"):
        kernels["rms_norm"] = _rms_norm
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]


# Dropout, softmax, RMS norm


def _dropout(tensor: Tensor, probability: float, train: bool) -> Tensor:
    """CUDA's dropout keeps a mask of booleans, the CPU's one in the tensor's type (`Dropout.cpp`)."""
    if not train or probability == 0 or tensor.numel() == 0:
        return tensor
    if probability == 1:
        return tensor * 0
    dropped: Tensor = torch.native_dropout(tensor, probability, train=True)[0]
    return dropped


def _softmax(tensor: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return _softmax_by(aten._softmax.default, tensor, dim, dtype)


def _log_softmax(tensor: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return _softmax_by(aten._log_softmax.default, tensor, dim, dtype)


def _softmax_by(operator: Any, tensor: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """From fp16 to fp32 CUDA's kernel converts as it reads; from bfloat16 there is a copy (`SoftMax.cpp`)."""
    fused = tensor.dtype is torch.float16 and dtype is torch.float32
    result: Tensor = operator(tensor if fused or dtype is None else tensor.to(dtype), dim, fused)
    return result


def _rms_norm(tensor: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """CUDA has one kernel for it, unless the weight is of another type (`rms_norm_symint` in `layer_norm.cpp`)."""
    if weight is not None and weight.dtype is not tensor.dtype:
        composite: Tensor = aten._fused_rms_norm(tensor, shape, weight, eps)[0]
        return composite
    result: Tensor = _RmsNorm.apply(tensor.contiguous(), weight, len(shape))  # type: ignore[no-untyped-call]
    return result


class _RmsNorm(torch.autograd.Function):
    """What the fused kernel returns, and keeps: its input and a number in fp32 for each row."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, weight: Tensor | None, dimensions: int) -> Tensor:
        rows = (*tensor.shape[:-dimensions], *(1,) * dimensions)
        ctx.save_for_backward(tensor, weight, tensor.new_empty(rows, dtype=torch.float32))
        return torch.empty_like(tensor)

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> tuple[Tensor | None, ...]:
        tensor, weight, _ = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            torch.empty_like(tensor) if wanted[0] else None,
            torch.empty_like(weight) if wanted[1] else None,
            None,
        )


# Attention. The choice follows `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`, for tensors that are not
# nested; the calls follow `scaled_dot_product_attention` in `aten/src/ATen/native/transformers/attention.cpp`.


def _attention(  # noqa: PLR0917 - the operator's own arguments
    note: Note,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    mask = None if attn_mask is None else _as_bias(attn_mask, query.dtype)
    unequal = query.shape[-2] != key.shape[-2]
    result: Tensor
    if _takes_flash(query, key, value, enable_gqa) and mask is None and not (is_causal and unequal):
        note(FLASH_NOTE)
        padded = [_pad_head(tensor, FLASH_ALIGNMENT) for tensor in (query, key, value)]
        out = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)[0]
        result = out[..., : value.shape[-1]]
    elif _takes_efficient(query, key, value):
        note(EFFICIENT_NOTE)
        trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
        bias = None if mask is None else _aligned_bias(mask, query, key)
        result = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, trains, dropout_p, is_causal, scale=scale
        )[0]
    else:
        note(MATH_NOTE)
        result = aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
    return result


FLASH_LARGEST_HEAD = 256  # check_head_dim_size_flash
FLASH_ALIGNMENT = 8  # pad_last_dim<8>
EFFICIENT_ALIGNMENT_BYTES = 16  # minimum_gemm_alignment: 8 numbers of two bytes, 4 of four
BIAS_ALIGNMENT = 8  # preprocess_mask: mem_eff_alignment


def _takes_flash(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> bool:
    return (
        _is_on("flash")
        and query.dtype in LOW_PRECISION
        and query.shape[-1] == value.shape[-1] <= FLASH_LARGEST_HEAD
        and _heads_agree(query, key, value, enable_gqa)
    )


def _takes_efficient(query: Tensor, key: Tensor, value: Tensor) -> bool:
    alignment = EFFICIENT_ALIGNMENT_BYTES // query.element_size()
    return (
        _is_on("mem_efficient")
        and query.dtype in (*LOW_PRECISION, torch.float32)
        and query.shape[-1] % alignment == value.shape[-1] % alignment == 0
        and _heads_agree(query, key, value, grouped=False)
    )


def _is_on(kernel: str) -> bool:
    """Whether the user allows a kernel: by default, or inside `torch.nn.attention.sdpa_kernel`."""
    return bool(getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")())


def _heads_agree(query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> bool:
    """Both fused kernels take tensors of shape (batch, heads, length, head); only flash takes groups of heads."""
    if not query.dim() == key.dim() == value.dim() == 4:
        return False
    same_batch = query.shape[0] == key.shape[0] == value.shape[0]
    return same_batch and (grouped or query.shape[1] == key.shape[1] == value.shape[1])


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of booleans as what is added to the scores (`convert_boolean_attn_mask`)."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -math.inf)


def _aligned_bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The bias seen for all heads; copied to rows of an aligned length where they are not (`preprocess_mask`)."""
    length, (*strides, last) = mask.shape[-1], mask.stride()
    if last != 1 or any(stride % BIAS_ALIGNMENT for stride in strides):
        padding = BIAS_ALIGNMENT - length % BIAS_ALIGNMENT  # a whole one where the length itself is aligned
        mask = functional.pad(mask, (0, padding))[..., :length]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _pad_head(tensor: Tensor, alignment: int) -> Tensor:
    """The size of a head rounded up, which copies the tensor where it must be."""
    rest = -tensor.shape[-1] % alignment
    return functional.pad(tensor, (0, rest)) if rest else tensor


# Memory inside kernels

FP32_BYTES = 4
QUERY_BLOCK = 128  # both kernels round the number of queries up to it
SMALL_HEAD, SMALL_HEAD_BLOCK, LARGE_HEAD_BLOCK = 128, 32, 64  # head_size_rounded in flash_api.cpp


def _flash_backward(args: tuple[Any, ...], _out: Any) -> Workspace:
    """`mha_bwd` in flash_api.cpp: dq_accum and softmax_d in fp32; dk and dv of all heads where these are grouped."""
    query, key = args[1], args[2]
    batch, heads, length, head = query.shape
    block = SMALL_HEAD_BLOCK if head <= SMALL_HEAD else LARGE_HEAD_BLOCK
    accumulated = FP32_BYTES * batch * heads * _round_up(length, QUERY_BLOCK) * (_round_up(head, block) + 1)
    expanded = 0 if key.shape[1] == heads else 2 * batch * heads * key.shape[2] * head * key.element_size()
    return Workspace(across_others=[int(accumulated + expanded)])


def _efficient_backward(args: tuple[Any, ...], _out: Any) -> Workspace:
    """`_efficient_attention_backward`: delta, and for short types dq, in fp32 (kNeedsAccumGradQ)."""
    query = args[1]
    batch, heads, length, head = query.shape
    accumulated = 0 if query.element_size() == FP32_BYTES else _round_up(length, QUERY_BLOCK) * head
    return Workspace(across_others=[int(FP32_BYTES * batch * heads * (length + accumulated))])


FUSED_HEADS = 8  # dim_per_head % 8 == 0


def _is_fused(query: Tensor, heads: int, mask: Tensor | None, returns_weights: bool) -> bool:
    """As `native_multi_head_attention_cuda` chooses (aten/src/ATen/native/transformers/cuda/attention.cu)."""
    return mask is None and not returns_weights and query.shape[-1] // heads % FUSED_HEADS == 0


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


CUDA_TRANSIENTS: Transients = {
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    **layer_rules(_is_fused),
}
"""What CUDA's kernels take inside themselves. Sources: the files named at each."""
