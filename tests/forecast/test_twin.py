"""Models without data, wherever they are held."""

from __future__ import annotations

import weakref

import pytest
import torch
from forecast_child import in_child
from torch import nn

from autotune.errors import NoForecastError
from autotune.forecast.twin import Twin


def _swapped_and_back() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    held, watched = model[0].weight, weakref.ref(model[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with FakeTensorMode() as mode:
        twin = Twin([*model.parameters(), *model.buffers()], "cpu")
    twin.swap()
    assert all(isinstance(tensor, FakeTensor) for tensor in (*model.parameters(), *model.buffers()))
    assert isinstance(held, nn.Parameter)
    assert held is model[0].weight is model[2].weight is optimizer.param_groups[0]["params"][0] is watched()
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False]
    with mode:
        model(torch.empty(8, 4)).sum().backward()
        optimizer.step()
    assert held.grad is not None
    optimizer.zero_grad()
    twin.swap()
    assert type(held) is nn.Parameter
    assert held.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(torch.zeros(8, 4)).sum().backward()
    assert held.grad is not None and not isinstance(held.grad, FakeTensor)


def test_every_reference_follows_there_and_back() -> None:
    in_child(_swapped_and_back)


def _recurrent() -> list[bool]:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    lstm = nn.LSTM(4, 4)  # which holds weak references to its weights
    with FakeTensorMode():
        twin = Twin(lstm.parameters(), "cpu")
    twin.swap()
    return [isinstance(reference(), FakeTensor) for reference in lstm._flat_weight_refs]


def test_weak_references_follow_too() -> None:
    assert in_child(_recurrent) == [True] * 4


def test_a_sparse_parameter_is_refused() -> None:
    with pytest.raises(NoForecastError, match="sparse"):
        Twin([torch.eye(3).to_sparse()], "cpu")
