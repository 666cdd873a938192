"""Inference is followed part by part, and its forecast is what a step in inference mode really takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forecast_child import forecast, forecast_inference_bytes, inference_bytes, model_file, reads_proc, truth

from autotune.forecast import inference
from autotune.spec import Mode


@torch.inference_mode()
def _modes() -> tuple[bool, bool]:
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def test_inference_mode_means_that_gradients_are_off() -> None:
    with inference.means_no_grad():
        assert _modes() == (False, False)  # though it was decorated before
        with torch.inference_mode():
            assert not torch.is_grad_enabled()
            with torch.inference_mode(False):
                assert torch.is_grad_enabled()
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
    assert _modes() == (True, False)


def test_it_means_what_it_says_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), inference.means_no_grad(), torch.inference_mode():
        raise ZeroDivisionError
    assert torch.is_grad_enabled()
    assert _modes() == (True, False)


def test_a_mode_that_is_left_later_is_left_as_it_was_entered() -> None:
    mode = torch.inference_mode()
    with inference.means_no_grad():
        mode.__enter__()
    assert not torch.is_grad_enabled()
    mode.__exit__(None, None, None)
    assert torch.is_grad_enabled()


MODELS = {
    "stacked LSTM": """
        class Last(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.LSTM(64, 128, num_layers=3, bidirectional=True, batch_first=True)
            def forward(self, x):
                return self.layers(x)[0].mean(1)
        model = Last()
        def make_batch(n):
            return torch.randn(n, 100, 64)
    """,
    "convolution padded to the same size": """
        model = nn.Sequential(nn.Conv2d(16, 32, 3, padding="same"), nn.Conv2d(32, 16, 3, padding="same"))
        def make_batch(n):
            return torch.randn(n, 16, 32, 32)
    """,
    "attention in groups of heads": """
        class Grouped(nn.Linear):
            def forward(self, x):
                query = super().forward(x)
                return nn.functional.scaled_dot_product_attention(query, x[:, :2], x[:, :2], enable_gqa=True)
        model = Grouped(32, 32)
        def make_batch(n):
            return torch.randn(n, 8, 128, 32)
    """,
    "attention without heads": """
        class Plain(nn.Linear):
            def forward(self, x):
                return nn.functional.scaled_dot_product_attention(super().forward(x), x, x)
        model = Plain(32, 32)
        def make_batch(n):
            return torch.randn(n, 256, 32)
    """,
}


@reads_proc
@pytest.mark.parametrize("name", MODELS)
def test_a_forecast_of_inference_is_what_a_real_step_takes(tmp_path: Path, name: str) -> None:
    file = model_file(tmp_path, MODELS[name])
    real_bytes = inference_bytes(file, 128)
    assert real_bytes > 20 << 20
    assert forecast_inference_bytes(file, 128) == pytest.approx(real_bytes, rel=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_inference_is_counted_alike_without_data_and_with(tmp_path: Path, name: str) -> None:
    file = model_file(tmp_path, MODELS[name])
    ran, (said,) = truth(file, 16, mode=Mode.INFERENCE), forecast(file, 16, mode=Mode.INFERENCE).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert (said.operator, said.operators) == (ran.operator, ran.operators)
