"""A network that doubles the resolution of images, to be used and not trained.

Stands for serving: few tensors live at a time, and the largest one, before the pixels are shuffled into the
larger image, decides. A smaller EDSR, after Lim et al. 2017 (arXiv 1707.02921).
"""

from __future__ import annotations

import torch
from torch import nn

SIDE = 64
WIDTH = 32
BLOCKS = 3


class Block(nn.Module):
    """Two convolutions whose answer is added to what came in."""

    def __init__(self) -> None:
        """One block of width 32."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return x + self.body(x)


model = nn.Sequential(
    nn.Conv2d(3, WIDTH, 3, padding=1),
    *(Block() for _ in range(BLOCKS)),
    nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1),
    nn.PixelShuffle(2),
    nn.Conv2d(WIDTH, 3, 3, padding=1),
)


def inference_step(batch: torch.Tensor) -> torch.Tensor:
    """Images twice as large, as bytes would store them: from 0 to 1."""
    enlarged: torch.Tensor = model(batch)
    return enlarged.clamp_(0, 1)


def make_batch(batch_size: int) -> torch.Tensor:
    """Images (n, 3, 64, 64) from 0 to 1."""
    return torch.rand(batch_size, 3, SIDE, SIDE)
