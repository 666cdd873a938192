"""A small convolutional network on the handwritten digits of scikit-learn: real data, and nothing to download.

1797 images of 8 x 8 pixels in 10 classes (Alpaydin and Kaynak 1998, doi.org/10.24432/C50P49).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from autotune.errors import UsageError

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise UsageError(
        "The digits example needs scikit-learn, which is not installed.", remedy="python -m pip install scikit-learn"
    ) from error

BRIGHTEST = 16.0  # pixels are counts from 0 to 16

_digits = load_digits()
dataset = TensorDataset(
    torch.from_numpy(_digits.images).float().unsqueeze(1) / BRIGHTEST,
    torch.from_numpy(_digits.target).long(),
)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10),
)
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
