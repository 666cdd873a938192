"""A transformer encoder that classifies texts of 128 tokens.

Stands for BERT-like models (Devlin et al. 2018, arXiv 1810.04805) with dropout: many middle-sized tensors a
layer, and masks that are kept for the backward pass.
"""

from __future__ import annotations

import torch
from torch import nn

TOKENS = 128
VOCABULARY = 8000
WIDTH = 128
HEADS = 4
LAYERS = 2
CLASSES = 4


class TextClassifier(nn.Module):
    """Embeddings, encoder, and a linear layer on the mean over the tokens."""

    def __init__(self) -> None:
        """Two layers of width 128."""
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (n, 128) to class scores (n, 4)."""
        encoded: torch.Tensor = self.encoder(self.words(tokens) + self.positions)
        return self.head(encoded.mean(dim=1))


model = TextClassifier()
loss = nn.functional.cross_entropy
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, 128) and classes."""
    return torch.randint(VOCABULARY, (batch_size, TOKENS)), torch.randint(CLASSES, (batch_size,))
