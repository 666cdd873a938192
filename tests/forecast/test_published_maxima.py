"""The largest micro-batch of a published training run on four kinds of GPU, forecast on a machine without one.

Giles Thomas, "Writing an LLM from scratch, part 29 -- using DistributedDataParallel to train a base model from
scratch in the cloud", trained a GPT of 163 million parameters on machines with eight GPUs each and found, by trying,
the largest micro-batch of each: 13 on an A100 with 40 GB, 28 with 80 GB, 27 on an H100, 64 on a B200.

What the forecast takes for granted: the model of Raschka's book (attention without a fused kernel and with a mask,
norm and GELU written out, an output layer of its own), a context of 1024, fp16 autocast with GradScaler, dropout 0.1
on the attention weights, too, AdamW; one process for each GPU, whose gradient buckets hold all gradients a second
time; the memory that `cards` says is usable. What NCCL takes for eight GPUs is not counted, which is why one more
may be forecast where the last bytes decide: on the newer two, which have the larger buffers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import autotune
from autotune.estimate import card_place
from autotune.forecast.cards import find_card
from autotune.forecast.margin import MARGIN_SHARES
from autotune.forecast.records import Rules

PUBLISHED = {"A100 40GB": 13, "A100 80GB": 28, "H100": 27, "B200": 64}
ONE_MORE = ("H100", "B200")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU build's rules for CUDA are what is tested")


@cache
def reserved_bytes() -> dict[int, int]:
    sizes = [13, 14, 27, 28, 29, 62, 63, 64, 65, 66]
    program = Path(__file__).with_name("gpt_on_gpus.py")
    command = [sys.executable, str(program), json.dumps(sizes)]
    environment = os.environ | {"PYTHONPATH": str(Path(autotune.__file__).parents[1])}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return {int(size): reserved for size, reserved in json.loads(done.stdout).items()}


def largest_within(room_bytes: int) -> int:
    largest = max(size for size, reserved in reserved_bytes().items() if reserved <= room_bytes)
    assert largest + 1 in reserved_bytes()
    return largest


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_largest_micro_batch_is_the_published_one(name: str) -> None:
    accepted = (PUBLISHED[name], PUBLISHED[name] + 1) if name in ONE_MORE else (PUBLISHED[name],)
    assert largest_within(find_card(name).usable_bytes) in accepted


@pytest.mark.parametrize("name", PUBLISHED)
def test_with_the_margin_it_is_never_more_than_the_published_one(name: str) -> None:
    room_bytes = card_place(find_card(name)).room_bytes(MARGIN_SHARES[Rules.CUDA])
    assert 0.95 * PUBLISHED[name] <= largest_within(room_bytes) <= PUBLISHED[name]


def test_what_is_reserved_grows_with_the_micro_batch() -> None:
    reserved = [size_bytes for _, size_bytes in sorted(reserved_bytes().items())]
    assert reserved == sorted(reserved)
