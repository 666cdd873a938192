"""A two-layer LSTM that forecasts a time series of 128 steps.

Stands for recurrent networks: many small operators one after another, and a workspace that the operator keeps
for the backward pass out of sight of the graph.
"""

from __future__ import annotations

import torch
from torch import nn

STEPS = 128
FEATURES = 16
WIDTH = 128


class Forecaster(nn.Module):
    """The next value of each feature, at each step."""

    def __init__(self) -> None:
        """Two layers of width 128."""
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, FEATURES)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(n, 128, 16) to the same shape."""
        hidden, _ = self.lstm(series)
        return self.head(hidden)


model = Forecaster()
loss = nn.functional.smooth_l1_loss
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def make_batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Series (n, 128, 16), and the same one step later."""
    series = torch.randn(batch_size, STEPS + 1, FEATURES)
    return series[:, :-1], series[:, 1:]
