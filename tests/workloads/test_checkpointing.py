"""The switches that real models have for activation checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.errors import NoForecastError
from autotune.workloads.checkpointing import switch_on_checkpointing


def test_a_model_of_transformers_recomputes_its_layers_then() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=100, **sizes))
    switch_on_checkpointing(nn.Sequential(model))  # wherever in the model it is
    calls: list[bool] = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append(True))
    model.train()(torch.arange(8)[None], labels=torch.tensor([1])).loss.backward()
    assert len(calls) == 2


class Timmish(nn.Linear):
    """With the switch that timm's models have."""

    recomputes = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.recomputes = enable


def test_a_model_of_timm_has_another_switch() -> None:
    model = Timmish(1, 1)
    switch_on_checkpointing(model)
    assert model.recomputes


def test_without_one_there_is_no_forecast_and_both_are_named() -> None:
    with pytest.raises(NoForecastError, match="no switch") as caught:
        switch_on_checkpointing(nn.Linear(1, 1))
    assert "activation_checkpointing_enable or set_grad_checkpointing" in caught.value.remedy
