"""Networks for images, films and clouds of points, by hand, each after its paper.

Needs torch alone: torchvision would bring a build of torch of its own. Most are made of one block, a branch added
to what it came from, and differ in the branch.
"""

# mypy: disable-error-code="no-any-return"
# torch declares that calling a module returns Any.

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.architectures.architecture import Architecture, images, momentum

CLASSES = 100


class Residual(nn.Module):
    """A branch, added to its input."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, last: nn.Module | None = None) -> None:
        """`shortcut` brings the input to the branch's shape; `last` is applied to the sum."""
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the branch keeps."""
        return self.last(self.shortcut(x) + self.branch(x))


class Permuted(nn.Module):
    """A module that sees the dimensions of its input in another order."""

    def __init__(self, inner: nn.Module, order: tuple[int, ...]) -> None:
        """`order` as for `Tensor.permute`."""
        super().__init__()
        self.inner, self.order = inner, order
        self.back = tuple(order.index(place) for place in range(len(order)))

    def forward(self, x: Tensor) -> Tensor:
        """The output has its dimensions where the input had them."""
        return self.inner(x.permute(self.order)).permute(self.back)


def convolved(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True),
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, normalized, and activated."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation())


def classifier(features: nn.Module, width: int) -> nn.Sequential:
    """Features (n, width, h, w), averaged over the image, to class scores."""
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


# ResNet


def basic_block(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """Two 3x3 convolutions, as in ResNet-18; and how many channels come out."""
    return nn.Sequential(convolved(inputs, width, 3, stride), convolved(width, width, 3, activation=nn.Identity)), width


def bottleneck(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """A 3x3 convolution between two of 1x1, as in ResNet-50; and how many channels come out."""
    layers = (
        convolved(inputs, width, 1),
        convolved(width, width, 3, stride),
        convolved(width, 4 * width, 1, activation=nn.Identity),
    )
    return nn.Sequential(*layers), 4 * width


def resnet_features(
    block: Callable[[int, int, int], tuple[nn.Module, int]], depths: tuple[int, ...]
) -> tuple[nn.Sequential, int]:
    """Stem and stages, and how many channels come out."""
    layers: list[nn.Module] = [convolved(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        for place in range(depth):
            stride = 2 if stage > 0 and place == 0 else 1
            branch, outputs = block(channels, 64 * 2**stage, stride)
            shortcut = None if place else convolved(channels, outputs, 1, stride, activation=nn.Identity)
            layers.append(Residual(branch, shortcut, nn.ReLU(inplace=True)))
            channels = outputs
    return nn.Sequential(*layers), channels


def resnet18() -> nn.Module:
    """ResNet-18."""
    return classifier(*resnet_features(basic_block, (2, 2, 2, 2)))


def resnet50() -> nn.Module:
    """ResNet-50."""
    return classifier(*resnet_features(bottleneck, (3, 4, 6, 3)))


# EfficientNet


class SqueezeExcite(nn.Module):
    """Scales each channel by what all channels hold on average."""

    def __init__(self, channels: int, squeezed: int) -> None:
        """Two 1x1 convolutions."""
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same."""
        return x * self.scale(x)


