"""The Trainer of Transformers with `auto_find_batch_size=True`, which is Accelerate's search within its own loop.

After https://huggingface.co/docs/transformers/main_classes/trainer: any module whose forward takes named inputs and
returns its loss may be trained.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc, no-untyped-call, attr-defined"

from __future__ import annotations

import tempfile
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers import START, STEPS
from benchmarks.peers.task import Task


class WithLoss(nn.Module):
    """The caller's model, with the interface that the Trainer asks for."""

    def __init__(self, task: Task) -> None:
        """Hold the model and its loss."""
        super().__init__()
        self.model, self.loss = task.model, task.loss

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch."""
        return {"loss": self.loss(self.model(inputs), labels)}


class Named(Dataset[dict[str, Tensor]]):
    """The samples under the names of the arguments."""

    def __init__(self, task: Task) -> None:
        """Hold the samples."""
        self.samples: Any = task.dataset()

    def __len__(self) -> int:
        """As many."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One of them."""
        inputs, labels = self.samples[index]
        return {"inputs": inputs, "labels": labels}


class HandOver(TrainerCallback):
    """Notes the state in which training begins, each time it does."""

    def __init__(self, task: Task) -> None:
        """Of this task."""
        self.task = task

    def on_train_begin(self, *_arguments: Any, **_named: Any) -> None:
        """Called by the Trainer."""
        self.task.hand_over()


def find(task: Task) -> int:
    """The size at which the training ran through."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            auto_find_batch_size=True,
            per_device_train_batch_size=START,
            max_steps=STEPS,
            use_cpu=task.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=WithLoss(task),
            args=arguments,
            train_dataset=Named(task),
            optimizers=(task.optimizer, None),
            callbacks=[HandOver(task)],
        )
        trainer.train()
        found: int = trainer._train_batch_size  # the Trainer says it nowhere else
        return found
