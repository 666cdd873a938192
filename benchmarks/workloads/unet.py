"""A U-Net that segments 64x64 images.

Stands for dense prediction: skip connections keep the largest tensors alive through the whole step. After
Ronneberger et al. 2015 (arXiv 1505.04597), with three levels and 12 channels at the top.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

SIDE = 64
WIDTHS = (12, 24, 48)
CLASSES = 3


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, each normalized and rectified."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, joined level by level."""

    def __init__(self) -> None:
        """Three levels."""
        super().__init__()
        pairs = list(itertools.pairwise(WIDTHS))
        self.first = double_convolution(3, WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), double_convolution(i, o)) for i, o in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, stride=2) for i, o in reversed(pairs))
        self.join = nn.ModuleList(double_convolution(2 * i, i) for i, _ in reversed(pairs))
        self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, 64, 64) to class scores of each pixel (n, 3, 64, 64)."""
        levels = [self.first(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for grow, join in zip(self.grow, self.join, strict=True):
            x = join(torch.cat([grow(x), levels.pop()], dim=1))
        return self.head(x)


model = UNet()
loss = nn.functional.cross_entropy
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 64, 64) and the class of each pixel (n, 64, 64)."""
    return torch.randn(batch_size, 3, SIDE, SIDE), torch.randint(CLASSES, (batch_size, SIDE, SIDE))
