"""What is made from memory, against the operators themselves on tensors with data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional

from autotune.forecast.recall import RecallingMode

CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a new tensor": lambda x: x.exp(),
    "of whole numbers": lambda x: x.long() * 2,
    "of whole numbers by a float": lambda x: x.long() * 2.0,
    "compared": lambda x: x < 0,
    "joined": lambda x: torch.cat([x, x.double()]),
    "several": lambda x: torch.ops.aten.native_layer_norm(x, [6], None, None, 1e-5),
    "several, one missing": lambda x: torch.ops.aten.native_layer_norm_backward(
        x, x, [6], x[:, :1], x[:, :1], None, None, [True, False, False]
    ),
    "a list of views": lambda x: x.unbind(),
    "a view": lambda x: x.t(),
    "a view of a view": lambda x: x[1:].t()[2:, ::2],
    "strided": lambda x: x.as_strided((2, 2), (1, 3), 5),
    "strided from where it begins": lambda x: x[1:].as_strided((2, 2), (1, 3)),
    "other sizes": lambda x: x.view(3, 8),
    "other sizes of a view": lambda x: x.t().unflatten(0, (2, 3)),
    "another type, the same memory": lambda x: x.view(torch.int16),
    "memory made contiguous": lambda x: x.t().contiguous(),
    "memory that is contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: functional.conv2d(
        x.view(1, 2, 3, 4).to(memory_format=torch.channels_last), x[:2].view(3, 2, 1, 2)
    ),
    "laid out alike": lambda x: x / x.clone(),
    "laid out alike, channels last": lambda x: torch.ops.aten.threshold_backward(
        x.view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.ones(1, 2, 3, 4).to(memory_format=torch.channels_last),
        0,
    ),
    "laid out alike, with holes": lambda x: x[:, ::2] - torch.ones(4, 6)[:, ::2],
    "laid out alike, of whole numbers": lambda x: x.long() / x.long(),
    "laid out otherwise": lambda x: x.view(6, 4) + x.t(),
    "of other sizes": lambda x: x * torch.ones(6),
    "of another type": lambda x: x + torch.ones(4, 6, dtype=torch.float64),
    "of a tensor laid out alike": lambda x: x.sqrt(),
    "changed in place by one laid out alike": lambda x: x.addcdiv_(x.clone(), x.clone(), value=0.1),
    "changed in place by a smaller one": lambda x: x.add_(torch.ones(6)),
    "changed in place": lambda x: x.mul_(2),
    "filled": lambda x: x.zero_(),
    "copied to": lambda x: x.copy_(torch.ones(6)),
    "resized": lambda x: x.resize_(2, 2),
    "turned in place": lambda x: x.t_(),
    "the sum of a constant": lambda x: x + torch.tensor(3),
}


def _looks(tensor: torch.Tensor, given: torch.Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()
    is_given = storage._cdata == given.untyped_storage()._cdata
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, is_given, storage.nbytes()


def _result(call: Callable[[torch.Tensor], Any]) -> list[Any]:
    given = torch.ones(4, 6)
    out = call(given)
    outputs = [one for one in (out if isinstance(out, list | tuple) else [out]) if one is not None]
    return [*(_looks(one, given) for one in outputs), out is given]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_it_gives_with_data_however_often_it_ran(name: str) -> None:
    with_data = _result(CALLS[name])
    with RecallingMode():
        assert [_result(CALLS[name]) for _ in range(3)] == [with_data] * 3


def test_calls_that_differ_in_little_are_told_apart() -> None:
    with_data = [_result(call) for call in CALLS.values()]
    with RecallingMode():
        assert [[_result(call) for call in CALLS.values()] for _ in range(2)] == [with_data] * 2


def test_torch_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    torchs_own = FakeTensorMode.__torch_dispatch__

    def ask(mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend([func] if func.namespace == "aten" else [])  # what tensors are asked about themselves is cheap
        return torchs_own(mode, func, *args, **kwargs)

    monkeypatch.setattr(FakeTensorMode, "__torch_dispatch__", ask)
    with RecallingMode():
        tensor = torch.ones(4, 6)
        tensor.exp().t().mul_(2)
        assert asked
        asked.clear()
        tensor.exp().t().mul_(2)
        assert not asked


def test_the_default_type_counts() -> None:
    with RecallingMode():
        numbers = torch.ones(3, dtype=torch.long)
        assert (numbers / 2).dtype is torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert (numbers / 2).dtype is torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


def test_constants_keep_their_values() -> None:
    with RecallingMode():
        assert [(torch.tensor(number) + 1).item() for number in (3, 4)] == [4, 5]
        count = torch.tensor(0.0)
        for _ in range(3):
            count += 1
        count.add_(torch.tensor(0.5))
        assert count.item() == 3.5


def test_a_shape_that_hangs_on_values_is_never_known() -> None:
    with RecallingMode():
        tensor = torch.ones(4)
        for _ in range(2):
            with pytest.raises(DynamicOutputShapeException):
                tensor.nonzero()


def test_a_copy_that_awaits_a_tensor_is_made() -> None:
    with RecallingMode():
        number = torch.ones(3, dtype=torch.complex64)
        assert number.resolve_conj() is number
        awaited = number.conj()
        assert awaited.resolve_conj().untyped_storage()._cdata != awaited.untyped_storage()._cdata


def test_a_sparse_gradient_has_no_layout_to_go_by() -> None:
    with RecallingMode():
        for _ in range(2):
            weight = torch.ones(5, 3, requires_grad=True)
            functional.embedding(torch.zeros(2, dtype=torch.long), weight, sparse=True).sum().backward()
            assert weight.grad is not None and weight.grad.is_sparse


def test_tensors_with_data_are_taken_as_they_are() -> None:
    real = torch.ones(3)
    with RecallingMode():
        assert [(torch.ones(3) + real).shape for _ in range(2)] == [(3,)] * 2
