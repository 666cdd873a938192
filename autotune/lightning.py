"""For Lightning: a callback that finds the batch size before the Trainer fits.

Needs lightning or pytorch_lightning, and greenlet. In the place of Lightning's own BatchSizeFinder, which tries sizes
on the very model that is to be trained.

    trainer = Trainer(callbacks=[BatchSizeAutotuner(memory_budget="8GiB")])
    trainer.fit(model, datamodule)
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from autotune.api import find_batch_size
from autotune.errors import UsageError
from autotune.evaluation_options import evaluation_options
from autotune.result import Result

if TYPE_CHECKING or find_spec("lightning") is not None:
    from lightning.pytorch import Callback
else:
    from pytorch_lightning import Callback

VALIDATION_NAMES = ("val_batch_size", "eval_batch_size")


class BatchSizeAutotuner(Callback):
    """Sets `batch_size` of the data module, or of the module, before its loaders are made.

    Where there is also a `val_batch_size` or `eval_batch_size`, it is found with the validation loop, which needs no
    gradients, by the same options: for speed in place of time to quality, and not written to a file. Trials run in
    child processes, on copies: module, data module and random states are left as they are.

    Attributes:
        result: what was found for training; None before.
        validation_result: what was found for validation, where it was looked for.
    """

    def __init__(self, *, batch_arg_name: str = "batch_size", **options: Any) -> None:
        """Nothing is tried yet.

        Args:
            batch_arg_name: the attribute to set, of the data module, the module, or the hyperparameters of either.
            **options: as for `find_batch_size`: objective="memory", memory_budget="8GiB", quiet=True ...
        """
        super().__init__()
        self._name = batch_arg_name
        self._options = options
        self.result: Result | None = None
        self.validation_result: Result | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the batch size, once, before fitting.

        Raises:
            UsageError: there is no attribute to set, or the Trainer trains in several processes.
            AutotuneError: as `find_batch_size` says.
        """
        if stage != "fit" or self.result is not None:
            return
        _refuse_several_processes(trainer)
        holder = self._holder(trainer, pl_module)
        data = trainer.datamodule
        self.result = find_batch_size(pl_module, data, trainer=trainer, **self._options)
        _set(holder, self._name, self.result.batch_size)
        name = next((name for name in VALIDATION_NAMES if _has(holder, name)), None)
        if name is not None:
            found = find_batch_size(pl_module, data, trainer=trainer, **evaluation_options(self._options))
            self.validation_result = found
            _set(holder, name, found.batch_size)

    def _holder(self, trainer: Any, pl_module: Any) -> Any:
        holder = next((part for part in (trainer.datamodule, pl_module) if _has(part, self._name)), None)
        if holder is None:
            raise UsageError(
                f"Neither the data module nor the module has a {self._name} to set.",
                remedy=f"Add self.{self._name} = 32, and use it in train_dataloader().",
            )
        return holder


def _refuse_several_processes(trainer: Any) -> None:
    """Each would look for a size of its own; and none of their trials would hold what exchanging gradients takes."""
    if trainer.world_size > 1:
        raise UsageError(
            f"The Trainer trains in {trainer.world_size} processes, and a trial is one process alone.",
            remedy="Look beforehand, with less memory than there is, and set what is found:\n"
            "find_batch_size(module, datamodule, trainer=Trainer(devices=1), memory_budget='80%')",
        )


def _has(part: Any, name: str) -> bool:
    return hasattr(part, name) or name in getattr(part, "hparams", {})


def _set(part: Any, name: str, value: int) -> None:
    if hasattr(part, name):
        setattr(part, name, value)
    if name in getattr(part, "hparams", {}):
        part.hparams[name] = value
