"""Rules of ours in the place of torch's, against the operators themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotune.forecast.recall import RecallingMode
from autotune.forecast.stand_ins import STAND_INS

aten = torch.ops.aten


def _looks(out: Any) -> list[Any]:
    return [None if t is None else (t.shape, t.stride(), t.dtype) for t in out]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, torch.contiguous_format),
        (torch.bfloat16, torch.contiguous_format),
        (torch.float32, torch.channels_last),
    ],
)
def test_a_batch_norm_returns_what_the_real_one_does(
    dtype: torch.dtype, layout: torch.memory_format, has_weight: bool, training: bool
) -> None:
    image = torch.randn(4, 8, 6, 6, dtype=dtype).contiguous(memory_format=layout)
    weight, bias = (torch.ones(8), torch.zeros(8)) if has_weight else (None, None)
    args = (image, weight, bias, torch.zeros(8), torch.ones(8), training, 0.1, 1e-5)
    real, said = aten.native_batch_norm(*args), STAND_INS[aten.native_batch_norm.default](*args)
    assert _looks(said) == _looks(real)
    back = (image, image, weight, args[3], args[4], *real[1:], training, 1e-5, [True, has_weight, has_weight])
    real, said = aten.native_batch_norm_backward(*back), STAND_INS[aten.native_batch_norm_backward.default](*back)
    assert _looks(said) == _looks(real)


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_norms_gradients_are_of_the_types_of_the_real_ones(
    dtype: torch.dtype, layout: torch.memory_format, has_weight: bool
) -> None:
    image = torch.randn(4, 8, 6, 6, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.ones(8) if has_weight else None
    _, mean, rstd = aten.native_group_norm(image, weight, weight, 4, 8, 36, 2, 1e-5)
    back = (image, image, mean, rstd, weight, 4, 8, 36, 2, [True, has_weight, has_weight])
    real, said = aten.native_group_norm_backward(*back), STAND_INS[aten.native_group_norm_backward.default](*back)
    assert _looks(said) == _looks(real)


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((4, 6), (24,)),
        ((4, 6), (2, -1, 3)),
        ((4, 6), (-1,)),
        ((1, 1), ()),
        ((), (1,)),
        ((0, 3), (3, 0)),
        ((0, 3), (-1, 3)),
    ],
)
@pytest.mark.parametrize("operator", [aten.view.default, aten._unsafe_view.default])
def test_a_view_has_the_sizes_and_strides_of_the_real_one(
    operator: Any, sizes: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    tensor = torch.zeros(3, *sizes)[1]
    real, said = operator(tensor, wanted), STAND_INS[operator](tensor, wanted)
    assert (said.shape, said.stride(), said.storage_offset()) == (real.shape, real.stride(), real.storage_offset())
    assert said.untyped_storage()._cdata == tensor.untyped_storage()._cdata


def test_a_view_that_cannot_be_is_left_to_torch_to_refuse() -> None:
    with RecallingMode():
        with pytest.raises(RuntimeError, match="invalid for input of size 24"):
            torch.zeros(4, 6).view(5, 5)
        with pytest.raises(ValueError, match="Cannot view"):
            torch.zeros(4, 6).t().view(24)


def _without_data(operator: Any, *args: Any) -> Any:
    """What an operator returns for arguments without data, where torch may not run it with data instead."""
    with RecallingMode() as mode:
        mode.allow_fallback_kernels = False
        return operator(*(mode.from_tensor(arg) if isinstance(arg, torch.Tensor) else arg for arg in args))


@pytest.mark.parametrize("as_tensors", [True, False])
def test_a_ctc_loss_s_gradient_is_made_without_running_it(as_tensors: bool) -> None:
    log_probabilities = torch.randn(4, 20, 9).log_softmax(-1).transpose(0, 1)
    targets, times, letters = torch.randint(1, 9, (4, 5)), [20] * 4, [5] * 4
    lengths = (torch.tensor(times), torch.tensor(letters)) if as_tensors else (times, letters)
    losses, alpha = aten._ctc_loss(log_probabilities, targets, *lengths)
    args = (losses, log_probabilities, targets, *lengths, losses, alpha, 0)
    real, said = aten._ctc_loss_backward(*args), _without_data(aten._ctc_loss_backward, *args)
    assert _looks([said]) == _looks([real])


def _layer_weights() -> tuple[torch.Tensor, ...]:
    """Of self-attention, 8 wide: those of the inputs, then those of the result."""
    return torch.randn(24, 8), torch.randn(24), torch.randn(8, 8), torch.randn(8)


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("needs_weights", "takes_mean"), [(True, True), (True, False), (False, True)])
def test_self_attention_returns_what_the_real_one_does(needs_weights: bool, takes_mean: bool, masked: bool) -> None:
    data, mask = torch.randn(3, 5, 8), torch.zeros(3, 2, 5, 5, dtype=torch.bool) if masked else None
    options = (mask, needs_weights, takes_mean, 2 if masked else None)
    args = (data, data, data, 8, 2, *_layer_weights(), *options)
    real, said = aten._native_multi_head_attention(*args), _without_data(aten._native_multi_head_attention, *args)
    assert _looks(said) == _looks(real)


@torch.no_grad()
def test_an_encoder_s_layer_returns_what_the_real_one_does() -> None:
    data, norm = torch.randn(5, 3, 8).transpose(0, 1), (torch.ones(8), torch.zeros(8))
    wide = (torch.randn(32, 8), torch.randn(32), torch.randn(8, 32), torch.randn(8))
    args = (data.contiguous(), 8, 2, *_layer_weights(), False, False, 1e-5, *norm, *norm, *wide)
    real, said = aten._transformer_encoder_layer_fwd(*args), _without_data(aten._transformer_encoder_layer_fwd, *args)
    assert _looks([said]) == _looks([real])


def test_padding_is_taken_to_lie_at_the_end_without_looking() -> None:
    data, is_there = torch.randn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)
    assert _without_data(aten._nested_tensor_from_mask_left_aligned, data, is_there) is True
