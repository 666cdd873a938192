"""The code that a first step brings, against real first steps of fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autotune.forecast import first_code
from autotune.forecast.compiled import CODE_BYTES

MIB = 1 << 20

STEP = """
import re, torch
from torch import nn
from autotune.forecast import first_code
def mapped_bytes():
    return int(re.search(r"RssFile:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
torch.set_num_threads(1)
model, data = {model}, torch.randn({shape})
optimizer = torch.optim.AdamW(model.train({training}).parameters())
before = mapped_bytes()
first_code.run_some(training={training})
known = mapped_bytes()
with torch.set_grad_enabled({training}):
    loss = nn.functional.cross_entropy(model(data).flatten(1), torch.zeros(len(data), dtype=torch.int64))
if {training}:
    loss.backward()
    optimizer.step()
print(known - before, mapped_bytes() - known)
"""

MODELS = {
    "plain": ("nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))", "8, 64", 0),
    "attention": ("nn.TransformerEncoderLayer(64, 4, batch_first=True)", "8, 16, 64", 0),
    "oneDNN": ("nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU())", "8, 8, 16, 16", CODE_BYTES),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", MODELS)
def test_little_is_left_for_a_real_first_step(name: str, training: bool) -> None:
    model, shape, of_onednn_bytes = MODELS[name]
    script = STEP.format(model=model, shape=shape, training=training)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    known, rest = map(int, ran.stdout.split())
    assert known > 4 * MIB
    assert rest == pytest.approx(of_onednn_bytes, abs=5 * MIB)


def test_the_random_state_stays() -> None:
    before = torch.get_rng_state()
    first_code.run_some(training=True)
    assert torch.equal(torch.get_rng_state(), before)
