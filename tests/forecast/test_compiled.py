"""What oneDNN's compiled kernels are counted for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forecast_child import needs_bf16

from autotune.forecast.compiled import BYTES_EACH, CODE_BYTES, Compiled
from autotune.forecast.run import FIRST_STEP_BYTES
from autotune.forecast.tracker import ByteTracker


def _held_bytes(*sizes: tuple[int, int, int], dtype: torch.dtype) -> int:
    compiled = Compiled()
    with ByteTracker(known_sizes=(compiled,)):
        for rows, inner, columns in sizes:
            torch.mm(torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype))
    return compiled.held_bytes


@needs_bf16
def test_each_shape_counts_once() -> None:
    assert _held_bytes((64, 64, 64), (64, 64, 64), (64, 128, 64), dtype=torch.bfloat16) == CODE_BYTES + 2 * BYTES_EACH


@needs_bf16
def test_tiny_products_are_not_compiled_for() -> None:
    assert _held_bytes((4, 4, 4), dtype=torch.bfloat16) == 0


def test_fp32_is_computed_by_other_kernels() -> None:
    assert _held_bytes((64, 64, 64), (64, 128, 64), dtype=torch.float32) == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_its_code_counts_once_where_a_convolution_calls_it() -> None:
    compiled = Compiled()
    with ByteTracker(known_sizes=(compiled,)):
        for channels in (8, 16):
            torch.conv2d(torch.ones(1, channels, 8, 8), torch.ones(8, channels, 3, 3))
    assert compiled.held_bytes == CODE_BYTES


FIRST_STEP = """
import re, torch
from torch import nn
def mapped_bytes():
    return int(re.search(r"RssFile:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
torch.set_num_threads(1)
model, data = {model}, torch.randn({shape})
optimizer, before = torch.optim.AdamW(model.parameters()), mapped_bytes()
nn.functional.cross_entropy(model(data).flatten(1), torch.zeros(len(data), dtype=torch.int64)).backward()
optimizer.step()
print(mapped_bytes() - before)
"""

MODELS = {
    "without oneDNN": ("nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU())", "8, 64", 0),
    "convolutions": ("nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU())", "8, 8, 16, 16", CODE_BYTES),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", MODELS)
def test_a_first_step_brings_the_code_that_it_runs(name: str) -> None:
    model, shape, of_onednn_bytes = MODELS[name]
    script = FIRST_STEP.format(model=model, shape=shape)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == pytest.approx(FIRST_STEP_BYTES + of_onednn_bytes, abs=6 << 20)
