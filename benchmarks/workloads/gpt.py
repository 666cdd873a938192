"""A small causal language model.

Stands for decoder-only transformers (Radford et al. 2019, GPT-2): the logits over the vocabulary, not the
layers, hold the peak, and the output matrix is tied to the embedding.
"""

from __future__ import annotations

import torch
from torch import nn

TOKENS = 128
VOCABULARY = 4096
WIDTH = 128
HEADS = 4
LAYERS = 2


class Block(nn.Module):
    """Causal self-attention and a feed-forward network, each normalized first."""

    def __init__(self) -> None:
        """One layer of width 128."""
        super().__init__()
        self.attention_norm, self.feed_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) to the same shape."""
        parts = self.queries_keys_values(self.attention_norm(x)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(*parts.chunk(3, dim=1), is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.feed(self.feed_norm(x))


class Gpt(nn.Module):
    """Token ids to scores of the next token."""

    def __init__(self) -> None:
        """Two layers, and one matrix for both embedding and output."""
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (n, 128) to scores (n, 128, vocabulary)."""
        return self.head(self.blocks(self.words(tokens) + self.positions))


model = Gpt()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95))


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, 128), and the same shifted by one."""
    tokens = torch.randint(VOCABULARY, (batch_size, TOKENS + 1))
    return tokens[:, :-1], tokens[:, 1:]
