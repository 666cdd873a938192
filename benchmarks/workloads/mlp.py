"""A multilayer perceptron over points of rays: the network of a neural radiance field.

Stands for plain dense layers. One sample is a ray of 64 encoded points, after Mildenhall et al. 2020
(arXiv 2003.08934): eight hidden layers of 256 there, four of 128 here. The batch is stacked from one sample.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

POINTS_PER_RAY = 64
ENCODING = 60
WIDTH = 128


class RadianceField(nn.Module):
    """Colour of a ray: the mean of the colours of its points, weighted by their densities."""

    def __init__(self) -> None:
        """Four hidden layers, then density and colour."""
        super().__init__()
        sizes = [ENCODING, WIDTH, WIDTH, WIDTH, WIDTH]
        layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.points = nn.Sequential(*layers, nn.Linear(WIDTH, 4))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Encoded points (n, 64, 60) to colours (n, 3)."""
        density, colour = self.points(points).split([1, 3], dim=-1)
        return (density.softmax(dim=1) * colour.sigmoid()).sum(dim=1)


model = RadianceField()
loss = nn.functional.mse_loss
optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
sample = (torch.randn(POINTS_PER_RAY, ENCODING), torch.rand(3))
