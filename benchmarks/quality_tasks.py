"""Small training tasks on real and made-up data, none of which is downloaded.

Needs torch, scikit-learn and matplotlib. Each has a part that is held out, on which quality is read.
"""

from __future__ import annotations

import pkgutil
import pydoc
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

HELD_OUT, MOST_HELD_OUT = 0.25, 1000
CONTEXT = 24  # characters from which the next one is told
SIDE = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data, and how it is trained.

    `load` returns inputs and targets of all samples. `learning_rates` are those that each batch size may choose from,
    ascending, a factor of two apart.
    """

    name: str
    load: Callable[[], tuple[Tensor, Tensor]]
    build_model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    build_optimizer: Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
    learning_rates: tuple[float, ...]

    def split(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Training samples and held-out ones, always the same."""
        x, y = self.load()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        cut = len(x) - min(int(len(x) * HELD_OUT), MOST_HELD_OUT)
        return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def adam(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW as it comes."""
    return torch.optim.AdamW(parameters, lr=learning_rate)


def sgd(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


ADAM_RATES = tuple(2.5e-4 * 2**k for k in range(7))
SGD_RATES = tuple(2.5e-3 * 2**k for k in range(7))


def perceptron(inputs: int, outputs: int, width: int = 64) -> Callable[[], nn.Module]:
    """Two hidden layers."""
    return lambda: nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def _scaled(data: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, np.ndarray]:
    x, y = data
    return torch.from_numpy((x - x.mean(0)) / (x.std(0) + 1e-9)).float(), y


def _classes(data: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    x, y = _scaled(data)
    return x, torch.from_numpy(y).long()


def _values(data: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    x, y = _scaled(data)
    return x, torch.from_numpy((y - y.mean()) / y.std()).float().unsqueeze(1)


def wine() -> tuple[Tensor, Tensor]:
    """178 wines of three growers, 13 figures each (Aeberhard and Forina 1992)."""
    from sklearn.datasets import load_wine

    return _classes(load_wine(return_X_y=True))


def tumours() -> tuple[Tensor, Tensor]:
    """569 tumours, 30 figures each (Wolberg et al. 1995)."""
    from sklearn.datasets import load_breast_cancer

    return _classes(load_breast_cancer(return_X_y=True))


def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients, 10 figures each, and how their illness went on (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    return _values(load_diabetes(return_X_y=True))


def houses() -> tuple[Tensor, Tensor]:
    """A made-up table of the size of California's housing: 8 figures, a price that depends on them with noise."""
    chance = np.random.default_rng(0)
    x = chance.normal(size=(12_000, 8))
    price = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) + 0.5 * x[:, 4] + chance.normal(size=12_000)
    return _values((x, price))


def clusters() -> tuple[Tensor, Tensor]:
    """Ten classes of several clusters each, a twentieth of them labelled wrongly."""
    from sklearn.datasets import make_classification

    made = make_classification(
        12_000, n_features=30, n_informative=12, n_classes=10, n_clusters_per_class=3, flip_y=0.05, random_state=0
    )
    return _classes(made)


def docstrings() -> tuple[Tensor, Tensor]:
    """Characters of the standard library's own documentation, and the one that follows."""
    names = sorted(module.name for module in pkgutil.iter_modules() if module.name in _TEXTS)
    text = "".join(pydoc.plain(pydoc.getdoc(__import__(name))) for name in names)
    codes = torch.tensor([min(ord(char), 127) for char in text])
    starts = torch.tensor(random.Random(0).sample(range(len(codes) - CONTEXT), 12_000))
    windows = torch.stack([codes[starts + k] for k in range(CONTEXT + 1)], dim=1)
    return windows[:, :-1], windows[:, -1]


_TEXTS = ("argparse", "asyncio", "collections", "csv", "datetime", "decimal", "difflib", "doctest", "email", "heapq",
          "itertools", "json", "logging", "optparse", "pickle", "re", "statistics", "string", "subprocess", "tarfile",
          "tempfile", "textwrap", "threading", "timeit", "typing", "unittest", "urllib", "uuid", "zipfile")  # fmt: skip


def next_character() -> nn.Module:
    """Embeddings of the context, and one hidden layer."""
    return nn.Sequential(
        nn.Embedding(128, 16), nn.Flatten(), nn.Linear(16 * CONTEXT, 128), nn.ReLU(), nn.Linear(128, 128)
    )


def letters() -> tuple[Tensor, Tensor]:
    """Rendered images of letters, turned, moved and noisy."""
    from matplotlib.textpath import TextPath

    chance = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), -1).reshape(-1, 2)
    paths = {letter: TextPath((0, 0), letter, size=12) for letter in "ABCEFGHKPRSXZ"}
    images, classes = [], []
    for index in range(4000):
        number = index % len(paths)
        path = list(paths.values())[number]
        angle, (dx, dy) = chance.normal(0, 0.15), chance.normal(0, 1.0, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (grid - SIDE / 2 - (dx, dy)) @ turn + (4.5, 4.5)
        inside = path.contains_points(points).reshape(SIDE, SIDE)
        images.append(inside + chance.normal(0, 0.4, (SIDE, SIDE)))
        classes.append(number)
    return torch.from_numpy(np.stack(images)).float().unsqueeze(1), torch.tensor(classes)


def reader() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 13)
    )


def _task(name: str, load: Callable[[], tuple[Tensor, Tensor]], build_model: Callable[[], nn.Module],
          loss: Callable[[Tensor, Tensor], Tensor], *, by_sgd: bool = False) -> Task:  # fmt: skip
    return Task(
        name=name,
        load=load,
        build_model=build_model,
        loss=loss,
        build_optimizer=sgd if by_sgd else adam,
        learning_rates=SGD_RATES if by_sgd else ADAM_RATES,
    )


TASKS = (
    _task("wine", wine, perceptron(13, 3), nn.functional.cross_entropy),
    _task("tumours", tumours, perceptron(30, 2), nn.functional.cross_entropy, by_sgd=True),
    _task("diabetes", diabetes, perceptron(10, 1), nn.functional.mse_loss, by_sgd=True),
    _task("houses", houses, perceptron(8, 1, width=128), nn.functional.mse_loss),
    _task("clusters", clusters, perceptron(30, 10, width=128), nn.functional.cross_entropy, by_sgd=True),
    _task("docstrings", docstrings, next_character, nn.functional.cross_entropy),
    _task("letters", letters, reader, nn.functional.cross_entropy),
)
