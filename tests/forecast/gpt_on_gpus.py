"""A GPT of 163 million parameters and its training step, as a user would write them for a GPU; run by a test.

Prints, for each micro-batch size given, what the allocator reserves for a step, in bytes: a table in JSON.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn
from torch.nn import functional

from autotune.forecast.allocator import reserved_peak_bytes
from autotune.forecast.cuda_kernels import CUDA_TRANSIENTS
from autotune.forecast.records import Event, Rules
from autotune.forecast.tracker import ByteTracker
from autotune.forecast.world import fake_world

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS, DROPOUT = 50257, 1024, 768, 12, 12, 0.1


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * ((x - mean) / torch.sqrt(variance + 1e-5)) + self.shift


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(DROPOUT)
        self.register_buffer("mask", torch.triu(torch.ones(CONTEXT, CONTEXT), diagonal=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, length, _ = x.shape
        query, key, value = (
            project(x).view(samples, length, HEADS, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3)
        scores.masked_fill_(self.mask.bool()[:length, :length], -torch.inf)
        weights = self.dropout(torch.softmax(scores / key.shape[-1] ** 0.5, dim=-1))
        return self.out((weights @ value).transpose(1, 2).contiguous().view(x.shape))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.dropout = Attention(), nn.Dropout(DROPOUT)
        self.mix = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), Gelu(), nn.Linear(4 * WIDTH, WIDTH))
        self.first, self.second = Norm(), Norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.first(x)))
        return x + self.dropout(self.mix(self.second(x)))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.dropout, self.norm = nn.Dropout(DROPOUT), Norm()
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.places(places))
        return self.head(self.norm(self.blocks(x)))


def train(micro_batch: int, steps: int = 2) -> None:
    """Train on one GPU of several: DistributedDataParallel's buckets hold all gradients a second time."""
    with torch.device("cuda"):
        model = Gpt()
        parameters = list(model.parameters())
        _buckets = torch.empty(sum(parameter.numel() for parameter in parameters))
    optimizer = torch.optim.AdamW(parameters, lr=4e-4, weight_decay=0.1)
    scaler = torch.amp.GradScaler()
    for _ in range(steps):
        tokens = torch.zeros(2, micro_batch, CONTEXT, dtype=torch.long, device="cuda").unbind()
        optimizer.zero_grad()
        with torch.amp.autocast(device_type="cuda", dtype=torch.float16):
            logits = model(tokens[0])
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[1].flatten())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def followed(micro_batch: int) -> list[Event]:
    with fake_world(Rules.CUDA), ByteTracker(Rules.CUDA, transients=CUDA_TRANSIENTS) as tracker:
        train(micro_batch)
        return list(tracker.events)


def main() -> None:
    """Answer: by micro-batch size, its reserved peak."""
    json.dump({size: reserved_peak_bytes(followed(size)) for size in json.loads(sys.argv[1])}, sys.stdout)


if __name__ == "__main__":
    main()