def inverted_bottleneck(inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> nn.Module:
    """Widened, convolved channel by channel, excited, narrowed."""
    width = inputs * expansion
    branch = nn.Sequential(
        convolved(inputs, width, 1, activation=nn.SiLU) if expansion > 1 else nn.Identity(),
        convolved(width, width, kernel, stride, groups=width, activation=nn.SiLU),
        SqueezeExcite(width, max(1, inputs // 4)),
        convolved(width, outputs, 1, activation=nn.Identity),
    )
    return Residual(branch) if stride == 1 and inputs == outputs else branch


EFFICIENTNET_B0 = (
    # expansion, channels, layers, stride, kernel: table 1 of the paper
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def efficientnet() -> nn.Module:
    """EfficientNet-B0."""
    layers: list[nn.Module] = [convolved(3, 32, 3, 2, activation=nn.SiLU)]
    channels = 32
    for expansion, outputs, depth, first_stride, kernel in EFFICIENTNET_B0:
        for place in range(depth):
            stride = 1 if place else first_stride
            layers.append(inverted_bottleneck(channels, outputs, expansion, kernel, stride))
            channels = outputs
    return classifier(nn.Sequential(*layers, convolved(channels, 1280, 1, activation=nn.SiLU)), 1280)


# ConvNeXt

CHANNELS_LAST = (0, 2, 3, 1)


def convnext_block(width: int) -> nn.Module:
    """A 7x7 convolution channel by channel, then a perceptron at each place."""
    perceptron = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    return Residual(
        nn.Sequential(nn.Conv2d(width, width, 7, padding=3, groups=width), Permuted(perceptron, CHANNELS_LAST))
    )


def convnext() -> nn.Module:
    """ConvNeXt at the width of the variant called pico."""
    widths, depths = (64, 128, 256, 512), (2, 2, 6, 2)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), Permuted(nn.LayerNorm(widths[0]), CHANNELS_LAST)]
    for inputs, width, depth in zip((widths[0], *widths), widths, depths, strict=False):
        if width != inputs:
            layers += [Permuted(nn.LayerNorm(inputs), CHANNELS_LAST), nn.Conv2d(inputs, width, 2, 2)]
        layers += [convnext_block(width) for _ in range(depth)]
    return classifier(nn.Sequential(*layers), widths[-1])


# DenseNet


class Dense(nn.Module):
    """A branch, joined to its input as further channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        """A 1x1 and a 3x3 convolution, each behind its normalization."""
        super().__init__()
        self.branch = nn.Sequential(*normalized_first(inputs, 4 * growth, 1), *normalized_first(4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, inputs + growth, h, w)."""
        return torch.cat([x, self.branch(x)], dim=1)


def normalized_first(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Normalization, ReLU and convolution, in this order."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution]


def densenet() -> nn.Module:
    """DenseNet-121."""
    growth, channels, depths = 32, 64, (6, 12, 24, 16)
    layers: list[nn.Module] = [convolved(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        if stage:
            layers += [*normalized_first(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        layers += [Dense(channels + place * growth, growth) for place in range(depth)]
        channels += depth * growth
    return classifier(nn.Sequential(*layers, nn.BatchNorm2d(channels)), channels)


# U-Net


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, joined level by level."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        """One level for each width."""
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = self.level(3, widths[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), self.level(i, o)) for i, o in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, stride=2) for i, o in reversed(pairs))
        self.join = nn.ModuleList(self.level(2 * i, i) for i, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], classes, 1)

    @staticmethod
    def level(inputs: int, outputs: int) -> nn.Module:
        """Two 3x3 convolutions."""
        return nn.Sequential(convolved(inputs, outputs, 3), convolved(outputs, outputs, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) to class scores of each pixel (n, classes, h, w)."""
        levels = [self.first(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for grow, join in zip(self.grow, self.join, strict=True):
            x = join(torch.cat([grow(x), levels.pop()], dim=1))
        return self.head(x)


def unet() -> nn.Module:
    """A U-Net of four levels for two classes."""
    return UNet((32, 64, 128, 256), classes=2)


def segmented_images(batch_size: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 64, 64) and the class of each pixel (n, 64, 64)."""
    return torch.randn(batch_size, 3, 64, 64), torch.randint(2, (batch_size, 64, 64))


# MLP-Mixer

TOKENS_LAST = (0, 2, 1)


def mixer() -> nn.Module:
    """Perceptrons across the patches of an image and across its channels, in turns."""
    width, patch, side = 256, 8, 96
    patches = (side // patch) ** 2
    layers: list[nn.Module] = []
    for _ in range(8):
        across_patches = Permuted(perceptron(patches, 128), TOKENS_LAST)
        layers.append(Residual(nn.Sequential(nn.LayerNorm(width), across_patches)))
        layers.append(Residual(nn.Sequential(nn.LayerNorm(width), perceptron(width, 1024))))
    mixed = Permuted(nn.Sequential(*layers, nn.LayerNorm(width)), TOKENS_LAST)
    patched = nn.Sequential(nn.Conv2d(3, width, patch, patch), nn.Flatten(2), mixed, nn.Unflatten(2, (-1, 1)))
    return classifier(patched, width)


def perceptron(width: int, hidden: int) -> nn.Module:
    """Two layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


# Films and points


def film_network() -> nn.Module:
    """Convolutions over time and space (C3D, at half of its width)."""
    widths = (3, 32, 64, 128, 128, 256, 256)
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        if place in (0, 1, 3, 5):
            layers.append(nn.MaxPool3d((1 if place == 0 else 2, 2, 2)))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(), nn.Linear(256, CLASSES))


def films(batch_size: int) -> tuple[Tensor, Tensor]:
    """Eight frames of 48 pixels a side (n, 3, 8, 48, 48), and classes."""
    return torch.randn(batch_size, 3, 8, 48, 48), torch.randint(CLASSES, (batch_size,))


def pointnet() -> nn.Module:
    """One perceptron for all points, then the largest value of each feature (PointNet without its transforms)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((3, 64, 64, 64, 128, 1024)):
        layers += [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    head = (nn.Linear(1024, 512), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(512, CLASSES))
    return nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), *head)


def points(batch_size: int) -> tuple[Tensor, Tensor]:
    """1024 points in space (n, 3, 1024), and classes."""
    return torch.randn(batch_size, 3, 1024), torch.randint(CLASSES, (batch_size,))


VISION = (
    Architecture(
        name="resnet18",
        build_model=resnet18,
        make_batch=images(64, CLASSES),
        loss=cross_entropy,
        optimizer=momentum,
        source="He et al. 2015, arXiv 1512.03385",
    ),
    Architecture(
        name="resnet50",
        build_model=resnet50,
        make_batch=images(96, CLASSES),
        loss=cross_entropy,
        optimizer=momentum,
        source="He et al. 2015, arXiv 1512.03385",
    ),
    Architecture(
        name="efficientnet",
        build_model=efficientnet,
        make_batch=images(96, CLASSES),
        loss=cross_entropy,
        source="Tan and Le 2019, arXiv 1905.11946",
    ),
    Architecture(
        name="convnext",
        build_model=convnext,
        make_batch=images(96, CLASSES),
        loss=cross_entropy,
        source="Liu et al. 2022, arXiv 2201.03545",
    ),
    Architecture(
        name="densenet",
        build_model=densenet,
        make_batch=images(64, CLASSES),
        loss=cross_entropy,
        optimizer=momentum,
        source="Huang et al. 2016, arXiv 1608.06993",
    ),
    Architecture(
        name="unet",
        build_model=unet,
        make_batch=segmented_images,
        loss=cross_entropy,
        source="Ronneberger et al. 2015, arXiv 1505.04597",
    ),
    Architecture(
        name="mixer",
        build_model=mixer,
        make_batch=images(96, CLASSES),
        loss=cross_entropy,
        source="Tolstikhin et al. 2021, arXiv 2105.01601",
    ),
    Architecture(
        name="film_network",
        build_model=film_network,
        make_batch=films,
        loss=cross_entropy,
        source="Tran et al. 2014, arXiv 1412.0767",
    ),
    Architecture(
        name="pointnet",
        build_model=pointnet,
        make_batch=points,
        loss=cross_entropy,
        source="Qi et al. 2016, arXiv 1612.00593",
    ),
)
