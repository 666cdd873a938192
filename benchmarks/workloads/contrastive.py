"""Contrastive learning of images and texts, token against patch.

Stands for losses that compare each sample with each other one, so that memory grows with the square of the
batch size and no straight line foretells it. The similarity is the late interaction of Yao et al. 2021
(FILIP, arXiv 2111.07783). The training step is the file's own.
"""

from __future__ import annotations

import torch
from torch import nn

SIDE = 32
PATCH = 8
TOKENS = 8
VOCABULARY = 4000
WIDTH = 64


class TwoTowers(nn.Module):
    """Unit vectors of the patches of images and of the tokens of texts."""

    def __init__(self) -> None:
        """A convolutional tower and a recurrent-free text tower, both small."""
        super().__init__()
        self.images = nn.Sequential(
            nn.Conv2d(3, WIDTH, PATCH, stride=PATCH), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.texts = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 3, 32, 32) and token ids (n, 8) to vectors (n, 16, 64) and (n, 8, 64)."""
        patches = self.images(images).flatten(2).transpose(1, 2)
        return nn.functional.normalize(patches, dim=-1), nn.functional.normalize(self.texts(texts), dim=-1)


model = TwoTowers()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)


def contrast(patches: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy over the similarity of each image to each text."""
    similarity = torch.einsum("ipd,jtd->ijpt", patches, tokens)
    answers = torch.arange(len(patches), device=patches.device)
    by_image = similarity.amax(dim=3).mean(dim=2) * model.scale
    by_text = similarity.amax(dim=2).mean(dim=2).t() * model.scale
    return (nn.functional.cross_entropy(by_image, answers) + nn.functional.cross_entropy(by_text, answers)) / 2


def training_step(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One whole step."""
    optimizer.zero_grad(set_to_none=True)
    loss = contrast(*model(*batch))
    loss.backward()
    optimizer.step()
    return loss


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 32, 32) and token ids (n, 8)."""
    return torch.randn(batch_size, 3, SIDE, SIDE), torch.randint(VOCABULARY, (batch_size, TOKENS))
