"""PyTorch Lightning's batch size finder, with its defaults.

After https://lightning.ai/docs/pytorch/stable/advanced/training_tricks.html#batch-size-finder: a module with a
`batch_size` and a `train_dataloader`, and `Tuner(trainer).scale_batch_size(module, mode=...)`.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

import tempfile
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner import Tuner
from torch import Tensor, optim
from torch.utils.data import DataLoader

from benchmarks.peers.task import Sample, Task


class Module(LightningModule):
    """The workload as a LightningModule."""

    def __init__(self, task: Task) -> None:
        """Hold the caller's model."""
        super().__init__()
        self.model, self.task, self.batch_size = task.model, task, 2

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        """The loss of a batch."""
        inputs, target = batch
        return self.task.loss(self.model(inputs), target)

    def configure_optimizers(self) -> optim.Optimizer:
        """The caller's optimizer."""
        return self.task.optimizer

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of the size that is being tried."""
        return self.task.loader(self.batch_size)


def _scaled(task: Task, mode: str) -> int:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        accelerator = "cpu" if task.device == "cpu" else "gpu"
        trainer = Trainer(accelerator=accelerator, devices=1, default_root_dir=folder, **quiet)
        found = Tuner(trainer).scale_batch_size(Module(task), mode=mode)
        assert found is not None  # None is for a run with fast_dev_run only
        return found


def power(task: Task) -> int:
    """Doubles until memory fails, then halves."""
    return _scaled(task, "power")


def binsearch(task: Task) -> int:
    """Doubles, then bisects, and takes off 5%."""
    return _scaled(task, "binsearch")
