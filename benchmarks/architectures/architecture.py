"""What an architecture of the forecast's benchmark is, and the batches that several of them share.

Needs torch. Batches are random: what a step costs depends on their shapes alone, but for the few models that say
otherwise. Each function here returns a `make_batch(batch_size)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MakeBatch = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A public architecture, at a size that two cores can train.

    Attributes:
        name: as it is asked for on the command line.
        build_model: makes the model, with random weights.
        make_batch: makes a batch of so many samples.
        loss: `loss(output, target)`; None where the model returns its own.
        optimizer: made of the parameters; None for AdamW.
        source: the paper that describes it.
    """

    name: str
    build_model: Callable[[], nn.Module]
    make_batch: MakeBatch
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
    source: str


def momentum(parameters: Any) -> torch.optim.Optimizer:
    """Stochastic gradient descent as image classifiers were trained with: one state tensor a parameter."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def adafactor(parameters: Any) -> torch.optim.Optimizer:
    """Adafactor, whose state is smaller than the parameters (Shazeer and Stern 2018, arXiv 1804.04235)."""
    return torch.optim.Adafactor(parameters, lr=1e-3)


def images(side: int, classes: int) -> MakeBatch:
    """Images (n, 3, side, side) and a class for each (n,)."""
    return lambda n: (torch.randn(n, 3, side, side), torch.randint(classes, (n,)))


def named_images(side: int, classes: int) -> MakeBatch:
    """Images and classes by the names that Hugging Face's models take."""
    return lambda n: {"pixel_values": torch.randn(n, 3, side, side), "labels": torch.randint(classes, (n,))}


def tokens(vocabulary: int, length: int) -> MakeBatch:
    """Token ids (n, length), to be foretold from those before them."""

    def make_batch(batch_size: int) -> dict[str, Tensor]:
        ids = torch.randint(vocabulary, (batch_size, length))
        return {"input_ids": ids, "labels": ids}

    return make_batch


def masked_tokens(vocabulary: int, length: int) -> MakeBatch:
    """Token ids (n, length) of texts that end early, padded; a label for one token in seven."""

    def make_batch(batch_size: int) -> dict[str, Tensor]:
        ids = torch.randint(vocabulary, (batch_size, length))
        lengths = torch.randint(length // 2, length, (batch_size, 1))
        is_text = torch.arange(length) < lengths
        is_masked = is_text & (torch.arange(length) % 7 == 0)
        return {
            "input_ids": ids,
            "attention_mask": is_text.long(),
            "labels": ids.masked_fill(~is_masked, -100),  # the class that torch's cross-entropy leaves out
        }

    return make_batch
