"""A residual network for 32x32 images: ResNet-20 with batch normalization.

Stands for convolutional classifiers, whose early, wide layers hold most of the memory. After He et al. 2016
(arXiv 1512.03385, section 4.2), trained by SGD with momentum as there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import nn

BLOCKS_PER_STAGE = 3
WIDTHS = (16, 32, 64)
CLASSES = 10


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution and its batch normalization."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Halve the image where the width grows."""
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(convolution(inputs, outputs, stride), nn.ReLU(), convolution(outputs, outputs))
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the body learned to what came in."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def build_model() -> nn.Module:
    """ResNet-20."""
    widths = [WIDTHS[0], *(width for width in WIDTHS for _ in range(BLOCKS_PER_STAGE))]
    blocks = [Block(i, o) for i, o in itertools.pairwise(widths)]
    stem = nn.Sequential(convolution(3, WIDTHS[0]), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES))
    return nn.Sequential(stem, *blocks, head)


def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD as in the paper."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)


loss = nn.functional.cross_entropy


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 32, 32) and their classes."""
    return torch.randn(batch_size, 3, 32, 32), torch.randint(CLASSES, (batch_size,))
