"""A vision transformer that takes a mapping and returns its own loss, as models of Hugging Face do.

Stands for models with the interface of `transformers`: keyword inputs, a mapping as output, and no loss
function in the file. After Dosovitskiy et al. 2020 (arXiv 2010.11929), with three layers of width 96. No
optimizer is named, so that the tool's default is used.
"""

from __future__ import annotations

import torch
from torch import nn

SIDE = 32
PATCH = 4
WIDTH = 96
HEADS = 3
LAYERS = 3
CLASSES = 10


class VisionTransformer(nn.Module):
    """Patches, encoder, classes, loss."""

    def __init__(self) -> None:
        """64 patches and a class token."""
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros((SIDE // PATCH) ** 2 + 1, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Images (n, 3, 32, 32) to `logits` (n, 10), with `loss` where labels are given."""
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        logits = self.head(self.encoder(tokens + self.positions)[:, 0])
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(logits, labels)
        return output


def build_model() -> nn.Module:
    """The vision transformer."""
    return VisionTransformer()


def make_batch(batch_size: int) -> dict[str, torch.Tensor]:
    """Images and labels by the names that `transformers` uses."""
    images = torch.randn(batch_size, 3, SIDE, SIDE)
    return {"pixel_values": images, "labels": torch.randint(CLASSES, (batch_size,))}
