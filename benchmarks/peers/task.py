"""What a tool is given: a workload in the parts that any training script has.

Needs torch. Runs in the fresh process in which a tool searches. Nothing of ours is in between: the model, the loss and
the optimizer are those of the workload's file, the data come from torch's own DataLoader.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import START, STEPS
from benchmarks.peers.counting import counted_model, names_of

DATASET_SIZE = 32 * START

Sample = tuple[Tensor, Tensor]


class OneSample(Dataset[Sample]):
    """A dataset of one sample many times over, so that samples cost no time and next to no memory."""

    def __init__(self, sample: Sample) -> None:
        """Repeat this input and target."""
        self.sample = sample

    def __len__(self) -> int:
        """More than any tool asks for."""
        return DATASET_SIZE

    def __getitem__(self, index: int) -> Sample:
        """The sample."""
        return self.sample


@dataclass(frozen=True)
class State:
    """Digests of what a search should leave as it was."""

    weights: str
    optimizer: str
    random: str


class Task:
    """One workload for one tool: a model, its loss and optimizer, and `sample`, one input and its target."""

    def __init__(self, path: str, device: str, log: str) -> None:
        """Seed, and make all of it, so that no random number is drawn for it later."""
        seed_everything()
        self.path, self.device, self.log = path, device, log
        self.room_bytes, self.budget_bytes = 0, 0
        self.names = names_of(path)
        self.loss: Callable[[Tensor, Tensor], Tensor] = self.names["loss"]
        self.model = counted_model(self.names, log).to(device)
        self.optimizer = optimizer_of(self.names, self.model)
        self.sample = sample_of(self.names)
        self.handed_over: State | None = None
        self.made_anew = False

    def fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model and an optimizer made anew, for tools whose documentation has both made inside the search."""
        names = names_of(self.path)
        model = counted_model(names, self.log).to(self.device)
        self.made_anew = True
        return model, optimizer_of(names, model)

    def build(self) -> Callable[[], nn.Module]:
        """A function that makes the model, which can be sent to another process."""
        return partial(fresh_model, self.path, self.log)

    def dataset(self) -> Dataset[Sample]:
        """A map-style dataset of such samples."""
        return OneSample(self.sample)

    def loader(self, batch_size: int) -> DataLoader[Sample]:
        """Batches of the dataset."""
        return DataLoader(self.dataset(), batch_size=batch_size)

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int, steps: int = STEPS) -> None:
        """So many steps of the usual loop; raises what they raise."""
        model.train()
        for _, (inputs, target) in zip(range(steps), self.loader(batch_size), strict=False):
            optimizer.zero_grad()
            loss = self.loss(model(inputs.to(self.device)), target.to(self.device))
            torch.autograd.backward(loss)
            optimizer.step()

    def state(self) -> State:
        """The state of the caller's model and optimizer, and of the generators, now."""
        return State(
            weights=digest(self.model.state_dict()),
            optimizer=digest(self.optimizer.state_dict()),
            random=digest([random.getstate(), np.random.get_state(), torch.get_rng_state()]),
        )

    def hand_over(self) -> None:
        """Note the state in which training starts: a tool that wraps the training answers by letting it run."""
        self.handed_over = self.state()


def fresh_model(path: str, log: str) -> nn.Module:
    """The model of a workload's file."""
    return counted_model(names_of(path), log)


def optimizer_of(names: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a workload's names, for a model made from them."""
    found: torch.optim.Optimizer = names.get("optimizer") or names["build_optimizer"](model.parameters())
    return found


def sample_of(names: dict[str, Any]) -> Sample:
    """One input and its target, without the batch's dimension."""
    if "sample" in names:
        found: Sample = names["sample"]
        return found
    inputs, target = names["make_batch"](1)
    return inputs[0].clone(), target[0].clone()


def seed_everything() -> None:
    """The same start for every tool."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def digest(value: Any) -> str:
    """A digest of nested state, bit for bit."""
    hashed = hashlib.sha256()
    for part in _parts(value):
        hashed.update(part)
    return hashed.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        yield f"{array.dtype}{tuple(array.shape)}".encode()
        yield array.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()
