"""Networks that learn from data without labels: to draw it, to pack it, to tell it from other data.

Needs torch. By hand, each after its paper.
"""

# mypy: disable-error-code="no-any-return"
# torch declares that calling a module returns Any.

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from benchmarks.architectures.architecture import Architecture
from benchmarks.architectures.vision import basic_block, resnet_features

SIDE = 64

# Diffusion


class TimedBlock(nn.Module):
    """Two convolutions, with the time of the diffusion added in between."""

    def __init__(self, inputs: int, outputs: int, time_width: int) -> None:
        """The input is brought to the new width by a 1x1 convolution, where that differs."""
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time = nn.Linear(time_width, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(n, inputs, h, w) and times (n, time_width) to (n, outputs, h, w)."""
        return self.shortcut(x) + self.second(self.first(x) + self.time(time)[:, :, None, None])


class SelfAttention(nn.Module):
    """Attention among the places of an image."""

    def __init__(self, width: int, heads: int = 4) -> None:
        """One projection for queries, keys and values."""
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, width)
        self.inputs = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        parts = self.inputs(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        attended = f.scaled_dot_product_attention(*parts.unbind(1))
        return x + self.out(attended.transpose(-1, -2).reshape(x.shape))


class DiffusionUNet(nn.Module):
    """The noise in an image, by a U-Net that knows how noisy it is."""

    def __init__(self, width: int = 48) -> None:
        """Three levels, attention at the lowest."""
        super().__init__()
        self.width = width
        time_width = 4 * width
        self.time = nn.Sequential(nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(TimedBlock(i, o, time_width) for i, o in zip((width, *widths), widths, strict=False))
        self.middle = nn.ModuleList(TimedBlock(widths[-1], widths[-1], time_width) for _ in range(2))
        self.attention = SelfAttention(widths[-1])
        self.up = nn.ModuleList(
            TimedBlock(2 * i, o, time_width) for i, o in zip(widths[::-1], (*widths[-2::-1], width), strict=True)
        )
        self.head = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, image: Tensor, times: Tensor) -> Tensor:
        """(n, 3, h, w) and times (n,) to the noise (n, 3, h, w)."""
        time = self.time(self.waves(times))
        levels, x = [], self.first(image)
        for down in self.down:
            x = down(x, time)
            levels.append(x)
            x = f.avg_pool2d(x, 2)
        x = self.middle[1](self.attention(self.middle[0](x, time)), time)
        for up in self.up:
            x = f.interpolate(x, scale_factor=2.0)
            x = up(torch.cat([x, levels.pop()], dim=1), time)
        return self.head(x)

    def waves(self, times: Tensor) -> Tensor:
        """Times as sines and cosines (n, width), as positions are in Vaswani et al. 2017 (arXiv 1706.03762)."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000.0) / half))
        angles = times[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def noisy_images(batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, 64, 64), how noisy they are, and the noise."""
    shape = (batch_size, 3, SIDE, SIDE)
    return torch.randn(shape), torch.rand(batch_size) * 1000, torch.randn(shape)


# The variational autoencoder


class Autoencoder(nn.Module):
    """An image through 128 random numbers."""

    def __init__(self, widths: tuple[int, ...] = (3, 32, 64, 128, 256), latent: int = 128) -> None:
        """Each level halves the image."""
        super().__init__()
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for outer, inner in itertools.pairwise(widths):
            down += [nn.Conv2d(outer, inner, 4, 2, 1), nn.ReLU(inplace=True)]
            up = [nn.ConvTranspose2d(inner, outer, 4, 2, 1), nn.ReLU(inplace=True), *up]
        lowest = (widths[-1], SIDE // 2 ** (len(widths) - 1), SIDE // 2 ** (len(widths) - 1))
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(lowest), 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, math.prod(lowest)), nn.Unflatten(1, lowest), *up[:-1])

    def forward(self, image: Tensor) -> Tensor:
        """Images (n, 3, 64, 64) to the loss: what the copy misses, and how far the numbers are from normal."""
        mean, log_variance = self.encoder(image).chunk(2, dim=1)
        copy = self.decoder(mean + torch.randn_like(mean) * torch.exp(log_variance / 2))
        divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum(dim=1).mean() / 2
        return f.mse_loss(copy, image) + 1e-3 * divergence


def plain_images(batch_size: int) -> Tensor:
    """Images (n, 3, 64, 64)."""
    return torch.randn(batch_size, 3, SIDE, SIDE)


# SimCLR


class SimCLR(nn.Module):
    """Two views of each image: each has to find the other one among all."""

    def __init__(self) -> None:
        """ResNet-18 and a perceptron of two layers."""
        super().__init__()
        features, width = resnet_features(basic_block, (2, 2, 2, 2))
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.encoder = nn.Sequential(features, *pooled, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))

    def forward(self, views: Tensor) -> Tensor:
        """(n, 2, 3, h, w) to the loss; its memory grows with the square of n."""
        vectors = f.normalize(self.encoder(views.transpose(0, 1).flatten(0, 1)), dim=1)
        count = len(vectors)
        itself = torch.eye(count, dtype=torch.bool, device=vectors.device)
        similarity = (vectors @ vectors.t() / 0.5).masked_fill(itself, float("-inf"))
        partner = torch.arange(count, device=vectors.device).roll(count // 2)
        return f.cross_entropy(similarity, partner)


def views(batch_size: int) -> Tensor:
    """Two views of each image: (n, 2, 3, 64, 64)."""
    return torch.randn(batch_size, 2, 3, SIDE, SIDE)


GENERATIVE = (
    Architecture(
        name="diffusion_unet",
        build_model=DiffusionUNet,
        make_batch=noisy_images,
        loss=f.mse_loss,
        source="Ho et al. 2020, arXiv 2006.11239",
    ),
    Architecture(
        name="autoencoder",
        build_model=Autoencoder,
        make_batch=plain_images,
        source="Kingma and Welling 2013, arXiv 1312.6114",
    ),
    Architecture(
        name="simclr",
        build_model=SimCLR,
        make_batch=views,
        source="Chen et al. 2020, arXiv 2002.05709",
    ),
)
