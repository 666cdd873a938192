"""Layers of a Transformer that are one operator in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forecast_child import (
    forecast,
    forecast_inference_bytes,
    in_child,
    inference_bytes,
    model_file,
    needs_bf16,
    reads_proc,
)
from torch import nn

from autotune.forecast.emulation import LAYER_NOTE
from autotune.forecast.fast_path import PADDING_NOTE
from autotune.forecast.records import Rules
from autotune.spec import Mode, Precision

ENCODER = """
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first={norm_first})
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.register_buffer("mask", torch.ones({length}, {length}, dtype=torch.bool).triu(1))
        def forward(self, x):
            return self.layers(x, mask={mask})
    model = Encoder()
    def make_batch(n):
        return torch.randn(n, {length}, 64)
"""
ATTENTION = """
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(64, 4, batch_first=True)
        def forward(self, x):
            return self.layer(x, x, x, need_weights={weights})
    model = Attention()
    def make_batch(n):
        return torch.randn(n, 256, 64)
"""
MODELS = {
    "long": ENCODER.format(norm_first=False, length=256, mask=None),
    "long, masked": ENCODER.format(norm_first=False, length=256, mask="self.mask"),
    "long, norm first": ENCODER.format(norm_first=True, length=256, mask=None),
    "short": ENCODER.format(norm_first=False, length=32, mask=None),
    "short, norm first": ENCODER.format(norm_first=True, length=32, mask=None),
    "attention alone": ATTENTION.format(weights=False),
    "attention and its weights": ATTENTION.format(weights=True),
}


@reads_proc
@pytest.mark.parametrize("precision", [Precision.FP32, pytest.param(Precision.BF16, marks=needs_bf16)])
@pytest.mark.parametrize("name", MODELS)
def test_a_forecast_of_such_layers_is_what_a_real_step_takes(tmp_path: Path, name: str, precision: Precision) -> None:
    file, size = model_file(tmp_path, MODELS[name]), 512 if name.startswith("short") else 64
    real_bytes = inference_bytes(file, size, precision)
    assert real_bytes > 10 << 20
    assert forecast_inference_bytes(file, size, precision) == pytest.approx(real_bytes, rel=0.15)


def test_on_a_gpu_such_layers_are_guessed_to_hold_no_scores(tmp_path: Path) -> None:
    scores_bytes = 64 * 4 * 256**2 * 4
    peaks_bytes = {}
    for name in ("long", "long, masked"):
        told = forecast(model_file(tmp_path, MODELS[name]), 64, rules=Rules.CUDA, mode=Mode.INFERENCE)
        peaks_bytes[name] = told.footprints[0].peak_bytes
        assert LAYER_NOTE in told.guesses
    assert peaks_bytes["long"] < scores_bytes < peaks_bytes["long, masked"]


PADDED = """
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2)
        def forward(self, x, padding):
            return self.layers(x, src_key_padding_mask=padding)
    model = Encoder()
    def make_batch(n):
        padding = torch.zeros(n, 64, dtype=torch.bool)
        padding[:, 48:] = True
        return {"x": torch.randn(n, 64, 64), "padding": padding}
"""


def test_padding_is_kept_and_that_is_told(tmp_path: Path) -> None:
    file = model_file(tmp_path, PADDED)
    told = forecast(file, 128, mode=Mode.INFERENCE)
    assert told.guesses == [PADDING_NOTE]
    assert told.footprints[0].peak_bytes > 2 * 128 * 4 * 64**2 * 4  # the scores of all places, twice as they are masked


def _asked() -> list[bool]:
    from autotune.forecast.world import fake_world

    before = torch.overrides.has_torch_function
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    seen: list[Any] = []

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with fake_world(Rules.CPU), Look():
        data = torch.ones(2, 3, 8)
        layer(data, data, data)
        with_gradients = torch.ops.aten._native_multi_head_attention.default in seen
        with torch.no_grad():
            layer(data, data, data)
        without = torch.ops.aten._native_multi_head_attention.default in seen
    return [with_gradients, without, torch.overrides.has_torch_function is before]


def test_only_without_gradients_is_the_operator_taken_and_all_is_as_before_afterwards() -> None:
    assert in_child(_asked) == [False, True, True]
