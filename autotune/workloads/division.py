"""Data in two parts: one to train on, and one held out, whose loss tells how well that goes.

Needs torch. Promises that the same data, seed and number of samples are divided alike in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from autotune.errors import UsageError


@dataclass(frozen=True)
class Division:
    """The two parts.

    Attributes:
        train_batch: `train_batch(batch_size)` returns the next batch of the part to train on. Epoch follows epoch, each
            shuffled anew; a batch may hold the end of one and the beginning of the next.
        held_out: `held_out(batch_size)` returns the part held out, in whole batches of this size.
    """

    train_batch: Callable[[int], Any]
    held_out: Callable[[int], list[Any]]


Divide = Callable[[int, int], Division]
"""`divide(held_out_samples, seed)`."""


def by_index(take: Callable[[Tensor], Any], size: int) -> Divide:
    """For samples that can be chosen: `take(indices)` makes a batch of those, of `size` in all."""

    def divide(held_out_samples: int, seed: int) -> Division:
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(size, generator=random)
        held, kept = order[:held_out_samples], order[held_out_samples:]
        following = _shuffled_forever(kept, random)
        return Division(
            train_batch=lambda batch_size: take(torch.tensor(list(islice(following, batch_size)))),
            held_out=lambda batch_size: [take(held[i : i + batch_size]) for i in _starts(len(held), batch_size)],
        )

    return divide


def _shuffled_forever(indices: Tensor, random: torch.Generator) -> Iterator[int]:
    while True:
        yield from indices[torch.randperm(len(indices), generator=random)].tolist()


def by_order(samples: Iterable[Any], collate: Callable[[list[Any]], Any]) -> Divide:
    """For a stream that begins anew each time it is iterated over: its first samples are held out."""

    def divide(held_out_samples: int, _seed: int) -> Division:
        held = list(islice(iter(samples), held_out_samples))
        following = _later_forever(samples, held_out_samples)
        return Division(
            train_batch=lambda batch_size: collate(list(islice(following, batch_size))),
            held_out=lambda batch_size: [collate(held[i : i + batch_size]) for i in _starts(len(held), batch_size)],
        )

    return divide


def _starts(samples: int, batch_size: int) -> range:
    """Where whole batches begin."""
    return range(0, samples - batch_size + 1, batch_size)


def _later_forever(samples: Iterable[Any], first: int) -> Iterator[Any]:
    sample = None
    while True:
        for sample in islice(iter(samples), first, None):
            yield sample
        if sample is None:
            raise UsageError(f"the data ends within the {first} samples that would be held out")


def by_making(make_batch: Callable[[int], Any]) -> Divide:
    """For a function that makes batches: those that it makes first are held out."""

    def divide(held_out_samples: int, _seed: int) -> Division:
        return Division(
            train_batch=make_batch,
            held_out=lambda batch_size: [make_batch(batch_size) for _ in range(held_out_samples // batch_size)],
        )

    return divide
