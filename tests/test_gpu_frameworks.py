"""The frameworks' own objects on a CUDA GPU: tried there, on copies, and left alone. Skipped where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autotune import Result, find_batch_size

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("ignore"),  # the frameworks' own, of many kinds
]

QUICK: dict[str, Any] = {"quiet": True, "max_trials": 4}
X = torch.randn(1024, 8, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def found_without_a_change(state: Callable[[], list[np.ndarray]], find: Callable[[], Result]) -> Result:
    """What a search finds, after which the state is what it was, and so is the GPU's random state."""
    before, numbers = state(), torch.cuda.get_rng_state()
    result = find()
    after = state()
    assert len(before) == len(after) > 0
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.cuda.get_rng_state(), numbers)
    assert result.environment.device.startswith("cuda")
    assert result.isolated
    assert result.batch_size >= 1
    return result


def weights(module: nn.Module) -> list[np.ndarray]:
    return [tensor.detach().cpu().numpy().copy() for tensor in module.state_dict().values()]


def test_a_compiled_keras_model_trains_there_with_the_size_found() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs another backend here")
    layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dropout(0.2, seed=1), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    x, y = X.numpy(), Y.numpy()
    model.fit(x[:64], y[:64], verbose=0)

    def state() -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in keras.tree.flatten(model.get_state_tree(value_format="numpy_array"))]

    result = found_without_a_change(state, lambda: find_batch_size(model, x, y, **QUICK))
    model.fit(x, y, batch_size=result.batch_size, epochs=3, verbose=0)


def test_a_lightning_module_trains_there_with_the_size_found() -> None:
    pytest.importorskip("greenlet")
    pl = pytest.importorskip("lightning.pytorch")

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 2))

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            assert batch[0].device == self.device
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    def loader(batch_size: int) -> DataLoader:
        return DataLoader(TensorDataset(X, Y), batch_size=batch_size, drop_last=True)

    module = Net()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="gpu", devices=1, precision="bf16-mixed", **quiet)
    result = found_without_a_change(
        lambda: weights(module), lambda: find_batch_size(module, loader(32), trainer=trainer, **QUICK)
    )
    trainer.fit(module, loader(max(result.batch_size, 2)))


def test_a_trainer_of_transformers_trains_there_with_the_size_found(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=100, bos_token_id=0, eos_token_id=0)
    samples = [{"input_ids": torch.arange(32), "labels": torch.arange(32)} for _ in range(256)]
    args = transformers.TrainingArguments(
        str(tmp_path), bf16=True, activation_checkpointing=True, num_train_epochs=3, report_to=[], save_strategy="no"
    )
    model, collator = transformers.GPT2LMHeadModel(config), transformers.default_data_collator
    trainer = transformers.Trainer(model, args, train_dataset=samples, data_collator=collator)
    result = found_without_a_change(lambda: weights(trainer.model), lambda: find_batch_size(trainer, **QUICK))
    trainer.args.per_device_train_batch_size = result.batch_size
    trainer.train()
