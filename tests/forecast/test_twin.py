"""Models without data, wherever they are held."""

from __future__ import annotations

import weakref

import pytest
import torch
from forecast_child import in_child
from torch import nn

from autotune.errors import NoForecastError
from autotune.forecast.twin import Twin


def _replaced() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    held, watched = model[0].weight, weakref.ref(model[0].weight)
    with FakeTensorMode() as mode:
        twin = Twin([*model.parameters(), *model.buffers()], "cpu")
    twin.take_place()
    assert all(isinstance(tensor, FakeTensor) for tensor in (*model.parameters(), *model.buffers()))
    assert isinstance(held, nn.Parameter)
    assert held is model[0].weight is model[2].weight is optimizer.param_groups[0]["params"][0] is watched()
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False]
    with mode:
        model(torch.empty(8, 4)).sum().backward()
        optimizer.step()
    assert held.grad is not None


def test_every_reference_follows() -> None:
    in_child(_replaced)


def _recurrent() -> list[bool]:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    lstm = nn.LSTM(4, 4)  # which holds weak references to its weights
    with FakeTensorMode():
        twin = Twin(lstm.parameters(), "cpu")
    twin.take_place()
    return [isinstance(reference(), FakeTensor) for reference in lstm._flat_weight_refs]


def test_weak_references_follow_too() -> None:
    assert in_child(_recurrent) == [True] * 4


def test_a_sparse_parameter_is_refused() -> None:
    with pytest.raises(NoForecastError, match="sparse"):
        Twin([torch.eye(3).to_sparse()], "cpu")
