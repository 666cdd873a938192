"""CUDA's lists of autocast, put in the place of the CPU's.

Needs torch, with or without CUDA. Promises that under CPU autocast each operator computes in the type that it would
have under CUDA's; the lists differ widely (CUDA keeps softmax, layer norm and sums in fp32), and so do the copies
that are made. Kernels are registered with torch's dispatcher, so that operators which others call inside follow, too.

Which operators are concerned is asked of the dispatcher: every build has the kernels of both lists registered. What
to do with each is in `ATen/autocast_mode.h` (the macros are named below), as the "Autocast Op Reference" of torch's
documentation tells in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.library import Library, fallthrough_kernel
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

Kernel = Callable[..., Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOWER_PRECISION = _names(
    "_convolution _convolution.deprecated conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input"
    " conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm"
    " bmm chain_matmul linalg_multi_dot _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell"
    " rnn_relu_cell _scaled_dot_product_flash_attention scaled_dot_product_attention cudnn_convolution"
    " cudnn_convolution_transpose _cudnn_rnn"
)
"""AT_FORALL_LOWER_PRECISION_FP, and what cuDNN has of its own: run in autocast's type."""

FP32_RESULT = _names(
    "prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm"
    " linalg_matrix_norm.str_ord sum sum.dim_IntList"
)
"""AT_FORALL_FP32_SET_OPT_DTYPE: asked for a result in fp32, where the caller asks for nothing else."""

FP32_NORM = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}
"""AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE: the same, by an overload that takes a type."""

PROMOTE = _names("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add")
"""AT_FORALL_PROMOTE: all arguments in the widest type among them. Every other operator runs in fp32."""

KEPT_AS_ON_CPU = frozenset({"mkldnn_rnn_layer"})
"""Recurrent layers of the CPU, which stand for cuDNN's: these, too, run in autocast's type."""

_EXCLUDED = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def register_cuda_autocast(library: Library) -> None:
    """Register CUDA's behaviour under the CPU's key, until the library is destroyed.

    Args:
        library: of kernels for the namespace "aten".
    """
    for name, kernel in _kernels():
        library.impl(name, kernel, "AutocastCPU")  # type: ignore[no-untyped-call]


@cache
def _kernels() -> tuple[tuple[str, Kernel], ...]:
    on_cuda, on_cpu = _registered("AutocastCUDA"), _registered("AutocastCPU")
    return (*_differing(on_cuda, on_cpu), *((name, fallthrough_kernel) for name in on_cpu - on_cuda - KEPT_AS_ON_CPU))


def _registered(key: str) -> set[str]:
    """The operators of "aten" that have a kernel of their own for a dispatch key."""
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::"))
    return {name.removeprefix("aten::") for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)}


def _differing(on_cuda: set[str], on_cpu: set[str]) -> Iterator[tuple[str, Kernel]]:
    """The operators of CUDA's lists that have no kernel on the CPU, or might have one that does something else."""
    for name in sorted(on_cuda):
        if name in LOWER_PRECISION or name in PROMOTE:
            if name not in on_cpu:
                yield name, _casting(_operator(name), _lower_precision if name in LOWER_PRECISION else _widest)
        elif name in FP32_RESULT:
            yield name, _asking_for_fp32(_operator(name))
        elif name in FP32_NORM:
            yield name, _appending_fp32(_operator(name), _operator(FP32_NORM[name]))
        else:
            yield name, _casting(_operator(name), _fp32)


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


# What is done with the arguments


def _lower_precision(_tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype("cpu")


def _fp32(_tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: list[torch.Tensor]) -> torch.dtype:
    in_fp32 = any(tensor.dtype is torch.float32 for tensor in tensors)
    return torch.float32 if in_fp32 else torch.get_autocast_dtype("cpu")


def _is_eligible(value: Any) -> bool:
    """As autocast takes them: floating-point tensors but those in double precision."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _casting(operator: Any, wanted: Callable[[list[torch.Tensor]], torch.dtype]) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = wanted([leaf for leaf in tree_leaves((args, kwargs)) if _is_eligible(leaf)])
        args, kwargs = tree_map(lambda value: value.to(dtype) if _is_eligible(value) else value, (args, kwargs))
        return _without_autocast(operator, *args, **kwargs)

    return kernel


def _asking_for_fp32(operator: Any) -> Kernel:
    names = [argument.name for argument in operator._schema.arguments]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if _is_eligible(args[0]) and given.get("dtype") is None:
            return _without_autocast(operator, **given | {"dtype": torch.float32})
        return _without_autocast(operator, *args, **kwargs)

    return kernel


def _appending_fp32(operator: Any, with_dtype: Any) -> Kernel:
    names = [argument.name for argument in operator._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in operator._schema.arguments}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if not _is_eligible(args[0]):
            return _without_autocast(operator, *args, **kwargs)
        given = defaults | dict(zip(names, args, strict=False)) | kwargs
        return _without_autocast(with_dtype, **given, dtype=torch.float32)

    return kernel


def _without_autocast(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an operator so that those inside it are left alone, as autocast's own kernels do."""
    with torch._C._ExcludeDispatchKeyGuard(_EXCLUDED):
        return operator(*args, **kwargs)
